"""When the host fails: descriptors, memory, the disk, a path that is not writable, the
clock."""

import json
import os
import resource
import stat
import time

import pytest

from harness.clock import jump, jumping_clock, with_jumping_clock
from harness.ops import Operator, metric, objects
from harness.procs import wait_until
from harness.worker import CHANNEL, NOTIFY, SUBSCRIBE, Ok

ROOT = os.geteuid() == 0


def prlimit(relay, limit, value):
    resource.prlimit(relay.process.pid, limit, (value, resource.prlimit(relay.process.pid, limit)[1]))


def test_out_of_descriptors_while_postgresql_is_away(make_relay, own_pg, own_db):
    """There is no descriptor for a new connection. The relay tries until there is one, and
    disturbs no worker."""
    relay = make_relay(DATABASE_DIRECT_URL=own_db.direct_url).start()
    workers = [relay.worker(), relay.worker()]
    own_pg.stop("immediate")
    workers[0].sees("down")
    wait_until(lambda: objects(relay.ops("status json"))[0]["publisher"]["state"] == "down", "both connections are gone")
    taken = {int(fd) for fd in os.listdir(f"/proc/{relay.process.pid}/fd")}
    prlimit(relay, resource.RLIMIT_NOFILE, min(set(range(1000)) - taken))
    own_pg.start()
    before = len(relay.lines("WARNING"))
    wait_until(lambda: len(relay.lines("WARNING")) > before + 1, "it says that it cannot connect")
    workers[0].ping()
    prlimit(relay, resource.RLIMIT_NOFILE, 1000)
    workers[0].sees("live", after=len(workers[0].frames))
    workers[0].publish("alice")
    workers[1].hears("alice")


def test_short_of_memory_nobody_else_is_hurt(without_sanitizers, make_relay):
    """A worker asks for more memory than there is. The relay disconnects it, and the others
    go on."""
    relay = make_relay(PGHERALD_SUBSCRIPTIONS_MAX="64M").start()
    others = [relay.worker(), relay.worker(pubkeys=["alice"])]
    with open(f"/proc/{relay.process.pid}/statm") as file:
        size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    prlimit(relay, resource.RLIMIT_AS, size + (4 << 20))
    greedy = relay.connect("greedy")
    try:
        for i in range(2000):
            greedy.ask(SUBSCRIBE, CHANNEL, [f"{i}.{j}" for j in range(2000)])
            greedy.pump()
    except (BrokenPipeError, ConnectionResetError):
        pass
    wait_until(lambda: metric(relay, "pgherald_workers_closed_total", code="limit") == 1, "the greedy one is disconnected")
    others[0].publish("alice")
    for worker in others:
        worker.hears("alice")
    assert relay.process.poll() is None


@pytest.mark.skipif(not ROOT, reason="needs to mount a file system")
def test_a_full_disk_is_nothing_to_it(run, make_relay, db):
    """It writes no file: with its directory and its log on a full disk, it starts and
    serves."""
    relay = make_relay(DATABASE_DIRECT_URL=db.direct_url)
    run.call(["mount", "-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", relay.directory])

    with open(os.path.join(relay.directory, "log"), "w"), open(os.path.join(relay.directory, "stdout"), "w"):
        pass
    with open(os.path.join(relay.directory, "filler"), "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass
    try:
        relay.start()
        assert relay.log() == "", "the disk is full, for the log too"
        worker = relay.worker()
        worker.publish("alice")
        worker.hears("alice")
        assert "live" in relay.ops("status")
        relay.stop()
        assert os.listdir(relay.directory).count("relay.sock") == 0
    finally:
        relay.close()
        run.call(["umount", "-l", relay.directory])
        relay.process = None
        open(os.path.join(relay.directory, "log"), "w").close()


def test_a_log_that_nobody_reads_does_not_stop_it(make_relay, run):
    """stderr is a pipe whose reader is gone."""
    relay = make_relay()
    read, write = os.pipe()
    from harness.relay import DAEMON
    relay.process = run.spawn([DAEMON], relay.environment, stderr=write)
    for name in ("log", "stdout"):
        open(os.path.join(relay.directory, name), "w").close()
    os.close(write)
    os.close(read)
    relay.await_ready()
    worker = relay.worker()
    relay.ops("log debug")
    relay.connect().close()
    worker.publish("alice")
    worker.hears("alice")


@pytest.mark.skipif(not ROOT, reason="root may write anywhere but on a read-only file system")
def test_an_ops_path_that_is_not_writable(run, make_relay):
    """If it was configured, the start is refused with a line that says so, and the workers'
    socket does not appear."""
    relay = make_relay()
    directory = run.subdirectory("readonly")
    run.call(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", directory])
    try:
        relay.environment["PGHERALD_OPS_SOCKET"] = os.path.join(directory, "ops.sock")
        error = relay.launch().fails()
        assert "cannot claim" in error and directory in error and "Read-only file system" in error
    finally:
        run.call(["umount", directory])


def test_an_ops_path_where_something_else_stands(make_relay):
    relay = make_relay()
    with open(relay.ops_path, "w") as file:
        file.write("precious")
    assert relay.ops_path in relay.launch().fails()
    with open(relay.ops_path) as file:
        assert file.read() == "precious"


def test_the_sockets_have_their_mode_from_the_first_moment(make_relay):
    relay = make_relay(PGHERALD_SOCKET_MODE="0640").start()
    for path in (relay.path, relay.ops_path):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


@pytest.fixture(scope="session")
def library(run):
    return jumping_clock(run)


@pytest.mark.parametrize("seconds", [-86400, 86400 * 400])
def test_the_clock_jumps(make_relay, cleanup, db, library, seconds):
    """Nothing is timed by the wall clock: no deadline passes, no connection is dropped, no
    publish is late."""
    relay = with_jumping_clock(
        make_relay(DATABASE_DIRECT_URL=db.direct_url, PGHERALD_CHECKPOINT_INTERVAL="1"), library).start()
    worker = relay.worker()
    worker.publish("before")
    backends = db.backends("pgherald upstream")

    jump(relay, seconds)
    for i in range(20):
        assert isinstance(worker.answer(worker.ask(NOTIFY, CHANNEL, f"u{i}", None), 3), Ok)
    worker.hears("u19")
    heard = objects(relay.ops("status json"))[0]["canary"]["heard"]
    worker.publish("activity")
    wait_until(lambda: objects(relay.ops("status json"))[0]["canary"]["heard"] > heard + 1, "the next canaries")
    status = objects(relay.ops("status json"))[0]
    assert 0 <= status["up_for_seconds"] < 120 and 0 <= status["upstream"]["for_seconds"] < 120
    assert 0 <= status["checkpoint"]["age_seconds"] < 120
    operator = cleanup.add(Operator(relay))
    operator.say("tail json")  # the one place where it shows the wall clock
    relay.ops("version")
    worker.publish("last")
    shown = operator.reads(lambda t: [json.loads(line)["time"][:7] for line in t.splitlines() if '"last"' in line])
    assert shown == [time.strftime("%Y-%m", time.gmtime(time.time() + seconds))], "the preloaded clock is in force"
    assert db.backends("pgherald upstream") == backends
    assert not [line for line in relay.lines("WARNING") if "attempt" in line]
