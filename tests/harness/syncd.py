"""client/examples/syncd, as operations: start it, write and read records, listen; and a
stream that a test reads or does not read."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess

from harness.procs import DEADLINE, children, wait_until
from harness.relay import BUILD, LINE, check_output

SYNCD = os.path.join(BUILD, "client", "examples", "syncd", "syncd")


class Answer:
    def __init__(self, response):
        self.status, self.headers = response.status, response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:300]}"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Stream:
    """One open GET .../listen. It reads only when it is asked to."""

    def __init__(self, syncd, user, receive_buffer=None, headers=None):
        self.socket = syncd.connect(receive_buffer)
        lines = [f"GET /v1/users/{user}/listen HTTP/1.1", "Host: x"]
        lines += [f"{k}: {v}" for k, v in {"X-User": user, **(headers or {})}.items()]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.head, self.text, self.ended, self._raw = {}, "", False, b""

    def poll(self):
        """Read what has arrived: the head, then the text of the chunks."""
        self.socket.setblocking(False)
        try:
            while not self.ended:
                data = self.socket.recv(65536)
                if not data:
                    self.ended = True
                self._raw += data
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.ended = True
        self._parse()
        return self

    def _parse(self):
        if not self.head and b"\r\n\r\n" in self._raw:
            head, self._raw = self._raw.split(b"\r\n\r\n", 1)
            status, *lines = head.decode().split("\r\n")
            self.head = {"status": int(status.split()[1]), **dict(line.lower().split(": ", 1) for line in lines)}
        while self.head and b"\r\n" in self._raw:
            size, rest = self._raw.split(b"\r\n", 1)
            size = int(size, 16)
            if len(rest) < size + 2:
                break
            self.text += rest[:size].decode()
            self._raw = rest[size + 2:]
            self.clean = size == 0
            self.ended |= self.clean

    clean = False  # whether it ended with the last chunk

    @property
    def worker(self):
        """The pid of the worker that serves this stream."""
        wait_until(lambda: self.poll().head, "the stream's head")
        assert self.head["status"] == 200, self.head
        return int(self.head["x-syncd-worker"])

    @property
    def events(self):
        """The events that have arrived, as (name, data)."""
        found = []
        for block in self.poll().text.split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
            if "data" in fields:
                found.append((fields.get("event", "message"), json.loads(fields["data"])))
        return found

    def hears(self, *expected, after=0):
        """Wait until these are its events, after the first `after`."""
        wait_until(lambda: self.events[after:] == list(expected) or self.ended and self.events[after:] == list(expected),
                   lambda: f"{expected} on a stream, not {self.events[after:]}; ended: {self.ended}")
        return self

    def hears_of(self, condition, what, deadline=DEADLINE):
        """Wait until one of its events fulfils a condition."""
        wait_until(lambda: [e for e in self.events if condition(e)], lambda: f"{what} on a stream; it heard {self.events}",
                   deadline)

    def started(self):
        return self.hears(START)

    def hears_end(self):
        wait_until(lambda: self.poll().ended, "the end of a stream")

    def close(self):
        self.socket.close()


START = ("pull", {"reason": "start"})
GAP = ("pull", {"reason": "gap"})


def changed(client_id=None):
    return ("changed", {"client_id": client_id})


class Syncd:
    """One syncd of one host."""

    def __init__(self, run, relay=None, *flags, **environment):
        self.run = run
        self.directory = run.subdirectory("syncd")
        self.flags = list(flags)
        self.environment = {"SYNCD_LISTEN": "0", "SYNCD_WORKERS": "2"}
        self.environment["PGHERALD_SOCKET"] = relay.path if relay else ""
        self.environment.update(environment)
        self.environment = {k: v for k, v in self.environment.items() if v is not None}
        self.process = None
        self._streams = []

    # Running

    def launch(self):
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = self.run.spawn([SYNCD, *self.flags], self.environment, stdout=log, stderr=log, cwd=self.directory)
        return self

    def start(self):
        before = self.log().count("READY") if self.process else 0
        self.launch()

        def ready():
            assert self.process.poll() is None, f"syncd ended with {self.process.returncode}: {self.log()}"
            return self.log().count("READY") > before
        wait_until(ready, lambda: f"syncd serves: {self.log()}")
        listen = [w[7:] for w in self.log().split("READY")[-1].split() if w.startswith("listen=")][0]
        self.path = listen if listen.startswith("/") else None
        self.port = None if self.path else int(listen.rpartition(":")[2])
        return self

    def fails(self):
        """A start that must fail with one line that says why. Returns that line."""
        self.launch()
        try:
            status = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"a bad start goes on: {self.log()}") from None
        errors = [line for line in self.log().splitlines() if "ERROR" in line]
        assert status > 0 and len(errors) == 1, f"{status}: {self.log()}"
        return errors[0]

    def workers(self):
        return children(self.process.pid)

    def log(self):
        with open(os.path.join(self.directory, "log"), errors="replace") as file:
            return file.read()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        try:
            status = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"syncd goes on after signal {number}: {self.log()}") from None
        assert status == 0, f"exit status {status}: {self.log()}"

    def close(self):
        for stream in self._streams:
            stream.close()
        if self.process and self.process.poll() is None:
            self.stop()
        if self.process:
            check_output("syncd", self.log())
        for line in self.log().splitlines():
            assert LINE.fullmatch(line), f"not a line of the log: {line!r}"

    # Using

    def connect(self, receive_buffer=None):
        connection = socket.socket(socket.AF_UNIX if self.path else socket.AF_INET)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(DEADLINE)
        connection.connect(self.path or ("127.0.0.1", self.port))
        return connection

    def client(self, timeout=30):
        return UnixConnection(self.path, timeout) if self.path else \
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, client=None, **headers):
        """Send one request, on a new connection unless one is given."""
        connection = client or self.client()
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            return Answer(connection.getresponse())
        finally:
            if not client:
                connection.close()

    def put(self, user, id, revision, data=b"data", client_id=None, client=None):
        body = {"revision": revision, "schema_version": "1.0", "data": base64.b64encode(data).decode()}
        headers = {"X_Client_Id": client_id} if client_id else {}
        return self.ask("PUT", f"/v1/users/{user}/records/{id}", json.dumps(body), client, X_User=user, **headers)

    def change(self, user, id, revision, client_id=None):
        """A write that must succeed. Returns the new revision."""
        answer = self.put(user, id, revision, client_id=client_id)
        assert answer.status == 200, answer
        return answer.json()["revision"]

    def changes(self, user, since=0):
        answer = self.ask("GET", f"/v1/users/{user}/changes?since={since}", X_User=user)
        assert answer.status == 200, answer
        return answer.json()

    def ids(self, user, since=0):
        return [(c["id"], c["revision"]) for c in self.changes(user, since)["changes"]]

    def listen(self, user, receive_buffer=None):
        stream = Stream(self, user, receive_buffer)
        self._streams.append(stream)
        return stream

    def listen_at(self, user, condition):
        """A stream at a worker whose pid fulfils a condition. The kernel chooses the worker
        that accepts."""
        def found():
            stream = self.listen(user)
            return stream if condition(stream.worker) else stream.close()
        return wait_until(found, "a stream at the worker that is asked for")

    def health(self):
        return self.ask("GET", "/healthz").json()
