"""The bytes of PROTOCOL.md: frames from the relay are cut out of the stream and checked, frames to
the relay are packed. It leaves out what a frame means. `core` is its only caller.

A frame from the relay becomes a list whose first element is the type. It has exactly the elements
that this version knows, and strings are str. A string that is not UTF-8 keeps its bytes as lone
surrogates; the payload of a message is then bytes."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

import msgpack

__all__ = ["Decoder", "pack"]

VERSION = 1
FRAME_MAX = 65536
DEPTH_MAX = 4

HELLO, SUBSCRIBE, UNSUBSCRIBE, NOTIFY, SEND, PING, BEGIN = range(7)
WELCOME, OK, ERROR, CHANGE, MESSAGE, CHECKPOINT, GAP, UPSTREAM, BYE = range(16, 25)

RECOVERED = 1  # bit 0 of the flags of CHANGE and MESSAGE

# How many elements an array or a map may declare for msgpack to read it at once: it allocates what a
# header declares. A frame with more is measured first.
QUICK_MAX = 256


class Malformed(Exception):
    """What arrived is not a frame."""


def pack(frame: List[Any]) -> bytes:
    """The bytes of a frame. Strings must be UTF-8."""
    data: bytes = msgpack.packb(frame, use_bin_type=True)
    return data


class _Pairs(tuple):  # type: ignore[type-arg]
    """A map as it came: its keys may be anything."""


# The elements of a frame. Each function returns the element, or raises Malformed.


def _uint(value: Any) -> Any:
    if type(value) is not int or value < 0:
        raise Malformed
    return value


def _uint_or_nil(value: Any) -> Any:
    return None if value is None else _uint(value)


def _text(value: Any) -> Any:
    if type(value) is bytes:
        return value.decode("utf-8", "surrogateescape")
    if type(value) is not str:
        raise Malformed
    return value


def _text_or_nil(value: Any) -> Any:
    return None if value is None else _text(value)


def _payload(value: Any) -> Any:
    data = value.encode("utf-8", "surrogateescape") if type(value) is str else value
    if type(data) is not bytes:
        raise Malformed
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _info(value: Any) -> Any:
    if type(value) is not _Pairs:
        raise Malformed
    info = {_text(key): element for key, element in value}
    for key in ("mode", "upstream", "version"):
        if key in info:
            info[key] = _text(info[key])
    if type(info.setdefault("channels", [])) is not list:
        raise Malformed
    info["channels"] = [_text(channel) for channel in info["channels"]]
    return info


ELEMENTS: Dict[int, Tuple[Callable[[Any], Any], ...]] = {
    WELCOME: (_uint, _text, _uint, _info),
    OK: (_uint, _uint),
    ERROR: (_uint_or_nil, _text, _text),
    CHANGE: (_uint_or_nil, _text, _text, _text_or_nil, _uint),
    MESSAGE: (_uint_or_nil, _text, _payload, _uint),
    CHECKPOINT: (_uint_or_nil, _text),
    GAP: (_uint_or_nil, _text, _text),
    UPSTREAM: (_uint_or_nil, _text, _text),
    BYE: (_text, _text),
}


def _check(frame: List[Any], elements: Tuple[Callable[[Any], Any], ...]) -> List[Any]:
    """A frame with just these elements after its type."""
    return frame[:1] + [element(value) for element, value in zip(elements, frame[1:])]


# The formats of msgpack by first byte: bytes of a count that follows it, bytes after the count whatever it
# is, the count if the first byte holds it, and elements for each of the count (0: it counts bytes).
_Format = Optional[Tuple[int, int, int, int]]
_FROM_C0: List[_Format] = [
    (0, 0, 0, 0), None, (0, 0, 0, 0), (0, 0, 0, 0),  # nil, never used, false, true
    (1, 0, 0, 0), (2, 0, 0, 0), (4, 0, 0, 0),  # bin
    (1, 1, 0, 0), (2, 1, 0, 0), (4, 1, 0, 0),  # ext
    (0, 4, 0, 0), (0, 8, 0, 0),  # float
    (0, 1, 0, 0), (0, 2, 0, 0), (0, 4, 0, 0), (0, 8, 0, 0),  # uint
    (0, 1, 0, 0), (0, 2, 0, 0), (0, 4, 0, 0), (0, 8, 0, 0),  # int
    (0, 2, 0, 0), (0, 3, 0, 0), (0, 5, 0, 0), (0, 9, 0, 0), (0, 17, 0, 0),  # fixext
    (1, 0, 0, 0), (2, 0, 0, 0), (4, 0, 0, 0),  # str
    (2, 0, 0, 1), (4, 0, 0, 1), (2, 0, 0, 2), (4, 0, 0, 2),  # array, map
]
FORMATS: List[_Format] = (
    [(0, 0, 0, 0)] * 0x80 + [(0, 0, n, 2) for n in range(16)] + [(0, 0, n, 1) for n in range(16)]
    + [(0, 0, n, 0) for n in range(32)] + _FROM_C0 + [(0, 0, 0, 0)] * 0x20)


class _Measure:
    """Where the elements of one frame begin, and at last where it ends, while it arrives. Each byte is
    looked at once, and nothing is allocated for what a header declares."""

    def __init__(self) -> None:
        self.offset = 0
        self.offsets: List[int] = []
        self._left: List[int] = []  # elements that are still to come, by depth

    def advance(self, data: bytes, start: int = 0) -> bool:
        """data: with all of the frame that has arrived, from `start` on. Returns whether it is whole.
        Raises Malformed."""
        length, left = len(data) - start, self._left
        while self.offset < length and not self._ended():
            token = FORMATS[data[start + self.offset]]
            if token is None or (not left and token[3] != 1):
                raise Malformed
            count_len, fixed_len, count, elements_per = token
            header = 1 + count_len
            if self.offset + header > length:
                return False
            if count_len:
                at = start + self.offset
                count = int.from_bytes(data[at + 1:at + header], "big")
            body = count * elements_per if elements_per else count + fixed_len
            # Every element has at least one byte.
            if self.offset + header + body > FRAME_MAX:
                raise Malformed
            self._step(header, body, elements_per > 0)
        return self._ended() and self.offset <= length

    def _step(self, header: int, body: int, nests: bool) -> None:
        left = self._left
        if left:
            if len(left) == 1:
                self.offsets.append(self.offset)
            left[-1] -= 1
        self.offset += header
        if nests:
            if len(left) == DEPTH_MAX:
                raise Malformed
            left.append(body)
        else:
            self.offset += body
        while left and left[-1] == 0:
            left.pop()
        if not left:
            self.offsets.append(self.offset)

    def _ended(self) -> bool:
        return self.offset > 0 and not self._left


class Decoder:
    """Cuts a stream into frames."""

    def __init__(self) -> None:
        self._rest = b""  # from the beginning of the first frame that is not whole
        self._measure = _Measure()  # of that frame
        self._unpacker: Optional[msgpack.Unpacker] = None  # None: only its measure can tell
        self._begin()

    def _begin(self) -> None:
        """An unpacker for the rest, which begins with a frame."""
        self._unpacker = msgpack.Unpacker(
            raw=False, unicode_errors="surrogateescape", strict_map_key=False, object_pairs_hook=_Pairs,
            read_size=FRAME_MAX, max_buffer_size=0, max_str_len=FRAME_MAX, max_bin_len=FRAME_MAX, max_ext_len=FRAME_MAX,
            max_array_len=QUICK_MAX, max_map_len=QUICK_MAX)
        self._unpacker.feed(self._rest)
        self._start = 0  # where the rest begins, as the unpacker counts

    def feed(self, data: bytes) -> Tuple[List[List[Any]], bool]:
        """The frames that are whole now, without those of unknown types. And whether all is well:
        if not, malformed bytes follow these frames, and the rest of the stream cannot be read."""
        frames: List[List[Any]] = []
        self._rest += data
        if self._unpacker:
            self._unpacker.feed(data)
        try:
            if self._unpacker:
                self._quick(frames)
            while self._measure.advance(self._rest):
                # Whole, and not msgpack's.
                self._take(self._measure, 0, frames)
                self._rest = self._rest[self._measure.offset:]
                self._measure = _Measure()
                self._begin()
                self._quick(frames)
        except Malformed:
            return frames, False
        return frames, True

    def _quick(self, frames: List[List[Any]]) -> None:
        """Take those that msgpack finds, up to one that is not whole, or that it refuses: one with more
        than QUICK_MAX, or a malformed one."""
        unpacker = self._unpacker
        assert unpacker
        first = last = self._start
        try:
            for frame in unpacker:
                end = unpacker.tell()
                # By far the most are such, and there is nothing to convert in them.
                if type(frame) is list and len(frame) == 6 and frame[0] == CHANGE and end - last <= FRAME_MAX:
                    _, seq, channel, pubkey, client_id, flags = frame
                    if (type(seq) is int and type(channel) is str and type(pubkey) is str and type(flags) is int
                            and (client_id is None or type(client_id) is str) and seq >= 0 <= flags):
                        frames.append(frame)
                        last = end
                        continue
                elements = ELEMENTS.get(frame[0]) if type(frame) is list and frame else None
                if elements is None or len(frame) != len(elements) + 1 or end - last > FRAME_MAX or frame[0] == WELCOME:
                    self._take(_Measure(), last - first, frames)
                else:
                    frames.append(_check(frame, elements))
                last = end
        except Malformed:
            raise
        except Exception:
            self._unpacker = None
        if last > first:
            self._rest = self._rest[last - first:]
            self._measure, self._start = _Measure(), last

    def _take(self, measure: _Measure, start: int, frames: List[List[Any]]) -> None:
        """Take a frame that is whole, whatever the elements are that this version does not know."""
        measure.advance(self._rest, start)
        offsets = [start + offset for offset in measure.offsets]
        elements = ELEMENTS.get(_uint(self._unpack(offsets, 0)))
        if elements is None:
            return
        if len(offsets) <= len(elements) + 1:
            raise Malformed
        frames.append(_check([self._unpack(offsets, i) for i in range(len(elements) + 1)], elements))

    def _unpack(self, offsets: List[int], i: int) -> Any:
        """Element i of a frame."""
        if i + 1 >= len(offsets):
            raise Malformed
        try:
            return msgpack.unpackb(self._rest[offsets[i]:offsets[i + 1]], raw=False, strict_map_key=False,
                                   unicode_errors="surrogateescape", object_pairs_hook=_Pairs)
        except Exception:
            raise Malformed from None
