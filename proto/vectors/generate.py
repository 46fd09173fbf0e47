#!/usr/bin/python3
"""Writes the vectors that README.md describes, with python3-msgpack: so their bytes do not come from the code they test.

    generate.py [--check]"""

import json
import os
import re
import sys

import msgpack

DIRECTORY = os.path.dirname(os.path.abspath(__file__))
CHANNEL = "data_sync_changes"
EPOCH = "018f3c2e9a417d10"
MAX = 2**64 - 1

TYPES = {0: "HELLO", 1: "SUBSCRIBE", 2: "UNSUBSCRIBE", 3: "NOTIFY", 4: "SEND", 5: "PING", 6: "BEGIN", 16: "WELCOME", 17: "OK",
         18: "ERROR", 19: "CHANGE", 20: "MESSAGE", 21: "CHECKPOINT", 22: "GAP", 23: "UPSTREAM", 24: "BYE"}

INFO = {"mode": "postgres", "upstream": "live", "channels": [CHANNEL, "log:text"], "version": "0.1.0"}

GOOD = {
    "hello": [0, 1, "worker", None],
    "hello_without_name": [0, 1, None, None],
    "hello_resume": [0, 1, "worker", [EPOCH, 300, "7;checkpoint"]],
    "hello_resume_without_checkpoint": [0, 1, "", [EPOCH, 0, None]],
    "hello_seq_of_40_bits": [0, 1, "worker", [EPOCH, 2**40, None]],
    "subscribe_all": [1, 1, CHANNEL, None],
    "subscribe_pubkeys": [1, 2, CHANNEL, ["alice", "", "Zoë"]],
    "subscribe_20_pubkeys": [1, 3, CHANNEL, [f"user{i}" for i in range(20)]],
    "subscribe_none": [1, 4, CHANNEL, []],
    "unsubscribe_all": [2, 5, CHANNEL, None],
    "unsubscribe_pubkeys": [2, MAX, CHANNEL, ["alice"]],
    "notify": [3, 127, CHANNEL, "alice", "phone"],
    "notify_without_client": [3, 128, CHANNEL, "alice", None],
    "notify_empty_strings": [3, 255, CHANNEL, "", ""],
    "notify_pubkey_of_32_bytes": [3, 256, CHANNEL, "p" * 32, None],
    "notify_pubkey_of_256_bytes": [3, 65535, CHANNEL, "p" * 256, None],
    "send": [4, 65536, "log", "a line\nand another"],
    "send_empty": [4, 2**32 - 1, "log", ""],
    "ping": [5, 0],
    "ping_id_of_33_bits": [5, 2**32],
    "begin": [6, 6],
    "welcome": [16, 1, EPOCH, 0, INFO],
    "welcome_local": [16, 1, EPOCH, 70000, {**INFO, "mode": "local", "channels": []}],
    "ok": [17, 1, 0],
    "ok_largest_id": [17, MAX, 300],
    "error": [18, 2, "channel", "this relay does not serve it"],
    "error_without_id": [18, None, "unknown-type", "type 99"],
    "change": [19, 301, CHANNEL, "alice", "phone", 0],
    "change_without_client": [19, 302, CHANNEL, "Zoë", None, 0],
    "change_recovered": [19, None, CHANNEL, "alice", None, 1],
    "message": [20, 303, "log", "a line", 0],
    "message_recovered": [20, None, "log", "", 1],
    "message_no_utf8": [20, 304, "log", b"caf\xe9", 0],
    "checkpoint": [21, 305, "7;checkpoint"],
    "gap": [22, 306, "upstream", "PostgreSQL was away"],
    "gap_for_one": [22, None, "overrun", "too slow"],
    "upstream_live": [23, 307, "live", "recovered"],
    "upstream_down": [23, 308, "down", "the connection was lost"],
    "upstream_for_one_worker": [23, None, "live", "it changed while this worker fell behind"],
    "bye": [24, "shutdown", "the relay ends"],
}

# Good, but not as this project's encoder writes them.
UNUSUAL = {
    "notify_bin": (b"\x95\x03\x01\xc4\x03log\xc4\x05alice\xc4\x05phone", [3, 1, b"log", b"alice", b"phone"]),
    "ping_extra_elements": (msgpack.packb([5, 7, "later", {1: 2}]), [5, 7]),
    "ok_extra_elements": (msgpack.packb([17, 7, 8, None, [1]]), [17, 7, 8]),
    "change_extra_element": (msgpack.packb([19, 9, "c", "p", None, 0, "later"]), [19, 9, "c", "p", None, 0]),
    "welcome_extra_info": (msgpack.packb([16, 1, EPOCH, 0, {**INFO, "later": [1, 2]}]), [16, 1, EPOCH, 0, INFO]),
    "ping_array_16": (b"\xdc\x00\x02\x05\x07", [5, 7]),
    "ping_array_32": (b"\xdd\x00\x00\x00\x02\x05\x07", [5, 7]),
    "ping_id_in_9_bytes": (b"\x92\x05\xcf\0\0\0\0\0\0\0\x07", [5, 7]),
    "ping_id_int_64": (b"\x92\x05\xd3\0\0\0\0\0\0\0\x07", [5, 7]),
    "change_str_32": (b"\x96\x13\x09\xdb\0\0\0\x01c\xda\0\x01p\xd9\x01x\xcc\0", [19, 9, "c", "p", "x", 0]),
}

BAD = {
    "number": (b"\x05", "a number, no array"),
    "map": (b"\x81\x05\x01", "a map, no array"),
    "text": (b"GET / HTTP/1.0\r\n", "another protocol"),
    "unused_byte": (b"\x92\x05\xc1", "c1 begins nothing in msgpack"),
    "too_deep": (b"\x95\x05\x01\x91\x91\x91\x91\x01\0\0", "nests 5 deep"),
    "empty": (b"\x90", "an array without a type"),
    "type_str": (b"\x92\xa1x\x01", "the type is no number"),
    "type_negative": (b"\x92\xff\x01", "the type is negative"),
    "array_too_large": (b"\xdd\x7f\xff\xff\xff", "declares 2147483647 elements: larger than a frame may be"),
    "map_too_large": (b"\x92\x05\xdf\x00\x01\x00\x00", "declares 65536 pairs: larger than a frame may be"),
    "str_too_large": (b"\x92\x05\xdb\xff\xff\xff\xff", "declares 4294967295 bytes: larger than a frame may be"),
    "bin_too_large": (b"\x94\x04\x01\xa3log\xc6\x00\x01\x00\x00", "65536 bytes of payload: larger than a frame may be"),
    "hello_short": (msgpack.packb([0, 1, "worker"]), "an element is missing"),
    "hello_name_number": (msgpack.packb([0, 1, 2, None]), "the name is no string"),
    "hello_resume_short": (msgpack.packb([0, 1, None, [EPOCH, 1]]), "resume has 2 elements"),
    "hello_resume_str": (msgpack.packb([0, 1, None, EPOCH]), "resume is no array"),
    "hello_resume_seq_nil": (msgpack.packb([0, 1, None, [EPOCH, None, None]]), "seq is nil"),
    "subscribe_pubkey_number": (msgpack.packb([1, 1, CHANNEL, ["alice", 1]]), "a pubkey is no string"),
    "subscribe_pubkeys_str": (msgpack.packb([1, 1, CHANNEL, "alice"]), "pubkeys is no array"),
    "subscribe_channel_nil": (msgpack.packb([1, 1, None, None]), "the channel is nil"),
    "unsubscribe_short": (msgpack.packb([2, 1, CHANNEL]), "an element is missing"),
    "notify_pubkey_nil": (msgpack.packb([3, 1, CHANNEL, None, None]), "the pubkey is nil"),
    "notify_client_number": (msgpack.packb([3, 1, CHANNEL, "alice", 1]), "the client id is no string"),
    "send_payload_nil": (msgpack.packb([4, 1, "log", None]), "the payload is nil"),
    "ping_short": (msgpack.packb([5]), "an element is missing"),
    "ping_id_negative": (msgpack.packb([5, -1]), "the id is negative"),
    "ping_id_float": (msgpack.packb([5, 1.0]), "the id is no integer"),
    "ping_id_nil": (msgpack.packb([5, None]), "the id is nil"),
    "begin_id_str": (msgpack.packb([6, "1"]), "the id is no number"),
    "welcome_info_array": (msgpack.packb([16, 1, EPOCH, 0, []]), "info is no map"),
    "welcome_channels_str": (msgpack.packb([16, 1, EPOCH, 0, {**INFO, "channels": CHANNEL}]), "channels is no array"),
    "ok_seq_nil": (msgpack.packb([17, 1, None]), "seq is nil"),
    "error_code_number": (msgpack.packb([18, 1, 2, "text"]), "the code is no string"),
    "change_short": (msgpack.packb([19, 1, CHANNEL, "alice", None]), "an element is missing"),
    "change_pubkey_nil": (msgpack.packb([19, 1, CHANNEL, None, None, 0]), "the pubkey is nil"),
    "message_flags_nil": (msgpack.packb([20, 1, "log", "a line", None]), "the flags are nil"),
    "checkpoint_nil": (msgpack.packb([21, 1, None]), "the checkpoint is nil"),
    "gap_cause_nil": (msgpack.packb([22, 1, None, "text"]), "the cause is nil"),
    "upstream_state_bool": (msgpack.packb([23, 1, True, "text"]), "the state is no string"),
    "bye_short": (msgpack.packb([24, "shutdown"]), "an element is missing"),
}

UNKNOWN = {
    "type_7": (msgpack.packb([7, 1]), "a worker's frame of a later version"),
    "type_25": (msgpack.packb([25]), "a relay's frame of a later version"),
    "type_of_64_bits": (msgpack.packb([MAX, "x"]), "the largest type"),
}


def as_json(element):
    """JSON for what it lacks."""
    if isinstance(element, bytes):
        return {"bin": element.hex()}
    if isinstance(element, int) and element > 2**53:
        return {"uint": str(element)}
    if isinstance(element, list):
        return [as_json(e) for e in element]
    return element


def vectors():
    """{file name: bytes}"""
    files = {}

    def add(name, data, description):
        files[name + ".msgpack"] = data
        files[name + ".json"] = (json.dumps(description, ensure_ascii=False) + "\n").encode()
    for name, frame in GOOD.items():
        add("y_" + name, msgpack.packb(frame), {"type": TYPES[frame[0]], "canonical": True, "frame": as_json(frame)})
    for name, (data, frame) in UNUSUAL.items():
        add("y_" + name, data, {"type": TYPES[frame[0]], "canonical": False, "frame": as_json(frame)})
    for prefix, group in (("n_", BAD), ("u_", UNKNOWN)):
        for name, (data, reason) in group.items():
            add(prefix + name, data, {"reason": reason})
    return files


def faults(files):
    """What is not as it should be, as sentences."""
    there = {name for name in os.listdir(DIRECTORY) if name.endswith((".msgpack", ".json"))}
    for name in sorted(there ^ files.keys()):
        yield f"{name} is " + ("missing" if name in files else "none of these")
    for name in sorted(there & files.keys()):
        with open(os.path.join(DIRECTORY, name), "rb") as file:
            if file.read() != files[name]:
                yield f"{name} is not what would be written"
    with open(os.path.join(DIRECTORY, "..", "PROTOCOL.md")) as page:
        documented = {int(number): name for number, name in re.findall(r"^\| `\[(\d+),[^`]*` (\w+) \|", page.read(), re.M)}
    if documented != TYPES:
        yield f"PROTOCOL.md has other types: {documented}"
    for number, name in documented.items():
        if not any(frame[0] == number for frame in GOOD.values()):
            yield f"{name} has no good vector"
        if not any(data[1:2] == bytes([number]) and bad.startswith(name.lower()) for bad, (data, _) in BAD.items()):
            yield f"{name} has no bad vector"


def main():
    files = vectors()
    if sys.argv[1:] == ["--check"]:
        found = list(faults(files))
        print(*found, sep="\n", end="\n" if found else "")
        return 1 if found else 0
    for name, data in files.items():
        with open(os.path.join(DIRECTORY, name), "wb") as file:
            file.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
