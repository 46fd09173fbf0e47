"""The text socket, as an operator reads it with socat."""

import re
import socket


def test_status_through_socat(relay):
    relay.worker(), relay.worker()
    reply = relay.ops("status")
    assert "live" in reply and "postgres" in reply, reply
    assert re.search(r"workers\W*2\b", reply), reply
    assert reply.endswith("\n\n"), "every reply ends with a blank line"


def test_a_blank_line_prints_the_status(relay):
    assert "upstream" in relay.ops("") and "live" in relay.ops("")


def test_several_commands_are_answered_in_order(relay):
    reply = relay.ops("status\nno-such-command\nstatus")
    first, second, third = reply.rstrip("\n").split("\n\n")[:3]
    assert "upstream" in first and "upstream" in third, reply
    assert re.match(r"ERR \S+ \S", second), reply


def test_an_unknown_command_is_an_error(relay):
    assert re.fullmatch(r"ERR \S+ \S.*\n\n", relay.ops("no-such-command")), relay.ops("no-such-command")


def test_status_in_local_mode(local_relay):
    local_relay.worker()
    assert "local" in local_relay.ops("status")


def test_status_tells_of_an_outage(start_relay, own_pg, own_db, own_bouncer):
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    own_pg.stop("immediate")
    worker.sees("down")
    upstream, = re.findall(r"^upstream.*", relay.ops("status"), re.M)
    assert "live" not in upstream
    own_pg.start()
    worker.sees("live")
    upstream, = re.findall(r"^upstream.*", relay.ops("status"), re.M)
    assert "live" in upstream


def test_an_operator_who_types_nonsense_harms_nothing(relay):
    worker = relay.worker()
    for command in ("\x1b[2J\x07", "x" * 100000, "status " + "y" * 5000, "\0\0\0"):
        reply = relay.ops(command)
        assert "\x1b" not in reply and "\x07" not in reply
    worker.publish("alice")
    worker.hears("alice")


def test_a_worker_cannot_write_to_the_operators_terminal(relay):
    """The name of a worker is escaped."""
    worker = relay.connect(name="\x1b]0;gotcha\x07\n\nERR evil")
    worker.ping()
    for command in ("status", "workers"):
        reply = relay.ops(command)
        assert "\x1b" not in reply and "\x07" not in reply and "\nERR evil" not in reply


def test_operators_who_read_nothing_hold_up_nobody(relay, cleanup):
    for _ in range(5):
        operator = cleanup.add(socket.socket(socket.AF_UNIX))
        operator.connect(relay.ops_path)
        operator.sendall(b"status\n" * 1000)
    worker = relay.worker()
    worker.publish("alice")
    worker.hears("alice")
    assert "live" in relay.ops("status")
