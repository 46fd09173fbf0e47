"""Hear the changes that a host's pgherald relay hears from PostgreSQL, and publish some.

`Client` blocks, or is polled by its descriptor. `AsyncClient` is for asyncio. Both tell Change, Message,
Gap and State. `core.Core` is the protocol without I/O, for other kinds of loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .client import Client, Request
from .errors import (
    ArgumentError,
    BusyError,
    CancelledError,
    ChannelError,
    ClosedError,
    CursorError,
    DeniedError,
    Error,
    ForkedError,
    LimitError,
    NotSubscribedError,
    QueueFullError,
    RefusedError,
    RejectedError,
    TimedOutError,
)
from .events import CONNECTED, DISCONNECTED, UPSTREAM_DOWN, UPSTREAM_LIVE, Change, Event, Gap, Message, State

__all__ = [
    "CONNECTED", "DISCONNECTED", "UPSTREAM_DOWN", "UPSTREAM_LIVE", "ArgumentError", "AsyncClient", "AsyncRequest",
    "BusyError", "CancelledError", "Change", "ChannelError", "Client", "ClosedError", "CursorError", "DeniedError",
    "Error", "Event", "ForkedError", "Gap", "LimitError", "Message", "NotSubscribedError", "QueueFullError",
    "RefusedError", "RejectedError", "Request", "State", "TimedOutError",
]

__version__ = "0.2.0"

if TYPE_CHECKING:
    from .aio import AsyncClient, AsyncRequest


def __getattr__(name: str) -> Any:
    """asyncio is imported only by those who use it: it costs a process more than all the rest."""
    if name in ("AsyncClient", "AsyncRequest"):
        from . import aio

        return getattr(aio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
