"""pgherald-cat: the library as a user first meets it."""

import json
import signal

from harness.procs import wait_until
from harness.worker import CHANNEL


def test_changes_come_as_json_lines(relay, cat, db):
    lines = cat("--socket", relay.path).subscribed()
    db.notify(CHANNEL, '{"p":"Zo\\u00eb \\"quoted\\" \\n","c":"phone"}')
    db.notify(CHANNEL, '{"p":"bob"}')
    lines.hears("bob")
    first, second = lines.lines("change")
    assert (first["pubkey"], first["client_id"], first["channel"]) == ('Zoë "quoted" \n', "phone", CHANNEL)
    assert second.get("client_id") is None


def test_notify_publishes_and_ends_when_it_is_committed(relay, cat, db, listen):
    plain = listen(db, CHANNEL)
    worker = relay.worker()
    for arguments in (["alice", "phone"], ["bob"]):
        one = cat("--socket", relay.path, "--notify", *arguments)
        assert one.wait_exit() == 0, one.errors()
    assert plain.wait(2) == [(CHANNEL, '{"p":"alice","c":"phone"}'), (CHANNEL, '{"p":"bob"}')]
    worker.hears("alice", "phone")
    worker.hears("bob", None)


def test_both_hosts_hear_it(relays, cat):
    cats = [cat("--socket", relay.path).subscribed() for relay in relays for _ in range(2)]
    assert cat("--socket", relays[0].path, "--notify", "alice", "phone").wait_exit() == 0
    for one in cats:
        assert one.hears("alice")["client_id"] == "phone"


def test_a_notify_that_fails_says_so(relay, cat):
    for arguments in (["x" * 8000], ["alice", "--channel", "elsewhere"]):
        one = cat("--socket", relay.path, "--notify", *arguments)
        assert one.wait_exit() != 0
        assert one.errors().strip()


def test_pubkeys_and_count(relay, cat, db):
    some = cat("--socket", relay.path, "--pubkey", "alice", "--pubkey", "bob", "--count", "2").subscribed()
    for pubkey in ("carol", "alice", "carol", "bob", "alice"):
        db.notify(CHANNEL, json.dumps({"p": pubkey}))
    assert some.wait_exit() == 0, some.errors()
    assert [o["pubkey"] for o in some.lines("change")] == ["alice", "bob"]


def test_another_channel(start_relay, db, bouncer, cat):
    relay = start_relay(db, bouncer, PGHERALD_CHANNELS=f"{CHANNEL},other")
    one = cat("--socket", relay.path, "--channel", "other").subscribed()
    db.notify(CHANNEL, '{"p":"alice"}')
    db.notify("other", '{"p":"bob"}')
    one.hears("bob")
    assert [o["pubkey"] for o in one.lines("change")] == ["bob"]


def test_it_comes_back_when_the_relay_does(relay, cat):
    """The library reconnects by itself after a graceful end and after a crash of the relay."""
    one = cat("--socket", relay.path).subscribed()
    for end in (relay.stop, relay.kill):
        end()
        relay.start()
        publisher = relay.connect()

        def heard():
            publisher.publish(f"after {end.__name__}")
            return [o for o in one.lines("change") if o["pubkey"] == f"after {end.__name__}"]
        wait_until(heard, "a change after the relay's return")
        assert one.process.poll() is None


def test_it_waits_for_a_relay_that_is_not_there_yet(make_relay, cat):
    relay = make_relay()
    one = cat("--socket", relay.path)
    relay.start()
    one.subscribed()
    relay.connect().publish("alice")
    one.hears("alice")


def test_an_interrupt_ends_it(relay, cat):
    for number in (signal.SIGINT, signal.SIGTERM):
        one = cat("--socket", relay.path).subscribed()
        one.process.send_signal(number)
        assert one.wait_exit() in (0, -number)


def test_a_closed_pipe_ends_it(relay, run, db):
    """pgherald-cat | head -1"""
    from harness.relay import CAT
    worker = relay.worker()
    process = run.spawn(["sh", "-c", f"{CAT} --socket {relay.path} | head -n 2 >/dev/null"])

    def ended():
        worker.publish("alice")
        return process.poll() is not None
    wait_until(ended, "its end")


def test_nonsense_on_the_command_line(cat):
    for arguments in (["--no-such-flag"], ["--count", "many"], ["--notify"]):
        one = cat(*arguments)
        assert one.wait_exit() not in (0, None)
        assert one.errors().strip()
