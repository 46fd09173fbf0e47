"""Each command of the ops socket, as text and as JSON, and who may use which."""

import json
import os
import re
import socket
import subprocess
import threading

import pytest

from harness.ops import Operator, metric, objects
from harness.relay import TOP
from harness.procs import DEADLINE, wait_until
from test_limits import NOBODY, NOGROUP, as_user
from harness.worker import CHANNEL, NOTIFY, Gap

READERS = ["", "status", "workers", "channels", "upstream", "metrics", "config", "help", "version"]

with open(os.path.join(TOP, "meson.build")) as build:
    VERSION = re.search(r"version: '([\d.]+)'", build.read())[1]



@pytest.fixture
def operator(cleanup):
    return lambda relay: cleanup.add(Operator(relay))


@pytest.mark.parametrize("command", READERS)
def test_each_reply_is_one_block(relay, command):
    relay.worker()
    reply = relay.ops(command)
    assert reply.endswith("\n\n") and "\n\n" not in reply[:-2] and len(reply) > 2, reply
    assert not reply.startswith("ERR"), reply


@pytest.mark.parametrize("command", READERS[1:])
def test_json_is_one_object_a_line(relay, command):
    relay.worker()
    found = objects(relay.ops(command + " json"))
    assert found and all(isinstance(o, dict) and o for o in found), found


def test_status_is_one_screen_with_what_matters(relay):
    relay.worker(), relay.worker(pubkeys=["a", "b"])
    text, status = relay.ops("status"), objects(relay.ops("status json"))[0]
    assert text.startswith("All is well.\nWEAKER  ") and status["well"] is True, "there is no recovery here"
    assert len(text.splitlines()) <= 24 and max(map(len, text.splitlines())) <= 160, text
    assert status["mode"] == "postgres" and status["up_for_seconds"] > 0
    assert status["upstream"]["state"] == "live" and status["upstream"]["for_seconds"] > 0
    assert status["canary"]["round_trip_seconds"] > 0
    assert status["checkpoint"]["age_seconds"] >= 0
    assert status["workers"]["connected"] == 2 and status["workers"]["subscriptions_by_pubkey"] == 2
    assert 0 < status["backlog"]["bytes"] <= status["backlog"]["of"]
    assert {"last_1_s", "last_10_s", "last_1_min"} <= status.keys()
    assert status["publisher"]["queue"] == 0 and status["last_error"] == "none"
    assert str(status["upstream"]["backend_pid"]) in text


def test_status_names_the_backend(relay, db):
    pid, = db.backends("pgherald upstream")
    assert objects(relay.ops("status json"))[0]["upstream"]["backend_pid"] == pid


def test_rates_rise_and_fall(relay):
    worker = relay.worker()

    def heard(span):
        return objects(relay.ops("status json"))[0][span]["heard_per_second"]
    for i in range(50):
        worker.publish(f"u{i}")
    wait_until(lambda: heard("last_1_min") > 0, "a rate over a minute")
    wait_until(lambda: heard("last_1_s") == 0 < heard("last_10_s"), "the last second is quiet again")


def test_status_tells_the_last_error(start_relay, own_pg, own_db, own_bouncer):
    relay = start_relay(own_db, own_bouncer)
    worker = relay.worker()
    own_pg.stop("immediate")
    worker.sees("down")
    status = objects(relay.ops("status json"))[0]
    assert status["upstream"]["state"] != "live" and status["last_error"] != "none" and status["last_error_ago_seconds"] >= 0
    wait_until(lambda: (objects(relay.ops("status json"))[0]["upstream"]["next_attempt_in_seconds"] or -1) >= 0, "the time of the next attempt")
    down = r"NOT WELL +PostgreSQL has not been heard for [\d.]+ (ms|s); the next attempt is in [\d.]+ (ms|s)\n +[\d.]+ (ms|s) ago: \S"
    wait_until(lambda: re.match(down, relay.ops("status")), lambda: relay.ops("status"))
    assert objects(relay.ops("status json"))[0]["well"] is False
    own_pg.start()
    worker.sees("live")
    worker.publish("x")
    assert relay.ops("status").startswith("All is well.\n")
    status = objects(relay.ops("status json"))[0]
    assert status["last_error"] == "none" and status["last_error_ago_seconds"] is None and \
        status["upstream"]["next_attempt_in_seconds"] is None, "all is well"
    assert objects(relay.ops("upstream json"))[0]["last_error"]["upstream"] != "none", "it is not forgotten"


def test_a_reconnect_that_an_operator_asks_for_is_no_fault(relay):
    worker = relay.worker()
    relay.ops("reconnect")
    worker.sees("down")
    worker.sees("live")
    assert not [line for line in relay.lines("WARNING") if "operator" in line] and \
        [line for line in relay.lines("NOTICE") if "an operator asked to reconnect" in line]


def test_workers_are_listed(relay):
    quiet, busy = relay.connect("quiet"), relay.connect("busy one")
    busy.subscribe()
    busy.subscribe(pubkeys=["a", "b", "c"])
    quiet.ping()
    quiet.publish("x")
    busy.hears("x")
    rows = {w["name"]: w for w in objects(relay.ops("workers json"))}
    assert rows.keys() == {"quiet", "busy one"}
    row = rows["busy one"]
    assert row["pid"] == os.getpid() and row["uid"] == os.geteuid() and row["state"] == "live"
    assert row["program"] == open("/proc/self/comm").read().strip()
    assert row["channels"] == 1 and row["pubkeys"] == 3 and row["sent"] >= 1
    assert row["lag_frames"] == row["drops"] == row["overruns"] == row["publishing"] == 0
    assert rows["quiet"]["pubkeys"] == 0 and rows["quiet"]["id"] != row["id"]
    text = relay.ops("workers").rstrip("\n").split("\n")
    assert len(text) == 3 and text[0].startswith("id"), text


def test_a_worker_that_reads_nothing_is_seen_to_lag(make_relay):
    relay = make_relay(PGHERALD_BACKLOG_SIZE="64K").start()
    stalled, publisher = relay.worker(), relay.connect("publisher")
    asked = [publisher.ask(NOTIFY, CHANNEL, "x" * 500 + str(i), None) for i in range(1200)]
    publisher.answer(asked[-1])

    def row():
        return [w for w in objects(relay.ops("workers json")) if w["name"] == "test"][0]
    assert row()["lag_frames"] > 0 and row()["lag_bytes"] > 0
    stalled.wait_until(lambda: stalled.of(Gap), "GAP")
    assert row()["drops"] > 0 and row()["overruns"] == 1
    assert metric(relay, "pgherald_overruns_total") == 1
    assert metric(relay, "pgherald_gaps_total", to="one") == 1


def test_channels_are_listed(make_relay):
    relay = make_relay(PGHERALD_CHANNELS="a,b:text").start()
    worker = relay.worker("a", "b")
    worker.publish("x", channel="a")
    rows = objects(relay.ops("channels json"))
    assert [(r["channel"], r["kind"], r["heard"], r["workers_for_all"]) for r in rows] == \
        [("a", "changes", 1, 1), ("b", "text", 0, 1)]


def test_config_says_where_each_setting_came_from(make_relay):
    relay = make_relay(flags=["--workers-max", "77"], PGHERALD_BACKLOG_SIZE="64K").start()
    settings = {s["setting"]: s for s in objects(relay.ops("config json"))}
    assert (settings["PGHERALD_WORKERS_MAX"]["value"], settings["PGHERALD_WORKERS_MAX"]["origin"]) == ("77", "flag")
    assert settings["PGHERALD_BACKLOG_SIZE"]["origin"] == "environment"
    assert settings["PGHERALD_CHANNELS"]["origin"] == "default"
    assert re.search(r"^PGHERALD_WORKERS_MAX=77 \(flag\)$", relay.ops("config"), re.M)


def test_no_secret_in_any_reply(relay):
    """Relay.ops() looks for the passwords of the URLs."""
    for command in READERS:
        relay.ops(command), relay.ops(command + " json")


WRITTEN = {
    "in the URL": "postgresql://app:Hunter2Zebra9@{where}",
    "percent-encoded": "postgresql://app:Hunter2%5aebra9@{where}",
    "as a parameter": "postgresql://app@{where}?password=Hunter2Zebra9",
    "as a parameter, percent-encoded": "postgresql://app@{where}?password=Hunter2%5Aebra9",
    "of a key": "postgresql://app@{where}?sslmode=disable&sslpassword=Hunter2Zebra9",
    "of a key, percent-encoded": "postgresql://app@{where}?sslpassword=Hunter2%5aebra9&sslmode=disable",
    "quoted": "host=127.0.0.1 port={port} dbname={db} user=app password='Hunter2\\'\\\\Zebra9'",
    "with a backslash": "host=127.0.0.1 port={port} dbname={db} user=app password=Hunter2\\ Zebra9",
    "with spaces around": "host=127.0.0.1 port={port} dbname={db} user=app password = 'Hunter2Zebra9'",
    "for many hosts": "postgresql://app:Hunter2Zebra9@127.0.0.1:{port},127.0.0.1:{port}/{db}",
}


@pytest.mark.parametrize("how", WRITTEN)
def test_no_password_is_shown_however_it_is_written(make_relay, pg, db, how):
    """Nor the end of one, if another URL's password begins like it. What is not secret is
    shown."""
    url = WRITTEN[how].format(where=f"127.0.0.1:{pg.port}/{db.name}", port=pg.port, db=db.name)
    relay = make_relay(DATABASE_URL=pg.url(db.name, password="Hunter2"), DATABASE_DIRECT_URL=url).start()
    for command in READERS:
        for reply in (relay.ops(command), relay.ops(command + " json")):
            for part in ("Hunter2", "Zebra9", "ebra9", "%5"):
                assert part not in reply, reply
    assert f"dbname={db.name}" in relay.ops("config") and f"port={pg.port}" in relay.ops("config")


# tail

def test_tail_shows_what_is_heard(relay, operator):
    worker, tail, filtered, by_pubkey, as_json = relay.worker(), *(operator(relay) for _ in range(4))
    tail.say("tail")
    filtered.say(f"tail {CHANNEL}")
    by_pubkey.say(f"tail {CHANNEL} bob")
    as_json.say("tail json")
    relay.ops("version")  # answered later than the tails began
    worker.publish("alice", "phone")
    worker.publish("bob", 'pad "x"')
    tail.reads(lambda t: "pubkey=alice client_id=phone" in t and "pubkey=bob" in t)
    filtered.reads(lambda t: "pubkey=bob" in t)
    by_pubkey.reads(lambda t: "pubkey=bob" in t)
    assert "alice" not in by_pubkey.text
    as_json.reads(lambda t: t.count('"type":"change"') == 2 and t.endswith("\n"))
    first, second = [o for o in map(json.loads, as_json.text.splitlines()) if o["type"] == "change"]
    assert (first["channel"], first["pubkey"], first["client_id"], first["recovered"]) == (CHANNEL, "alice", "phone", False)
    assert second["client_id"] == 'pad "x"' and second["seq"] > first["seq"]


def test_a_line_ends_a_tail(relay, operator):
    worker, tail = relay.worker(), operator(relay)
    tail.say("tail")
    relay.ops("version")
    worker.publish("alice")
    tail.reads(lambda t: "pubkey=alice" in t)
    tail.say("version")
    tail.reads(lambda t: t.endswith(f"\n\npgherald {VERSION}\n\n"))
    worker.publish("bob")
    assert "bob" not in tail.asks("version")


def test_tail_through_socat_goes_on_after_the_end_of_its_input(relay, run):
    """echo tail | socat -t 60: the input ends at once, and what is heard still comes."""
    worker, fds = relay.worker(), relay.fds()
    with run.spawn(["socat", "-t", "60", "-", "UNIX-CONNECT:" + relay.ops_path], stdin=subprocess.PIPE,
                   stdout=subprocess.PIPE) as socat:
        socat.stdin.write(b"tail\n")
        socat.stdin.close()
        stop = threading.Event()

        def publish():
            while not stop.is_set():
                worker.publish("alice")
        publisher = threading.Thread(target=publish)
        publisher.start()
        line = b""
        while b"pubkey=alice" not in line:
            line = socat.stdout.readline()
            assert line, "socat ended"
        stop.set()
        publisher.join()
        socat.kill()
    wait_until(lambda: relay.fds() <= fds, "the tail ends with its reader")


def test_a_slow_tail_is_told_what_it_missed(local_relay, operator):
    worker, tail = local_relay.worker(), operator(local_relay)
    tail.say("tail json")
    local_relay.ops("version")
    total = 3000
    asked = [worker.ask(NOTIFY, CHANNEL, "x" * 1000 + str(i), None) for i in range(total)]
    for id in asked:
        worker.answer(id)

    def counted(text):
        lines = [json.loads(line) for line in text.split("\n")[:-1]]
        shown = sum(o["type"] == "change" for o in lines)
        return shown + sum(o.get("frames", 0) for o in lines if o["type"] == "dropped") == total and lines
    lines = tail.reads(counted)
    assert [o for o in lines if o["type"] == "dropped"], "nothing was dropped: the test is too small"
    worker.publish("after")
    tail.reads(lambda t: '"pubkey":"after"' in t)


def test_tail_refuses_what_is_not_there(relay):
    assert relay.ops("tail no-such-channel").startswith("ERR channel ")
    assert relay.ops("tail a b c").startswith("ERR usage ")


# What changes something

def test_kill_ends_a_worker(relay):
    victim, other = relay.worker(), relay.worker()
    id = min(w["id"] for w in objects(relay.ops("workers json")))
    assert relay.ops(f"kill {id}") == "killed\n\n"
    assert victim.bye().code == "evicted"
    assert relay.ops(f"kill {id}").startswith("ERR no-worker ")
    for bad in ("kill", "kill x", "kill -1", "kill 1x"):
        assert relay.ops(bad).startswith("ERR usage "), bad
    other.ping()
    assert metric(relay, "pgherald_workers_closed_total", code="evicted") == 1
    assert "code=evicted" in relay.log()


def test_log_sets_the_level(relay):
    relay.worker().close()
    assert relay.ops("log debug") == "set\n\n"
    relay.worker().close()
    wait_until(lambda: relay.lines("DEBUG"), "a DEBUG line")
    assert relay.ops("log nonsense").startswith("ERR usage ")
    assert relay.ops("log").startswith("ERR usage ")


def test_reconnect_makes_a_new_listen_connection_and_loses_nothing(relay, db):
    worker = relay.worker()
    before = db.backends("pgherald upstream")
    seen = len(worker.frames)
    assert relay.ops("reconnect") == "reconnecting\n\n"
    worker.sees("live", after=seen)
    after = wait_until(lambda: [p for p in db.backends("pgherald upstream") if p not in before], "a new backend")
    assert after and after != before
    worker.publish("alice")
    worker.hears("alice")


def test_local_mode_has_nothing_to_reconnect(local_relay):
    assert local_relay.ops("reconnect").startswith("ERR local ")
    assert local_relay.ops("upstream").startswith("ERR local ")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_others_may_read_and_change_nothing(make_relay, run):
    relay = make_relay(PGHERALD_SOCKET_MODE="0666").start()
    os.chmod(relay.directory, 0o755)
    worker = relay.worker()

    def as_nobody(command):
        return run.call(["socat", "-", "UNIX-CONNECT:" + relay.ops_path], input=command + "\n", unprivileged=True)
    id = objects(as_nobody("workers json"))[0]["id"]
    for command in (f"kill {id}", "log debug", "reconnect"):
        assert as_nobody(command).startswith("ERR denied "), command
    assert "local" in as_nobody("status")
    worker.ping()


def tails(operator, worker):
    """Begin a tail, and wait until it has begun."""
    operator.say("tail")
    operator.socket.setblocking(False)

    def shows():
        worker.publish("tick")
        try:
            operator.text += operator.socket.recv(65536).decode()
        except BlockingIOError:
            return False
        return "tick" in operator.text
    wait_until(shows, "the tail shows a change")
    operator.socket.settimeout(DEADLINE)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_another_user_has_eight_tails(make_relay, operator):
    """Each tail costs something at every frame."""
    relay = make_relay(PGHERALD_SOCKET_MODE="0666").start()
    os.chmod(relay.directory, 0o755)
    worker = relay.worker()
    theirs = as_user(NOBODY, NOGROUP, [], lambda: [operator(relay) for _ in range(9)])
    for one in theirs[:8]:
        tails(one, worker)
    assert theirs[8].asks("tail").startswith("ERR busy ")
    ours = [operator(relay) for _ in range(9)]
    for one in ours:
        tails(one, worker)
    theirs[0].say("version")
    theirs[0].reads(lambda text: text.endswith(f"pgherald {VERSION}\n\n"))
    tails(theirs[8], worker)


# Bad manners

def test_100_operators_at_once(relay, operator):
    operators = [operator(relay) for _ in range(100)]
    for o in operators:
        o.say("status")
    for o in operators:
        o.reads(lambda t: t.endswith("\n\n") and "live" in t)


def test_whoever_asks_and_never_reads_is_dropped(relay, operator):
    rude = operator(relay)
    rude.socket.settimeout(0.1)
    worker = relay.worker()

    def dropped():
        try:
            while True:
                rude.socket.send(b"metrics\n" * 500)
        except socket.timeout:
            worker.ping()
        except (BrokenPipeError, ConnectionResetError):
            return True
    wait_until(dropped, "the relay closes")
    assert metric(relay, "pgherald_ops_dropped_total") == 1
    assert [line for line in relay.lines("WARNING") if "operator" in line], relay.log()
    assert relay.rss() < 200 << 20


def test_whoever_reads_slowly_gets_all(relay, operator):
    slow = operator(relay)
    count = 3000
    sender = threading.Thread(target=lambda: slow.socket.sendall(b"status\n" * count))
    sender.start()
    slow.reads(lambda t: t.count("\n\n") == count)
    sender.join()


def test_a_line_without_an_end(relay, operator):
    endless = operator(relay)
    for _ in range(16):
        endless.socket.sendall(b"x" * 65536)
    worker = relay.worker()
    worker.ping()
    endless.say("")
    endless.reads(lambda t: re.fullmatch(r"ERR line-too-long .*\n\n", t))
    assert "live" in endless.asks("status")


def test_commands_without_a_last_newline(relay, run):
    reply = run.call(["socat", "-", "UNIX-CONNECT:" + relay.ops_path], input="version\nversion json")
    assert reply == f'pgherald {VERSION}\n\n{{"version":"{VERSION}"}}\n\n'


def test_a_full_ops_socket_makes_room_for_the_newest(relay, operator):
    idle = [operator(relay) for _ in range(256)]
    idle[0].asks("version")

    def gets_in():
        try:
            return operator(relay).asks("version") == f"pgherald {VERSION}\n\n"
        except (AssertionError, BrokenPipeError, ConnectionResetError):
            return False  # for the first seconds no connection counts as idle
    assert not gets_in()
    wait_until(gets_in, "the idlest gives way")


def test_the_version_is_the_same_everywhere():
    """meson.build has it; what other tools read has copies."""
    for path, pattern in (("client/python/pyproject.toml", r'^version = "(.*)"'), ("client/python/pgherald/__init__.py", r'__version__ = "(.*)"'),
                          ("client/node/package.json", r'"version": "(.*)"'), ("client/go/README.md", r"pgherald@v([\d.]+)"),
                          ("debian/changelog", r"^pgherald \((.*)-1\)"), ("CHANGELOG.md", r"^## ([\d.]+)")):
        with open(os.path.join(TOP, path)) as file:
            assert re.search(pattern, file.read(), re.M)[1] == VERSION, path
