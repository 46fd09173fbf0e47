"""The life of a sidecar: its log, its signals, its settings while it runs, its start, its paths, its idleness."""

import fcntl
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time

import pytest

from harness.ops import metric, objects
from harness.procs import wait_until
from harness.relay import DAEMON
from harness.servers import PASSWORD, free_port
from harness.subscriber import resumed, subscriber
from harness.worker import BEGIN, CHANNEL, NOTIFY, Error, Gap, Ok, Raw

ROOT = os.geteuid() == 0
F_SETPIPE_SZ = 1031


def launch_with(relay, stderr):
    """Start it with this descriptor as stderr, without a log of the harness."""
    relay.process = relay.run.spawn([DAEMON], relay.environment, stderr=stderr)
    relay._may_have_ended = relay._told_to_end = False
    for name in ("log", "stdout"):
        open(os.path.join(relay.directory, name), "w").close()
    return relay.await_ready()


def pipe():
    ends = os.pipe()
    fcntl.fcntl(ends[0], F_SETPIPE_SZ, 4096)
    return ends


def socket_pair():
    ours, its = socket.socketpair()
    its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ours.detach(), its.detach()


def terminal():
    return os.openpty()


def drain(fd):
    os.set_blocking(fd, False)
    text = b""
    try:
        while data := os.read(fd, 65536):
            text += data
    except BlockingIOError:
        pass
    return text.decode()


# The log

@pytest.mark.parametrize("channel", [pipe, socket_pair, terminal])
def test_a_log_that_nobody_reads_holds_up_nothing(make_relay, db, channel):
    """Lines are dropped and counted, the relay serves and ends; when the log drains, a line says how many."""
    relay = make_relay(DATABASE_DIRECT_URL=db.direct_url, PGHERALD_LOG_LEVEL="debug")
    read, write = channel()
    launch_with(relay, write)
    os.close(write)
    worker = relay.worker()

    def floods():
        for _ in range(50):
            relay.connect().close()
        return metric(relay, "pgherald_log_dropped_total") > 0
    wait_until(floods, "lines are dropped")
    worker.publish("alice")
    worker.hears("alice")
    text = [drain(read)]

    def says():
        text.append(drain(read))
        return re.search(r"<4>WARNING: \d+ lines of the log were dropped, since its reader was too slow", "".join(text))
    wait_until(says, "it says what is missing, though nothing else happens")
    text = "".join(text).replace("\r", "")
    assert all(re.fullmatch(r"<\d>[A-Z]+: .+", line) for line in text.splitlines()), "no line is torn"
    wait_until(floods, "lines are dropped again")
    relay.stop()
    os.close(read)


def test_stderr_stays_as_others_have_it(make_relay):
    """A process that shares the pipe is not surprised by O_NONBLOCK."""
    relay = make_relay()
    read, write = pipe()
    launch_with(relay, write)
    assert not fcntl.fcntl(write, fcntl.F_GETFL) & os.O_NONBLOCK
    relay.stop()
    os.close(read)
    os.close(write)


# Signals

@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_it_survives_signals_of_supervisors(local_relay, number):
    worker = local_relay.worker()
    local_relay.process.send_signal(number)
    worker.publish("alice")
    worker.hears("alice")
    assert local_relay.process.poll() is None


def healthy(relay):
    return subprocess.run([DAEMON, "--check", relay.environment["PGHERALD_METRICS_SOCKET"]], capture_output=True, text=True)


@pytest.fixture
def metered(make_relay):
    def make(**environment):
        relay = make_relay(**environment)
        relay.environment["PGHERALD_METRICS_SOCKET"] = os.path.join(relay.directory, "metrics.sock")
        return relay
    return make


def test_draining_serves_those_that_are_connected(metered, db):
    relay = metered(DATABASE_DIRECT_URL=db.direct_url, PGHERALD_DRAIN="600").start()
    assert healthy(relay).returncode == 0
    workers = [relay.worker(), relay.worker()]
    relay.terminate()
    wait_until(lambda: healthy(relay).returncode == 1, "it is not ready any more")
    assert "stopping" in healthy(relay).stderr
    with pytest.raises(OSError):
        Raw(relay.path)
    for _ in range(2):  # as long as there is one
        workers[0].publish("alice")
        workers[0].hears("alice")
        assert relay.process.poll() is None
        workers[1].close()
    workers[0].close()
    assert relay.wait_exit() == 0
    assert not os.path.exists(relay.path)


def test_draining_ends_when_its_time_is_over(make_relay):
    relay = make_relay(PGHERALD_DRAIN="0.5").start()
    worker = relay.worker()
    relay.terminate()
    assert worker.bye().code == "shutdown"
    assert relay.wait_exit() == 0


def test_a_second_signal_ends_draining(make_relay):
    relay = make_relay(PGHERALD_DRAIN="600").start()
    worker = relay.worker()
    relay.terminate()
    wait_until(lambda: not os.path.exists(relay.path), "it drains")
    relay.process.send_signal(signal.SIGINT)
    assert worker.bye().code == "shutdown"
    assert relay.wait_exit() == 0


def test_draining_without_workers_is_an_end(make_relay):
    relay = make_relay(PGHERALD_DRAIN="600").start()
    relay.terminate()
    assert relay.wait_exit(2) == 0


# Settings while it runs

class Settings:
    def __init__(self, relay, **settings):
        self.relay = relay
        self.path = relay.environment["PGHERALD_ENVIRONMENT_FILE"] = os.path.join(relay.directory, "settings")
        self.write(**settings)

    def write(self, **settings):
        with open(self.path, "w") as file:
            file.write("# settings\n" + "".join(f"{name}='{value}'\n" for name, value in settings.items()))

    def reload(self, **settings):
        """Change them, and wait until the relay has answered. Returns what it logged."""
        self.write(**settings)
        before = len(self.relay.lines())
        self.relay.process.send_signal(signal.SIGHUP)

        def answered():
            lines = self.relay.lines()[before:]
            return lines if any(line.startswith(("the settings were", "the settings stay")) for line in lines) else None
        return wait_until(answered, "the relay reads its settings again")


def shown(relay, name):
    return next(s["value"] for s in objects(relay.ops("config json")) if s["setting"] == name)


@pytest.fixture(params=["postgres", "local"])
def reloadable(request, make_relay, db):
    relay = make_relay(DATABASE_DIRECT_URL=db.direct_url if request.param == "postgres" else None,
                       PGHERALD_LOG_LEVEL="info")
    return relay, Settings(relay, PGHERALD_CHANNELS="one,two:text")


def test_channels_come_and_go_and_workers_stay(reloadable):
    relay, settings = reloadable
    relay.start()
    one, two = relay.worker("one"), relay.worker("two")
    both = relay.connect()
    assert isinstance(both.subscribe("three"), Error)
    lines = settings.reload(PGHERALD_CHANNELS="three, one")
    assert "the settings were read again changed=1" in lines
    assert two.bye().code == "evicted", "what it hears is gone"
    assert isinstance(both.subscribe("three"), Ok) and isinstance(both.subscribe("two"), Error)
    assert isinstance(both.notify("alice", channel="three"), Ok)
    both.hears("alice")
    assert isinstance(one.notify("bob", channel="one"), Ok)
    one.hears("bob")
    names = {c["channel"] for c in objects(relay.ops("channels json"))}
    assert names == {"one", "three"} and shown(relay, "PGHERALD_CHANNELS") == "three, one"
    settings.reload(PGHERALD_CHANNELS="one,two:text,three")
    again = relay.worker("two")
    assert isinstance(again.send("two", "x"), Ok)
    again.hears_message("x")


def test_what_a_channel_missed_while_it_was_gone_is_no_secret(reloadable):
    """A worker that resumes from before is told of a gap. It would get it from the database, if that could tell."""
    relay, settings = reloadable
    relay.start()
    worker = subscriber(relay, channel="one")
    worker.ping()
    worker.close()
    settings.reload(PGHERALD_CHANNELS="two:text")
    assert not resumed(relay, worker.cursor, channel="two").gaps, "it was heard all the time"
    settings.reload(PGHERALD_CHANNELS="one,two:text")
    again = resumed(relay, worker.cursor, channel="one")
    assert again.gaps == ["restart"]


@pytest.mark.parametrize("name, value, wrong", [
    ("PGHERALD_CHANNELS", "x:txt", "PGHERALD_CHANNELS"),
    ("PGHERALD_ALLOW", "no-such-user-here=both", "no-such-user-here"),
    ("PGHERALD_WORKERS_MAX", "many", "PGHERALD_WORKERS_MAX"),
    ("PGHERALD_LOG_LEVEL", "loud", "PGHERALD_LOG_LEVEL"),
    ("PGHERALD_BACKLOG_SIZE", "1", "PGHERALD_BACKLOG_SIZE"),
])
def test_nothing_changes_if_anything_is_wrong(make_relay, name, value, wrong):
    relay = make_relay()
    settings = Settings(relay, PGHERALD_CHANNELS="one")
    worker = relay.start().worker("one")
    lines = settings.reload(**{"PGHERALD_CHANNELS": "one,two", "PGHERALD_WORKERS_MAX": "7", name: value})
    assert wrong in lines[0] and lines[-1].startswith("the settings stay as they were")
    assert isinstance(worker.subscribe("two"), Error)
    assert shown(relay, "PGHERALD_WORKERS_MAX") == "4096"


def test_a_file_that_is_gone_changes_nothing(make_relay):
    relay = make_relay()
    settings = Settings(relay, PGHERALD_CHANNELS="one")
    relay.start()
    os.unlink(settings.path)
    relay.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(relay.lines("ERROR")) == 2, "it says so")
    assert settings.path in relay.lines("ERROR")[0]
    relay.worker("one").ping()


def test_limits_level_and_what_needs_a_restart(make_relay):
    relay = make_relay()
    settings = Settings(relay, PGHERALD_WORKERS_MAX="3", PGHERALD_SOCKET_MODE="0600")
    relay.start()
    worker = relay.worker()
    lines = settings.reload(PGHERALD_WORKERS_MAX="1", PGHERALD_SOCKET_MODE="0666", PGHERALD_LOG_LEVEL="debug",
                            PGHERALD_SUBSCRIPTIONS_MAX="2")
    assert [line for line in lines if "PGHERALD_SOCKET_MODE cannot change without a restart" in line]
    assert relay.connect().bye().code == "limit"
    assert worker.subscribe(CHANNEL, ["a", "b", "c"]).code == "limit"
    worker.close()
    wait_until(lambda: relay.lines("DEBUG"), "it logs at the new level")
    assert shown(relay, "PGHERALD_SOCKET_MODE") == "0600"
    settings.reload(PGHERALD_SOCKET_MODE="0600")
    relay.connect().ping()
    assert shown(relay, "PGHERALD_WORKERS_MAX") == "4096", "what is not in the file any more has its default"


def test_rules_are_in_force_at_once(make_relay):
    relay = make_relay()
    uid = os.geteuid()
    settings = Settings(relay, PGHERALD_CHANNELS="one,two")
    relay.start()
    listens, idles = relay.worker("one", "two"), relay.worker("one")
    settings.reload(PGHERALD_CHANNELS="two, one", PGHERALD_ALLOW=f"{uid} = listen : one")
    assert listens.bye().code == "denied"
    assert idles.notify("alice", channel="one").code == "denied"
    assert idles.subscribe("two").code == "denied"
    settings.reload(PGHERALD_CHANNELS="two,one", PGHERALD_ALLOW="")
    assert isinstance(idles.subscribe("two"), Ok)


def test_the_file_has_the_form_of_systemds(make_relay):
    relay = make_relay()
    settings = Settings(relay)
    with open(settings.path, "w") as file:
        file.write("; comment\n\nPGHERALD_CHANNELS=\"one\"',two'\\\n,three   \n  PGHERALD_WORKERS_MAX = 5\nnot a line\n"
                   "PGHERALD_LOG_LEVEL=debug # no comment\n")
    relay.launch()
    assert "PGHERALD_LOG_LEVEL" in relay.fails()
    with open(settings.path, "a") as file:
        file.write("PGHERALD_LOG_LEVEL=")
    relay.start()
    assert {c["channel"] for c in objects(relay.ops("channels json"))} == {"one", "two", "three"}
    assert shown(relay, "PGHERALD_WORKERS_MAX") == "5"


def test_flags_stay_above_the_file(make_relay):
    relay = make_relay(flags=["--workers-max=9"])
    settings = Settings(relay, PGHERALD_WORKERS_MAX="5")
    relay.start()
    settings.reload(PGHERALD_WORKERS_MAX="6")
    assert shown(relay, "PGHERALD_WORKERS_MAX") == "9"


def test_a_reload_while_postgresql_is_away(make_relay, own_pg, own_db):
    relay = make_relay(DATABASE_DIRECT_URL=own_db.direct_url)
    settings = Settings(relay, PGHERALD_CHANNELS="one")
    worker = relay.start().worker("one")
    own_pg.stop("immediate")
    worker.sees("down")
    settings.reload(PGHERALD_CHANNELS="one,Two")
    own_pg.start()
    worker.sees("live", after=len(worker.frames))
    assert isinstance(worker.subscribe("Two"), Ok)
    own_db.notify("Two", '{"p":"alice"}')
    worker.hears("alice")
    assert len([line for line in relay.lines("WARNING") if "upper case" in line]) == 1


# The start

def test_it_waits_for_a_server_that_is_away(make_relay, own_pg, own_db):
    own_pg.stop("immediate")
    relay = make_relay(DATABASE_DIRECT_URL=own_db.direct_url, PGHERALD_START_TIMEOUT="0").launch()
    wait_until(lambda: relay.lines("WARNING"), "it says what it waits for")
    assert "DATABASE_DIRECT_URL" in relay.lines("WARNING")[0]
    own_pg.start()
    relay.await_ready().worker().ping()


def test_a_pooler_whose_server_is_away_is_waited_for(make_relay, own_pg, own_db, own_bouncer):
    own_pg.stop("immediate")
    relay = make_relay(DATABASE_URL=own_bouncer.url(own_db), DATABASE_DIRECT_URL=own_db.direct_url,
                       PGHERALD_START_TIMEOUT="0").launch()
    wait_until(lambda: len(relay.lines("WARNING")) > 1, "it says what it waits for")
    own_pg.start()
    worker = wait_until(lambda: relay._lets_in() and relay.worker(), "it serves", 30)
    worker.publish("alice")
    worker.hears("alice")


def test_it_waits_as_long_as_it_may(make_relay):
    relay = make_relay(DATABASE_DIRECT_URL=f"postgresql://app@127.0.0.1:{free_port()}/x", PGHERALD_START_TIMEOUT="1").launch()
    assert "cannot be connected to" in relay.fails(10)


@pytest.mark.parametrize("database, user", [("nowhere", "app"), (None, "nobody_like_this")])
def test_what_does_not_heal_is_not_waited_for(make_relay, pg, db, database, user):
    url = f"postgresql://{user}:{PASSWORD}@127.0.0.1:{pg.port}/{database or db.name}"
    relay = make_relay(DATABASE_DIRECT_URL=url, PGHERALD_START_TIMEOUT="0").launch()
    relay.fails()


def test_a_signal_ends_a_start_that_waits(make_relay):
    relay = make_relay(DATABASE_DIRECT_URL=f"postgresql://app@127.0.0.1:{free_port()}/x", PGHERALD_START_TIMEOUT="0",
                       PGHERALD_DRAIN="600").launch()
    wait_until(lambda: relay.lines("WARNING"), "it waits")
    relay.process.send_signal(signal.SIGHUP)
    relay.process.send_signal(signal.SIGTERM)
    assert relay.wait_exit(2) == 0


# The paths

@pytest.mark.parametrize("how", ["removed", "replaced", "directory"])
def test_a_path_that_is_gone_is_listened_on_again(make_relay, how):
    relay = make_relay(PGHERALD_SOCKET_MODE="0640").start()
    worker = relay.worker()
    if how == "removed":
        os.unlink(relay.path)
        os.unlink(relay.ops_path)
    elif how == "replaced":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(relay.path + ".new")
        os.rename(relay.path + ".new", relay.path)
    else:
        os.rename(relay.directory, relay.directory + ".old")
        wait_until(lambda: "cannot listen there again" in open(relay.directory + ".old/log").read(), "it says so")
        os.mkdir(relay.directory)
        for name in ("log", "stdout"):
            os.link(f"{relay.directory}.old/{name}", f"{relay.directory}/{name}")
    relay.await_ready()
    assert stat.S_IMODE(os.stat(relay.path).st_mode) == 0o640
    other = relay.worker()
    worker.publish("alice")
    other.hears("alice")
    wait_until(lambda: "alice" or relay.ops("status"), "ops answers")
    assert [line for line in relay.lines("WARNING") if "listens there again" in line]
    relay.stop()
    assert not os.path.exists(relay.path) and not os.path.exists(relay.ops_path)


def test_a_lock_that_a_cleaner_removed_changes_nothing(make_relay, run):
    first = make_relay().start()
    os.unlink(first.path + ".lock")
    second = make_relay(PGHERALD_SOCKET=first.path)
    second.launch()
    second._may_have_ended = True
    assert second.process.wait(15) == 1
    assert "another relay serves" in second.lines("ERROR")[0]
    wait_until(lambda: os.path.exists(first.path + ".lock"), "the lock is there again")
    first.worker().ping()


def test_nobody_removes_what_another_one_made(make_relay):
    first = make_relay().start()
    worker = first.worker()
    os.unlink(first.path)
    os.unlink(first.path + ".lock")
    second = make_relay(PGHERALD_SOCKET=first.path)
    second.path = first.path
    second.start()
    wait_until(lambda: [line for line in first.lines("WARNING") if "another process does" in line], "the first says so")
    worker.ping()
    first.stop()
    second.worker().ping()
    assert os.path.exists(first.path)


def test_what_answers_is_not_removed(make_relay):
    relay = make_relay()
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(relay.path)
        living.listen(0)
        relay.launch()
        relay._may_have_ended = True
        assert relay.process.wait(15) == 1 and os.path.exists(relay.path)
        assert "another relay serves" in relay.lines("ERROR")[0]
    os.unlink(relay.path)


@pytest.mark.skipif(not ROOT, reason="only root may give a file to any group")
def test_the_sockets_group(make_relay):
    relay = make_relay(PGHERALD_SOCKET_GROUP="daemon", PGHERALD_SOCKET_MODE="0660").start()
    found = os.stat(relay.path)
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (1, 0o660)
    assert os.stat(relay.ops_path).st_gid == os.getegid()
    os.unlink(relay.path)
    relay.await_ready()
    assert os.stat(relay.path).st_gid == 1


def test_a_group_that_is_not_there(make_relay):
    assert "PGHERALD_SOCKET_GROUP" in make_relay(PGHERALD_SOCKET_GROUP="no-such-group-here").launch().fails()


# Connections that were closed

def test_an_idle_publisher_costs_a_new_connection_at_most(make_relay, own_pg, own_db):
    """The server ends sessions that are idle for half a second; a NOTIFY comes each second."""
    own_db.sql("ALTER ROLE app SET idle_session_timeout = '500ms'", user="postgres")
    relay = make_relay(DATABASE_DIRECT_URL=own_db.direct_url, PGHERALD_LOG_LEVEL="info").start()
    worker = relay.worker()
    for i in range(4):
        gone = len([line for line in relay.lines("INFO") if "idle publishing connection" in line])
        wait_until(lambda: [line for line in relay.lines("INFO") if "idle publishing connection" in line][gone:],
                   "the server closes it")
        assert isinstance(worker.answer(worker.ask(NOTIFY, CHANNEL, f"u{i}", None), 3), Ok)
        worker.hears(f"u{i}")
    assert not [line for line in relay.lines("WARNING") if "attempt" in line], "no backoff, and no alarm"


@pytest.mark.parametrize("which", ["pgherald upstream", "pgherald publisher"])
def test_the_first_retry_is_at_once(relay, db, which):
    worker = relay.worker()
    wait_until(lambda: objects(relay.ops("status json"))[0]["up_for_seconds"] > 1.5, "it has been healthy for a while")
    for pid in db.backends(which):
        db.sql("SELECT pg_terminate_backend(%s)", (pid,))
    if "upstream" in which:
        worker.sees("live", after=len(worker.frames))
    worker.publish("alice")
    worker.hears("alice")
    assert not [line for line in relay.lines("WARNING") if re.search(r"next attempt in (?!0\.0 s)", line)]


# Whom it believes

@pytest.mark.skipif(not ROOT, reason="only root may connect as somebody else")
def test_nobody_in_a_user_namespace_is_not_the_daemons_user(make_relay):
    relay = make_relay(PGHERALD_SOCKET_MODE="0666")
    relay.launcher = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
    relay.start()
    reply = subprocess.run(["setpriv", "--reuid=4242", "--clear-groups", "socat", "-", "UNIX-CONNECT:" + relay.ops_path],
                           input="log debug\n", capture_output=True, text=True)
    assert "ERR denied" in reply.stdout, reply


# Channels

def test_names_in_lists(make_relay, db):
    relay = make_relay(DATABASE_DIRECT_URL=db.direct_url, PGHERALD_CHANNELS=' a , tenant\\:1,\tb\\,c:text,"x:y, z", d \n',
                       PGHERALD_ALLOW=f'{os.geteuid()} = both , * = listen : "x:y, z",*=publish:tenant\\:1').start()
    names = ["a", "tenant:1", "b,c", "x:y, z", "d"]
    assert [c["channel"] for c in objects(relay.ops("channels json"))] == names
    worker = relay.worker(*names)
    for name in (n for n in names if n != "b,c"):
        db.notify(name, json.dumps({"p": "of " + name}))
        worker.hears("of " + name)


@pytest.mark.parametrize("value", ["a,", ",a", "a:b:c", '"a', '"a"b', "a:text:text", "x\\:text"])
def test_names_that_are_wrong(make_relay, value):
    assert "PGHERALD_CHANNELS" in make_relay(PGHERALD_CHANNELS=value).launch().fails()


def test_blanks_around_any_setting(make_relay):
    relay = make_relay(PGHERALD_WORKERS_MAX=" 7\n", PGHERALD_LOG_LEVEL="info\n", PGHERALD_CHANNELS=" \n").start()
    assert shown(relay, "PGHERALD_WORKERS_MAX") == "7" and shown(relay, "PGHERALD_CHANNELS") == CHANNEL


def test_upper_case_is_warned_of_once(make_relay, db):
    relay = make_relay(DATABASE_DIRECT_URL=db.direct_url, PGHERALD_CHANNELS='TinyBase,small,"Quoted"').start()
    warnings = [line for line in relay.lines("WARNING") if "upper case" in line]
    assert len(warnings) == 1 and 'channel="TinyBase"' in warnings[0]
    worker = relay.worker("TinyBase")
    db.notify("TinyBase", '{"p":"alice"}')
    worker.hears("alice")


# Idle

def wakes(relay):
    with open(f"/proc/{relay.process.pid}/status") as file:
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", file.read(), re.M)[1])


def test_an_idle_relay_sleeps(without_sanitizers, make_relay, db):
    """Until its next probe: it wakes to ask, and for the answer."""
    relay = make_relay(DATABASE_DIRECT_URL=db.direct_url).start()
    worker = relay.worker()
    worker.ping()

    def probes():
        return objects(relay.ops("status json"))[0]["canary"]["probes"]
    first = probes()
    wait_until(lambda: probes() > first + 1, "the database is idle", 30)
    started, before, asked = time.monotonic(), wakes(relay), probes()
    while time.monotonic() - started < 6:
        time.sleep(0.5)  # nothing is asked meanwhile
    after = wakes(relay)
    assert probes() > asked
    assert after - before < 12, "six seconds"


# HTTP

def exchange(relay, *requests):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(15)
        s.connect(relay.environment["PGHERALD_METRICS_SOCKET"])
        answers = []
        for request in requests:
            s.sendall(request)
            text = b""
            while True:
                data = s.recv(65536)
                text += data
                head, _, body = text.partition(b"\r\n\r\n")
                length = re.search(rb"Content-Length: (\d+)", head)
                if not data or (length and len(body) >= (0 if request.startswith(b"HEAD") else int(length[1]))):
                    break
            answers.append(text.decode())
        return answers


def test_http_as_clients_speak_it(metered):
    relay = metered().start()
    long = b"GET /metrics?" + b"&".join(b"name[]=pgherald_%d" % i for i in range(300)) + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    for request in (long, b"GET http://localhost/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
                    b"GET HTTP://localhost:80/metrics?a=b HTTP/1.0\r\n\r\n"):
        answer, = exchange(relay, request)
        assert re.match(r"HTTP/1\.[01] 200 OK\r\n", answer) and "pgherald_uptime_seconds" in answer
    answer, = exchange(relay, b"GET http://localhost HTTP/1.1\r\n\r\n")
    assert " 404 " in answer.splitlines()[0]


def test_a_connection_that_is_kept(metered):
    relay = metered().start()
    asks = b"%s /healthz HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive, TE\r\n\r\n"
    answers = exchange(relay, asks % b"GET", asks % b"HEAD", asks % b"GET" + b"GET /healthz HTTP/1.1\r\n\r\n")
    assert all(a.startswith("HTTP/1.1 200 OK\r\n") and "Connection: keep-alive" in a for a in answers)
    assert answers[1].endswith("\r\n\r\n")
    output = relay.run.call(["curl", "-sSv", "--stderr", "-", "-H", "Connection: keep-alive", "--unix-socket",
                             relay.environment["PGHERALD_METRICS_SOCKET"], "http://x/metrics", "http://x/healthz"])
    assert re.search("Re-using existing .*connection", output)


def test_the_check(metered, run):
    relay = metered()
    assert healthy(relay).returncode == 1
    relay.start()
    assert healthy(relay).returncode == 0
    relay.freeze()
    began = healthy(relay)
    assert began.returncode == 1 and "in time" in began.stderr
    relay.thaw()
    assert subprocess.run([DAEMON, "--check", relay.path], capture_output=True).returncode == 1


# Credentials

@pytest.mark.skipif(not ROOT, reason="only root makes a file that is root's")
def test_a_password_file_that_its_group_may_read(make_relay, own_pg, own_db):
    """As newer systemd and Kubernetes provide it; libpq itself ignores such a file."""
    own_pg.require_password("app", "Sesame7Open")
    relay = make_relay(DATABASE_DIRECT_URL=f"postgresql://app@127.0.0.1:{own_pg.port}/{own_db.name}")
    path = relay.environment["PGPASSFILE"] = os.path.join(relay.directory, "pgpass")
    with open(path, "w") as file:
        file.write("*:*:*:app:Sesame7Open\n")
    os.chmod(path, 0o440)
    relay.start().worker().ping()
    os.chmod(path, 0o444)
    relay.stop()
    assert "password" in relay.launch().fails(), "one that everybody may read is no secret"


@pytest.mark.skipif(not ROOT, reason="only root may start it as somebody else")
def test_home_of_another_user_is_said(make_relay, pg, db):
    """libpq may not look for certificates there, and with sslmode=prefer goes on without encryption."""
    url = f"postgresql://app:{PASSWORD}@127.0.0.1:{pg.port}/{db.name}"
    for more, said in (("", True), ("?sslmode=disable", False)):
        relay = make_relay(DATABASE_DIRECT_URL=url + more)
        os.chmod(relay.directory, 0o777)
        relay.environment["HOME"] = os.path.join(relay.directory, "home")
        os.mkdir(relay.environment["HOME"], 0o700)
        relay.launcher = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups"]
        relay.start()
        assert bool([line for line in relay.lines("WARNING") if "not encrypted" in line]) == said
