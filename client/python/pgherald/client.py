"""The blocking client."""

from __future__ import annotations

import errno
import os
import select
import socket as sockets
import time
from types import TracebackType
from typing import Callable, Iterator, List, Optional, Type, TypeVar, Union

from .core import DEFAULT_DEADLINE, DEFAULT_QUEUE_SIZE, NEVER, Core, check_socket
from .descriptor import Descriptor
from .errors import ClosedError, error
from .events import Event
from .local import LocalCore
from .process import generation
from .requests import Request as BaseRequest

__all__ = ["Client", "Request"]

# Bytes of one receive, and most receives before the app has its turn.
RECEIVE_SIZE = 65536
RECEIVES_PER_TURN = 16

_C = TypeVar("_C", bound="Connection")


def open_core(socket: str, name: Optional[str], cursor: Optional[str], queue_size: int, deadline: float) -> Core:
    """For an empty path, the local notifier."""
    if socket == "":
        return LocalCore(name, queue_size, deadline)
    return Core(name=name, cursor=cursor, queue_size=queue_size, deadline=deadline)


class Connection:
    """What both kinds of client do with the socket: connect, receive, send and close it. `core` says what
    the bytes mean."""

    def __init__(self, path: str, core: Core) -> None:
        self.path, self.core = path, core
        self.socket: Optional[sockets.socket] = None
        self._out = memoryview(b"")  # not yet sent

    def connect(self) -> bool:
        """Returns whether there is a connection. On a Unix socket, connect() succeeds or fails at once."""
        relay = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            relay.setblocking(False)
            relay.connect(self.path)
        except OSError as e:
            relay.close()
            self.core.disconnected(f"{self.path}: {e.strerror}")
            return False
        self.socket = relay
        self.core.connected()
        return True

    def receive(self, ended: bool = False, most: int = RECEIVES_PER_TURN) -> None:
        """At most this many receives. ended: the relay has closed, so read up to the end."""
        for _ in range(most):
            if not self.socket or not self.core.wants_data():
                return
            try:
                data = self.socket.recv(RECEIVE_SIZE)
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                self.core.receive(data)
            except BlockingIOError:
                return
            except OSError as e:
                self.core.disconnected(f"connection lost: {e.strerror}")
                return
            except BaseException:
                # A signal handler raised it, and what was received is lost. The next connection brings it again.
                self.core.disconnected("interrupted")
                raise
            if not self.core.is_connected() or (len(data) < RECEIVE_SIZE and not ended):
                return

    def send(self) -> None:
        """Everything that is due, as far as the socket takes it."""
        while self.socket and self.core.is_connected():
            if not self._out:
                self._out = memoryview(self.core.data_to_send())
            if not self._out:
                return
            try:
                sent = self.socket.send(self._out, sockets.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as e:
                # What the relay sent before it closed can still be read, above all its reason.
                self.receive(ended=True)
                if self.core.is_connected():
                    self.core.disconnected(f"connection lost: {e.strerror}")
                return
            self._out = self._out[sent:]

    def is_blocked(self) -> bool:
        """Bytes wait for room in the socket."""
        return bool(self._out)

    def close(self, ours: bool = True) -> None:
        """ours: not in a forked child, where the connection is the parent's."""
        self._out = memoryview(b"")
        if not self.socket:
            return
        if ours:
            try:
                # Even if a forked child still holds the socket.
                self.socket.shutdown(sockets.SHUT_RDWR)
            except OSError:
                pass
        self.socket.close()
        self.socket = None


def tell_all(requests: List[BaseRequest]) -> None:
    """Run the callbacks of all, whatever one of them raises; that is then raised."""
    failure: Optional[BaseException] = None
    for request in requests:
        try:
            request.tell()
        except BaseException as e:
            failure = failure or e
    if failure is not None:
        raise failure


class Request(BaseRequest):
    """The outcome of one call of `subscribe()`, `notify()` or `send()`. It comes exactly once, and never
    inside that call."""

    __slots__ = ("_client",)

    def __init__(self, client: "Client") -> None:
        super().__init__()
        self._client = client

    def wait(self, timeout: Optional[float] = None) -> int:
        """Wait for the outcome, at most `timeout` seconds of time.monotonic(); None means no limit.
        Events that arrive meanwhile wait for `Client.wait()`; they are kept, up to 16 MiB.

        Returns the place in the relay's order where the request took effect. Raises the error with which
        it failed; TimeoutError if the time has passed and the outcome is not known yet; or ForkedError,
        ClosedError, and Error with EDEADLK in a callback."""
        self.asked = True
        end = NEVER if timeout is None else time.monotonic() + timeout
        while not self.done():
            self._client._turn(end)
            if not self.done() and time.monotonic() >= end:
                raise TimeoutError("the outcome is not known yet")
        return self.result()


class Client:
    """Hears the changes that the relay of this host hears from PostgreSQL, and publishes some.

        with pgherald.Client() as client:
            client.subscribe("data_sync_changes")
            for event in client:
                if isinstance(event, pgherald.Change):
                    print(event.pubkey, "changed")
                elif isinstance(event, pgherald.Gap):
                    read_everything_again()

    What holds for all of it:

    - It sends and receives only inside `wait()`, the iteration, and `Request.wait()`. Other calls only
      queue. Callbacks of requests run inside `wait()`, the iteration and `close()`.
    - It connects, reconnects and resumes by itself. It starts no thread, handles no signal and prints
      nothing. Every descriptor that it opens is close-on-exec.
    - Delivery is at least once: every change that is committed while a subscription is live comes as a
      Change, or a Gap tells that it may not have. A change may come twice after a reconnect.
    - Only one thread at a time may use a client. Different clients are independent of each other.
    - After a fork the client belongs to the parent. In the child every call raises ForkedError, except
      `close()`. There it closes the child's copies of the descriptors, calls no callback, and leaves the
      parent's connection as it is. A prefork server opens its clients after the fork.
    - If a signal handler raises an exception inside a call, as Python's own does for SIGINT, close the
      client. `cursor()` is good, and a later client misses nothing.
    - Every error is a pgherald.Error, except TypeError for an argument of another type."""

    def __init__(self, socket: Optional[str] = None, *, name: Optional[str] = None, cursor: Optional[str] = None,
                 queue_size: int = DEFAULT_QUEUE_SIZE, deadline: float = DEFAULT_DEADLINE) -> None:
        """Make a client. The relay need not run yet: the first `wait()` begins to connect.

        socket: the path of the relay's socket. None: the environment variable PGHERALD_SOCKET, or
        /run/pgherald/relay.sock if that is unset. An empty string, here or in the variable, selects the
        local notifier. It needs no relay: it delivers what this client publishes, on any channel, to this
        client alone. Use it in a single process, and in tests.

        name: the name of this connection on the operator's screen. None: the program's name.

        cursor: where to resume: what `cursor()` of an earlier client returned, perhaps in an earlier
        process. None: start from now. The client receives what was missed since for the subscriptions that
        are made before the first `wait()`. A later subscription starts when it becomes live. The local
        notifier ignores the cursor.

        queue_size: most bytes of requests to publish that may wait for their outcome. A request counts as
        its strings and 100 bytes more. Least: 64 KiB.

        deadline: seconds (time.monotonic()) after which a request to publish fails with TimedOutError,
        time without a connection included.

        Raises ArgumentError (EINVAL: the name has more than 255 bytes, or queue_size or deadline is too
        small; EILSEQ: the name is not valid UTF-8; ENAMETOOLONG: the socket's path is longer than 107
        bytes) or CursorError."""
        path = check_socket(socket)
        self._core = open_core(path, name, cursor, queue_size, deadline)
        self._connection = Connection(path, self._core)
        self._descriptor: Optional[Descriptor] = None
        self._poll = select.poll()
        self._generation = generation()
        self._dirty = True  # something was queued that is to be sent
        self._in_callback = self._closed = False

    def _check(self) -> None:
        if self._generation != generation():
            raise error(errno.ECHILD)
        if self._closed:
            raise error(errno.ESHUTDOWN)

    # Events

    def wait(self, timeout: Optional[float] = None) -> Optional[Event]:
        """The next event: a Change, Message, Gap or State. Sends what is queued, receives what arrives, and
        runs the callbacks of requests in the order of the relay. The event that it returned last counts as
        handled, for `cursor()`.

        timeout: at most so long, in seconds of time.monotonic(). 0 never blocks; None means no limit.
        Returns None if the time has passed. A signal whose handler returns does not end it.

        Raises ForkedError, ClosedError (also if a callback closed the client), Error with EDEADLK in a
        callback, and what a callback raises."""
        self._check()
        if not self._dirty:
            event = self._next_event()
            if event is not None:
                self._settle()
                return event
        end = NEVER if timeout is None else time.monotonic() + timeout
        turned = False
        while True:
            if self._dirty:
                self._turn(0.0)
                turned = True
            event = self._next_event()
            if event is not None or (turned and time.monotonic() >= end):
                self._settle()
                return event
            self._turn(end)
            turned = True

    def _next_event(self) -> Optional[Event]:
        if self._in_callback:
            raise error(errno.EDEADLK)
        self._in_callback = True
        try:
            event = self._core.next_event()
        finally:
            self._in_callback = False
        if self._closed:
            raise error(errno.ESHUTDOWN)
        if self._generation != generation():
            raise error(errno.ECHILD)
        return event

    def __iter__(self) -> Iterator[Event]:
        """The events, without end: the loop ends when the client is closed."""
        return self

    def __next__(self) -> Event:
        if self._closed and self._generation == generation():
            raise StopIteration
        try:
            event = self.wait()
        except ClosedError:
            raise StopIteration from None
        assert event is not None
        return event

    def fileno(self) -> int:
        """The descriptor to poll for input, level-triggered; so a selector takes the client itself. When it
        is readable, call `wait(0)` until that returns None. It stays the same until `close()`, across
        reconnects. It belongs to the client: only poll it.

        Raises ForkedError, ClosedError, or OSError if there are too many open files."""
        self._check()
        if self._descriptor is None:
            descriptor = Descriptor()
            if self._connection.socket:
                descriptor.watch(self._connection.socket)
                descriptor.watch_for_room(self._connection.socket, self._connection.is_blocked())
            self._descriptor = descriptor
            self._settle()
        return self._descriptor.fileno()

    def _settle(self) -> None:
        """The descriptor is readable if there is something to do, and when there will be."""
        if self._descriptor:
            busy = self._dirty or self._core.has_events()
            self._descriptor.readable_at(0.0 if busy else self._core.next_time())

    def _turn(self, end: float) -> None:
        """Wait for something to do, up to this time of time.monotonic(), and do it."""
        self._check()
        if self._in_callback:
            raise error(errno.EDEADLK)
        if self._core.may_connect():
            self._connect()
        self._send()
        timeout = min(end, self._core.next_time()) - time.monotonic()
        ready = self._poll.poll(None if timeout == NEVER else max(timeout, 0) * 1000)
        if ready:
            ended = ready[0][1] & (select.POLLHUP | select.POLLERR) != 0
            self._connection.receive(ended)
            self._drop()
        self._core.tick()
        self._send()
        self._settle()

    def _connect(self) -> None:
        if not self._connection.connect():
            return
        assert self._connection.socket
        self._poll.register(self._connection.socket, select.POLLIN)
        if self._descriptor:
            self._descriptor.watch(self._connection.socket)

    def _send(self) -> None:
        was_blocked = self._connection.is_blocked()
        self._connection.send()
        self._drop()
        self._dirty = False
        relay, blocked = self._connection.socket, self._connection.is_blocked()
        if relay and blocked != was_blocked:
            self._poll.modify(relay, select.POLLIN | (select.POLLOUT if blocked else 0))
            if self._descriptor:
                self._descriptor.watch_for_room(relay, blocked)

    def _drop(self) -> None:
        """Close the connection if it is lost."""
        if self._connection.socket and not self._core.is_connected():
            self._end_connection()

    def _end_connection(self) -> None:
        if self._connection.socket:
            self._poll.unregister(self._connection.socket)
            if self._descriptor:
                self._descriptor.forget(self._connection.socket)
        self._connection.close()

    # Requests

    def _queued(self) -> None:
        self._dirty = True
        self._settle()

    def subscribe(self, channel: str, pubkey: Optional[str] = None) -> Request:
        """Subscribe to the changes of pubkey on channel, or without a pubkey to the whole channel. A text
        channel is only subscribed to as a whole. Subscriptions are counted: each call needs one
        `unsubscribe()` of the same, and the relay knows only whether there are any. They stay across
        reconnects. A subscription to all and subscriptions by pubkey are independent.

        The request succeeds when the subscription is live: from its `result()` on, nothing is missed. That
        is the moment without a race to read the present state from the database. It has no deadline:
        without a relay it waits. It may fail with:

        ChannelError    the relay does not serve this channel, or pubkey was given for a text channel
        DeniedError     the relay's operator does not allow it on this channel
        LimitError      the relay's limit of subscriptions is reached; subscriptions that were asked for
                        at the same time fail together
        RefusedError    the relay refused it for another reason
        CancelledError  it was unsubscribed before it was live, or the client was closed

        A refused subscription stays until it is unsubscribed. The client asks for it again on each new
        connection, and at each further `subscribe()` of it. A Gap with the cause "refused" comes when it
        becomes live after all. A Gap with the same cause comes when a subscription is refused and the app
        does not wait for that outcome, with `Request.wait()` or a callback, for each `subscribe()` of it:
        it never did, or the request had its outcome on an earlier connection.

        Raises at once: ArgumentError (EINVAL: channel is empty or has more than 63 bytes; EMSGSIZE: pubkey
        has more than 7999 bytes; EILSEQ: a string is not valid UTF-8), ForkedError or ClosedError."""
        self._check()
        request = Request(self)
        self._core.subscribe(channel, pubkey, request)
        self._queued()
        return request

    def unsubscribe(self, channel: str, pubkey: Optional[str] = None) -> None:
        """Undo one `subscribe()` of the same. After the last one, requests that still wait fail with
        CancelledError. Changes that were already on their way may still come.

        Raises NotSubscribedError, or what `subscribe()` raises at once."""
        self._check()
        self._core.unsubscribe(channel, pubkey)
        self._queued()

    def notify(self, channel: str, pubkey: str, client_id: Optional[str] = None) -> Request:
        """Publish that the data of pubkey changed. Call it after the change is committed. All subscribed
        workers of all hosts hear it, this one included.

        The request succeeds when PostgreSQL has committed the notification, or fails with:

        ChannelError    the relay does not serve this channel, or it is a text channel
        DeniedError     the relay's operator does not allow it on this channel
        BusyError       the relay's queue is full; not published
        RejectedError   PostgreSQL refused it; not published; the text says why
        RefusedError    the relay refused it; not published. EMSGSIZE: the payload would have 8000 bytes
                        or more, which PostgreSQL refuses
        TimedOutError   not known to be committed in time; it may still be published
        CancelledError  the client was closed; it may still be published

        Without a connection the request waits for one, until its deadline. If the connection breaks before
        the answer, the client sends the request again, so it may be heard twice.

        Raises at once: QueueFullError (`queue_size` bytes wait already), ArgumentError (EINVAL: channel is
        empty or has more than 63 bytes; EMSGSIZE: a string has more than 7999 bytes; EILSEQ: a string is
        not valid UTF-8), ForkedError or ClosedError."""
        self._check()
        request = Request(self)
        self._core.notify(channel, pubkey, client_id, request)
        self._queued()
        return request

    def send(self, channel: str, payload: Union[str, bytes]) -> Request:
        """Publish payload on a text channel. Everything else is as in `notify()`: ChannelError means that
        the channel is a change channel, and EILSEQ also that the payload contains a NUL."""
        self._check()
        request = Request(self)
        self._core.send(channel, payload, request)
        self._queued()
        return request

    def cursor(self) -> Optional[str]:
        """The cursor, as one line of printable ASCII: the place up to which the app has handled all events.
        An event is handled when the app asks for the next one, or its loop's body has ended. An app that
        acts on changes later must store it later, too. A later client resumes from it, in any language.

        Returns None if there is no cursor yet, before the first connection; the local notifier never has
        one. It may be called after `close()`. Raises ForkedError."""
        if self._generation != generation():
            raise error(errno.ECHILD)
        return self._core.cursor()

    # The end

    def close(self) -> None:
        """Close the connection. All requests that are due are told first: with their outcome if it is known,
        else they fail with CancelledError. A request that was already sent may still be published. Calls
        from these callbacks raise ClosedError. Nothing is told after this returned. A second call does
        nothing. A callback may call it."""
        if self._closed:
            return
        self._closed = True
        ours = self._generation == generation()
        if ours:
            self._end_connection()
        else:
            self._connection.close(ours=False)
        if self._descriptor:
            self._descriptor.close()
        if ours:
            tell_all(self._core.close())

    def __enter__(self: "Client") -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        self.close()
