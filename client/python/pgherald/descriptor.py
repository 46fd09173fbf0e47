"""One descriptor that stays the same while sockets come and go: an epoll over the relay's socket and a
timer. After a fork both processes share it; only close() is safe in the child."""

from __future__ import annotations

import ctypes
import os
import select
import socket
from typing import Optional

from .core import NEVER

__all__ = ["Descriptor"]

CLOCK_MONOTONIC = 1
TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


def _call(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Descriptor:
    def __init__(self) -> None:
        """Raises OSError."""
        # Python has no timerfd before 3.13.
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._epoll = select.epoll()
        self._timer = _call(self._libc.timerfd_create(CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK))
        self._epoll.register(self._timer, select.EPOLLIN)
        self._due = NEVER

    def fileno(self) -> int:
        return self._epoll.fileno()

    def readable_at(self, when: float) -> None:
        """It is readable from this time of time.monotonic() on, besides what the socket does. 0: now."""
        if when == self._due and when in (0.0, NEVER):
            return
        # 0 would turn the timer off.
        nanoseconds = 0 if when == NEVER else max(int(when * 1e9), 1)
        spec = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(nanoseconds, 1000000000)))
        _call(self._libc.timerfd_settime(self._timer, TIMER_ABSTIME, ctypes.byref(spec), None))
        self._due = when

    def watch(self, relay: socket.socket) -> None:
        self._epoll.register(relay, select.EPOLLIN | select.EPOLLRDHUP)

    def watch_for_room(self, relay: socket.socket, wanted: bool) -> None:
        self._epoll.modify(relay, select.EPOLLIN | select.EPOLLRDHUP | (select.EPOLLOUT if wanted else 0))

    def forget(self, relay: socket.socket) -> None:
        """Before it is closed: if a forked child holds it too, closing does not remove it."""
        self._epoll.unregister(relay)

    def close(self) -> None:
        os.close(self._timer)
        self._epoll.close()
