"""The client for asyncio."""

from __future__ import annotations

import asyncio
import errno
import time
from types import TracebackType
from typing import AsyncIterator, Any, Generator, List, Optional, Type, Union

from .client import Connection, open_core, tell_all
from .core import DEFAULT_DEADLINE, DEFAULT_QUEUE_SIZE, NEVER, check_socket
from .errors import ClosedError, Error, error
from .events import Event
from .process import generation
from .requests import Request

__all__ = ["AsyncClient", "AsyncRequest"]

# Events that an iteration hands out before other tasks have their turn.
EVENTS_PER_TURN = 64


class AsyncRequest(Request):
    """The outcome of one call of `subscribe()`, `notify()` or `send()`. It comes exactly once, and never
    inside that call. Await it for `result()`, once or several times, or never: `await client.notify(...)`.
    A task that is cancelled while it awaits does not take the request back."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        super().__init__()
        self._futures: List["asyncio.Future[None]"] = []

    def __await__(self) -> Generator[Any, None, int]:
        """Returns the place in the relay's order where the request took effect, or raises the error with
        which it failed."""
        self.asked = True
        if not self.done():
            future: "asyncio.Future[None]" = asyncio.get_running_loop().create_future()
            self._futures.append(future)
            yield from future
        return self.result()

    def succeed(self, seq: int) -> None:
        super().succeed(seq)
        self._wake()

    def fail(self, why: Error) -> None:
        super().fail(why)
        self._wake()

    def _wake(self) -> None:
        for future in self._futures:
            if not future.done():
                future.set_result(None)
        self._futures.clear()


class AsyncClient:
    """Hears the changes that the relay of this host hears from PostgreSQL, and publishes some.

        async with pgherald.AsyncClient() as client:
            client.subscribe("data_sync_changes")
            async for event in client:
                if isinstance(event, pgherald.Change):
                    print(event.pubkey, "changed")
                elif isinstance(event, pgherald.Gap):
                    await read_everything_again()

    Everything that `Client` says holds here, too, but:

    - It sends and receives in the event loop, whatever the app awaits. It begins at `async with`, or at the
      first call inside a running loop, but connects only when the loop has its turn: so what is subscribed
      to before the first `await` is there before it connects.
    - Events that the app does not take wait for it, up to 256 KiB (16 MiB while a request has no outcome).
      Then no more is received until it takes them. An app that only publishes need not take any.
    - The outcome of a request is awaited. Callbacks of requests run where the iteration hands out events.
    - It is used in one event loop, by one thread, and one task at a time iterates."""

    def __init__(self, socket: Optional[str] = None, *, name: Optional[str] = None, cursor: Optional[str] = None,
                 queue_size: int = DEFAULT_QUEUE_SIZE, deadline: float = DEFAULT_DEADLINE) -> None:
        """Make a client, inside an event loop or not. The options and errors are those of `Client`."""
        path = check_socket(socket)
        self._core = open_core(path, name, cursor, queue_size, deadline)
        self._connection = Connection(path, self._core)
        self._generation = generation()
        self._loop: Optional[asyncio.AbstractEventLoop] = None  # None until it begins
        self._soon: Optional[asyncio.Handle] = None  # a turn that is due at once
        self._timer: Optional[asyncio.TimerHandle] = None
        self._reading = self._writing = False
        self._waiter: Optional["asyncio.Future[None]"] = None  # of the task that waits for an event
        self._handed_out = 0
        self._in_callback = self._closed = False

    def _check(self) -> None:
        if self._generation != generation():
            raise error(errno.ECHILD)
        if self._closed:
            raise error(errno.ESHUTDOWN)

    # The event loop

    def _turn_soon(self) -> None:
        """Have a turn when the loop comes to it."""
        if self._loop is None:
            try:
                self._loop = asyncio.get_running_loop()
            except RuntimeError:
                return  # it begins when there is one
        if self._soon is None:
            self._soon = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Do what is due."""
        self._soon = None
        if self._closed or self._generation != generation():
            return
        if self._core.may_connect() and self._connection.connect():
            self._watch()
        self._connection.send()
        self._core.tick()
        self._connection.send()
        self._after_turn()

    def _readable(self) -> None:
        if self._generation != generation():
            return  # in a forked child that uses the parent's loop
        # One takes milliseconds when there is much. Then other tasks have their turn.
        self._connection.receive(most=1)
        self._turn()

    def _after_turn(self) -> None:
        assert self._loop
        if self._connection.socket and not self._core.is_connected():
            self._unwatch()
            self._connection.close()
        self._watch()
        self._set_timer()
        if self._waiter and not self._waiter.done() and self._core.has_events():
            self._waiter.set_result(None)

    def _watch(self) -> None:
        """Watch the socket for what there is to do with it."""
        relay = self._connection.socket
        if not relay or not self._loop:
            return
        reading, writing = self._core.wants_data(), self._connection.is_blocked()
        if reading != self._reading:
            self._reading = reading
            self._loop.add_reader(relay, self._readable) if reading else self._loop.remove_reader(relay)
        if writing != self._writing:
            self._writing = writing
            self._loop.add_writer(relay, self._turn) if writing else self._loop.remove_writer(relay)

    def _unwatch(self) -> None:
        if self._connection.socket and self._loop:
            self._loop.remove_reader(self._connection.socket)
            self._loop.remove_writer(self._connection.socket)
        self._reading = self._writing = False

    def _set_timer(self) -> None:
        """One that fires too early costs an empty turn. That is less than setting it each time the next
        deadline is later."""
        assert self._loop
        when = self._core.next_time()
        if self._timer and (self._timer.when() <= when or self._timer.cancelled()):
            return
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if when != NEVER:
            self._timer = self._loop.call_at(when - time.monotonic() + self._loop.time(), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._turn()

    # Events

    async def wait(self, timeout: Optional[float] = None) -> Optional[Event]:
        """The next event: a Change, Message, Gap or State. The event that it returned last counts as
        handled, for `cursor()`. A task that is cancelled while it waits takes no event.

        timeout: at most so long, in seconds; None means no limit. Returns None if the time has passed.

        Raises ForkedError, ClosedError (also if the client is closed meanwhile), Error with EDEADLK if
        another task waits or in a callback, and what a callback raises."""
        self._check()
        end = None if timeout is None else time.monotonic() + timeout
        self._handed_out += 1
        if self._handed_out % EVENTS_PER_TURN == 0:
            await asyncio.sleep(0)
        while True:
            event = self._next_event()
            left = None if end is None else end - time.monotonic()
            if event is not None or (left is not None and left <= 0):
                return event
            await self._wait_for_event(left)

    def _next_event(self) -> Optional[Event]:
        self._check()
        if self._in_callback or self._waiter:
            raise error(errno.EDEADLK, "another task waits, or a callback does")
        self._in_callback = True
        try:
            event = self._core.next_event()
        finally:
            self._in_callback = False
        self._check()
        if not self._core.has_events():
            # There may be room again to receive.
            self._turn_soon() if self._loop is None else self._watch()
        return event

    async def _wait_for_event(self, timeout: Optional[float]) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([self._waiter], timeout=timeout)
        finally:
            self._waiter = None

    def __aiter__(self) -> AsyncIterator[Event]:
        """The events, without end: the loop ends when the client is closed."""
        return self

    async def __anext__(self) -> Event:
        if self._closed and self._generation == generation():
            raise StopAsyncIteration
        try:
            event = await self.wait()
        except ClosedError:
            raise StopAsyncIteration from None
        assert event is not None
        return event

    # Requests

    def subscribe(self, channel: str, pubkey: Optional[str] = None) -> AsyncRequest:
        """As `Client.subscribe()`. To await the request, or to give it a callback, is to wait for its
        outcome."""
        self._check()
        request = AsyncRequest()
        self._core.subscribe(channel, pubkey, request)
        self._turn_soon()
        return request

    def unsubscribe(self, channel: str, pubkey: Optional[str] = None) -> None:
        """As `Client.unsubscribe()`."""
        self._check()
        self._core.unsubscribe(channel, pubkey)
        self._turn_soon()

    def notify(self, channel: str, pubkey: str, client_id: Optional[str] = None) -> AsyncRequest:
        """As `Client.notify()`."""
        self._check()
        request = AsyncRequest()
        self._core.notify(channel, pubkey, client_id, request)
        self._turn_soon()
        return request

    def send(self, channel: str, payload: Union[str, bytes]) -> AsyncRequest:
        """As `Client.send()`."""
        self._check()
        request = AsyncRequest()
        self._core.send(channel, payload, request)
        self._turn_soon()
        return request

    def cursor(self) -> Optional[str]:
        """As `Client.cursor()`."""
        if self._generation != generation():
            raise error(errno.ECHILD)
        return self._core.cursor()

    # The end

    def close(self) -> None:
        """As `Client.close()`. It does not wait for anything."""
        if self._closed:
            return
        self._closed = True
        ours = self._generation == generation()
        if ours:
            self._unwatch()
            for handle in (self._soon, self._timer):
                if handle:
                    handle.cancel()
        self._connection.close(ours)
        if not ours:
            return
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)
        tell_all(self._core.close())

    async def __aenter__(self) -> "AsyncClient":
        self._check()
        self._turn_soon()
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                        traceback: Optional[TracebackType]) -> None:
        self.close()
