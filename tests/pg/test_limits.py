"""Who may connect, and how much of anything. Each limit at N, which is allowed, and at N +
1, with its code, its counter and its line in the log."""

import ctypes
import itertools
import os
import re
import resource
import socket
import subprocess

import msgpack
import pytest

from harness.ops import metric
from harness.procs import wait_until
from harness.relay import DAEMON, TOP
from harness.worker import CHANNEL, FRAME_MAX, NOTIFY, PING, Bye, Error, Ok, pack

ROOT = os.geteuid() == 0
NOBODY, NOGROUP = 65534, 65534


def reached(relay, limit):
    return metric(relay, "pgherald_limit_reached_total", limit=limit)


def logged(relay, *words):
    found = [line for line in relay.lines("WARNING") if all(w in line for w in words)]
    assert found, f"no WARNING with {words}: {relay.log()}"


def as_user(uid, gid, groups, connect):
    """connect() as this user, as the kernel reports it."""
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        return connect()
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


def settle(relay):
    """Wait until the connection that checked whether the relay serves is gone."""
    wait_until(lambda: metric(relay, "pgherald_workers") == 0, "no worker")


# Workers

def test_workers_in_all(make_relay):
    relay = make_relay(PGHERALD_WORKERS_MAX="3").start()
    settle(relay)
    workers = [relay.worker() for _ in range(3)]
    assert reached(relay, "workers") == 0
    bye = relay.connect().bye()
    assert bye.code == "limit" and "PGHERALD_WORKERS_MAX" in bye.text
    assert reached(relay, "workers") == 1 and metric(relay, "pgherald_workers_closed_total", code="limit") == 1
    logged(relay, "PGHERALD_WORKERS_MAX", "code=limit")
    workers.pop().close()
    wait_until(lambda: metric(relay, "pgherald_workers") == 2, "a place is free")
    relay.worker().publish("alice")
    for worker in workers:
        worker.hears("alice")


@pytest.mark.skipif(not ROOT, reason="needs another user")
def test_workers_of_a_user(make_relay):
    relay = make_relay(PGHERALD_WORKERS_PER_UID_MAX="2", PGHERALD_SOCKET_MODE="0666").start()
    settle(relay)
    workers = [relay.worker() for _ in range(2)]
    bye = relay.connect().bye()
    assert bye.code == "limit" and "PGHERALD_WORKERS_PER_UID_MAX" in bye.text
    other = as_user(NOBODY, NOGROUP, [], lambda: relay.connect("other"))
    other.subscribe()
    workers[0].publish("alice")
    other.hears("alice")
    assert reached(relay, "workers_per_uid") == 1 and reached(relay, "workers") == 0
    logged(relay, "PGHERALD_WORKERS_PER_UID_MAX", "code=limit")


# One worker

def test_subscriptions_of_a_worker(make_relay):
    relay = make_relay(PGHERALD_SUBSCRIPTIONS_MAX="5").start()
    worker, other = relay.worker(pubkeys=["a", "b", "c", "d", "e"]), relay.connect()
    assert reached(relay, "subscriptions") == 0
    answer = worker.subscribe(pubkeys=["a", "f"])
    assert isinstance(answer, Error) and answer.code == "limit"
    assert reached(relay, "subscriptions") == 1 and metric(relay, "pgherald_errors_total", code="limit") == 1
    logged(relay, "PGHERALD_SUBSCRIPTIONS_MAX", "code=limit")
    worker._wants[CHANNEL].discard("f")
    other.publish("f")  # it was not subscribed
    assert isinstance(worker.subscribe(pubkeys=["a", "e"]), Ok), "what it has already is no more"
    assert isinstance(worker.unsubscribe(pubkeys=["a"]), Ok)
    assert isinstance(worker.subscribe(pubkeys=["f"]), Ok)
    other.publish("f", "again")
    worker.hears("f", "again")


def test_answers_that_a_worker_does_not_read(make_relay):
    """Its requests wait. When it reads, it gets all answers."""
    relay = make_relay(PGHERALD_WORKER_QUEUE_SIZE="64K").start()
    other, raw = relay.worker(), relay.raw()
    raw.write(pack(0, 1, "raw", None) + b"".join(pack(PING, i) for i in range(20000)))
    relay.ops("version")
    assert reached(relay, "worker_queue") == 0, "so much fits in the socket"
    raw.socket.setblocking(False)
    asked = 20000
    pings = b""

    def send():
        nonlocal asked, pings
        try:
            while True:
                if not pings:
                    pings = b"".join(pack(PING, asked + i) for i in range(1000))
                    asked += 1000
                pings = pings[raw.socket.send(pings):]
        except BlockingIOError:
            return reached(relay, "worker_queue") == 1
    wait_until(send, "the relay reads no more")
    assert [line for line in relay.lines("NOTICE") if "does not read its answers" in line], relay.log()
    other.publish("alice")
    other.hears("alice")

    unpacker, answers = msgpack.Unpacker(), []

    def reads():
        nonlocal pings
        try:
            unpacker.feed(raw.socket.recv(65536))
            answers.extend(frame[1] for frame in unpacker if frame[0] == 17)
        except BlockingIOError:
            pass
        try:
            pings = pings[raw.socket.send(pings):]
        except BlockingIOError:
            pass
        return len(answers) == asked
    wait_until(reads, "all answers")
    assert answers == list(range(asked))


def test_the_size_of_a_frame(local_relay):
    worker, other = local_relay.worker(), local_relay.worker()
    frame = pack(PING, 7, b"\0" * (FRAME_MAX - 6))
    assert len(frame) == FRAME_MAX
    worker.ask_raw(frame, [7])
    assert isinstance(worker.answer(7), Ok) and reached(local_relay, "frame") == 0
    worker.write(pack(PING, 8, b"\0" * (FRAME_MAX - 5)))
    assert worker.bye().code == "protocol"
    assert reached(local_relay, "frame") == 1
    logged(local_relay, "65536", "code=protocol")
    other.ping()


def test_subscriptions_of_a_user_and_of_all(make_relay):
    relay = make_relay(PGHERALD_SUBSCRIPTIONS_PER_UID_MAX="5", PGHERALD_SUBSCRIPTIONS_TOTAL_MAX="8",
                       PGHERALD_SOCKET_MODE="0666").start()
    worker, second = relay.worker(pubkeys=["a", "b", "c"]), relay.connect()
    answer = second.subscribe(pubkeys=["a", "b", "c"])
    assert isinstance(answer, Error) and answer.code == "limit"
    assert reached(relay, "subscriptions_per_uid") == 1
    logged(relay, "PGHERALD_SUBSCRIPTIONS_PER_UID_MAX", "code=limit")
    assert isinstance(second.subscribe(pubkeys=["a", "b"]), Ok), "each worker's count, though the pubkeys are the same"
    assert isinstance(worker.subscribe(pubkeys=["a", "b"]), Ok), "what it has already is no more"
    other = as_user(NOBODY, NOGROUP, [], lambda: relay.connect("other"))
    answer = other.subscribe(pubkeys=["a", "b", "c", "d"])
    assert isinstance(answer, Error) and answer.code == "limit"
    assert reached(relay, "subscriptions_total") == 1 and reached(relay, "subscriptions") == 0
    assert isinstance(other.subscribe(pubkeys=["a", "b", "c"]), Ok)
    # Removed subscriptions make room: by UNSUBSCRIBE, and when their worker leaves.
    assert isinstance(worker.unsubscribe(pubkeys=["c"]), Ok)
    assert isinstance(second.subscribe(pubkeys=["z"]), Ok)
    second.close()
    wait_until(lambda: metric(relay, "pgherald_pubkey_subscriptions") == 5, "the subscriptions of one that left are gone")
    assert isinstance(worker.subscribe(pubkeys=["e", "f", "g"]), Ok)
    other.publish("g")
    worker.hears("g")


def test_a_frame_with_the_same_pubkey_many_times(make_relay):
    """It takes one place. Near the limit it may be refused, but never take effect in part."""
    relay = make_relay(PGHERALD_SUBSCRIPTIONS_MAX="3", PGHERALD_SUBSCRIPTIONS_PER_UID_MAX="3").start()
    worker = relay.connect()
    assert worker.subscribe(pubkeys=["a", "a", "a", "a"]).code == "limit"
    assert isinstance(worker.subscribe(pubkeys=["a", "a", "a"]), Ok)
    assert isinstance(worker.subscribe(pubkeys=["b", "c"]), Ok)
    assert metric(relay, "pgherald_pubkey_subscriptions") == 3


def unread(relay):
    """A connection from which nothing is read."""
    raw = relay.raw()
    raw.write(pack(0, 1, "raw", None))
    raw.socket.setblocking(False)
    return raw


def fill(raw, data):
    try:
        while True:
            raw.socket.send(data)
    except BlockingIOError:
        return


@pytest.mark.skipif(not ROOT, reason="needs another user")
def test_answers_that_a_user_does_not_read(make_relay):
    """All its connections wait; those of another user do not. They go on when they read, or
    when others of them leave."""
    relay = make_relay(PGHERALD_WORKER_QUEUES_PER_UID_SIZE="256K", PGHERALD_SOCKET_MODE="0666").start()
    pings = pack(PING, 1) * 10000
    many = as_user(NOBODY, NOGROUP, [], lambda: [unread(relay) for _ in range(20)])

    def send():
        for raw in many:
            fill(raw, pings)
        return reached(relay, "worker_queues") > 0
    wait_until(send, "the user has no room")
    assert reached(relay, "worker_queue") == 0, "none of them has reached its own limit"
    assert [line for line in relay.lines("NOTICE") if "a user's workers that do not read" in line], relay.log()
    worker = relay.worker(pubkeys=["alice"])
    worker.publish("alice")
    worker.hears("alice")
    late = as_user(NOBODY, NOGROUP, [], lambda: relay.connect("late"))
    asked = late.ask(PING)
    # Half of them leave without reading.
    for raw in many[:10]:
        raw.close()
    for raw in many[10:]:
        raw.socket.setblocking(True)
        raw.socket.recv(1 << 20)
    assert isinstance(late.answer(asked), Ok)


# Publishing

@pytest.fixture
def stuck(make_relay, own_pg, own_db):
    """A relay whose PostgreSQL does not answer, so that requests wait."""
    def start(**environment):
        relay = make_relay(DATABASE_DIRECT_URL=own_db.direct_url, **environment).start()
        settle(relay)
        own_pg.freeze()
        return relay
    yield start
    own_pg.thaw()


def test_requests_of_a_worker_that_wait(stuck):
    relay = stuck(PGHERALD_WORKER_PUBLISHES_MAX="4")
    greedy, modest = relay.connect("greedy"), relay.connect("modest")
    asked = [greedy.ask(NOTIFY, CHANNEL, f"u{i}", None) for i in range(4)]
    greedy.ping()
    assert not any(greedy.answered(id) for id in asked) and reached(relay, "worker_publishes") == 0
    answer = greedy.notify("one more")
    assert isinstance(answer, Error) and answer.code == "busy"
    mine = modest.ask(NOTIFY, CHANNEL, "alice", None)
    modest.ping()
    assert not modest.answered(mine), "the other's is taken"
    assert reached(relay, "worker_publishes") == 1 and reached(relay, "publish_queue") == 0
    logged(relay, "PGHERALD_WORKER_PUBLISHES_MAX", "code=busy")


@pytest.mark.parametrize("setting, payload", [("PGHERALD_PUBLISH_QUEUE_MAX", "u"),
                                              ("PGHERALD_PUBLISH_QUEUE_SIZE", "u" * 1000)])
def test_requests_of_all_that_wait(stuck, setting, payload):
    relay = stuck(**{setting: {"PGHERALD_PUBLISH_QUEUE_MAX": "6", "PGHERALD_PUBLISH_QUEUE_SIZE": "8192"}[setting]})
    workers = [relay.connect() for _ in range(4)]
    fits = 6 if payload == "u" else 8
    for i in range(fits):
        workers[i % 3].ask(NOTIFY, CHANNEL, payload, None)
    for worker in workers:
        worker.ping()
    assert reached(relay, "publish_queue") == 0 and not any(w.of(Error) for w in workers)
    answer = workers[3].notify(payload)
    assert isinstance(answer, Error) and answer.code == "busy"
    assert reached(relay, "publish_queue") == 1 and metric(relay, "pgherald_errors_total", code="busy") == 1
    logged(relay, "publish queue is full")


@pytest.mark.skipif(not ROOT, reason="needs another user")
def test_requests_of_a_user_that_wait(stuck):
    relay = stuck(PGHERALD_PUBLISHES_PER_UID_MAX="4", PGHERALD_SOCKET_MODE="0666")
    greedy, second = relay.connect("greedy"), relay.connect("second")
    for i in range(4):
        greedy.ask(NOTIFY, CHANNEL, f"u{i}", None)
    greedy.ping()
    assert second.notify("one more").code == "busy"
    assert reached(relay, "publishes_per_uid") == 1 and reached(relay, "publish_queue") == 0
    logged(relay, "share of the publish queue is full", "uid=0")
    other = as_user(NOBODY, NOGROUP, [], lambda: relay.connect("other"))
    asked = other.ask(NOTIFY, CHANNEL, "alice", None)
    other.ping()
    assert not other.answered(asked), "another user's is taken"


@pytest.mark.skipif(not ROOT, reason="needs another user")
@pytest.mark.parametrize("setting, value", [("PGHERALD_PUBLISH_QUEUE_MAX", "64"), ("PGHERALD_PUBLISH_QUEUE_SIZE", "64K")])
def test_a_queue_that_one_user_fills_is_not_full_for_another(stuck, setting, value):
    """The user's newest requests make room, and only down to half of the queue."""
    relay = stuck(**{setting: value, "PGHERALD_SOCKET_MODE": "0666"})
    payload = "u" * 1000
    greedy = [relay.connect("greedy") for _ in range(3)]
    n = 0
    while not any(w.of(Error) for w in greedy):
        greedy[n % 3].ask(NOTIFY, CHANNEL, payload, None)
        greedy[n % 3].ping()
        n += 1
        assert n < 100, "it is never full"
    other = as_user(NOBODY, NOGROUP, [], lambda: relay.connect("other"))
    asked = [other.ask(NOTIFY, CHANNEL, payload, None) for _ in range(20)]
    other.ping()
    assert not any(other.answered(id) for id in asked), "the other's are taken"
    for worker in greedy:
        worker.ping()
    refused = [e.code for w in greedy for e in w.of(Error)]
    assert refused == ["busy"] * 21, "one that did not fit, and one for each of the other's"
    mine = [other.ask(NOTIFY, CHANNEL, payload, None) for _ in range(60)]
    other.ping()
    assert [id for id in mine if other.answered(id)], "nobody takes more than half"


@pytest.mark.parametrize("setting", ["WORKERS_MAX", "WORKERS_PER_UID_MAX", "SUBSCRIPTIONS_MAX", "SUBSCRIPTIONS_PER_UID_MAX",
                                     "SUBSCRIPTIONS_TOTAL_MAX", "WORKER_QUEUE_SIZE", "WORKER_QUEUES_PER_UID_SIZE",
                                     "WORKER_QUEUES_TOTAL_SIZE", "WORKER_PUBLISHES_MAX", "PUBLISHES_PER_UID_MAX", "PUBLISH_QUEUE_MAX",
                                     "PUBLISH_QUEUE_SIZE", "RECOVERY_SIZE"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "99999999999999999999"])
def test_limits_that_cannot_work(make_relay, setting, value):
    assert f"PGHERALD_{setting}" in make_relay(**{f"PGHERALD_{setting}": value}).launch().fails()


# Rights

@pytest.fixture
def allowing(make_relay):
    def start(allow, **environment):
        relay = make_relay(PGHERALD_ALLOW=allow, PGHERALD_SOCKET_MODE="0666",
                           PGHERALD_CHANNELS="a,b,log:text", **environment).start()
        return relay
    return start


def may(relay, uid=NOBODY, gid=NOGROUP, groups=()):
    """What this user may do: "listen a", "publish a" and so on; or the code of BYE."""
    worker = as_user(uid, gid, list(groups), lambda: relay.connect("who")) if ROOT else relay.connect("who")
    worker.wait_until(lambda: worker.frames, "the first frame")
    if isinstance(worker.frames[0], Bye):
        return worker.bye().code
    found = set()
    for channel in ("a", "b"):
        for right, ask in (("listen", lambda: worker.subscribe(channel)),
                           ("publish", lambda: worker.notify("x", channel=channel))):
            answer = ask()
            assert isinstance(answer, Ok) or answer.code == "denied", answer
            if isinstance(answer, Ok):
                found.add(f"{right} {channel}")
    return found


ALL = {"listen a", "listen b", "publish a", "publish b"}


@pytest.mark.skipif(not ROOT, reason="needs other users")
@pytest.mark.parametrize("allow, nobody", [
    ("", ALL),
    ("*=both", ALL),
    ("nobody=both", ALL),
    (f"{NOBODY}=listen", {"listen a", "listen b"}),
    ("nobody=publish:b", {"publish b"}),
    ("*=listen,nobody=publish:a", {"listen a", "listen b", "publish a"}),
    ("nobody=listen:a, nobody=listen:b", {"listen a", "listen b"}),
    ("@nogroup=listen", {"listen a", "listen b"}),
    ("@daemon=publish", {"publish a", "publish b"}),
    ("root=both", "denied"),
    ("@adm=both", "denied"),
])
def test_rules(allowing, allow, nobody):
    """The unprivileged user is in nogroup, and in this test in daemon too."""
    assert may(allowing(allow), groups=[1]) == nobody


def test_whoever_has_no_rule_is_turned_away(allowing):
    relay = allowing("daemon=both")
    bye = relay.connect().bye()
    assert bye.code == "denied" and "PGHERALD_ALLOW" in bye.text
    assert metric(relay, "pgherald_workers_closed_total", code="denied") >= 1
    logged(relay, "PGHERALD_ALLOW", "code=denied")


def test_a_listener_cannot_publish(allowing):
    relay = allowing("*=listen,*=publish:b")
    worker = relay.worker("a", "b")
    assert worker.notify("x", channel="a").code == "denied"
    assert worker.send("log", "x").code == "denied"
    worker.publish("x", channel="b")
    assert worker.hears("x").channel == "b"
    assert metric(relay, "pgherald_errors_total", code="denied") == 2
    logged(relay, "PGHERALD_ALLOW", "code=denied")


def test_a_publisher_cannot_listen(allowing):
    relay = allowing("*=publish")
    worker = relay.connect()
    for pubkeys in (None, ["x"]):
        answer = worker.subscribe("a", pubkeys)
        assert isinstance(answer, Error) and answer.code == "denied"
    worker._wants.clear()
    worker.publish("x", channel="a")
    worker.ping()
    assert not worker.changes


@pytest.mark.parametrize("allow", ["x", "nobody", "nobody=", "nobody=write", "no-such-user=both", "@no-such-group=both",
                                   "nobody=both:nowhere", "nobody=both:", "=both", "*=both,"])
def test_rules_that_cannot_work(make_relay, allow):
    assert "PGHERALD_ALLOW" in make_relay(PGHERALD_ALLOW=allow).launch().fails()


# Files

def test_fewer_workers_where_there_are_few_descriptors(make_relay):
    """Some descriptors are always left for operators and PostgreSQL."""
    relay = make_relay(PGHERALD_WORKERS_MAX="1000", PGHERALD_WORKERS_PER_UID_MAX="1000")
    relay.launcher = ["prlimit", "--nofile=60", *relay.launcher]
    relay.start()
    logged(relay, "PGHERALD_WORKERS_MAX", "LimitNOFILE=", "workers=30", "limit=60")
    settle(relay)
    workers = [relay.worker() for _ in range(30)]
    bye = relay.connect().bye()
    assert bye.code == "limit"
    assert metric(relay, "pgherald_workers") == 30
    workers[0].publish("alice")
    workers[29].hears("alice")


KIB, MIB = 1 << 10, 1 << 20
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def number(text):
    return int(text.rstrip("KMG")) * UNITS.get(text[-1], 1)


def defaults():
    shown = subprocess.run([DAEMON, "--help"], capture_output=True, text=True, check=True).stdout
    return {name: number(value) for name, value in re.findall(r"environment PGHERALD_(\w+), default (\d+[KMG]?)$", shown, re.M)}


def source(*path):
    with open(os.path.join(TOP, *path)) as file:
        return file.read()


def constant(header, name):
    return int(re.search(rf"#define {name} (\d+)", source("relay", header))[1])


def test_all_limits_together_fit_into_the_unit():
    """The sum in settings.c, with the defaults as they are. What the kernel keeps is measured below."""
    d = defaults()
    parts = [
        d["WORKERS_MAX"] * 250 * KIB,
        d["SUBSCRIPTIONS_TOTAL_MAX"] * 40,
        d["WORKER_QUEUES_TOTAL_SIZE"],
        d["PUBLISH_QUEUE_SIZE"] + d["PUBLISH_QUEUE_MAX"] * 192,
        d["RECOVERY_SIZE"],
        d["BACKLOG_SIZE"] + d["BACKLOG_SIZE"] // 32 * 16,
        constant("ops/ops.h", "OPS_CONNECTIONS_MAX") * 768 * KIB,
        constant("ops/metrics_socket.h", "METRICS_CONNECTIONS_MAX") * 352 * KIB,
        128 * MIB,
    ]
    told = [int(n) for n in re.findall(r"^ \* +(\d+)  \w", source("relay", "base", "settings.c"), re.M)]
    assert [p // MIB for p in parts] == told, "the comment is another sum"
    limit = number(re.search(r"^MemoryMax=(\w+)$", source("systemd", "pgherald@.service.in"), re.M)[1])
    assert sum(parts) <= limit


PIDFD_OPEN, PIDFD_GETFD = 434, 438
UNREAD_KIB = 240
SLACK_KIB = 53  # of the last write, in one piece of the kernel's


def send_buffers(relay):
    """What the kernel says of each Unix connection of the relay, in bytes."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    pid = call(PIDFD_OPEN, relay.process.pid, 0)
    assert pid >= 0
    found = []
    for fd in os.listdir(f"/proc/{relay.process.pid}/fd"):
        copy = call(PIDFD_GETFD, pid, int(fd), 0)
        if copy < 0:
            continue
        try:
            with socket.socket(fileno=copy) as s:
                if s.family == socket.AF_UNIX and not s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(s.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
        except OSError:
            os.close(copy)
    os.close(pid)
    return found


@pytest.mark.skipif(not ROOT, reason="needs to look into another process")
def test_what_the_kernel_keeps_does_not_depend_on_the_hosts_settings(local_relay):
    """By net.core.wmem_default it would."""
    for _ in range(3):
        local_relay.worker()
    with socket.socket(socket.AF_UNIX) as operator:
        operator.connect(local_relay.ops_path)
        wait_until(lambda: len(send_buffers(local_relay)) >= 4, "they are accepted")
        assert max(send_buffers(local_relay)) <= (UNREAD_KIB - SLACK_KIB) * KIB


class Cgroup:
    """In which the kernel counts a process's memory."""

    def __init__(self):
        self.path = next((os.path.join(top, f"pgherald-test-{os.getpid()}") for top in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup")
                          if os.access(os.path.join(top, "cgroup.procs"), os.W_OK) and self._counts(top)), None)
        if not self.path:
            pytest.skip("there is no cgroup here in which the kernel counts memory")
        os.mkdir(self.path)

    @staticmethod
    def _counts(top):
        controllers = os.path.join(top, "cgroup.subtree_control")
        if not os.path.exists(controllers):
            return os.path.exists(os.path.join(top, "memory.usage_in_bytes"))
        with open(controllers) as file:
            return "memory" in file.read().split()

    def kernel_bytes(self):
        for name, pattern in (("memory.kmem.usage_in_bytes", r"(\d+)"), ("memory.stat", r"^kernel (\d+)$")):
            if os.path.exists(os.path.join(self.path, name)):
                with open(os.path.join(self.path, name)) as file:
                    return int(re.search(pattern, file.read(), re.M)[1])
        raise AssertionError("no count of the kernel's memory")

    def close(self):
        os.rmdir(self.path)


@pytest.mark.skipif(not ROOT, reason="needs a cgroup of its own")
@pytest.mark.parametrize("length", [20, 500, 7000])
def test_what_the_kernel_keeps_for_workers_that_read_nothing(make_relay, cleanup, length):
    """No more than the sum in settings.c says."""
    count = 100
    cgroup = cleanup.add(Cgroup())
    relay = make_relay()
    relay.launcher = ["sh", "-c", f'echo $$ >{cgroup.path}/cgroup.procs && exec "$@"', "sh", *relay.launcher]
    cleanup.add(relay.start())
    many = [relay.raw() for _ in range(count)]
    for raw in many:
        raw.write(pack(0, 1, "raw", None) + pack(1, 1, CHANNEL, None))
    worker = relay.worker()
    tries = itertools.count()

    def all_subscribe():
        before, change = metric(relay, "pgherald_delivered_frames_total"), f"try{next(tries)}"
        worker.publish(change)
        worker.hears(change)
        return metric(relay, "pgherald_delivered_frames_total") - before > count

    wait_until(all_subscribe, "all of them hear")
    before = cgroup.kernel_bytes()
    for i in range(300 * KIB // length):
        worker.ask(NOTIFY, CHANNEL, "x" * length, None)
        worker.pump()
    worker.publish("last")
    worker.hears("last")
    sent = [0, 1]

    def each_is_full():
        sent.append(metric(relay, "pgherald_delivered_frames_total"))
        return sent[-1] == sent[-2] and kib() >= 100

    def kib():
        return (cgroup.kernel_bytes() - before) / count / KIB

    wait_until(each_is_full, "no socket takes more")
    assert kib() <= UNREAD_KIB, "for each worker"
    relay.stop()


def test_one_user_has_no_more_than_half_by_default():
    d = defaults()
    for mine, all in (("WORKERS_PER_UID_MAX", "WORKERS_MAX"), ("SUBSCRIPTIONS_PER_UID_MAX", "SUBSCRIPTIONS_TOTAL_MAX"),
                      ("WORKER_QUEUES_PER_UID_SIZE", "WORKER_QUEUES_TOTAL_SIZE"), ("PUBLISHES_PER_UID_MAX", "PUBLISH_QUEUE_MAX")):
        assert d[mine] * 2 <= d[all], mine


def test_out_of_descriptors_those_who_are_there_are_served(make_relay):
    """The process has fewer descriptors than workers come. Connected workers notice nothing."""
    relay = make_relay().start()
    workers = [relay.worker() for _ in range(3)]
    resource.prlimit(relay.process.pid, resource.RLIMIT_NOFILE, (relay.fds() + 4, relay.fds() + 4))
    waiting = [relay.raw() for _ in range(12)]
    workers[0].publish("alice")
    for worker in workers:
        worker.hears("alice")
    wait_until(lambda: [line for line in relay.lines("WARNING") if "cannot be accepted" in line], "a line that says so")
    assert len(relay.lines("WARNING")) < 20, "and not one a try"
    for raw in waiting:
        raw.close()
    late = relay.worker()
    late.publish("bob")
    workers[1].hears("bob")
