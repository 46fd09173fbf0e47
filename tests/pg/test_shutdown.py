"""SIGTERM and SIGINT: BYE, answers to publishes, sockets removed, exit 0, within 2 seconds."""

import os
import signal

import pytest

from harness.worker import CHANNEL, NOTIFY, Ok

PROMISED = 2  # seconds


def assert_graceful(relay, *workers):
    for worker in workers:
        assert worker.bye().code == "shutdown"
    assert relay.process.returncode == 0, relay.log()
    assert not os.path.exists(relay.path) and not os.path.exists(relay.ops_path)
    assert not relay.lines("ERROR"), relay.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_graceful_end(relay, number):
    workers = [relay.worker(), relay.worker(pubkeys=["alice"]), relay.connect()]
    for worker in workers:
        worker.ping()
    relay.terminate(number)
    relay.wait_exit(PROMISED)
    assert_graceful(relay, *workers)


def test_in_local_mode(local_relay):
    worker = local_relay.worker()
    local_relay.terminate()
    local_relay.wait_exit(PROMISED)
    assert_graceful(local_relay, worker)


def test_the_connections_to_postgresql_end(relay, db):
    relay.stop()
    assert db.backends("pgherald upstream") == []


@pytest.mark.parametrize("publishing", [False, True], ids=["idle", "publishing"])
def test_while_postgresql_does_not_answer(start_relay, own_pg, own_db, own_bouncer, publishing):
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    worker.publish("before")
    own_pg.freeze()
    if publishing:
        worker.ask(NOTIFY, CHANNEL, "alice", None)
    worker.ping()
    relay.terminate()
    relay.wait_exit(PROMISED)
    assert_graceful(relay, worker)


def test_while_postgresql_is_away(start_relay, own_pg, own_db, own_bouncer):
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    own_pg.stop("immediate")
    worker.sees("down")
    worker.ask(NOTIFY, CHANNEL, "alice", None)
    worker.ping()
    relay.terminate()
    relay.wait_exit(PROMISED)
    assert_graceful(relay, worker)


def test_while_a_reconnect_hangs(start_relay, own_pg, own_db, own_bouncer):
    """The connect reaches a server that accepts and sends nothing."""
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    os.kill(own_pg.process.pid, signal.SIGSTOP)  # the postmaster alone: new connections hang
    own_db_backends = [p for p in own_pg.processes() if p != own_pg.process.pid]
    for pid in own_db_backends:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"app" in file.read():
                os.kill(pid, signal.SIGTERM)
    worker.sees("down")
    worker.ask(NOTIFY, CHANNEL, "alice", None)
    worker.ping()
    relay.terminate()
    relay.wait_exit(PROMISED)
    assert_graceful(relay, worker)


def test_what_was_committed_is_acknowledged(relay, db, listen):
    """A shutdown in the middle of publishing: every change that was heard has its OK."""
    plain = listen(db, CHANNEL)
    worker = relay.worker()
    asked = {f"u{i}": worker.ask(NOTIFY, CHANNEL, f"u{i}", None) for i in range(300)}
    worker.answer(asked["u0"])
    relay.terminate()
    assert worker.bye().code == "shutdown"
    assert relay.wait_exit() == 0
    db.notify(CHANNEL, "end")
    plain.wait_for("end")
    heard = {payload.split('"')[3] for _, payload in plain.heard[:-1]}
    acknowledged = {pubkey for pubkey, id in asked.items() if isinstance(worker._answers.get(id), Ok)}
    assert heard <= acknowledged, f"committed, but not acknowledged: {sorted(heard - acknowledged)}"
    assert acknowledged <= heard, f"acknowledged, but not committed: {sorted(acknowledged - heard)}"


def test_a_worker_that_reads_nothing_does_not_hold_it_up(relay, db):
    stalled, reader = relay.worker(), relay.worker(pubkeys=["end"])
    db.sql("SELECT pg_notify(%s, '{\"p\":\"' || g || repeat('x', 500) || '\"}') FROM generate_series(1, 4000) g",
           (CHANNEL,))
    db.notify(CHANNEL, '{"p":"end"}')
    reader.hears("end")
    relay.terminate()
    assert relay.wait_exit(PROMISED) == 0
    assert reader.bye().code == "shutdown"
    del stalled


def test_a_worker_that_never_said_hello_does_not_hold_it_up(relay):
    for data in (b"", b"\x94"):
        relay.raw().write(data)
    relay.terminate()
    assert relay.wait_exit(PROMISED) == 0


def test_a_second_signal_does_no_harm(relay):
    worker = relay.worker()
    relay.terminate()
    try:
        relay.terminate(signal.SIGINT)
        relay.terminate()
    except ProcessLookupError:
        pass
    assert relay.wait_exit(PROMISED) == 0
    assert worker.bye().code == "shutdown"


def test_it_can_start_again_at_once(relay):
    worker = relay.worker()
    relay.stop()
    assert worker.bye().code == "shutdown"
    again = relay.start().worker()
    again.publish("alice")
    again.hears("alice")
