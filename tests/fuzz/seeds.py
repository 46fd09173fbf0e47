#!/usr/bin/python3
"""Writes the seeds of each fuzz target: from the vectors, and conversations that get far.

    seeds.py DIRECTORY     makes DIRECTORY/TARGET/... again"""

import glob
import os
import shutil
import sys

import msgpack

HERE = os.path.dirname(os.path.abspath(__file__))
VECTORS = os.path.join(HERE, "..", "..", "proto", "vectors")
EPOCH = "0123456789abcdef0123456789abcdef"
TOKEN = "7412345678901234567;00000001;0/1A2B3C4;745:750:746,748"


def vectors(pattern="*"):
    for path in sorted(glob.glob(os.path.join(VECTORS, pattern + ".msgpack"))):
        with open(path, "rb") as file:
            yield file.read()


def pack(*frames):
    return b"".join(msgpack.packb(frame) for frame in frames)


def u16(number):
    return number.to_bytes(2, "little")


def short(text):
    """A string after its length."""
    data = text if isinstance(text, bytes) else text.encode()
    return bytes([len(data)]) + data


def wire():
    whole = [b"\0" + data for data in vectors()]
    torn = [bytes([3, 1, 1, 2]) + data for data in vectors("y_*")]
    together = [b"\2\5\x40" + b"".join(vectors("y_" + kind + "*")) for kind in ("change", "subscribe", "hello", "ping")]
    return whole + torn + together


def change():
    payloads = [b'{"p":"alice","c":"phone"}', b'{"p":"alice"}', b'{"p":"","c":""}', b'{"p":"alice","c":null}',
                b' { "c" : "x", "p" : "y", "z" : [1, 2.5e300, {"a": true}] } ', b'{"p":"a","p":"b"}',
                b'{"p":"\\u0000\\ud83d\\ude00\\n"}', '{"p":"Zoë"}'.encode(), b'{"p":"\x7f"}', b'{"p":"' + b"x" * 100 + b'"}',
                b'{"p":"0123456789abcde"}', b'{"p":"0123456789abcdef","c":"0123456789abcdef0"}', b'{"p":"a\tb"}', b'{"p":1}',
                b'{"p":"a"}x', b'{"p":"a"', b'{"p":"a","c":5}', b'{"p":"x","n":123456789012345678901234567890}']
    strings = [("alice", "phone"), ("", ""), ("<&>\u2028\u2029\"\\", "\b\f\n\r\t\x01"), ("Zoë", "\U0001f600"),
               (b"\xed\xa0\x80", "x"), (b"\xc0\x80", b"\xf4\x90\x80\x80")]
    encoded = []
    for p, c in strings:
        p, c = (s if isinstance(s, bytes) else s.encode() for s in (p, c))
        encoded += [bytes([kind]) + u16(len(p)) + u16(10) + p + c for kind in (1, 3)]
    return [b"\0" + payload for payload in payloads] + encoded


def checkpoint():
    return [token.encode() + b"\n" + other.encode()
            for token in (TOKEN, "1;1;0/1;3:3:", "1;1;FFFFFFFF/FFFFFFFF;1:9:1,8", "0/16B3748", "0x1/0")
            for other in (TOKEN, "1;2;0/1;3:3:", "0/16B3748", "1;1;0/1;5:4:", "x")]


SETTINGS = 27  # rows of the table in relay/base/settings.c


def config():
    def setting(number, value, flag):
        return bytes([number]) + short(value) + bytes([flag])

    def url(number, user, behind, rest, flag):
        return bytes([128 + number]) + short(user) + short(behind) + short(rest) + b"\0" + bytes([flag])
    # The target takes a byte modulo the number of settings; from 128 up, it makes a URL with a password.
    first = -128 % SETTINGS
    seeds = [url(first + n, "app", behind, "db.example:5432/sync" + tail, flag) for n in (0, 1) for flag in (0, 1)
             for behind in ("", "@", "/", "%41", "%zz", "?#[") for tail in ("", "?sslmode=require", "?password=other")]
    values = {0: ["postgres://a@b/c", "host=a dbname=b"], 2: ["/tmp/relay.sock", "x" * 120], 3: ["0660", "888", "1777"], 4: ["none"],
              5: ["/tmp/m"], 6: ["data", "data,log:text", "a,a", "pgherald_canary", ",", "a:b", "x" * 64, ",".join(f"c{i}" for i in range(64))],
              7: ["64K", "1G", "65G", "3M", "-1", "18446744073709551615G", ""], 8: ["5", "0.1", "nan", "inf", "1e9", "0x1p3"],
              9: ["yes", "off", "maybe"], 10: ["0", "1e9", "-0"], 11: ["10"],
              12: ["*=both", "root=listen,@root=publish:data", "root=both,nobody=listen", "@7=listen", "nosuchuser=both", "root=x", "root",
                   "*=listen:nochannel", "  0=both , 1=listen", "4294967295=both", "-1=both"],
              13: ["1", "1M"], SETTINGS - 1: ["debug", "loud"]}
    seeds += [setting(n, value, flag) for n, of in values.items() for value in of for flag in (0, 1)]
    seeds += [setting(6, "data,log:text", 0) + setting(12, "root=listen:log,@root=publish:data", 1)]
    return seeds


def raw(worker, data):
    """A step of session: bytes of one worker."""
    return bytes([(worker + 1) << 4]) + u16(len(data)) + data


TURN = b"\7"


def session():
    hello = [0, 1, "x", None]
    resume = [0, 1, "x", [EPOCH, 1, "7;00000001;0/1;3:3:"]]
    foreign = [0, 1, "x", ["other", 1, None]]
    seeds = [raw(0, pack(hello)) + raw(0, data) + TURN for data in vectors()]
    seeds += [raw(0, data) + TURN for data in vectors("y_hello*")]
    hear = b"\3\7\0" + b"\3\7\1" + b"\3\1\0" + b"\3\2\0" + b"\3\0\20" + b"\3\3\1"
    busy = raw(0, pack(hello, [1, 1, "data", None], [3, 2, "data", "user1", "me"], [4, 3, "log", "hello"], [5, 4])) + TURN + hear
    seeds += [busy + TURN, busy + b"\3\4\0" * 3 + TURN + b"\x14\xff\xff" + TURN]
    one = raw(1, pack(hello, [1, 1, "data", ["user1", "user0"]])) + TURN + hear + TURN
    seeds += [one + b"\3\4\0" * 2 + b"\x24\xff\xff" + TURN * 3 + hear + TURN]
    for first in (resume, foreign):
        seeds.append(hear + raw(2, pack(first, [1, 1, "data", ["user1"]])) + TURN + hear + raw(2, pack([6, 9])) + TURN + hear + TURN)
    # Falls out of the backlog, and is caught up; one that does not read its answers; evicted; gone.
    slow = raw(1, pack(hello, [1, 1, "data", None], [1, 1, "log", None])) + TURN + b"\3\4\0" * 6
    seeds += [slow + b"\x24\xff\xff" * 40 + hear, raw(1, pack(hello) + pack([5, 1]) * 3000) + TURN * 4 + b"\x24\xff\xff" * 4 + TURN,
              slow + b"\x06\4" + TURN, slow + b"\x2d" + hear, slow + b"\x25" + hear + TURN]
    # Frames that the target makes.
    seeds.append(b"\x11\0\0\1x" + b"\x11\1\1" + b"\x11\1\x20" + b"\x11\3\1" + b"\x11\x44\0\2hi" + b"\x11\5\1" + b"\x11\6\1" + TURN)
    seeds.append(b"\x21\0\7\3abc\1" + b"\x21\1\xf0" + TURN + b"\x21\6\1" + hear + TURN + b"\x21\2\xf0" + TURN)
    return seeds


def ops():
    commands = ["", "status", "workers", "channels", "upstream", "tail", "tail data", "tail data alice", "tail log", "metrics", "config",
                "help", "version", "kill 1", "kill 99", "log debug", "log loud", "reconnect", "nonsense", "tail nochannel"]
    seeds = []
    for command in commands:
        for tail in ("", " json"):
            line = (command + tail).encode() + b"\n"
            seeds += [b"\0" + line, b"\2" + short(b"name \x1b[31m\"\xff") + line + line]
    everything = "\n".join(commands).encode() + b"\n"
    pieces = b"".join(short(everything[i:i + 7]) for i in range(0, len(everything), 7))
    seeds += [b"\1" + pieces, b"\x0b" + short("a") + pieces, b"\0" + everything, b"\1" + b"\xff" + b"x" * 255 + (b"\xff" + b"y" * 255) * 17 + short("\nhelp\n"),
              b"\1" + short("metrics\n" * 31) * 3, b"\0" + b"x" * 5000 + b"\nhelp",
              b"\0tail log json\0\0\n"]
    return seeds


def http():
    requests = ["GET /metrics HTTP/1.0\r\n\r\n", "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n", "HEAD /metrics HTTP/1.1\r\n\r\n",
                "GET /healthz HTTP/1.0\n\n", "GET / HTTP/1.0\r\n\r\n", "POST /metrics HTTP/1.0\r\n\r\nbody", "GET /metrics?x=y HTTP/1.0\r\n\r\n",
                "GET /metrics\r\n\r\n", "\r\n\r\n", "GET  /metrics  HTTP/1.0\r\n\r\n", "OPTIONSX / HTTP/1.1\r\n\r\n", "GET /" + "x" * 80 + " HTTP/1.0\r\n\r\n",
                "GET /metrics HTTP/1.0\r\nX: " + "x" * 4090 + "\r\n\r\n", "GET /metrics HTTP/2.0\r\n\r\n", "get /metrics HTTP/1.0\r\n\r\n",
                "GET/metrics HTTP/1.0\r\n\r\n", "HEAD/metrics HTTP/1.1\r\n\r\n"]
    return [tears + request.encode() for request in requests for tears in (b"\0", b"\3\1\4\x10")]


def cursor():
    texts = ["1 0 e", "1 18446744073709551615 " + EPOCH, "1 7 " + EPOCH + " " + TOKEN, "1 7 a%20b %25%FF", "1 7 ", "1 7  ", "2 7 e", "1 -7 e",
             "1 7 %zz", "1 18446744073709551616 e", "1 7 " + "e" * 256, "1 7 e " + "c" * 2001]
    talk = b"\0" + u16(1) + b"e\5" + b"\1\7" + b"\2\x08" + u16(3) + b"a b" + b"\3" + u16(9) + b"\1\x0a"
    other = b"\0" + u16(300) + b"e" * 300 + b"\5" + b"\0" + u16(2) + b"\xff \5" + b"\3" + u16(1) + b"\2\xff" + u16(2001) + b"c" * 2001
    return [text.encode() + b"\n" + tail for text in texts for tail in (b"", talk, other)]


def client():
    def send(data, more=0):
        return bytes([more]) + u16(len(data)) + data
    info = {"mode": "local", "upstream": "live", "channels": ["data", "log:text"], "version": "1"}
    welcome = [16, 1, "e", 5, info]
    subscribe, notify, ok = b"\5\1", b"\5\x44", b"\3\x0f\6"
    greet = subscribe + b"\5\x42" + send(pack(welcome)) + ok + ok
    seeds = [b"\0" + subscribe + send(pack(welcome)) + send(data) + b"\7" for data in vectors()]
    seeds += [start + greet + notify + ok + send(pack([19, 6, "data", "alice", None, 0], [20, 7, "log", "x", 0], [21, 8, TOKEN], [22, 9, "overrun", "t"],
              [23, 10, "down", "t"])) + b"\5\7" + b"\x0e" + b"\x46" * 4 + b"\7" * 3 + greet + b"\3\x0f\x09" + send(pack([24, "shutdown", "t"]))
              for start in (b"\0", b"\1", b"\2", b"\3")]
    # Callbacks that close, subscribe and publish; answers that refuse; deadlines.
    seeds += [b"\0" + subscribe + send(pack(welcome)) + bytes([what]) * 8 for what in (0x88, 1, 4, 3, 7, 9)]
    seeds += [b"\0" + greet + b"\5\x44" * 3 + b"\3" + bytes([code]) + b"\5\1" + b"\3" + bytes([code]) for code in range(10)]
    seeds += [b"\0" + greet + notify + b"\xf6" * 2 + b"\7" * 2, b"\x40" + subscribe + notify + b"\7" * 3 + b"\5\7"]
    seeds.append(b"\0" + b"".join(b"\5\x09" + short("user%d" % i) for i in range(40)) + send(pack(welcome)) + ok)
    # What the target makes.
    seeds.append(b"\1\1\0\5\1e" + subscribe + b"\1\2\6\2me" + b"\1\x14\7\2hi" + b"\1\5\x08\3tok" + b"\1\x0e\x09\1g" + b"\1\6\x0a\1d" + b"\1\7\0\1b")
    return seeds


TARGETS = [wire, change, checkpoint, config, session, ops, http, cursor, client]


def main():
    top = sys.argv[1]
    shutil.rmtree(top, ignore_errors=True)
    for target in TARGETS:
        directory = os.path.join(top, target.__name__)
        os.makedirs(directory)
        for number, seed in enumerate(target()):
            with open(os.path.join(directory, f"seed{number:03}"), "wb") as file:
                file.write(seed)


if __name__ == "__main__":
    main()
