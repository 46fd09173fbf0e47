"""The daemon, as operations: start, stop, kill, freeze, connect to it, read its log."""

import json
import os
import re
import signal
import subprocess

from harness.files import none_left_by_cat, none_left_by_relay
from harness.procs import DEADLINE, stopped, wait_until
from harness.servers import PASSWORD
from harness.worker import CHANNEL, Ok, Raw, Worker

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(TOP, os.environ.get("PGHERALD_BUILD", "build"))
DAEMON = os.path.join(BUILD, "relay", "pgherald")
CAT = os.path.join(BUILD, "client", "tools", "pgherald-cat")

# What a server sends to a session that it ends while libpq is still connecting. libpq prints it itself, because its notice
# receiver can be set only on a connection that exists.
OF_LIBPQ = re.compile(r"(FATAL|WARNING|DETAIL|HINT):  \S.*")
LINE = re.compile(r"<([0-7])>(ERROR|WARNING|NOTICE|INFO|DEBUG): \S.*")
REPORT = re.compile(r"(Address|Leak|Thread|UndefinedBehavior)Sanitizer|runtime error:")


def check_output(who, text, secrets=()):
    """Checks that hold for everything that a program of ours prints."""
    report = REPORT.search(text)
    assert not report, f"a sanitizer reports on {who}: {text[max(0, report.start() - 200):][:8000]}"
    for secret in (PASSWORD, *secrets):
        assert secret not in text, f"{who} prints a password"


class Relay:
    """One daemon, which stands for one host."""

    def __init__(self, run, name="relay", flags=(), daemon=None, **environment):
        self.run = run
        self.daemon = daemon or DAEMON  # which a fixture may set: no default of a parameter
        self.directory = run.subdirectory(name)
        self.path = os.path.join(self.directory, "relay.sock")
        self.ops_path = os.path.join(self.directory, "ops.sock")
        self.flags = list(flags)
        # in front of its command line, to run it somewhere else or under something: PGHERALD_LAUNCHER
        self.launcher = os.environ.get("PGHERALD_LAUNCHER", "").split()
        self.environment = {"PGHERALD_SOCKET": self.path, "PGHERALD_OPS_SOCKET": self.ops_path}
        self.environment.update((k, v) for k, v in environment.items() if v is not None)
        self.secrets = []
        self.process = None
        self._may_have_ended = self._told_to_end = False
        self._workers = []

    # Running

    def launch(self):
        """Start it without waiting."""
        with open(self._log_path, "ab") as log, open(os.path.join(self.directory, "stdout"), "ab") as stdout:
            self.process = self.run.spawn([*self.launcher, self.daemon, *self.flags], self.environment, stdout=stdout, stderr=log)
        self._may_have_ended = self._told_to_end = False
        return self

    def start(self):
        """Start it, and wait until it serves."""
        return self.launch().await_ready()

    def await_ready(self):
        wait_until(self._serves, f"{self.directory} serves")
        return self

    def settles(self):
        """Wait until it serves or has ended."""
        self._may_have_ended = True
        wait_until(lambda: self.process.poll() is not None or self._lets_in(), f"{self.directory} serves or ends", 20)

    def _serves(self):
        assert self.process.poll() is None, f"the relay ended with {self.process.returncode}: {self.log()}"
        return self._lets_in()

    def _lets_in(self):
        try:
            with Raw(self.path) as raw:
                raw.write(b"")
            return True
        except BrokenPipeError:
            return True  # it refuses this connection
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def fails(self, deadline=15):
        """Wait for the end of a start that must fail with one line that says why. Returns
        that line."""
        self._may_have_ended = True
        try:
            status = self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"a bad start goes on after {deadline} s: {self.log()}") from None
        errors = self.lines("ERROR")
        assert status > 0, f"exit status {status} after a bad start: {self.log()}"
        assert len(errors) == 1, f"one ERROR line says why, not {len(errors)}: {self.log()}"
        assert not os.path.exists(self.path), "a relay that never served leaves no socket"
        return errors[0]

    def terminate(self, number=signal.SIGTERM):
        # Once: after that it may end at any moment.
        if not self.launcher and not self._told_to_end and not stopped(self.process.pid):
            none_left_by_relay(self)
        self._told_to_end = True
        self.process.send_signal(number)

    def wait_exit(self, deadline=DEADLINE):
        self._may_have_ended = True
        try:
            return self.process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the relay goes on {deadline} s after it was told to end: {self.log()}") from None

    def stop(self):
        """End it with SIGTERM. Every relay of a test ends like this."""
        self.terminate()
        status = self.wait_exit()
        assert status == 0, f"exit status {status}: {self.log()}"

    def kill(self):
        self._may_have_ended = True
        self.process.kill()
        self.process.wait()

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def disconnect(self, but=()):
        """Close all connections to it, except these."""
        for worker in self._workers:
            if worker not in but:
                worker.close()

    def close(self):
        self.disconnect()
        if self.process is None:
            return
        if self.process.poll() is None:
            self.thaw()
            try:
                self.stop()
            finally:
                self.kill()
        check_output("the relay", self.log() + self.stdout(), self.secrets)
        assert self._may_have_ended, f"the relay ended by itself, with {self.process.returncode}: {self.log()}"
        for line in self.log().splitlines():
            assert LINE.fullmatch(line) or OF_LIBPQ.fullmatch(line), f"no line of a log: {line!r}"

    # Seeing

    @property
    def _log_path(self):
        return os.path.join(self.directory, "log")

    def log(self):
        with open(self._log_path, errors="replace") as file:
            return file.read()

    def stdout(self):
        with open(os.path.join(self.directory, "stdout"), errors="replace") as file:
            return file.read()

    def lines(self, *levels):
        """The texts of its log, of these levels or of all."""
        found = (re.fullmatch(r"<\d>(\w+): (.*)", line) for line in self.log().splitlines())
        return [m[2] for m in found if m and (not levels or m[1] in levels)]

    def fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def rss(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def peak(self):
        """Its largest resident memory so far, in bytes."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return int(re.search(r"^VmHWM:\s*(\d+) kB$", file.read(), re.M)[1]) << 10

    # Connecting

    def connect(self, name="test", resume=None):
        """A worker that has sent HELLO, without waiting for anything."""
        worker = Worker(self.path, name, resume)
        self._workers.append(worker)
        return worker

    def worker(self, *channels, pubkeys=None):
        """A worker that is subscribed, by default to all of the change channel."""
        worker = self.connect()
        for channel in channels or (CHANNEL,):
            answer = worker.subscribe(channel, pubkeys)
            assert isinstance(answer, Ok), answer
        return worker

    def raw(self):
        raw = Raw(self.path)
        self._workers.append(raw)
        return raw

    def ops(self, command):
        """What an operator reads who pipes a command through socat."""
        reply = self.run.call(["socat", "-", "UNIX-CONNECT:" + self.ops_path], input=command + "\n")
        check_output("ops", reply, self.secrets)
        return reply


class Cat:
    """pgherald-cat, and the JSON lines that it prints."""

    def __init__(self, run, *arguments):
        directory = run.subdirectory("cat")
        self._output, self._errors = os.path.join(directory, "out"), os.path.join(directory, "err")
        with open(self._output, "wb") as out, open(self._errors, "wb") as err:
            self.process = run.spawn([CAT, *arguments], stdout=out, stderr=err)

    def raw_lines(self):
        with open(self._output, "rb") as file:
            return file.read().decode("utf-8").split("\n")[:-1]

    def lines(self, kind=None):
        objects = [json.loads(line) for line in self.raw_lines()]
        return [o for o in objects if kind in (None, o["type"])]

    def errors(self):
        with open(self._errors, errors="replace") as file:
            return file.read()

    def wait_for(self, condition, what, deadline=DEADLINE):
        """Wait for a line that fulfils the condition, and return it."""
        def found():
            lines = [o for o in self.lines() if condition(o)]
            if not lines and self.process.poll() is not None and not [o for o in self.lines() if condition(o)]:
                raise AssertionError(f"pgherald-cat ended with {self.process.returncode} before {what}: "
                                     f"{self.lines()} {self.errors()}")
            return lines
        return wait_until(found, f"{what} from pgherald-cat; {self.errors()}", deadline)[0]

    def subscribed(self):
        self.wait_for(lambda o: o["type"] == "subscribed", "subscribed")
        return self

    def hears(self, pubkey, deadline=DEADLINE):
        return self.wait_for(lambda o: o["type"] == "change" and o["pubkey"] == pubkey, f"a change of {pubkey!r}",
                             deadline)

    def sees(self, state, after=0):
        """Wait until it reports that the upstream is in this state, after its first `after`
        lines."""
        wait_until(lambda: [o for o in self.lines()[after:] if o["type"] == "upstream" and o["state"] == state],
                   f"upstream {state} from pgherald-cat")

    def wait_exit(self, deadline=DEADLINE):
        return self.process.wait(deadline)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            none_left_by_cat(self)
            self.process.terminate()
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError("pgherald-cat does not end on SIGTERM") from None
        check_output("pgherald-cat", self.errors())
