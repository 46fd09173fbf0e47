"""A way to PostgreSQL that changes the server's answers, as a broken or hostile server
would."""

import socket
import struct
import threading

# The answers to a statement end with ReadyForQuery.
QUERY, PARSE = b"Q", b"P"
DESCRIPTION, ROW, COMPLETE, ERROR, READY = b"T", b"D", b"C", b"E", b"Z"
# What LISTEN answers while the queue has notifications of transactions that were frozen since.
FORGETS = b"SERROR\0VERROR\0C58P01\0Mcould not access status of transaction 727\0\0"
# Enough to fill the memory of a reader that keeps all rows, little enough for a test.
ENDLESS_BYTES = 256 << 20


def cut_description(payload):
    """Remove the first column of a RowDescription."""
    name_end = payload.index(b"\0", 2) + 1
    return struct.pack("!H", 1) + payload[2:name_end + 18]


def cut_row(payload):
    """Remove the first column of a DataRow."""
    length, = struct.unpack("!i", payload[2:6])
    return struct.pack("!H", 1) + payload[2:6 + max(length, 0)]


def nulls(payload):
    count, = struct.unpack("!H", payload[:2])
    return struct.pack("!H", count) + struct.pack("!i", -1) * count


class Liar:
    """Listens on a port of its own, and forwards to a server. lie(fragment, how) changes the
    answers to statements that contain the fragment, until honest()."""

    def __init__(self, port):
        self._target = port
        self._lies = {}
        self.told = 0
        self.endless_bytes = ENDLESS_BYTES
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        self._start(self._accept)

    def _start(self, target, *arguments):
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def lie(self, fragment, how):
        self.told = 0
        self._lies = {fragment: how}

    def honest(self):
        self._lies = {}

    def close(self):
        for s in self._sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            state = {"how": None}
            self._start(self._forward, client, server, self._watch_statements, state)
            self._start(self._forward, server, client, self._change_answers, state)

    @staticmethod
    def _forward(source, target, change, state):
        """Forward message by message. A client's first message has no type."""
        stream, started = source.makefile("rb"), change.__name__ != "_watch_statements"
        try:
            while True:
                kind = stream.read(1) if started else b""
                header = stream.read(4)
                if len(header) < 4:
                    break
                payload = stream.read(struct.unpack("!I", header)[0] - 4)
                for message in change(state, kind, payload):
                    target.sendall(message)
                started = True
        except (OSError, ValueError):
            pass
        for s in (source, target):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _watch_statements(self, state, kind, payload):
        if kind in (QUERY, PARSE):
            state["how"] = next((how for fragment, how in self._lies.items() if fragment.encode() in payload), None)
            state["rows"] = 0
        if state["how"] == "first-alone" and kind == QUERY and payload.count(b";") > 1:
            self.told += 1
            payload = payload[:payload.index(b";") + 1] + b"\0"
        yield kind + struct.pack("!I", len(payload) + 4) + payload

    def _change_answers(self, state, kind, payload):
        how, honest = state["how"], kind + struct.pack("!I", len(payload) + 4) + payload
        if how is None or kind not in (DESCRIPTION, ROW, COMPLETE):
            yield honest
            return
        if how == "forgets" and kind == COMPLETE and self.told == 0:
            kind, payload = ERROR, FORGETS
        if kind in (ROW, ERROR) or how == "nothing":
            self.told += 1
        if how == "nothing" or (how == "no-row" and kind == ROW):
            return
        if how == "one-column" and kind == DESCRIPTION:
            payload = cut_description(payload)
        elif how == "one-column" and kind == ROW:
            payload = cut_row(payload)
        elif how == "nulls" and kind == ROW:
            payload = nulls(payload)
        message = kind + struct.pack("!I", len(payload) + 4) + payload
        yield message
        if kind == ROW and how == "two-rows":
            yield message
        elif kind == ROW and how == "endless":
            block = message * (65536 // len(message) + 1)
            for _ in range(self.endless_bytes // len(block)):
                yield block
