"""A request whose outcome comes later: of subscribe, notify and send."""

from __future__ import annotations

from typing import Callable, List, Optional, TypeVar

from .errors import Error

__all__ = ["Request"]

_R = TypeVar("_R", bound="Request")


class Request:
    """The outcome of one call of `subscribe()`, `notify()` or `send()`. It comes exactly once, and never
    inside that call."""

    __slots__ = ("_callbacks", "_error", "_seq", "_told", "asked")

    def __init__(self) -> None:
        self._seq: Optional[int] = None
        self._error: Optional[Error] = None
        self._callbacks: List[Callable[..., object]] = []
        self._told = False
        self.asked = False  # somebody waits for the outcome, or has a callback for it

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._seq is not None or self._error is not None

    @property
    def error(self) -> Optional[Error]:
        """Why it failed. None if it succeeded, or if the outcome is not known yet."""
        return self._error

    def result(self) -> int:
        """The place in the relay's order where the request took effect. Raises the error with which it
        failed; RuntimeError if the outcome is not known yet."""
        if self._error is not None:
            raise self._error
        if self._seq is None:
            raise RuntimeError("the outcome is not known yet")
        return self._seq

    def add_done_callback(self: _R, callback: Callable[[_R], object]) -> _R:
        """Have callback(request) called once, when the outcome is known. The client calls it where it
        hands out events, in the order of the relay. If that is past, it is called at once. Returns the
        request."""
        self.asked = True
        if self._told:
            callback(self)
        else:
            self._callbacks.append(callback)
        return self

    # For the core

    def has_callbacks(self) -> bool:
        return bool(self._callbacks)

    def succeed(self, seq: int) -> None:
        self._seq = seq

    def fail(self, why: Error) -> None:
        self._error = why

    def tell(self) -> None:
        """Run the callbacks."""
        self._told = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
