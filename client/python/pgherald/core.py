"""The protocol without I/O: what `Client` and `AsyncClient` share. It is given the bytes that came from
the relay, and gives the bytes to send and the events for the app. A client for another kind of
I/O (trio, gevent) is written over it:

    core = Core(...)
    # at core.next_time(), while there is no connection: connect, then core.connected();
    # or core.disconnected(why)
    # while connected: send core.data_to_send(), give what arrives to core.receive(); close the
    # connection when core.is_connected() becomes false
    # at core.next_time(): core.tick()
    # call core.next_event() for the app, until it returns None

A core is not safe for several threads, and knows nothing of forks."""

from __future__ import annotations

import copy
import errno
import os
import random
import sys
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Union

from . import frames as wire
from .cursor import EPOCH_MAX, Cursor
from .errors import Error, error, error_of_code
from .events import CONNECTED, DISCONNECTED, UPSTREAM_DOWN, UPSTREAM_LIVE, Change, Event, Gap, Message, State
from .frames import Decoder, pack
from .requests import Request
from .subscriptions import Answer, Subscriptions

__all__ = ["Core"]

DEFAULT_SOCKET = "/run/pgherald/relay.sock"
DEFAULT_QUEUE_SIZE = 1024 * 1024
LEAST_QUEUE_SIZE = 64 * 1024
DEFAULT_DEADLINE = 10.0

# Bytes. PostgreSQL's own limits: nothing longer can be published.
CHANNEL_MAX = 63
STRING_MAX = 7999
NAME_MAX = 255
PATH_MAX = 107

# What a request to publish counts in bytes, besides its strings.
REQUEST_COST = 100

# Seconds. The first and the longest pause before connecting again. The socket is local, so the first is short.
RETRY_FIRST = 0.05
RETRY_LAST = 2.0

# Bytes that one data_to_send() returns, about.
SEND_SIZE = 65536

# Bytes of frames whose events the app has not taken. Beyond the first nothing more is read, unless the app
# waits for an outcome, which may be among what follows. Beyond the second nothing is read in any case.
EVENTS_SIZE = 256 * 1024
EVENTS_SIZE_MAX = 16 * 1024 * 1024

# State events that wait for the app.
STATES_MAX = 100

NEVER = float("inf")


def check_string(value: object, what: str, most: int = STRING_MAX, too_long: int = errno.EMSGSIZE) -> int:
    """Its length in bytes. Raises TypeError or ArgumentError."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be str, not {type(value).__name__}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise error(errno.EILSEQ, f"{what} is not valid UTF-8") from None
    if size > most:
        raise error(too_long, f"{what} has {size} bytes, more than {most}")
    return size


def check_channel(channel: object) -> int:
    size = check_string(channel, "the channel", CHANNEL_MAX, errno.EINVAL)
    if size == 0:
        raise error(errno.EINVAL, "the channel is empty")
    return size


def check_payload(payload: Union[str, bytes]) -> str:
    if isinstance(payload, bytes):
        try:
            payload = payload.decode()
        except UnicodeDecodeError:
            raise error(errno.EILSEQ, "the payload is not valid UTF-8") from None
    check_string(payload, "the payload")
    if "\0" in payload:
        raise error(errno.EILSEQ, "the payload contains a NUL")
    return payload


def check_socket(path: Optional[str]) -> str:
    """The path that is meant. Raises ArgumentError."""
    if path is None:
        path = os.environ.get("PGHERALD_SOCKET", DEFAULT_SOCKET)
    if len(os.fsencode(path)) > PATH_MAX:
        raise error(errno.ENAMETOOLONG)
    return path


def check_name(name: Optional[str]) -> str:
    """The given one; without one, that of the program. Raises ArgumentError."""
    if name is not None:
        check_string(name, "the name", NAME_MAX, errno.EINVAL)
        return name
    program = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    try:
        check_string(program, "the name", NAME_MAX)
    except Error:
        return ""
    return program


class _Publish:
    """A NOTIFY or SEND that has no answer yet."""

    __slots__ = ("cost", "deadline", "frame", "id", "request")

    def __init__(self, id: int, deadline: float, cost: int, frame: List[Any], request: Request) -> None:
        self.id, self.deadline, self.cost, self.frame, self.request = id, deadline, cost, frame, request


class Core:
    """The state of one client."""

    def __init__(self, name: Optional[str] = None, cursor: Optional[str] = None, queue_size: int = DEFAULT_QUEUE_SIZE,
                 deadline: float = DEFAULT_DEADLINE, clock: Callable[[], float] = time.monotonic) -> None:
        """The options are those of Client. clock: in seconds. Raises ArgumentError or CursorError."""
        if queue_size < LEAST_QUEUE_SIZE:
            raise error(errno.EINVAL, f"queue_size is less than {LEAST_QUEUE_SIZE}")
        if not deadline > 0:
            raise error(errno.EINVAL, "the deadline is not a positive number of seconds")
        self._name, self._queue_size, self._deadline, self._clock = check_name(name), queue_size, deadline, clock
        self._subscriptions = Subscriptions()
        self._next_id = 1

        # The place up to which bytes arrived, from which a connection resumes; and the place up to which the
        # app has handled events, which it may store.
        self._arrived, self._handled = Cursor(cursor), Cursor(cursor)

        # For the app, in the order of the relay: events, requests whose callbacks must run, and where the
        # cursor is then.
        self._events: Deque[Union[Event, Request, Cursor]] = deque()
        self._events_size = 0
        self._n_states = 0  # State events, counted since they were last thinned out
        self._handling: Union[Change, Message, Gap, None] = None  # the app has it, and has not come back

        self._connected = self._welcomed = self._begin_due = False
        self._begin_id = 0
        self._decoder = Decoder()
        self._out: List[bytes] = []  # HELLO, before all else
        self._welcomed_at = 0.0
        self._retry_at = 0.0
        self._failures = 0
        self._reason = ""  # why it is not connected, as was told last

        # All requests get the same time, so both are in the order of their deadlines and ids, and all that
        # are sent are older than all that are queued.
        self._sent: Dict[int, _Publish] = {}
        self._queued: Deque[_Publish] = deque()
        self._publish_bytes = 0
        self._pending = 0  # requests of any kind without an outcome

    # What the app asks

    def subscribe(self, channel: str, pubkey: Optional[str], request: Request) -> None:
        check_channel(channel)
        if pubkey is not None:
            check_string(pubkey, "the pubkey")
        self._pending += 1
        if self._subscriptions.add(channel, pubkey, request):
            self._pending -= 1
            # A callback may still be added to it.
            self._events.append(request)

    def unsubscribe(self, channel: str, pubkey: Optional[str]) -> None:
        check_channel(channel)
        if pubkey is not None:
            check_string(pubkey, "the pubkey")
        self._tell(self._subscriptions.remove(channel, pubkey))

    def notify(self, channel: str, pubkey: str, client_id: Optional[str], request: Request) -> None:
        size = check_channel(channel) + check_string(pubkey, "the pubkey")
        if client_id is not None:
            size += check_string(client_id, "the client id")
        self._publish(size, [wire.NOTIFY, self._next_id, channel, pubkey, client_id], request)

    def send(self, channel: str, payload: Union[str, bytes], request: Request) -> None:
        size = check_channel(channel)
        text = check_payload(payload)
        self._publish(size + len(text.encode()), [wire.SEND, self._next_id, channel, text], request)

    def _publish(self, size: int, frame: List[Any], request: Request) -> None:
        cost = size + REQUEST_COST
        if self._publish_bytes + cost > self._queue_size:
            raise error(errno.ENOBUFS)
        publish = _Publish(self._next_id, self._clock() + self._deadline, cost, frame, request)
        self._next_id += 1
        self._pending += 1
        self._publish_bytes += cost
        self._queued.append(publish)

    def cursor(self) -> Optional[str]:
        """The place up to which the app has handled everything."""
        return self._handled.text()

    # Events

    def next_event(self) -> Optional[Event]:
        """The next event for the app; None if there is none yet. The previous one was handled. Runs the
        callbacks of requests that come before it."""
        handling = self._handling
        if handling is not None:
            self._handling = None
            if handling.seq:
                self._handled.passed(handling.seq)
        events = self._events
        while events:
            item = events.popleft()
            if isinstance(item, (Change, Message, Gap)):
                self._handling = item
                return item
            if isinstance(item, State):
                return item
            if isinstance(item, Request):
                item.tell()
            else:
                self._handled = item
        self._events_size = self._n_states = 0
        return None

    def has_events(self) -> bool:
        """Whether next_event() has something to do: perhaps only to see that the last was handled."""
        return bool(self._events) or self._handling is not None

    def _tell_state(self, event: str, text: str) -> None:
        """An app that only publishes may never take an event. So the older ones go when there are many."""
        self._n_states += 1
        if self._n_states > STATES_MAX:
            self._drop_states()
        self._events.append(State(event, text))

    def _drop_states(self) -> None:
        """All but the last two, which say how it is now."""
        items, self._events, left = list(self._events), deque(), self._n_states
        self._n_states = 0
        for item in items:
            if isinstance(item, State):
                left -= 1
                if left > 2:
                    continue
                self._n_states += 1
            if isinstance(item, Cursor):
                self._put_cursor(item)
            else:
                self._events.append(item)

    def _moved(self) -> None:
        """The place up to which bytes arrived has changed by itself. The app's will when it has handled what
        came before."""
        self._put_cursor(copy.copy(self._arrived))

    def _put_cursor(self, cursor: Cursor) -> None:
        if self._events and isinstance(self._events[-1], Cursor):
            self._events.pop()
        self._events.append(cursor)

    def _tell(self, requests: List[Request]) -> None:
        """They have their outcome. Their callbacks run in their turn."""
        self._pending -= len(requests)
        for request in requests:
            if request.has_callbacks():
                self._events.append(request)
            else:
                request.tell()

    # The connection

    def is_connected(self) -> bool:
        """False when the caller must close the connection that it has."""
        return self._connected

    def connected(self) -> None:
        """The caller has connected to the relay."""
        self._connected = True
        self._decoder = Decoder()
        resume = self._arrived.resume()
        self._begin_due = resume is not None
        self._out = [pack([wire.HELLO, wire.VERSION, self._name, resume])]

    def disconnected(self, why: str) -> None:
        """The connection is lost, or could not be made."""
        now = self._clock()
        was_welcomed = self._welcomed
        if was_welcomed and now - self._welcomed_at >= RETRY_LAST:
            self._failures = 0
        self._retry_at = now + self._pause()
        self._failures += 1
        self._connected = self._welcomed = self._begin_due = False
        self._begin_id = 0
        self._out = []
        self._subscriptions.restart()
        # Those that were sent go first on the next connection.
        self._queued.extendleft(reversed(self._sent.values()))
        self._sent = {}
        if was_welcomed or why != self._reason:
            self._reason = why
            self._tell_state(DISCONNECTED, why)

    def _pause(self) -> float:
        """At least half of the full pause; the rest is random. So the workers of a relay that restarts do
        not reconnect all at once."""
        pause = min(RETRY_FIRST * (1 << min(self._failures, 10)), RETRY_LAST)
        return pause / 2 + random.random() * pause / 2

    def next_time(self) -> float:
        """When something is due although nothing arrives, on the clock: to connect, or tick()."""
        first = next(iter(self._sent.values()), None) or (self._queued[0] if self._queued else None)
        deadline: float = NEVER if first is None else first.deadline
        return deadline if self._connected else min(deadline, self._retry_at)

    def may_connect(self) -> bool:
        """Whether it is time to."""
        return not self._connected and self._clock() >= self._retry_at

    def tick(self) -> None:
        """End the requests whose deadline is over. Call it after everything that arrived was given to
        receive(): an answer that is there is in time, however late the app looks."""
        now = self._clock()
        while self._sent or self._queued:
            first = next(iter(self._sent.values())) if self._sent else self._queued[0]
            if first.deadline > now:
                return
            self._end_publish(first)
            first.request.fail(error(errno.ETIMEDOUT))
            self._tell([first.request])

    def _end_publish(self, publish: _Publish) -> None:
        if self._sent.pop(publish.id, None) is None:
            self._queued.popleft()
        self._publish_bytes -= publish.cost

    def data_to_send(self) -> bytes:
        """The next bytes for the relay; empty if nothing is due. In this order: HELLO, SUBSCRIBEs and
        UNSUBSCRIBEs, BEGIN, requests to publish."""
        if not self._connected:
            return b""
        out, self._out = self._out, []
        size = sum(map(len, out))
        while size < SEND_SIZE:
            data = self._next_to_send()
            if data is None:
                break
            out.append(data)
            size += len(data)
        return b"".join(out)

    def _next_to_send(self) -> Optional[bytes]:
        request = self._subscriptions.next_request(self._next_id)
        if request is None and self._begin_due:
            self._begin_due, self._begin_id = False, self._next_id
            request = [wire.BEGIN, self._next_id]
        if request is not None:
            self._next_id += 1
            return pack(request)
        if not self._welcomed or not self._queued:
            return None
        publish = self._queued.popleft()
        self._sent[publish.id] = publish
        return pack(publish.frame)

    # What arrives

    def wants_data(self) -> bool:
        """False while the app must take events before more is received."""
        return self._events_size < (EVENTS_SIZE_MAX if self._pending else EVENTS_SIZE)

    def receive(self, data: bytes) -> None:
        """Take what arrived from the relay. Afterwards is_connected() may be false."""
        had = len(self._events)
        self._take(*self._decoder.feed(data))
        if len(self._events) > had:
            self._events_size += len(data)

    def _take(self, frames: List[List[Any]], well: bool) -> None:
        for frame in frames:
            kind = frame[0]
            if kind == wire.CHANGE and self._welcomed:
                # The most frequent by far.
                _, seq, channel, pubkey, client_id, flags = frame
                self._events.append(Change(channel, pubkey, client_id, seq or 0, flags & wire.RECOVERED != 0))
                self._arrived.passed(seq)
                continue
            if not self._welcomed and kind not in (wire.WELCOME, wire.ERROR, wire.BYE):
                self.disconnected("the relay broke the protocol: no WELCOME")
            else:
                self._HANDLERS[kind](self, *frame[1:])
            if not self._connected:
                return
        if not well:
            self.disconnected("the relay broke the protocol: no frame")

    def _on_welcome(self, version: int, epoch: str, seq: int, info: Dict[str, Any]) -> None:
        if self._welcomed or version != wire.VERSION or len(epoch.encode("utf-8", "surrogateescape")) > EPOCH_MAX:
            self.disconnected("the relay broke the protocol: WELCOME")
            return
        self._welcomed, self._welcomed_at, self._reason = True, self._clock(), ""
        self._arrived.welcome(epoch, seq)
        self._moved()
        self._tell_state(CONNECTED, info.get("mode", ""))
        self._tell_state(UPSTREAM_LIVE if info.get("upstream") == "live" else UPSTREAM_DOWN, "")

    def _on_ok(self, id: int, seq: int) -> None:
        if id == self._begin_id and id:
            self._begin_id = 0
            self._arrived.caught_up(seq)
            self._moved()
            return
        answer = self._subscriptions.live(id, seq)
        if answer is not None:
            self._tell_answer(answer, "a subscription that was refused is live")
            return
        # Nothing waits for the OK to an UNSUBSCRIBE, or to a request that has timed out.
        publish = self._sent.get(id)
        if publish is not None:
            self._end_publish(publish)
            publish.request.succeed(seq)
            self._tell([publish.request])

    def _on_error(self, id: Optional[int], code: str, text: str) -> None:
        if id is None:
            return
        if id == self._begin_id and id:
            self.disconnected("the relay refused to resume")
            return
        why = error_of_code(code, text)
        answer = self._subscriptions.refused(id, why)
        if answer is not None:
            self._tell_answer(answer, text)
            return
        publish = self._sent.get(id)
        if publish is not None:
            self._end_publish(publish)
            publish.request.fail(why)
            self._tell([publish.request])

    def _tell_answer(self, answer: Answer, text: str) -> None:
        self._tell(answer.told)
        if answer.renewed or answer.untold:
            self._events.append(Gap("refused", text, 0))

    def _on_change(self, seq: Optional[int], channel: str, pubkey: str, client_id: Optional[str], flags: int) -> None:
        self._events.append(Change(channel, pubkey, client_id, seq or 0, flags & wire.RECOVERED != 0))
        self._arrived.passed(seq)

    def _on_message(self, seq: Optional[int], channel: str, payload: Union[str, bytes], flags: int) -> None:
        self._events.append(Message(channel, payload, seq or 0, flags & wire.RECOVERED != 0))
        self._arrived.passed(seq)

    def _on_gap(self, seq: Optional[int], cause: str, text: str) -> None:
        self._events.append(Gap(cause, text, seq or 0))
        self._arrived.passed(seq)

    def _on_checkpoint(self, seq: Optional[int], checkpoint: str) -> None:
        self._arrived.checked(seq, checkpoint)
        self._moved()

    def _on_upstream(self, seq: Optional[int], state: str, text: str) -> None:
        self._tell_state(UPSTREAM_LIVE if state == "live" else UPSTREAM_DOWN, text)
        self._arrived.passed(seq)
        self._moved()

    def _on_bye(self, code: str, text: str) -> None:
        self.disconnected(f"the relay said {code}: {text}")

    _HANDLERS: Dict[int, Callable[..., None]] = {
        wire.WELCOME: _on_welcome, wire.OK: _on_ok, wire.ERROR: _on_error, wire.CHANGE: _on_change,
        wire.MESSAGE: _on_message, wire.CHECKPOINT: _on_checkpoint, wire.GAP: _on_gap, wire.UPSTREAM: _on_upstream,
        wire.BYE: _on_bye,
    }

    # The end

    def close(self) -> List[Request]:
        """Nothing goes on after this. Returns the requests whose outcome the app has not been told, in the
        order in which to tell them; those without an outcome are cancelled."""
        told = [item for item in self._events if isinstance(item, Request)]
        self._events.clear()
        told += self._subscriptions.cancel()
        for publish in list(self._sent.values()) + list(self._queued):
            publish.request.fail(error(errno.ECANCELED))
            told.append(publish.request)
        self._sent, self._queued = {}, deque()
        self._connected = False
        return told
