"""The scripted relay: a socket, the frames that a client sends over it, and the rules that hold for all of them
(PROTOCOL.md, "Frames from a worker"). What to answer is the case's business, except for PING."""

import array
import fcntl
import os
import select
import socket
import termios
import time

import msgpack

from values import Mismatch, show

HELLO, SUBSCRIBE, UNSUBSCRIBE, NOTIFY, SEND, PING, BEGIN = range(7)
WELCOME, OK, ERROR, CHANGE, MESSAGE, CHECKPOINT, GAP, UPSTREAM, BYE = range(16, 25)
FRAME_MAX = 65536
SHORT = 0.05  # seconds; long enough for what would happen at once, though it must not


def pack(frame):
    return msgpack.packb(frame, use_bin_type=True, unicode_errors="surrogateescape")


def is_id(value):
    return type(value) is int and 0 <= value < 1 << 64


def is_str(value):
    return isinstance(value, str)


def is_str_or_nil(value):
    return value is None or is_str(value)


def is_pubkeys(value):
    return value is None or (isinstance(value, list) and all(map(is_str, value)))


def is_resume(value):
    return value is None or (isinstance(value, list) and len(value) >= 3 and is_str(value[0]) and is_id(value[1])
                             and is_str_or_nil(value[2]))


RULES = {HELLO: (lambda v: v == 1, is_str_or_nil, is_resume), SUBSCRIBE: (is_id, is_str, is_pubkeys),
         UNSUBSCRIBE: (is_id, is_str, is_pubkeys), NOTIFY: (is_id, is_str, is_str, is_str_or_nil),
         SEND: (is_id, is_str, is_str), PING: (is_id,), BEGIN: (is_id,)}


class Relay:
    """`patience`: how many seconds a client may take for what it must do."""

    def __init__(self, path, patience):
        self.path, self.patience = path, patience
        self.listener = self.connection = None
        self.back()

    def back(self):
        """At once: a client never finds a socket there that does not listen."""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path + ".new")
        self.listener.listen(8)
        os.rename(self.path + ".new", self.path)

    def away(self):
        """At once, too."""
        if self.listener:
            os.unlink(self.path)
            self.listener.close()
            self.listener = None
        self.drop()

    def drop(self):
        if self.connection:
            self.connection.close()
            self.connection = None

    def accept(self):
        if self.connection:
            raise Mismatch("the case accepts a second connection")
        self.listener.settimeout(self.patience)
        try:
            self.connection, _ = self.listener.accept()
        except socket.timeout:
            raise Mismatch("the client does not connect") from None
        self.connection.setblocking(False)
        self.unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, unicode_errors="surrogateescape",
                                         max_buffer_size=16 * FRAME_MAX)
        self.types, self.taken, self.resumes = [], 0, False

    def count_connections(self, seconds, most):
        """End each connection at once. In this time there must not be more than this many."""
        deadline, count = time.monotonic() + seconds, 0
        while True:
            self.listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                self.listener.accept()[0].close()
            except socket.timeout:
                return
            count += 1
            if count > most:
                raise Mismatch(f"the client connects {count} times in {seconds} s")

    def frame(self, seconds=None):
        """The client's next frame that is not a PING. None if it ends the connection, or after so long."""
        deadline = time.monotonic() + (self.patience if seconds is None else seconds)
        while True:
            try:
                frame = next(self.unpacker, None)
            except Exception as e:
                raise Mismatch(f"the client sends what is not msgpack: {e}") from None
            if frame is not None:
                self.check(frame)
                if frame[0] != PING:
                    return frame
                self.send(pack([OK, frame[1], 0]))
            elif not self.receive(deadline):
                return None

    def receive(self, deadline):
        if not self.connection:
            raise Mismatch("there is no connection")
        left = deadline - time.monotonic()
        if not select.select([self.connection], [], [], max(left, 0))[0]:
            return False
        try:
            data = self.connection.recv(65536)
        except ConnectionResetError:
            data = b""
        self.unpacker.feed(data)
        return data != b""

    def check(self, frame):
        """The rules for every frame of a worker."""
        size, self.taken = self.unpacker.tell() - self.taken, self.unpacker.tell()
        if size > FRAME_MAX:
            raise Mismatch(f"the client sends a frame of {size} bytes")
        if not isinstance(frame, list) or not frame or type(frame[0]) is not int or frame[0] not in RULES:
            raise Mismatch(f"the client sends what is not a frame of a worker: {show(frame)}")
        kind, rules = frame[0], RULES[frame[0]]
        if len(frame) <= len(rules) or not all(rule(v) for rule, v in zip(rules, frame[1:])):
            raise Mismatch(f"the client sends a frame with wrong elements: {show(frame)}")
        if (kind == HELLO) != (not self.types):
            raise Mismatch("the client's first frame, and no other, must be HELLO")
        if kind == HELLO:
            self.resumes = frame[3] is not None
        if kind == BEGIN and (not self.resumes or BEGIN in self.types):
            raise Mismatch("the client sends a BEGIN that is not allowed")
        self.types.append(kind)

    def expect(self):
        frame = self.frame()
        if frame is None:
            raise Mismatch("the client does not send the next frame")
        return frame

    def expect_nothing(self):
        frame = self.frame(SHORT)
        if frame is not None:
            raise Mismatch(f"the client sends {show(frame)}")

    def expect_end(self):
        """The client ends the connection. Frames that it had sent before are dropped."""
        deadline = time.monotonic() + self.patience
        while self.receive(deadline):
            pass
        if time.monotonic() >= deadline:
            raise Mismatch("the client does not end the connection")
        self.drop()

    def send(self, data):
        """All of it. The client may end the connection meanwhile."""
        view, deadline = memoryview(data), time.monotonic() + self.patience
        if not self.connection:
            raise Mismatch("there is no connection")
        while view:
            if not select.select([], [self.connection], [], max(deadline - time.monotonic(), 0))[1]:
                raise Mismatch("the client does not read")
            try:
                view = view[self.connection.send(view):]
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                return

    def await_read(self):
        """Until the client has read all that was sent."""
        deadline = time.monotonic() + self.patience
        while self.unread():
            if time.monotonic() >= deadline:
                raise Mismatch("the client does not read")
            time.sleep(0.0002)

    def unread(self):
        count = array.array("i", [0])
        fcntl.ioctl(self.connection, termios.TIOCOUTQ, count)
        return count[0] > 0

    def close(self):
        self.away()
