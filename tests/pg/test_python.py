"""The Python package: what the conformance suite cannot ask of every language. Most of it is done in
a process of its own, with the package as pip installs it."""

import ast
import glob
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import zipfile

import pytest

from harness.packages import PYTHON, Missing, pip_wheel, python_with_package
from harness.procs import DEADLINE, wait_until
from harness.relay import TOP
from harness.worker import CHANNEL

KIT = os.path.join(TOP, "tests", "conformance")
VECTORS = os.path.join(TOP, "proto", "vectors")


@pytest.fixture(scope="module")
def python():
    try:
        return python_with_package()
    except Missing as why:
        pytest.skip(str(why))


@pytest.fixture
def does(python, run):
    """does(program): a program in Python that must end well. It is given the scripted relay of the conformance
    suite, and how to greet a client."""
    def does(program, **environment):
        directory = run.subdirectory("python")
        prelude = f"""
import asyncio, errno, gc, os, select, sys, time
sys.path.insert(0, {KIT!r})
from relay import Relay, pack
import pgherald
assert "site-packages" in pgherald.__file__

PATH = os.path.join({directory!r}, "socket")

def greet(relay):
    relay.accept()
    relay.expect()
    relay.send(pack([16, 1, "e", 10, {{"upstream": "live"}}]))

def settled(**options):
    "A relay, and a client that is subscribed and has told nothing else."
    relay, client = Relay(PATH, 10), pgherald.Client(PATH, **options)
    live = client.subscribe("data")
    client.wait(0)
    greet(relay)
    frame = relay.expect()
    relay.send(pack([17, frame[1], 10]))
    assert live.wait(10) == 10
    assert [client.wait(0).event for _ in range(2)] == ["connected", "upstream-live"] and client.wait(0) is None
    return relay, client

def change(seq, pubkey="alice"):
    return pack([19, seq, "data", pubkey, None, 0])

def poll(client, ms):
    p = select.poll()
    p.register(client, select.POLLIN)
    return p.poll(ms)

def raises(number, call):
    try:
        call()
    except pgherald.Error as e:
        assert e.errno == number, e
    else:
        raise AssertionError("nothing was raised")
"""
        done = subprocess.run([python, "-W", "error", "-c", prelude + program], stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.STDOUT, env=dict(os.environ, **environment), timeout=60, cwd=directory)
        assert done.returncode == 0 and done.stdout == "", done.stdout
    return does


# What is packed

def test_a_wheel_has_what_it_should_and_no_more(run):
    try:
        wheel = pip_wheel(run.subdirectory("wheel"))
    except Missing as why:
        pytest.skip(str(why))
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    modules = {os.path.relpath(path, PYTHON) for path in glob.glob(os.path.join(PYTHON, "pgherald", "*.py"))}
    assert names == modules | {"pgherald/py.typed"}
    with open(os.path.join(TOP, "meson.build"), encoding="utf-8") as file:
        version = re.search(r"version: '([^']+)'", file.read())[1]
    assert re.findall(r"^(?:Version|Requires-Python|Requires-Dist): .*", metadata.replace(" (>=1.0)", ">=1.0")
                      .replace(" >=1.0", ">=1.0"), re.M) == [
        f"Version: {version}", "Requires-Python: >=3.9", "Requires-Dist: msgpack>=1.0"], metadata
    with open(os.path.join(PYTHON, "pgherald", "__init__.py"), encoding="utf-8") as file:
        assert f'__version__ = "{version}"' in file.read()


def test_it_is_python_3_9():
    for path in glob.glob(os.path.join(PYTHON, "**", "*.py"), recursive=True):
        with open(path, encoding="utf-8") as file:
            ast.parse(file.read(), path, feature_version=(3, 9))


def test_it_is_typed(run):
    done = subprocess.run(["/usr/bin/python3", "-m", "mypy", "--cache-dir", os.path.join(TOP, "build-run", "mypy"), "pgherald"],
                          cwd=PYTHON, capture_output=True, text=True)
    if "No module named mypy" in done.stderr:
        pytest.skip("there is no mypy")
    assert done.returncode == 0, done.stdout


def test_all_that_is_public_has_a_docstring(does):
    does("""
import inspect
for name in pgherald.__all__:
    thing = getattr(pgherald, name)
    if inspect.isclass(thing):
        assert thing.__doc__, name
        for method, function in vars(thing).items():
            assert method.startswith("_") or not inspect.isfunction(function) or function.__doc__ or method in ("succeed", "fail", "has_callbacks", "tell"), (name, method)
""")


def test_who_blocks_does_not_import_asyncio(does):
    does("""
import subprocess
program = "import sys, pgherald; pgherald.Client(''); sys.exit('asyncio' in sys.modules)"
assert subprocess.run([sys.executable, "-c", program]).returncode == 0
""")


# The decoder

def decoder():
    sys.path.insert(0, PYTHON)
    try:
        from pgherald.frames import Decoder
    finally:
        sys.path.remove(PYTHON)
    return Decoder()


def pieces(data, size):
    return [data[i:i + size] for i in range(0, len(data), size)]


def decoded(parts):
    """The frames, and whether all is well."""
    decoding, frames, well = decoder(), [], True
    for part in parts:
        found, well = decoding.feed(part)
        frames += found
        if not well:
            break
    return frames, well


@pytest.mark.parametrize("size", [1 << 20, 7, 1])
def test_the_decoder_reads_the_vectors(size):
    seen = set()
    for path in sorted(glob.glob(os.path.join(VECTORS, "*.msgpack"))):
        name = os.path.basename(path)
        with open(path, "rb") as data, open(path.removesuffix("msgpack") + "json", encoding="utf-8") as description:
            content, described = data.read(), json.load(description)
        # A frame that only workers send is ignored here, whatever it has.
        kind = content[1] if content[0] & 0xf0 == 0x90 and len(content) > 1 else None
        if name[0] != "n" and described.get("frame", [99])[0] < 16 or name[0] == "n" and kind in range(7):
            continue
        seen.add((name[0], kind))
        frames, well = decoded(pieces(content, size))
        if name[0] == "n":
            assert (frames, well) == ([], False), name
        elif name[0] == "u":
            assert (frames, well) == ([], True), name
        else:
            assert well and len(frames) == 1, name
            found, expected = frames[0], plain(described["frame"])
            if found[0] == 16:
                found[4] = {k: v for k, v in found[4].items() if k in expected[4]}
            assert found == expected, name
    assert {kind for prefix, kind in seen if prefix == "y"} >= set(range(16, 25))


def plain(element):
    if isinstance(element, dict) and element.keys() == {"bin"}:
        data = bytes.fromhex(element["bin"])
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data
    if isinstance(element, dict) and element.keys() == {"uint"}:
        return int(element["uint"])
    return [plain(e) for e in element] if isinstance(element, list) else element


def test_no_header_makes_the_decoder_allocate():
    import tracemalloc
    decoder()
    tracemalloc.start()
    for data in (b"\xdd\x00\x00\xff\xff" * 100, b"\xdf\x7f\xff\xff\xff", b"\x93" * 1000, b"\x96\x13\xdc\xff\xff" + b"\xdc\xff\xff" * 100):
        decoded([data])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# The blocking client

def test_the_descriptor_says_when_there_is_something_to_do(does):
    does("""
relay, client = settled(deadline=0.3)
fd = client.fileno()
# Nothing to do: it sleeps.
assert not poll(client, 100)
relay.send(change(11) + change(12))
assert poll(client, 5000)
# It stays readable until all was taken, and seen to be handled.
assert client.wait(0).seq == 11 and poll(client, 0)
assert client.wait(0).seq == 12 and poll(client, 0)
assert client.wait(0) is None and not poll(client, 50)
assert client.cursor() == "1 12 e"
# A request, and its deadline.
told = []
client.notify("data", "bob").add_done_callback(told.append)
assert poll(client, 0) and client.wait(0) is None
assert relay.expect()[:4:3] == [3, "bob"]
assert not told and poll(client, 5000)
while not told:
    client.wait(0)
assert isinstance(told[0].error, pgherald.TimedOutError) and isinstance(told[0].error, TimeoutError)
# A connection that is lost, and the next.
relay.drop()
assert poll(client, 5000) and client.wait(0).event == "disconnected"
while client.wait(0) is not None or not select.select([relay.listener], [], [], 0)[0]:
    assert poll(client, 5000)
relay.accept()
assert relay.expect()[3] == ["e", 12, None]
assert client.fileno() == fd
client.close()
relay.close()
""")


def test_a_descriptor_that_is_asked_for_late_knows_the_socket(does):
    does("""
relay, client = settled()
client.fileno()
relay.send(change(11))
assert poll(client, 5000) and client.wait(0).seq == 11
client.close()
relay.close()
""")


def test_waiting(does):
    does("""
relay, client = settled()
assert client.wait(0.05) is None
request = client.notify("data", "bob")
try:
    request.wait(0.05)
except TimeoutError as e:
    assert not isinstance(e, pgherald.Error) and not request.done()
try:
    request.result()
    raise SystemExit("a result")
except RuntimeError:
    pass
frame = relay.expect()
# What arrives while a request waits is kept, in order.
relay.send(change(11) + pack([18, frame[1], "rejected", "says why"]) + change(12))
try:
    request.wait()
    raise SystemExit("no error")
except pgherald.RejectedError as e:
    assert e.errno == errno.EREMOTEIO and e.strerror == "says why" and request.error is e
assert client.cursor() == "1 10 e"
assert [client.wait().seq, client.wait().seq] == [11, 12]
client.close()
assert list(client) == []
raises(errno.ESHUTDOWN, client.wait)
relay.close()
""")


def test_a_signal_handler_that_raises(does):
    """What was on its way comes again."""
    does("""
import signal
class Interrupt(Exception):
    pass
def interrupt(*_):
    raise Interrupt
signal.signal(signal.SIGALRM, interrupt)
relay, client = settled()
sent = 11
received = client._core.receive
def interrupted(data):
    client._core.receive = received
    interrupt()
for round in range(3):
    # In the worst moment: bytes have been received, and are nowhere yet.
    client._core.receive = interrupted
    relay.send(change(sent))
    try:
        while True:
            client.wait()
    except Interrupt:
        pass
    relay.drop()
    greeted = False
    while not greeted:
        client.wait(0.01)
        greeted = bool(select.select([relay.listener], [], [], 0)[0])
    relay.accept()
    hello = relay.expect()
    assert hello[3][1] == sent - 1, hello
    relay.send(pack([16, 1, "e", sent, {}]))
    client.wait(0)
    frame = relay.expect()
    relay.send(pack([17, frame[1], sent]))
    begin = relay.expect()
    relay.send(change(sent) + pack([17, begin[1], sent]))
    while not isinstance(event := client.wait(), pgherald.Change):
        pass
    assert event.seq == sent
    sent += 1
# And a real one, while it waits.
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    client.wait()
    raise SystemExit("no exception")
except Interrupt:
    assert client.cursor() == f"1 {sent - 1} e"
client.close()
relay.close()
""")


def test_in_a_callback(does):
    does("""
client = pgherald.Client("")
seen = []
def callback(request):
    seen.append(request.result())
    raises(errno.EDEADLK, lambda: client.wait(0))
    raises(errno.EDEADLK, lambda: client.send("text", "x").wait())
    request.add_done_callback(lambda r: seen.append("late"))  # it is told already
client.subscribe("data").add_done_callback(callback)
while not seen:
    client.wait(0)
assert seen == [0, "late"]
# What a callback raises comes out of wait(), and nothing is lost by that.
client.notify("data", "alice").add_done_callback(lambda request: 1 / 0)
try:
    while True:
        client.wait(0)
except ZeroDivisionError:
    pass
assert client.wait(0) == pgherald.Change("data", "alice", None, 2, False)
client.close()
""")


def test_wrong_types(does):
    does("""
client = pgherald.Client("")
for call in (lambda: client.subscribe(1), lambda: client.subscribe("data", b"x"), lambda: client.notify("data", None),
             lambda: client.notify("data", "x", 5), lambda: client.send("text", 5)):
    try:
        call()
    except TypeError:
        continue
    raise SystemExit("no TypeError")
raises(errno.EILSEQ, lambda: client.send("text", b"\\xff"))
raises(errno.EINVAL, lambda: pgherald.Client("", deadline=0))
client.close()
""")


def test_a_loop_ends_when_the_client_is_closed(does):
    does("""
relay, client = settled()
relay.send(change(11) + change(12))
seqs = []
with client:
    for event in client:
        seqs.append(event.seq)
        client.close()
assert seqs == [11]
assert client.cursor() == "1 10 e"  # the app did not come back from 11
relay.close()
""")


def test_it_leaves_nothing_open(does):
    does("""
def descriptors():
    return sorted(os.listdir("/proc/self/fd"))
before = descriptors()
relay, client = settled()
client.fileno()
relay.drop()
while client.wait(0.2) is not None:
    pass
client.close()
client.close()
relay.close()
async def main():
    async with pgherald.AsyncClient("/nowhere") as client:
        await client.wait()
asyncio.run(main())
gc.collect()
assert descriptors() == before, (descriptors(), before)
""")


def test_a_child_that_keeps_its_copy(does):
    does("""
relay, client = settled()
client.fileno()
child = os.fork()
if child == 0:
    relay.connection.close()
    time.sleep(60)
    os._exit(0)
# The parent leaves, and the relay sees it although the child has the socket.
client.close()
relay.expect_end()
os.kill(child, 9)
os.waitpid(child, 0)
# A connection that the relay ends does not leave the descriptor readable.
relay.close()
relay, client = settled()
client.fileno()
child = os.fork()
if child == 0:
    relay.connection.close()
    time.sleep(60)
    os._exit(0)
relay.away()
while (event := client.wait(0)) is None or "socket" not in event.text:
    pass
client.wait(0)
turns = 0
end = time.monotonic() + 0.5
while time.monotonic() < end:
    poll(client, 50)
    client.wait(0)
    turns += 1
assert turns < 100, turns
os.kill(child, 9)
os.waitpid(child, 0)
client.close()
""")


def test_an_app_that_only_publishes_grows_by_nothing(does):
    does("""
import tracemalloc
from pgherald.core import Core
from pgherald.requests import Request
core = Core(name="x")
def connection(n):
    core.connected()
    core.receive(pack([16, 1, "e", 10, {"upstream": "live"}]))
    core.data_to_send()
    for i in range(40):
        request = Request()
        core.notify("data", "alice", None, request)
        id = core._next_id - 1
        core.data_to_send()
        core.receive(pack([17, id, 11]) + pack([21, 11 + i, "a checkpoint"]) + pack([23, 12, "down", ""]) + pack([23, 13, "live", ""]))
        assert request.result() == 11
    core.disconnected(f"for reason {n}")
for n in range(3):
    connection(n)
tracemalloc.start()
for n in range(50):
    connection(n)
assert tracemalloc.get_traced_memory()[0] < 200000, tracemalloc.get_traced_memory()
assert core.wants_data()
# What it takes in the end is the latest.
states = []
while (event := core.next_event()):
    states.append(event)
assert states[-1] == pgherald.State("disconnected", "for reason 49")
""")


# The asyncio client

def test_asyncio(does):
    does("""
async def main():
    client = pgherald.AsyncClient("")
    assert [(await client.wait()).event, (await client.wait()).event] == ["connected", "upstream-live"]
    live = client.subscribe("data")
    assert await live == 0 and await live == 0
    # A task that is cancelled while it waits takes no event.
    task = asyncio.ensure_future(client.wait())
    await asyncio.sleep(0)
    raises_busy = asyncio.ensure_future(client.wait())
    await asyncio.sleep(0)
    assert raises_busy.exception().errno == errno.EDEADLK
    published = client.notify("data", "alice")
    task.cancel()
    assert await published == 1
    assert (await client.wait(5)).pubkey == "alice"
    assert await client.wait(0.01) is None
    # Requests by the dozen
    assert sorted(await asyncio.gather(*[client.notify("data", "bob") for _ in range(12)])) == list(range(2, 14))
    assert [(await client.wait()).seq for _ in range(12)] == list(range(2, 14))
    # A loop over events that are there lets other tasks have their turn.
    ticks = []
    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0)
    ticking = asyncio.ensure_future(tick())
    for _ in range(1000):
        client.notify("data", "carol")
    n = 0
    async for event in client:
        n += 1
        if n == 1000:
            break
    ticking.cancel()
    assert len(ticks) > 10
    # The close ends a loop in another task, and what waits.
    async def loop():
        async for event in client:
            pass
    looping = asyncio.ensure_future(loop())
    await asyncio.sleep(0.01)
    late = client.notify("data", "dave")
    client.close()
    await asyncio.wait_for(looping, 5)
    assert isinstance(late.error, pgherald.CancelledError)
    try:
        await late
        raise SystemExit("no error")
    except pgherald.CancelledError:
        pass
asyncio.run(main())
""")


def test_asyncio_receives_while_the_app_does_not_iterate(does):
    does("""
relay = Relay(PATH, 10)
async def main():
    client = pgherald.AsyncClient(PATH)
    client.subscribe("data")
    loop = asyncio.get_running_loop()
    def serve():
        greet(relay)
        frame = relay.expect()
        relay.send(pack([17, frame[1], 10]))
        relay.send(b"".join(change(11 + i) for i in range(20000)))
        frame = relay.expect()
        relay.send(pack([17, frame[1], 99]))
    serving = loop.run_in_executor(None, serve)
    # Awaited in the body of a loop, behind a mass of events.
    seqs = []
    async for event in client:
        if isinstance(event, pgherald.Change):
            seqs.append(event.seq)
            if len(seqs) == 1:
                assert await client.notify("data", "bob") == 99
            if len(seqs) == 20000:
                break
    assert seqs == list(range(11, 20011))
    await serving
    client.close()
asyncio.run(main())
relay.close()
""")


def test_asyncio_a_slow_app_holds_up_the_relay_and_not_its_own_memory(does):
    does("""
import tracemalloc
relay = Relay(PATH, 1)
from values import Mismatch
async def main():
    client = pgherald.AsyncClient(PATH)
    client.subscribe("data")
    def serve():
        greet(relay)
        frame = relay.expect()
        relay.send(pack([17, frame[1], 10]))
        data = b"".join(change(11 + i, "x" * 5000) for i in range(100))
        try:
            for i in range(1000):
                relay.send(data)
        except Mismatch:
            return  # the client does not read any more
        raise SystemExit("the client took 500 MB")
    tracemalloc.start()
    await asyncio.get_running_loop().run_in_executor(None, serve)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    client.close()
asyncio.run(main())
relay.close()
""")


# Examples

class Gunicorn:
    """The example, with two workers."""

    def __init__(self, python, directory, run, relay):
        self.path, self._output, self.relay = os.path.join(directory, "http"), os.path.join(directory, "log"), relay
        examples = os.path.join(PYTHON, "examples")
        with open(self._output, "wb") as log:
            self.process = run.spawn([python, "-B", "-m", "gunicorn", "--chdir", examples, "--config", os.path.join(examples, "gunicorn_conf.py"),
                                      "--bind", "unix:" + self.path, "gunicorn_app:app"],
                                     {"PGHERALD_SOCKET": relay.path}, stdout=log, stderr=log)

    def listeners(self):
        """The processes that are connected, to listen."""
        with open(self._output) as log:
            assert self.process.poll() is None, log.read()
        workers = [json.loads(line) for line in self.relay.ops("workers json").split("\n") if line]
        return {worker["pid"] for worker in workers if "publishes" not in worker["name"]}

    def asks(self, method, target):
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(DEADLINE)
        with connection.sock:
            connection.sock.connect(self.path)
            connection.request(method, target)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def reads(self, pubkey, count):
        """What this many requests read. They come to either worker."""
        return {self.asks("GET", "/" + pubkey)[1] for _ in range(count)}

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(DEADLINE) == 0


def test_gunicorn(python, run, relay, db, cleanup):
    """Each worker opens its clients after the fork, and one that dies is replaced."""
    if subprocess.run([python, "-c", "import gunicorn"], capture_output=True).returncode != 0:
        pytest.skip("there is no gunicorn")
    server = cleanup.add(Gunicorn(python, run.subdirectory("gunicorn"), run, relay))
    wait_until(lambda: len(server.listeners()) == 2, "a listener in each worker")
    old = server.reads("alice", 20)
    db.notify(CHANNEL, '{"p":"alice"}')
    wait_until(lambda: not old & server.reads("alice", 4), "new reads in each worker")
    assert server.asks("POST", "/bob") == (204, "")
    before = server.listeners()
    os.kill(min(before), 9)
    wait_until(lambda: len(server.listeners()) == 2 and server.listeners() != before, "another worker")


def test_asgi(does, relay, db):
    """The app, as a server calls it."""
    does("""
sys.path.insert(0, EXAMPLES)
import asgi

class Scope:
    def __init__(self, **scope):
        self.scope, self.inbox, self.outbox = scope, asyncio.Queue(), asyncio.Queue()
        self.task = asyncio.ensure_future(asgi.app(scope, self.inbox.get, self.outbox.put))

    async def says(self, kind):
        message = await asyncio.wait_for(self.outbox.get(), 15)
        assert message["type"] == kind, message
        return message

async def main():
    lifespan = Scope(type="lifespan")
    await lifespan.inbox.put({"type": "lifespan.startup"})
    await lifespan.says("lifespan.startup.complete")
    stream = Scope(type="http", method="GET", path="/alice")
    await stream.inbox.put({"type": "http.request"})
    assert (await stream.says("http.response.start"))["status"] == 200
    # What changed before the client was connected
    assert (await stream.says("http.response.body"))["body"] == b"event: reload\\ndata:\\n\\n"
    for path in ("/bob", "/alice"):
        write = Scope(type="http", method="POST", path=path)
        assert (await write.says("http.response.start"))["status"] == 204
        await write.task
    assert (await stream.says("http.response.body"))["body"] == b"event: change\\ndata:\\n\\n"
    await stream.inbox.put({"type": "http.disconnect"})
    await stream.task
    assert not asgi.streams
    await lifespan.inbox.put({"type": "lifespan.shutdown"})
    await lifespan.says("lifespan.shutdown.complete")
    await lifespan.task
asyncio.run(main())
""".replace("EXAMPLES", repr(os.path.join(PYTHON, "examples"))), PGHERALD_SOCKET=relay.path)
