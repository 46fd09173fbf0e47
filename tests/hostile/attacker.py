"""One attacker: a process of a user who is not the healthy workers', that does one thing as fast as it can until SIGTERM ends it.

    attacker.py NAME JSON       what it needs to know: paths, the database, a checkpoint, a seed

Says "attacking" when it has begun, and at the end how much it did: the scene checks that it did something. The attacks of a role
in the database come as one that may only connect.
"""

import itertools
import json
import os
import random
import select
import signal
import socket
import sys
import time
from types import SimpleNamespace


import msgpack
import psycopg2

from harness.worker import BEGIN, CHANNEL, FRAME_MAX, HELLO, NOTIFY, PING, SEND, SUBSCRIBE, UNSUBSCRIBE, pack

NOBODY, NOGROUP = 65534, 65534
USERS = 20
GREETING = pack(HELLO, 1, "attacker", None)
ALL = pack(SUBSCRIBE, 1, CHANNEL, None)
# A frame that unsubscribes as often as one can: an empty string has one byte.
UNSUBSCRIBES = pack(UNSUBSCRIBE, 1, CHANNEL, [""] * (FRAME_MAX - 32))
CANARY = "pgherald_canary"

told = SimpleNamespace()  # what the scene said
did = {"connections": 0, "bytes": 0, "notifications": 0}


def attacking():
    print("attacking", flush=True)


def on_end(*_):
    print(json.dumps(did), flush=True)
    os._exit(0)


def connect(path, blocking=False):
    """None: there is no room in the queue of those who connect."""
    s = socket.socket(socket.AF_UNIX)
    s.setblocking(blocking)
    try:
        s.connect(path)
    except (BlockingIOError, ConnectionRefusedError):
        s.close()
        return None
    did["connections"] += 1
    return s


def close_oldest(lines, count):
    for s in lines[:count]:
        s.close()
    del lines[:count]
    time.sleep(0.001)


# Many connections at once

class Group(SimpleNamespace):
    """Connections alike. first: what each says at once, a function; again: what it then says for ever. reads: whether it takes what
    it is sent. bite: bytes that it sends at a time."""

    def __init__(self, count, first, again=b"", reads=True, bite=1 << 17, path=None):
        super().__init__(count=count, first=first, again=memoryview(again), reads=reads, bite=bite, path=path or told.path)


class Member:
    def __init__(self, group, s):
        self.group, self.socket = group, s
        self.left = memoryview(group.first())

    def sends(self):
        if not self.left:
            self.left = self.group.again
        n = self.socket.send(self.left[:self.group.bite])
        self.left = self.left[n:]
        did["bytes"] += n

    def takes(self):
        if not self.socket.recv(1 << 16):
            raise ConnectionResetError

    def wishes(self):
        sends = select.EPOLLOUT if self.left or self.group.again else 0
        return sends | (select.EPOLLIN if self.group.reads else 0)


class Crowd:
    """Connections that come again when they are closed."""

    def __init__(self, *groups):
        self._poll = select.epoll()
        self._members = {}
        self._missing = [group for group in groups for _ in range(group.count)]

    def _let_in(self):
        for group in [self._missing.pop() for _ in range(min(16, len(self._missing)))]:
            s = connect(group.path)
            if s is None:
                self._missing.append(group)
                return
            self._members[s.fileno()] = member = Member(group, s)
            self._poll.register(s.fileno(), member.wishes())

    def _serve(self, member, events):
        if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            member.takes()
        if events & select.EPOLLOUT:
            member.sends()
            self._poll.modify(member.socket.fileno(), member.wishes())

    def turn(self):
        self._let_in()
        for fd, events in self._poll.poll(0.001 if self._missing else 0.1, 64):
            member = self._members[fd]
            try:
                self._serve(member, events)
            except BlockingIOError:
                pass
            except OSError:
                self._poll.unregister(fd)
                del self._members[fd]
                member.socket.close()
                self._missing.insert(0, member.group)

    def run(self, goes_on=lambda: True):
        attacking()
        while goes_on():
            self.turn()


def greeting():
    return GREETING


def dice_bytes():
    return GREETING + told.dice.randbytes(told.dice.randrange(1, 3000))


def notifies(count, length):
    return b"".join(pack(NOTIFY, i, CHANNEL, f"attack{i}".ljust(length, "x"), None) for i in range(count))


def one_key():
    Crowd(Group(47, greeting, UNSUBSCRIBES),
          Group(1800, lambda: GREETING + pack(SUBSCRIBE, 1, CHANNEL, [""]))).run()


def unread_answers():
    Crowd(Group(1000, greeting, pack(99) * 8000, reads=False)).run()


def pings(count):
    Crowd(Group(count, greeting, pack(PING, 1) * 4000)).run()


def notify_flood():
    Crowd(Group(2, greeting, notifies(2000, 20))).run()


def publish_queue():
    Crowd(Group(64, greeting, notifies(20, 7900))).run()


def stalled():
    """They subscribe to all and take nothing, and one of them makes sure that there is much to take."""
    Crowd(Group(1000, lambda: GREETING + ALL, reads=False), Group(1, greeting, notifies(100, 3000))).run()


def garbage():
    Crowd(Group(50, dice_bytes)).run()


def half_frames():
    half = GREETING + pack(NOTIFY, 1, CHANNEL, "x" * 60000, None)[:-100]
    Crowd(Group(1500, lambda: half)).run()


def dribble():
    Crowd(Group(300, greeting, notifies(20, 200), bite=1)).run()


def refused():
    """Every way to be answered with an error, and to be logged."""
    frames = (pack(SUBSCRIBE, 1, "nowhere", None), pack(SUBSCRIBE, 2, CHANNEL, [""] * 50), pack(UNSUBSCRIBE, 3, "\x1b[2J", ["x"]),
              pack(NOTIFY, 4, CHANNEL, "x" * 9000, None), pack(NOTIFY, 5, CHANNEL, b"\xff\xfe", None), pack(NOTIFY, 6, "a\nb", "x", None),
              pack(SEND, 7, CHANNEL, "x"), pack(SEND, 8, "nowhere", b"\0"), pack(77, "x" * 30000), pack(200))
    name = pack(HELLO, 1, "\x1b]0;\x07\u202e\x9b\n\"\\" * 200, None)
    Crowd(Group(200, lambda: name, b"".join(frames)), Group(50, lambda: name, frames[-1] * 20000, reads=False)).run()


def long_keys():
    """Subscriptions to keys that are as long as a frame, and to others that are one byte apart."""
    keys = [("k%07d" % i).ljust(7000, "x") for i in range(8)]
    frames = b"".join(pack(kind, 1, CHANNEL, keys) for kind in (SUBSCRIBE, UNSUBSCRIBE))
    one = b"".join(pack(kind, 1, CHANNEL, [told.dice.randbytes(8).hex() * 4000]) for kind in (SUBSCRIBE, UNSUBSCRIBE))
    Crowd(Group(50, greeting, frames), Group(50, greeting, one)).run()


def half_closed():
    """Connections of which one direction is shut down, with much to send or to take."""
    attacking()
    lines = []
    for how in itertools.cycle((socket.SHUT_RD, socket.SHUT_WR)):
        s = connect(told.path)
        if s:
            try:
                did["bytes"] += s.send(GREETING + ALL + pack(PING, 1) * 5000)
                s.shutdown(how)
            except OSError:
                pass
            lines.append(s)
        if len(lines) > 500 or not s:
            close_oldest(lines, 100)


def descriptors():
    """With each byte as many as the kernel lets through: to be closed by the process that reads."""
    attacking()
    while True:
        s = connect(told.path)
        pair = socket.socketpair()
        try:
            did["bytes"] += s.send(GREETING)
            for _ in range(50):
                did["bytes"] += socket.send_fds(s, [pack(PING, 1)], [pair[0].fileno()] * 250)
        except (OSError, AttributeError):
            time.sleep(0.001)
        for one in (s, *pair):
            if one:
                one.close()


def many_users():
    """Each with a few connections."""
    parent = os.getpid()
    for i in range(USERS):
        if os.fork() == 0:
            become(NOBODY - 1 - i)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            Crowd(Group(5, greeting, pack(PING, 1) * 20 + notifies(2, 20)), Group(2, lambda: GREETING + ALL)).run(
                lambda: os.getppid() == parent)
            os._exit(0)
    become(NOBODY)
    did["bytes"] = 1  # what the others send is not counted
    Crowd(Group(5, greeting, pack(PING, 1) * 20)).run()


def connects():
    """In one way or another: with nothing, half of a HELLO, all of it, a subscription; and gone at once."""
    attacking()
    for data in itertools.cycle((b"", GREETING[:3], GREETING, GREETING + ALL, GREETING + pack(PING, 1) * 100)):
        s = connect(told.path)
        if s is None:
            time.sleep(0.001)
            continue
        try:
            did["bytes"] += s.send(data)
        except OSError:
            pass
        s.close()


def subscriptions():
    """Up to the limit of a user, and gone at once."""
    frames = [pack(SUBSCRIBE, i, CHANNEL, [told.dice.randbytes(4) for _ in range(10000)]) for i in range(100)]
    attacking()
    while True:
        lines = [s for s in (connect(told.path, True) for _ in range(2)) if s]
        try:
            for s in lines:
                s.sendall(GREETING)
            for frame in frames:
                for s in lines:
                    s.sendall(frame)
                    did["bytes"] += len(frame)
                    s.recv(4096)
        except OSError:
            pass
        for s in lines:
            s.close()


# What was missed

def resume(epoch="gone"):
    return pack(HELLO, 1, "attacker", [epoch, 1, told.token]) + ALL + pack(BEGIN, 2)


def recoveries():
    """They take of it a little at a time."""
    crowd = Crowd(Group(300, resume, reads=False))
    attacking()
    while True:
        crowd.turn()
        for member in list(crowd._members.values()):
            try:
                member.socket.recv(200)
            except OSError:
                pass
        time.sleep(0.05)


def resumes():
    """They ask for it, or for a replay, take the first of it, and leave."""
    s = connect(told.path, True)
    s.sendall(GREETING)
    unpacker = msgpack.Unpacker()
    unpacker.feed(s.recv(4096))
    epoch = next(unpacker)[2]
    attacking()
    lines = []
    while True:
        s = connect(told.path)
        if s:
            try:
                did["bytes"] += s.send(resume(told.dice.choice(("gone", epoch))))
                lines.append(s)
            except OSError:
                s.close()
        if len(lines) > 100 or not s:
            close_oldest(lines, 50)


# Operators

def tails():
    Crowd(Group(256, lambda: b"tail\n", reads=False, path=told.ops_path), Group(2, greeting, notifies(2000, 20))).run()


def scrapes():
    Crowd(Group(64, lambda: b"GET /metrics HTTP/1.0\r\n\r\n", reads=False, path=told.metrics_path),
          Group(64, lambda: b"GET /met", path=told.metrics_path)).run()


def operators():
    """The longest of all replies, asked in a loop."""
    Crowd(Group(1000, lambda: GREETING + ALL), Group(20, lambda: b"", b"workers\nworkers json\nmetrics\n" * 10, path=told.ops_path)).run()


# A role in the database

def role():
    connection = psycopg2.connect(host=told.host, port=told.port, dbname=told.database, user=told.role)
    connection.autocommit = True
    did["connections"] += 1
    return connection


def notify(cursor, channel, payloads):
    cursor.execute("SELECT pg_notify(%s, p) FROM unnest(%s::text[]) AS p", (channel, payloads))
    did["notifications"] += len(payloads)


def is_whole(payload):
    words = payload.split(" ")
    return len(words) == 9 and words[4].count(";") == 3


def canaries(connection, seconds):
    """Those that come within that time, and look like true ones. Any role that may connect hears them."""
    select.select([connection], [], [], seconds)
    connection.poll()
    heard = [n.payload for n in connection.notifies if n.pid != connection.info.backend_pid and is_whole(n.payload)]
    del connection.notifies[:]
    return heard


def poisoned(true, dice):
    """What a relay would send, one word of which says what is not so; signed by somebody who lacks the key."""
    magic, relay, nonce, xid, token, claim, since, channels, signature = true.split(" ")
    cluster, run, lsn, snapshot = token.split(";")
    future = str(int(snapshot.split(":")[0]) + 10 ** 9)
    tokens = [f"{cluster};{run};{lsn};{future}:{future}:", f"{cluster};{run};FFFFFFFF/FFFFFFFF;{snapshot}",
              f"{cluster};{run};FFFFFFFF/FFFFFFFF;{future}:{future}:", f"{cluster};{int(run) + 10 ** 12};FFFFFFFF/0;{snapshot}", "x"]
    words = [magic, dice.choice((relay, dice.randbytes(8).hex())), dice.choice((nonce, dice.randbytes(16).hex())), xid,
             dice.choice((token, *tokens)), dice.choice((claim, "?", "!", "-", *tokens)), dice.choice((since, "-", token, *tokens)),
             channels, dice.choice((signature, dice.randbytes(32).hex(), ""))]
    return " ".join(words[:dice.choice((9, 9, 9, 8, 5))])


def forged_canaries():
    connection = role()
    cursor = connection.cursor()
    cursor.execute(f"LISTEN {CANARY}")
    attacking()
    true = []
    while True:
        true = (true + canaries(connection, 0.02))[-20:]
        if true:
            notify(cursor, CANARY, [poisoned(told.dice.choice(true), told.dice) for _ in range(20)])


def repeated_canaries():
    """True ones, word by word, again and again."""
    connection = role()
    cursor = connection.cursor()
    cursor.execute(f"LISTEN {CANARY}")
    attacking()
    true = []
    while True:
        true = (true + canaries(connection, 0.05))[-20:]
        notify(cursor, CANARY, true)


def role_floods(channel, payload, count):
    cursor = role().cursor()
    attacking()
    for i in itertools.count():
        notify(cursor, channel, [payload(i * count + j) for j in range(count)])


ATTACKS = {
    "one-key": one_key,
    "unread-answers": unread_answers,
    "pings-16": lambda: pings(16),
    "pings-200": lambda: pings(200),
    "pings-1000": lambda: pings(1000),
    "notifies": notify_flood,
    "publish-queue": publish_queue,
    "stalled": stalled,
    "recoveries": recoveries,
    "resumes": resumes,
    "subscriptions": subscriptions,
    "connects": connects,
    "half-frames": half_frames,
    "dribble": dribble,
    "refused": refused,
    "long-keys": long_keys,
    "half-closed": half_closed,
    "descriptors": descriptors,
    "many-users": many_users,
    "garbage": garbage,
    "tails": tails,
    "scrapes": scrapes,
    "operators": operators,
    "forged-canaries": forged_canaries,
    "repeated-canaries": repeated_canaries,
    "role-changes": lambda: role_floods(CHANNEL, lambda i: '{"p":"attack%d"}' % i, 500),
    "role-long": lambda: role_floods(CHANNEL, lambda i: '{"p":"attack%d%s"}' % (i, "x" * 7900), 20),
    "role-json": lambda: role_floods(CHANNEL, lambda i: '{"p":"attack%d","n":[0%s]}' % (i, ",{}" * 2600), 20),
    "role-garbage": lambda: role_floods(CHANNEL, lambda i: '{"p":%d' % i, 500),
    "role-canaries": lambda: role_floods(CANARY, lambda i: f"pgherald2 {i} " + "x" * 2000, 100),
}
# Those of a role also keep a server process busy.
OF_A_ROLE = {"forged-canaries", "repeated-canaries", "role-changes", "role-long", "role-json", "role-garbage", "role-canaries"}


# They become users by themselves.
OF_ROOT = {"many-users"}
PROCESSES = {"many-users": USERS + 1}


def become(user):
    os.setgroups([])
    os.setresgid(NOGROUP, NOGROUP, NOGROUP)
    os.setresuid(user, user, user)


def main():
    told.__dict__.update(json.loads(sys.argv[2]))
    told.dice = random.Random(told.seed)
    if sys.argv[1] not in OF_ROOT:
        become(NOBODY)
    signal.signal(signal.SIGTERM, on_end)
    ATTACKS[sys.argv[1]]()


if __name__ == "__main__":
    main()
