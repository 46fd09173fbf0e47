"""The place in the relay's order: when it moves, as PROTOCOL.md says under "The cursor", and its
text, which an app may store. The text is that of every client: `1 SEQ EPOCH` or
`1 SEQ EPOCH CHECKPOINT`, where 1 is the version of the form. Space, percent and all bytes outside
printable ASCII are written %XX."""

from __future__ import annotations

import errno
import re
from typing import List, Optional

from .errors import error

__all__ = ["Cursor"]

# Bytes. More than PROTOCOL.md allows, so that a later relay may send longer ones.
EPOCH_MAX = 255
CHECKPOINT_MAX = 2000

SEQ_MAX = (1 << 64) - 1
_FORM = re.compile(r"1 ([0-9]+) ((?:[!-$&-~]|%[0-9A-F]{2})*)(?: ((?:[!-$&-~]|%[0-9A-F]{2})*))?", re.ASCII)


def _escape(text: str) -> str:
    data = text.encode("utf-8", "surrogateescape")
    return "".join(chr(c) if 0x20 < c < 0x7f and c != 0x25 else f"%{c:02X}" for c in data)


def _unescape(text: str) -> str:
    data = re.sub(rb"%(..)", lambda m: bytes([int(m[1], 16)]), text.encode("ascii"), flags=re.S)
    return data.decode("utf-8", "surrogateescape")


def _length(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))


class Cursor:
    """A cursor that is told what the relay sent."""

    __slots__ = ("_catching_up", "_next_epoch", "_replay", "checkpoint", "epoch", "seq")

    def __init__(self, text: Optional[str] = None) -> None:
        """text: of an earlier cursor. Raises CursorError."""
        self.epoch: Optional[str] = None  # None: never connected, and none was given
        self.seq = 0
        self.checkpoint: Optional[str] = None
        # From a WELCOME until the OK to BEGIN it keeps its old place. Otherwise a connection that is
        # lost in between would skip what is still to come.
        self._catching_up = False
        self._replay = False  # the epoch is its own: seqs count even while catching up
        self._next_epoch = ""
        if text is not None:
            self._parse(text)

    def _parse(self, text: str) -> None:
        found = _FORM.fullmatch(text) if isinstance(text, str) else None
        if not found or len(found[1].lstrip("0")) > 20 or int(found[1]) > SEQ_MAX:
            raise error(errno.EBADMSG)
        self.seq, self.epoch = int(found[1]), _unescape(found[2])
        self.checkpoint = None if found[3] is None else _unescape(found[3])
        if _length(self.epoch) > EPOCH_MAX or _length(self.checkpoint or "") > CHECKPOINT_MAX:
            raise error(errno.EBADMSG)

    def text(self) -> Optional[str]:
        """None if it has no place yet."""
        if self.epoch is None:
            return None
        parts = ["1", str(self.seq), _escape(self.epoch)]
        return " ".join(parts if self.checkpoint is None else parts + [_escape(self.checkpoint)])

    def resume(self) -> Optional[List[object]]:
        """The element of HELLO."""
        return None if self.epoch is None else [self.epoch, self.seq, self.checkpoint]

    def welcome(self, epoch: str, seq: int) -> None:
        """WELCOME came, on a connection whose HELLO had a resume exactly if the cursor had a place."""
        self._next_epoch, self._replay, self._catching_up = epoch, epoch == self.epoch, True
        if self.epoch is None:
            self.caught_up(seq)

    def caught_up(self, seq: int) -> None:
        """The OK to BEGIN came."""
        self.epoch, self.seq, self._catching_up = self._next_epoch, seq, False

    def passed(self, seq: Optional[int]) -> None:
        """A frame with this seq was handled."""
        if seq is not None and seq > self.seq and (self._replay or not self._catching_up):
            self.seq = seq

    def checked(self, seq: Optional[int], checkpoint: str) -> None:
        """A CHECKPOINT came. One that is too long is ignored: with an older one, more is owed, not less."""
        if seq is not None and (self._replay or not self._catching_up) and _length(checkpoint) <= CHECKPOINT_MAX:
            self.checkpoint = checkpoint
        self.passed(seq)
