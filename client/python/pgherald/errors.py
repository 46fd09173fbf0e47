"""What can go wrong. Every exception of this package is an `Error` with an `errno`, the same as the
C library gives, and a text for people."""

from __future__ import annotations

import errno
from typing import Dict, Optional, Type

__all__ = [
    "ArgumentError", "BusyError", "CancelledError", "ChannelError", "ClosedError", "CursorError",
    "DeniedError", "Error", "ForkedError", "LimitError", "NotSubscribedError", "QueueFullError",
    "RefusedError", "RejectedError", "TimedOutError",
]


class Error(OSError):
    """The base of all. `errno` is a number of the module errno, and `strerror` says it in words:
    those of the relay, if it gave any."""


class ArgumentError(Error, ValueError):
    """An argument cannot be used. errno is EINVAL (empty, too long for a channel or a name, too
    small), EMSGSIZE (more than 7999 bytes), EILSEQ (not UTF-8, or a NUL in a payload) or
    ENAMETOOLONG (the socket's path)."""


class CursorError(ArgumentError):
    """The cursor is malformed. errno is EBADMSG."""


class NotSubscribedError(Error, LookupError):
    """There is no such subscription. errno is ENOENT."""


class ClosedError(Error):
    """The client was closed. errno is ESHUTDOWN."""


class ForkedError(Error):
    """The client belongs to the parent process: open one after the fork. errno is ECHILD."""


class QueueFullError(Error):
    """`queue_size` bytes of requests wait already: wait for their outcome. errno is ENOBUFS."""


class ChannelError(Error):
    """The relay does not serve the channel, or it is of the other kind. errno is ENXIO."""


class DeniedError(Error, PermissionError):
    """The relay's operator does not allow it on this channel. errno is EACCES."""


class LimitError(Error):
    """The relay's limit of subscriptions is reached. errno is EDQUOT."""


class BusyError(Error):
    """The relay's queue is full; not published. errno is EBUSY."""


class RejectedError(Error):
    """PostgreSQL refused it; not published; the text says why. errno is EREMOTEIO."""


class RefusedError(Error):
    """The relay refused it for another reason. errno is EPROTO, EILSEQ or EMSGSIZE."""


class TimedOutError(Error, TimeoutError):
    """It is not known to be committed in time; it may still be published. errno is ETIMEDOUT."""


class CancelledError(Error):
    """It was unsubscribed before it was live, or the client was closed: then a request to publish
    may still be published. errno is ECANCELED."""


TEXTS = {
    errno.EACCES: "the relay's operator does not allow it",
    errno.EBADMSG: "the cursor is malformed",
    errno.EBUSY: "the relay's queue is full",
    errno.ECANCELED: "cancelled",
    errno.ECHILD: "the client belongs to another process: open one after the fork",
    errno.EDEADLK: "called inside a callback",
    errno.EDQUOT: "the relay's limit of subscriptions is reached",
    errno.EILSEQ: "a string is not valid UTF-8, or contains a NUL",
    errno.EINVAL: "invalid argument",
    errno.EMSGSIZE: "too long",
    errno.ENAMETOOLONG: "the socket path is too long",
    errno.ENOBUFS: "the queue of requests is full",
    errno.ENOENT: "no such subscription",
    errno.ENXIO: "the relay does not serve this channel, or the channel is of the other kind",
    errno.EPROTO: "the relay refused it",
    errno.EREMOTEIO: "PostgreSQL refused it",
    errno.ESHUTDOWN: "the client was closed",
    errno.ETIMEDOUT: "not known to be published in time",
}

# Of calls that fail at once, and of requests that the relay or the client has ended.
CLASSES: Dict[int, Type[Error]] = {
    errno.EACCES: DeniedError,
    errno.EBADMSG: CursorError,
    errno.EBUSY: BusyError,
    errno.ECANCELED: CancelledError,
    errno.ECHILD: ForkedError,
    errno.EDQUOT: LimitError,
    errno.EILSEQ: ArgumentError,
    errno.EINVAL: ArgumentError,
    errno.EMSGSIZE: ArgumentError,
    errno.ENAMETOOLONG: ArgumentError,
    errno.ENOBUFS: QueueFullError,
    errno.ENOENT: NotSubscribedError,
    errno.ENXIO: ChannelError,
    errno.EREMOTEIO: RejectedError,
    errno.ESHUTDOWN: ClosedError,
    errno.ETIMEDOUT: TimedOutError,
}

# By the code of an ERROR frame. A code that is not here is EPROTO.
ERRNOS = {
    "channel": errno.ENXIO,
    "denied": errno.EACCES,
    "invalid": errno.EILSEQ,
    "too-long": errno.EMSGSIZE,
    "limit": errno.EDQUOT,
    "busy": errno.EBUSY,
    "timeout": errno.ETIMEDOUT,
    "rejected": errno.EREMOTEIO,
}


def error(number: int, text: Optional[str] = None) -> Error:
    """The exception for an errno."""
    return CLASSES.get(number, Error)(number, text or TEXTS[number])


def error_of_code(code: str, text: str) -> Error:
    """The exception for an ERROR frame."""
    number = ERRNOS.get(code, errno.EPROTO)
    if number in (errno.EPROTO, errno.EILSEQ, errno.EMSGSIZE):
        return RefusedError(number, text)
    return CLASSES[number](number, text)
