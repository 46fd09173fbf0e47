"""PostgreSQL goes away and comes back. Workers stay connected, are told, and hear again."""

import signal

import pytest

from harness.procs import wait_until
from harness.worker import CHANNEL, NOTIFY, Error, Ok, Upstream


def states(worker):
    return [u.state for u in worker.of(Upstream)]


def test_the_listen_backend_is_killed(start_relay, db, bouncer):
    relay = start_relay(db, bouncer)
    workers = [relay.worker(), relay.worker(pubkeys=["alice"])]
    for n in (1, 2):
        seen = [len(w.frames) for w in workers]
        db.terminate("pgherald upstream")
        for worker, frames in zip(workers, seen):
            worker.sees("down", frames)
            worker.sees("live", frames)
        workers[0].publish("alice", str(n))
        db.notify(CHANNEL, '{"p":"alice","c":"plain %d"}' % n)
        for worker in workers:
            worker.hears("alice", str(n))
            worker.hears("alice", f"plain {n}")
            assert states(worker) == ["down", "live"] * n
    assert len(db.backends("pgherald upstream")) == 1


@pytest.mark.parametrize("pooled", [True, False], ids=["pool", "direct"])
def test_the_publishing_backend_is_killed(start_relay, db, bouncer, pooled):
    relay = start_relay(db, bouncer if pooled else None)
    worker = relay.worker()
    worker.publish("before")
    if pooled:
        db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
               " AND pid <> pg_backend_pid() AND application_name <> 'pgherald upstream'", user="postgres")
    else:
        db.terminate("pgherald publisher")
    for i in range(5):
        worker.publish(f"after-{i}")
        worker.hears(f"after-{i}")
    assert states(worker) == [], "the upstream lives: nothing to tell"


def test_all_backends_are_killed_while_workers_publish(start_relay, db, bouncer):
    """Workers hear what was acknowledged, although the upstream may have to reconnect first."""
    relay = start_relay(db, bouncer)
    publisher = relay.worker()
    asked = {}
    for i in range(300):
        asked[f"u{i}"] = publisher.ask(NOTIFY, CHANNEL, f"u{i}", None)
        if i == 150:
            db.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                   " AND pid <> pg_backend_pid() AND application_name <> 'pgherald upstream'", user="postgres")
        if i % 50 == 0:
            publisher.ping()
    for pubkey, id in asked.items():
        assert isinstance(publisher.answer(id), Ok)
        publisher.hears(pubkey)


@pytest.mark.versions
@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_postgresql_stops_and_starts_again(start_relay, own_pg, own_db, own_bouncer, mode):
    relay = start_relay(own_db, own_bouncer)
    workers = [relay.worker(), relay.worker(pubkeys=["alice"])]
    fds = relay.fds()
    own_pg.stop(mode)
    for worker in workers:
        worker.sees("down")
        worker.ping()  # served meanwhile
    # a worker that comes during the outage is told
    late = relay.worker()
    assert late.welcome.info["upstream"] == "down"
    own_pg.start()
    for worker in [*workers, late]:
        worker.sees("live")
    assert relay.connect().welcome.info["upstream"] == "live"
    own_db.notify(CHANNEL, '{"p":"alice","c":"plain"}')
    workers[0].publish("alice", "phone")
    for worker in [*workers, late]:
        worker.hears("alice", "plain")
        worker.hears("alice", "phone")
    for worker in workers:
        assert states(worker) == ["down", "live"]
    relay.disconnect(but=workers)
    wait_until(lambda: relay.fds() == fds, f"{fds} open files in the relay again")


def test_a_notify_during_an_outage_is_made_good_when_it_is_short(start_relay, own_pg, own_db, own_bouncer, listen):
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    own_pg.stop("immediate")
    worker.sees("down")
    id = worker.ask(NOTIFY, CHANNEL, "alice", "phone")
    worker.ping()
    assert not worker.answered(id)
    own_pg.start()
    plain = listen(own_db, CHANNEL)
    assert isinstance(worker.answer(id), Ok)
    # at most twice, if the outcome of the first try was unknown; never less than once
    own_db.notify(CHANNEL, "end")
    plain.wait_for("end")


def test_a_notify_during_a_long_outage_is_an_error(start_relay, own_pg, own_db, own_bouncer):
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    own_pg.stop("immediate")
    worker.sees("down")
    asked = [worker.ask(NOTIFY, CHANNEL, f"u{i}", None) for i in range(10)]
    for id in asked:
        answer = worker.answer(id)
        assert isinstance(answer, Error) and answer.code == "timeout", answer
    # that did not make it give up
    own_pg.start()
    worker.sees("live")
    worker.publish("alice")
    worker.hears("alice")


def test_a_notify_to_a_frozen_postgresql_is_an_error(start_relay, own_pg, own_db, own_bouncer):
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    worker.publish("before")
    own_pg.freeze()
    answer = worker.notify("alice")
    assert isinstance(answer, Error) and answer.code == "timeout", answer
    worker.ping()
    own_pg.thaw()
    seen = len(worker.frames)
    wait_until(lambda: isinstance(worker.notify("bob"), Ok), "PostgreSQL takes a NOTIFY again", 30)
    worker.hears("bob")
    assert [u.state for u in worker.frames[seen:] if isinstance(u, Upstream)][-1:] in ([], ["live"])


def test_pgbouncer_restarts(start_relay, own_pg, own_db, own_bouncer):
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    worker.publish("before")
    own_bouncer.stop()
    id = worker.ask(NOTIFY, CHANNEL, "during", None)
    worker.ping()
    own_db.notify(CHANNEL, '{"p":"plain"}')
    worker.hears("plain")  # hearing needs no pool
    assert not worker.answered(id)
    own_bouncer.start()
    assert isinstance(worker.answer(id), Ok)
    worker.hears("during")
    worker.publish("after")
    worker.hears("after")
    assert states(worker) == [], "the upstream lives: nothing to tell"


def test_pgbouncer_is_frozen(start_relay, own_db, own_bouncer):
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    own_bouncer.process.send_signal(signal.SIGSTOP)
    answer = worker.notify("alice")
    assert isinstance(answer, Error) and answer.code == "timeout", answer
    own_db.notify(CHANNEL, '{"p":"plain"}')
    worker.hears("plain")
    own_bouncer.process.send_signal(signal.SIGCONT)
    wait_until(lambda: isinstance(worker.notify("bob"), Ok), "pgbouncer takes a NOTIFY again", 30)
    worker.hears("bob")


def test_one_host_does_not_notice_the_others_trouble(relays, db):
    a, b = relays
    workers = [a.worker(), b.worker()]
    first = db.backends("pgherald upstream")[0]
    db.sql("SELECT pg_terminate_backend(%s)", (first,), user="postgres")

    def one_is_down():
        for worker in workers:
            worker.pump()
        return any(states(w) for w in workers)
    wait_until(one_is_down, "one host sees its upstream go")
    troubled, = [w for w in workers if states(w)]
    calm, = [w for w in workers if w is not troubled]
    calm.publish("alice")
    calm.hears("alice")
    troubled.sees("live")
    troubled.publish("bob")
    for worker in workers:
        worker.hears("bob")
    assert states(calm) == []


def test_tries_are_counted_in_seconds_not_in_thousands(start_relay, own_pg, own_db, own_bouncer):
    """While PostgreSQL is away the relay backs off. Its log shows how often it tried."""
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    before = len(relay.lines())
    own_pg.stop("immediate")
    worker.sees("down")
    answer = worker.notify("alice")  # five seconds
    assert isinstance(answer, Error), answer
    assert len(relay.lines()[before:]) < 40, relay.log()
