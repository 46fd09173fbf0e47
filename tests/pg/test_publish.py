"""NOTIFY and SEND: what OK means, and what is refused."""

import os
import signal

import pytest

from harness.worker import CHANNEL, NOTIFY, SEND, Error, Ok, Upstream


def codes(answers):
    return [a.code if isinstance(a, Error) else "OK" for a in answers]


@pytest.mark.versions
def test_ok_comes_only_after_the_commit(start_relay, db, listen):
    relay = start_relay(db)
    plain = listen(db, CHANNEL)
    worker = relay.worker()
    worker.publish("before")

    backend, = db.backends("pgherald publisher")
    os.kill(backend, signal.SIGSTOP)
    try:
        id = worker.ask(NOTIFY, CHANNEL, "alice", None)
        worker.ping()  # the relay has the request, and goes on serving
        assert not worker.answered(id)
    finally:
        os.kill(backend, signal.SIGCONT)
    assert isinstance(worker.answer(id), Ok)
    worker.hears("alice")
    plain.wait_for('{"p":"alice"}')


@pytest.mark.versions
def test_many_at_once_are_each_answered_and_heard_once(relays, db, listen):
    a, b = relays
    plain = listen(db, CHANNEL)
    publishers, hearer = [a.connect() for _ in range(4)], b.worker()
    asked = [(w, w.ask(NOTIFY, CHANNEL, f"u{n}-{i}", "c")) for i in range(50) for n, w in enumerate(publishers)]
    assert {type(w.answer(id)) for w, id in asked} == {Ok}
    hearer.wait_until(lambda: len(hearer.changes) >= 200, "all 200")
    assert len(set(hearer.pubkeys)) == len(hearer.pubkeys) == 200
    assert len(plain.wait(200)) == 200


@pytest.mark.parametrize("character, width", [("x", 1), ('"', 2), ("<", 6), ("\x01", 6), ("é", 2), ("😀", 4)])
def test_a_payload_has_7999_bytes_at_most_as_it_is_written(relay, db, listen, character, width):
    plain = listen(db, CHANNEL)
    worker = relay.worker()
    fill = 7999 - len('{"p":""}')
    longest = character * (fill // width) + "x" * (fill % width)
    asked = [worker.ask(NOTIFY, CHANNEL, p, None) for p in ("before", longest, longest + "x", "after")]
    assert codes(worker.answer(id) for id in asked) == ["OK", "OK", "too-long", "OK"]
    worker.hears("after")
    assert sorted(worker.pubkeys) == sorted(["before", longest, "after"])
    assert max(len(payload.encode()) for _, payload in plain.wait(3)) == 7999


def test_a_client_id_counts_too(relay):
    worker = relay.worker()
    fill = 7999 - len('{"p":"alice","c":""}')
    assert isinstance(worker.notify("alice", "x" * fill), Ok)
    assert codes([worker.notify("alice", "x" * (fill + 1))]) == ["too-long"]
    assert worker.hears("alice").client_id == "x" * fill


def test_a_message_has_7999_bytes_at_most(start_relay, db, bouncer):
    worker = start_relay(db, bouncer, PGHERALD_CHANNELS="events:text").worker("events")
    asked = [worker.ask(SEND, "events", p) for p in ("before", "x" * 7999, "x" * 8000, "x" * 60000, "after")]
    assert codes(worker.answer(id) for id in asked) == ["OK", "OK", "too-long", "too-long", "OK"]
    worker.hears_message("after")
    assert worker.payloads == ["before", "x" * 7999, "after"]


def test_an_over_long_channel_is_refused(relay):
    worker = relay.worker()
    long = "x" * 64
    assert codes([worker.notify("alice", channel=long), worker.send(long, "x"), worker.subscribe(long),
                  worker.notify("alice", channel="x" * 60000)]) == ["channel"] * 4
    worker.publish("bob")
    worker.hears("bob")


def test_strings_that_postgresql_cannot_carry_are_refused(start_relay, db, bouncer):
    relay = start_relay(db, bouncer, PGHERALD_CHANNELS=f"{CHANNEL},events:text")
    worker = relay.worker(CHANNEL, "events")
    answers = [worker.send("events", "nul \0 within"), worker.send("events", b"caf\xe9"),
               worker.notify(b"caf\xe9"), worker.notify("alice", b"caf\xe9")]
    assert codes(answers) == ["invalid"] * 4
    # bin that is UTF-8 is a string
    assert isinstance(worker.notify("Zoë".encode(), b"c"), Ok)
    worker.hears("Zoë", "c")
    assert worker.pubkeys == ["Zoë"] and worker.payloads == []


def test_a_nul_in_a_pubkey_is_escaped(relay):
    worker = relay.worker()
    worker.publish("a\0b")
    worker.hears("a\0b")


def test_a_worker_that_leaves_after_notify_has_published(relay):
    """A worker that writes a NOTIFY and closes has asked: the change is published."""
    hearer, publisher = relay.worker(), relay.connect()
    publisher.welcome
    publisher.ask(NOTIFY, CHANNEL, "alice", None)
    publisher.close()
    hearer.hears("alice")


def test_local_mode_next_to_a_database(make_relay, db, bouncer, listen):
    relay = make_relay(DATABASE_URL=bouncer.url(db), PGHERALD_LOCAL="yes").start()
    a, b = relay.worker(), relay.worker()
    assert a.welcome.info["mode"] == "local"
    plain = listen(db, CHANNEL)
    a.publish("alice", "phone")
    for worker in (a, b):
        worker.hears("alice", "phone")
    db.notify(CHANNEL, "end")
    assert plain.wait(1) == [(CHANNEL, "end")], "in local mode nothing goes to the database"


def test_no_url_gives_local_mode(make_relay):
    relay = make_relay(PGHERALD_CHANNELS=f"{CHANNEL},events:text").start()
    assert not relay.lines("ERROR", "WARNING"), "local mode is a choice, not a fault"
    a, b = relay.worker(CHANNEL, "events"), relay.worker(CHANNEL, "events")
    assert a.welcome.info["mode"] == "local"
    for i in range(100):
        a.publish(f"u{i}", "phone" if i % 2 else None)
    assert isinstance(b.send("events", "text"), Ok)
    for worker in (a, b):
        worker.hears_message("text")
        assert [(c.pubkey, c.client_id) for c in worker.changes] == [
            (f"u{i}", "phone" if i % 2 else None) for i in range(100)]
    assert not a.of(Upstream)


def test_local_mode_refuses_what_postgresql_would(local_relay):
    """An application that is developed without PostgreSQL must not learn its limits in
    production."""
    worker = local_relay.worker()
    assert codes([worker.notify("x" * 8000), worker.notify("alice", channel="elsewhere"),
                  worker.notify(b"caf\xe9")]) == ["too-long", "channel", "invalid"]
    worker.publish("bob")
    worker.hears("bob")
    assert worker.pubkeys == ["bob"]
