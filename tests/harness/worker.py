"""A worker that speaks PROTOCOL.md without the library, and checks the relay against it.

It checks every frame: its types, its order by seq, that the worker subscribed to it, that each
request is answered once. A relay that violates the protocol fails the test that is running.
"""

import select
import socket
import time
from typing import Any, NamedTuple, Optional

import msgpack

from harness.procs import DEADLINE

CHANNEL = "data_sync_changes"
FRAME_MAX = 65536

HELLO, SUBSCRIBE, UNSUBSCRIBE, NOTIFY, SEND, PING, BEGIN = range(7)


class Welcome(NamedTuple):
    version: int
    epoch: str
    seq: int
    info: dict


class Ok(NamedTuple):
    id: int
    seq: int


class Error(NamedTuple):
    id: Optional[int]
    code: str
    text: str


class Change(NamedTuple):
    seq: Optional[int]
    channel: str
    pubkey: str
    client_id: Optional[str]
    flags: int


class Message(NamedTuple):
    seq: Optional[int]
    channel: str
    payload: Any  # str, or bytes if it is not UTF-8
    flags: int


class Checkpoint(NamedTuple):
    seq: int
    checkpoint: str


class Gap(NamedTuple):
    seq: Optional[int]
    cause: str
    text: str


class Upstream(NamedTuple):
    seq: Optional[int]
    state: str
    text: str


class Bye(NamedTuple):
    code: str
    text: str


FRAMES = {16: Welcome, 17: Ok, 18: Error, 19: Change, 20: Message, 21: Checkpoint, 22: Gap, 23: Upstream, 24: Bye}
ERRORS = {"channel", "invalid", "too-long", "limit", "busy", "timeout", "rejected", "unknown-type",
          "denied"}
BYES = {"shutdown", "evicted", "protocol", "denied", "limit"}
CAUSES = {"overrun", "restart", "upstream", "recovery"}


def pack(*elements):
    return msgpack.packb(list(elements), use_bin_type=True)


def _is(value, kind):
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if kind is Any:
        return isinstance(value, (str, bytes))
    if kind in (str, dict):
        return isinstance(value, kind)
    return value is None or _is(value, kind.__args__[0])  # Optional


def decode(elements):
    """Decode a frame of the relay from its msgpack array."""
    assert isinstance(elements, list) and elements, f"not a frame: {elements!r}"
    kind = FRAMES.get(elements[0])
    assert kind, f"a type no relay sends: {elements!r}"
    fields = list(kind.__annotations__.items())
    assert len(elements) == 1 + len(fields), f"{kind.__name__} with {len(elements)} elements: {elements!r}"
    for value, (name, annotation) in zip(elements[1:], fields):
        assert _is(value, annotation), f"{kind.__name__}.{name} is {value!r}"
    return kind(*elements[1:])


class Raw:
    """A connection that sends any bytes, well formed or not."""

    def __init__(self, path, deadline=DEADLINE):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(deadline)
        self.socket.connect(path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, data):
        self.socket.sendall(data)

    def read_to_end(self):
        """All frames until the relay closes, as plain arrays."""
        unpacker = msgpack.Unpacker(raw=False)
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:  # this is the end too, if we were still sending
                break
            if not data:
                break
            unpacker.feed(data)
        return [decode(frame) for frame in unpacker]

    def close(self):
        self.socket.close()


class Worker:
    """A worker. Methods that ask wait for the answer; ask() does not."""

    def __init__(self, path, name="test", resume=None):
        self.path = path
        self.frames = []   # all that came, in order
        self.closed = False
        self.bite = 1 << 18  # bytes that it reads at once
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
        self._last_id = 0
        self._asked = {}   # id -> (type, channel, pubkeys), not answered yet
        self._answers = {}
        self._wants = {}   # channel -> set of pubkeys, None among them for all
        self._seq = 0      # no frame of the backlog may come at or below
        self._resuming = resume is not None
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(path)
        try:
            self.socket.sendall(pack(HELLO, 1, name, resume))
        except BrokenPipeError:
            pass  # it is refused already: BYE can be read

    # Receiving

    def pump(self, timeout=0, most=None):
        """Receive at most this many bytes (or self.bite), waiting at most timeout. Returns
        whether any came."""
        if self.closed or not select.select([self.socket], [], [], timeout)[0]:
            return False
        try:
            data = self.socket.recv(most or self.bite)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return True
        self._unpacker.feed(data)
        for elements in self._unpacker:
            frame = decode(elements)
            self._check(frame)
            self.frames.append(frame)
        return True

    def wait_until(self, condition, what, deadline=DEADLINE):
        end = time.monotonic() + deadline
        while True:
            result = condition()
            if result:
                return result
            left = end - time.monotonic()
            assert left > 0, f"not within {deadline} s: {what}; came: {self.tail()}"
            assert not self.closed, f"the relay closed before: {what}; came: {self.tail()}"
            self.pump(left)

    def tail(self):
        text = ", ".join(repr(f) for f in self.frames[-12:])
        return text if len(text) < 3000 else text[:1500] + " ... " + text[-1500:]

    def _check(self, frame):
        assert not (self.frames and isinstance(self.frames[-1], Bye)), f"{frame} after BYE"
        first = not self.frames
        assert isinstance(frame, (Welcome, Bye)) if first else not isinstance(frame, Welcome), f"{frame} out of turn"
        if isinstance(frame, Welcome):
            assert frame.version == 1
            assert {"mode", "upstream", "channels", "version"} <= frame.info.keys(), frame
            assert frame.info["mode"] in ("postgres", "local") and frame.info["upstream"] in ("live", "down"), frame
            if not self._resuming:
                self._seq = frame.seq
        elif isinstance(frame, (Ok, Error)):
            self._check_answer(frame)
        elif isinstance(frame, Bye):
            assert frame.code in BYES, frame
        else:
            self._check_backlog(frame)

    def _check_answer(self, frame):
        if isinstance(frame, Error):
            assert frame.code in ERRORS and frame.text, frame
            if frame.code == "unknown-type":
                assert frame.id is None, frame
                return
        assert frame.id in self._asked, f"{frame} answers nothing that was asked and is open"
        kind, channel, pubkeys = self._asked.pop(frame.id)
        self._answers[frame.id] = frame
        if isinstance(frame, Ok):
            assert frame.seq >= self._seq, f"{frame} after a frame at seq {self._seq}"
            self._seq = frame.seq
            if kind == UNSUBSCRIBE:
                self._wants.get(channel, set()).difference_update([None] if pubkeys is None else pubkeys)

    def _check_backlog(self, frame):
        # The latest CHECKPOINT follows WELCOME at once: it may be older than WELCOME's seq.
        if isinstance(frame, Checkpoint) and len(self.frames) == 1:
            pass
        elif frame.seq is not None:
            assert frame.seq > self._seq, f"{frame} after seq {self._seq}; before: {self.tail()}"
            self._seq = frame.seq
        if isinstance(frame, (Change, Message)):
            wants = self._wants.get(frame.channel, set())
            assert None in wants or (isinstance(frame, Change) and frame.pubkey in wants), f"{frame} was not asked for"
            assert frame.flags in (0, 1), frame
        if isinstance(frame, Change) and frame.flags == 1:
            assert frame.client_id is None, f"{frame} was recovered: no one knows its client"
        elif isinstance(frame, Checkpoint):
            assert frame.checkpoint, frame
        elif isinstance(frame, Gap):
            assert frame.cause in CAUSES, frame
        elif isinstance(frame, Upstream):
            assert frame.state in ("live", "down"), frame

    # What came

    def of(self, kind):
        return [f for f in self.frames if isinstance(f, kind)]

    @property
    def welcome(self):
        self.wait_until(lambda: self.frames, "WELCOME")
        return self.frames[0]

    @property
    def changes(self):
        return self.of(Change)

    @property
    def pubkeys(self):
        return [c.pubkey for c in self.changes]

    @property
    def payloads(self):
        return [m.payload for m in self.of(Message)]

    def hears(self, pubkey, client_id=Any):
        """Wait for the change of this pubkey, and return it."""
        def heard():
            return [c for c in self.changes if c.pubkey == pubkey and client_id in (Any, c.client_id)]
        return self.wait_until(heard, f"a CHANGE of {pubkey[:60]!r}")[0]

    def hears_message(self, payload):
        self.wait_until(lambda: payload in self.payloads, f"a MESSAGE {payload[:60]!r}")

    def sees(self, state, after=0):
        """Wait for UPSTREAM in this state, after the first `after` frames."""
        self.wait_until(lambda: [f for f in self.frames[after:] if isinstance(f, Upstream) and f.state == state],
                        f"UPSTREAM {state}")

    def bye(self, deadline=DEADLINE):
        """Wait for the relay to close, and return its BYE."""
        self.wait_until(lambda: self.of(Bye), "BYE", deadline)
        end = time.monotonic() + deadline
        while not self.closed:
            assert time.monotonic() < end, "BYE, but the connection stays open"
            self.pump(0.1)
        return self.of(Bye)[0]

    # Asking

    def ask(self, kind, *arguments):
        """Send a request, and return its id."""
        self._last_id += 1
        channel, detail = (arguments + (None, None))[:2]
        if kind == SUBSCRIBE:
            self._wants.setdefault(channel, set()).update([None] if detail is None else detail)
        self._asked[self._last_id] = (kind, channel, detail)
        self.write(pack(kind, self._last_id, *arguments))
        return self._last_id

    def ask_raw(self, data, ids):
        """Send bytes as they are. The requests in them must be answered under these ids."""
        self._asked.update((id, (None, None, None)) for id in ids)
        self.write(data)

    def write(self, data):
        self.socket.sendall(data)

    def answer(self, id, deadline=DEADLINE):
        self.wait_until(lambda: id in self._answers, f"the answer to request {id}", deadline)
        return self._answers[id]

    def answered(self, id):
        self.pump()
        return id in self._answers

    def subscribe(self, channel=CHANNEL, pubkeys=None):
        return self.answer(self.ask(SUBSCRIBE, channel, pubkeys))

    def unsubscribe(self, channel=CHANNEL, pubkeys=None):
        return self.answer(self.ask(UNSUBSCRIBE, channel, pubkeys))

    def notify(self, pubkey, client_id=None, channel=CHANNEL, deadline=DEADLINE):
        return self.answer(self.ask(NOTIFY, channel, pubkey, client_id), deadline)

    def publish(self, pubkey, client_id=None, channel=CHANNEL):
        """A NOTIFY that must succeed."""
        answer = self.notify(pubkey, client_id, channel)
        assert isinstance(answer, Ok), answer
        return answer

    def send(self, channel, payload):
        return self.answer(self.ask(SEND, channel, payload))

    def ping(self):
        """When it returns, everything that the relay had for this worker has arrived."""
        return self.answer(self.ask(PING))

    def close(self):
        self.closed = True
        self.socket.close()
