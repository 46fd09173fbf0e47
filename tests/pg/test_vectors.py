"""The vectors of proto/vectors, tested with another implementation of msgpack, and against
the relay itself."""

import glob
import json
import os

import msgpack
import pytest

from harness.relay import TOP
from harness.worker import BEGIN, HELLO, PING, pack

OK, ERROR, BYE = 17, 18, 24
VECTORS = os.path.join(TOP, "proto", "vectors")


def vectors(prefix):
    """(name, bytes, description)"""
    for path in sorted(glob.glob(os.path.join(VECTORS, prefix + "_*.msgpack"))):
        with open(path, "rb") as data, open(path.removesuffix("msgpack") + "json", encoding="utf-8") as description:
            yield os.path.basename(path).removesuffix(".msgpack"), data.read(), json.load(description)


def from_workers(prefix):
    """The vectors that are not frames of the relay."""
    return [pytest.param(data, id=name) for name, data, _ in vectors(prefix)
            if data[0] & 0xf0 != 0x90 or data[1:2] not in [bytes([n]) for n in range(16, 25)]]


def plain(element):
    """Replace the notation for what JSON lacks."""
    if isinstance(element, dict) and element.keys() == {"bin"}:
        return bytes.fromhex(element["bin"])
    if isinstance(element, dict) and element.keys() == {"uint"}:
        return int(element["uint"])
    return [plain(e) for e in element] if isinstance(element, list) else element


def test_the_generator_would_write_the_same(run):
    assert run.call([os.path.join(VECTORS, "generate.py"), "--check"]) == ""


def test_the_descriptions_are_of_the_bytes():
    for name, data, description in vectors("y"):
        expected, found = plain(description["frame"]), msgpack.unpackb(data, strict_map_key=False)
        if name == "y_welcome_extra_info":
            del found[4]["later"]
        assert found[:len(expected)] == expected, name


def answers(relay, data):
    """The relay's frames after these bytes, up to the answer to a PING after them or to its
    BYE."""
    raw, unpacker, frames = relay.raw(), msgpack.Unpacker(), []
    kind = data[1] if data[0] & 0xf0 == 0x90 and len(data) > 1 else None
    if kind != HELLO:
        raw.write(pack(HELLO, 1, "vectors", ["gone", 1, None] if kind == BEGIN else None))
    # In one go: the relay may have closed before a second write.
    raw.write(data + pack(PING, 12345))
    while True:
        unpacker.feed(raw.socket.recv(65536))
        for frame in unpacker:
            frames.append(frame)
            if frame[0] == BYE or frame[:2] == [OK, 12345]:
                return frames


@pytest.mark.parametrize("data", from_workers("y"))
def test_the_relay_takes_good_frames(local_relay, data):
    assert BYE not in [f[0] for f in answers(local_relay, data)]


@pytest.mark.parametrize("data", from_workers("n"))
def test_the_relay_sends_bad_ones_away(local_relay, data):
    last = answers(local_relay, data)[-1]
    assert last[:2] == [BYE, "protocol"]


@pytest.mark.parametrize("data", from_workers("u"))
def test_the_relay_says_which_it_does_not_know(local_relay, data):
    assert [f[1:3] for f in answers(local_relay, data) if f[0] == ERROR] == [[None, "unknown-type"]]
