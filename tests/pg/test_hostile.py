"""No worker can hurt another: whatever one sends or does not read, the others hear every
change."""

import random
import signal
import socket
import struct
import sys

import pytest

from harness.procs import wait_until
from harness.worker import CHANNEL, FRAME_MAX, Bye, Change, Error, Gap, Ok, Welcome, pack

HELLO = pack(0, 1, "raw", None)
SUBSCRIBE = pack(1, 1, CHANNEL, None)


@pytest.fixture
def relay(local_relay):
    """What a worker sends is checked before any database is involved, so a relay in local
    mode is enough."""
    return local_relay


def same_fds(relay, fds):
    wait_until(lambda: relay.fds() == fds, f"{fds} open files in the relay again")


@pytest.fixture
def bystanders(relay):
    """Two workers that must notice nothing, and a check that they did not."""
    workers = [relay.worker(), relay.worker(pubkeys=["alice"])]
    told = [0]

    def unharmed():
        told[0] += 1
        workers[0].publish("alice", f"{told[0]}")
        for worker in workers:
            worker.hears("alice", f"{told[0]}")
            assert [c.client_id for c in worker.changes if c.pubkey == "alice"] == [str(i + 1) for i in range(told[0])]
            assert not worker.of(Gap) and not worker.of(Bye)
        return True

    unharmed()
    fds = relay.fds()
    yield unharmed
    unharmed()
    relay.disconnect(but=workers)
    same_fds(relay, fds)


GARBAGE = {
    "bytes that begin nothing": b"\xc1" * 100,
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "text": b"hello\n",
    "a map": b"\x81\x00\x01",
    "an empty array": b"\x90",
    "nil": b"\xc0",
    "array32 of 4 billion": b"\xdd\xff\xff\xff\xff",
    "array32 just over what a frame can hold": b"\xdd" + (FRAME_MAX + 1).to_bytes(4, "big"),
    "a map32 of 4 billion within": b"\x92\x05\xdf\xff\xff\xff\xff",
    "a str32 of 4 GB within": b"\x93\x01\x01\xdb\xff\xff\xff\xff",
    "a bin32 of 4 GB within": b"\x93\x01\x01\xc6\xff\xff\xff\xff",
    "an ext32 of 4 GB within": b"\x93\x01\x01\xc9\xff\xff\xff\xff\x01",
    "a frame over 64 KiB": pack(4, 1, CHANNEL, "x" * FRAME_MAX),
    "nesting too deep": pack(5, 1, [[[[]]]]),
    "nesting ever deeper": b"\x91" * 60000,
    "a known type with too few elements": pack(1, 1),
    "a known type with wrong elements": pack(5, "one"),
    "a negative id": pack(5, -1),
    "pubkeys that are no strings": pack(1, 1, CHANNEL, [1, 2]),
    "a type that is no number": pack("hello", 1),
    "a second hello": HELLO,
    "begin without a resume": pack(6, 1),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_ends_its_own_connection_alone(relay, bystanders, what):
    """After a correct HELLO, and as the first bytes."""
    for hello in (HELLO, b""):
        if what == "a second hello" and not hello:
            continue
        with relay.raw() as raw:
            try:
                raw.write(hello + GARBAGE[what])
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may close before it has read all
            frames = raw.read_to_end()
        assert isinstance(frames[-1], Bye) and frames[-1].code == "protocol", frames
        assert [type(f) for f in frames[:-1]] in ([Welcome], []), frames
        bystanders()


@pytest.mark.parametrize("first", [pack(1, 1, CHANNEL, None), pack(3, 1, CHANNEL, "evil", None), pack(5, 1), pack(99)],
                         ids=["subscribe", "notify", "ping", "unknown"])
def test_hello_comes_first(relay, bystanders, first):
    with relay.raw() as raw:
        raw.write(first + HELLO)
        frames = raw.read_to_end()
    assert [(type(f), f.code) for f in frames] == [(Bye, "protocol")], frames


def test_random_bytes(relay, bystanders):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(100):
        with relay.raw() as raw:
            try:
                raw.write((HELLO if dice.random() < 0.5 else b"") + dice.randbytes(dice.randrange(1, 3000)))
            except (BrokenPipeError, ConnectionResetError):
                pass
    bystanders()


def test_broken_frames(relay, bystanders):
    """Each correct frame, with one byte changed or its end cut off."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    frames = [pack(1, 1, CHANNEL, ["x", "y"]), pack(2, 2, CHANNEL, None), pack(3, 3, "elsewhere", "u", "c"),
              pack(4, 4, CHANNEL, "text"), pack(5, 5), pack(6, 6), pack(0, 1, "again", ["epoch", 5, "checkpoint"])]
    for _ in range(200):
        frame = bytearray(dice.choice(frames))
        if dice.random() < 0.5:
            frame[dice.randrange(len(frame))] = dice.randrange(256)
        else:
            del frame[dice.randrange(len(frame)):]
        with relay.raw() as raw:
            raw.write(HELLO + bytes(frame))
    bystanders()


def test_what_is_odd_but_allowed(relay, bystanders):
    worker = relay.worker()
    odd = [
        pack(5, 1000, "an extra element", {"more": [1]}, None),
        pack(5, 1001, [[[]]]),                             # nests 4 deep
        pack(1, 1002, CHANNEL.encode(), [b"alice"]),       # bin for str
        b"\xdc\x00\x02\xcc\x05" + pack(1003)[1:],         # the long forms of a header and of a number
        pack(3, 1004, CHANNEL, "odd", None, "extra"),
        pack(5, 1005, b"\0" * (FRAME_MAX - 8)),            # 64 KiB to the byte
        pack(5, 0),
        pack(5, (1 << 64) - 1),
    ]
    assert len(odd[5]) == FRAME_MAX
    ids = [*range(1000, 1006), 0, (1 << 64) - 1]
    worker.ask_raw(b"".join(odd), ids)
    for id in ids:
        assert isinstance(worker.answer(id), Ok)
    worker.hears("odd")


def test_an_unknown_type_is_answered_and_the_connection_goes_on(relay, bystanders):
    worker = relay.worker()
    worker.write(pack(7) + pack(99, "future", {"a": 1}) + pack((1 << 64) - 1))
    worker.wait_until(lambda: len(worker.of(Error)) == 3, "three answers")
    assert {(e.id, e.code) for e in worker.of(Error)} == {(None, "unknown-type")}
    worker.ping()
    bystanders()
    worker.hears("alice")


def test_bytes_that_dribble_in(relay, bystanders):
    worker = relay.connect()

    def dribble(data):
        for byte in data[:-1]:
            worker.socket.sendall(bytes([byte]))
        bystanders()
        worker.socket.sendall(data[-1:])
    worker.write = dribble
    worker.subscribe()
    worker.ping()
    worker.publish("dribbled")
    worker.hears("dribbled")


@pytest.mark.parametrize("part", ["nothing", "half a hello", "half a frame", "half of a large frame"])
def test_half_a_frame_and_then_silence(relay, bystanders, part):
    large = pack(4, 1, CHANNEL, "x" * 60000)
    data = {"nothing": b"", "half a hello": HELLO[:3], "half a frame": HELLO + SUBSCRIBE[:5],
            "half of a large frame": HELLO + large[:30000]}[part]
    for raw in [relay.raw() for _ in range(5)]:
        raw.write(data)
    bystanders()
    bystanders()


@pytest.mark.parametrize("moment", ["within a frame", "before its answers are read", "at once"])
def test_a_worker_that_is_killed(relay, bystanders, run, moment):
    """kill -9 of a real process. The kernel closes its socket, with data unread or half
    sent."""
    data = {"within a frame": HELLO + SUBSCRIBE + SUBSCRIBE[:7],
            "before its answers are read": HELLO + SUBSCRIBE + pack(5, 1) * 1000,
            "at once": b""}[moment]
    program = ("import socket, sys\n"
               f"s = socket.socket(socket.AF_UNIX); s.connect({relay.path!r}); s.sendall({data!r})\n"
               "print('sent', flush=True); sys.stdin.read()\n")
    for _ in range(3):
        process = run.spawn([sys.executable, "-c", program], stdin=-1, stdout=-1)
        with process:
            assert process.stdout.readline() == b"sent\n"
            process.kill()
        bystanders()


def test_500_workers_connect_at_once(start_relay, db, bouncer):
    relay = start_relay(db, bouncer)
    publisher = relay.worker()
    publisher.publish("before")
    fds = relay.fds()
    # None waits for an answer before all have connected.
    workers = [relay.connect(f"w{i}") for i in range(500)]
    asked = [(w, w.ask(1, CHANNEL, None if i % 2 else ["alice"])) for i, w in enumerate(workers)]
    for worker, id in asked:
        assert isinstance(worker.answer(id), Ok)
    publisher.publish("alice", "phone")
    for worker in workers:
        worker.hears("alice", "phone")
        assert worker.pubkeys == ["alice"]
    for worker in workers:
        worker.close()
    same_fds(relay, fds)
    publisher.publish("bob")
    publisher.hears("bob")


def test_a_storm_of_connects_leaves_no_open_file(relay, bystanders):
    for i in range(1000):
        with relay.raw() as raw:
            if i % 3:
                raw.write(HELLO + SUBSCRIBE if i % 3 == 1 else HELLO[:2])
    bystanders()


def test_a_worker_that_reads_nothing_holds_up_nobody(start_relay, db, bouncer):
    """It falls behind by more than its socket holds. The others, and PostgreSQL's queue, do
    not notice. When it reads again it gets everything, or GAP tells it that it did not."""
    relay = start_relay(db, bouncer)
    healthy, stalled, stalled_by_pubkey = relay.worker(), relay.worker(), relay.worker(pubkeys=["last", "u7" + "x" * 200])
    total = 0
    for _ in range(20):
        db.sql("SELECT pg_notify(%s, '{\"p\":\"u' || g || repeat('x', 200) || '\"}') FROM generate_series(%s, %s) g",
               (CHANNEL, total, total + 499))
        total += 500
        healthy.wait_until(lambda: len(healthy.changes) == total, f"{total} changes")
    assert db.queue_usage() == 0
    assert not healthy.of(Gap)
    healthy.publish("last")
    healthy.hears("last")

    mine = ("last", "u7" + "x" * 200)
    for worker, wanted in ((stalled, healthy.pubkeys), (stalled_by_pubkey, [p for p in healthy.pubkeys if p in mine])):
        worker.hears("last")
        assert worker.pubkeys == wanted or worker.of(Gap)
    # and they are live again
    healthy.publish("last", "again")
    for worker in (stalled, stalled_by_pubkey):
        worker.hears("last", "again")


def test_a_stopped_process_holds_up_nobody(relay, cat, bystanders):
    stopped = cat("--socket", relay.path).subscribed()
    stopped.process.send_signal(signal.SIGSTOP)
    publisher = relay.connect()
    hearer = relay.worker(pubkeys=["end"])
    for i in range(2000):
        publisher.publish(f"filler-{i}-" + "x" * 200)
    publisher.publish("end")
    hearer.hears("end")
    stopped.process.send_signal(signal.SIGCONT)
    stopped.hears("end")
    stopped.close()


# Descriptors

def lingering(seconds):
    """A TCP socket that takes this long to close: its peer does not read, and it has SO_LINGER."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        s = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    s.setblocking(False)
    try:
        while True:
            s.send(b"x" * 65536)
    except BlockingIOError:
        pass
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
    return s, peer


@pytest.mark.parametrize("path", ["path", "ops_path"])
def test_descriptors_that_are_passed(relay, bystanders, path):
    """The relay takes none, so it need not close them: that could take as long as the peer likes."""
    target = getattr(relay, path)
    for what in (lambda: lingering(3600), socket.socketpair):
        given = what()
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(target)
            try:
                socket.send_fds(s, [HELLO + pack(5, 1)], [given[0].fileno()] * 100)
            except PermissionError:
                # Otherwise this process would wait.
                given[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            given[0].close()
            bystanders()
        given[1].close()
