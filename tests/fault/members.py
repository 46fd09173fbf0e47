"""The workers of the model."""

import json
import os
import signal
import threading
import time
import traceback
from collections import Counter, deque

from harness.relay import CAT
from database import is_of_run, passes
from harness.subscriber import Subscriber
from harness.worker import SUBSCRIBE, Bye, Change, Checkpoint, Gap, Ok, Upstream, Welcome

STORE_SECONDS = 0.3  # how often a worker stores its cursor
TRICKLE = 36         # bytes at once: about a change
TRICKLE_SECONDS = 0.002


class Member:
    """A worker: since when it is owed what, and what it heard."""

    def __init__(self, name, relay, pubkeys=None):
        self.name = name
        self.relay = relay
        self.channels = relay.channels
        self.pubkeys = pubkeys
        self.subscribed_at = None
        self.heard = Counter()
        self.trickles = False  # reads at a pace of its own
        self.gaps = []  # (when, text)
        self.n_recovered = self.n_resumed = self.n_frames = 0
        self.n_owed_folded = self.n_heard_folded = self.n_deliveries_folded = 0

    def wants(self, user, channel):
        return channel in self.channels and (self.pubkeys is None or user in self.pubkeys)

    def trouble(self):
        """Why it is not live, or None. What it has not heard does not count."""
        return None if self.subscribed_at else "never got OK to its subscription"

    def fold(self, user, owed):
        """From now on only count these."""
        n = self.heard.pop(user, 0)
        self.n_owed_folded += owed
        self.n_heard_folded += n > 0
        self.n_deliveries_folded += n


class Bare(Member):
    """A worker that speaks the protocol without the library, in a thread. It stores its
    cursor now and then. A kill undoes what it did since, as a database would."""

    def __init__(self, model, name, relay, pubkeys=None, slow=0, trickles=False, witness=False):
        super().__init__(name, relay, pubkeys)
        self.model = model
        self.slow = slow
        self.trickles = trickles
        self.witness = witness  # told when changes came
        self.checkpoints = deque(maxlen=8)  # (when it came, checkpoint)
        self.last_live = None  # the clock at the last notification while the upstream was live
        self._up = True
        self._worker = None
        self._cursor = self._stored = None
        self._since_store = []  # users and gaps
        self._orders = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self):
        self._thread.start()
        return self

    # Faults

    def order(self, what, seconds=0):
        """"pause", "drop" or "kill"."""
        with self._lock:
            self._orders.append((what, seconds))

    def _obey(self):
        with self._lock:
            orders, self._orders = self._orders, []
        for what, seconds in orders:
            if what == "pause":
                self._stop.wait(seconds)
            elif self._worker:
                self._disconnect()
            if what == "kill":
                for thing in self._since_store:
                    if isinstance(thing, tuple):
                        self.gaps.remove(thing)
                    else:
                        self.heard[thing] -= 1
                self._since_store = []
                self._cursor = self._stored

    # Life

    def _disconnect(self):
        self._cursor = self._worker.cursor if self.subscribed_at else None
        self._worker.close()
        self._worker = None

    def _connect(self):
        try:
            worker = Subscriber(self.relay.path, self.name, self._cursor, 4096 if self.slow else None)
        except OSError:
            self._stop.wait(0.05)
            return
        if self.trickles:
            worker.bite = TRICKLE
        self._worker = worker
        self._position = 0
        try:
            pubkeys = sorted(self.pubkeys) if self.pubkeys is not None else None
            for channel in self.channels:
                for start in range(0, len(pubkeys or [1]), 1000):
                    self._last_request = worker.ask(SUBSCRIBE, channel, pubkeys and pubkeys[start:start + 1000])
            if self._cursor:
                worker.begin()
                self.n_resumed += 1
        except OSError:
            worker.closed = True

    def _take(self):
        worker = self._worker
        self.n_frames += len(worker.frames) - self._position
        for frame in worker.frames[self._position:]:
            if isinstance(frame, Welcome):
                self._up = frame.info["upstream"] == "live"
            elif isinstance(frame, Change):
                self.heard[frame.pubkey] += 1
                if self.witness and not frame.flags:
                    self.model.came(frame.pubkey)
                self.n_recovered += frame.flags
                self._since_store.append(frame.pubkey)
                if self._up and not frame.flags:
                    self.last_live = time.time()
            elif isinstance(frame, Upstream):
                self._up = frame.state == "live"
            elif isinstance(frame, Checkpoint):
                self.checkpoints.append((time.monotonic(), frame.checkpoint))
            elif isinstance(frame, Gap):
                gap = (time.monotonic(), f"{frame.cause}: {frame.text}")
                self.gaps.append(gap)
                self._since_store.append(gap)
            elif isinstance(frame, Ok) and frame.id == self._last_request and self.subscribed_at is None:
                self.subscribed_at = time.monotonic()
                self._stored = worker.cursor
            elif isinstance(frame, Bye) and frame.code != "shutdown":
                raise AssertionError(f"{self.name} is disconnected: {frame}")
        del worker.frames[1:-20]  # a long run would keep them all
        self._position = len(worker.frames)

    def _run(self):
        stored = time.monotonic()
        try:
            while not self._stop.is_set():
                self._obey()
                if self._worker is None:
                    self._connect()
                    continue
                try:
                    self._worker.pump(0.05)
                except OSError:
                    self._worker.closed = True
                self._take()
                if self._worker.closed:
                    self._disconnect()
                elif self.subscribed_at and time.monotonic() - stored > STORE_SECONDS:
                    self._stored = self._cursor = self._worker.cursor
                    self._since_store = []
                    stored = time.monotonic()
                if self.slow or self.trickles:
                    self._stop.wait(self.slow or TRICKLE_SECONDS)
        except Exception:
            self.model.error(f"{self.name}: {traceback.format_exc()}")

    def freeze(self, seconds):
        self.order("pause", seconds)

    def kill(self):
        self.order("kill")

    def hurry(self):
        self.slow = 0

    def passed(self, moment, since):
        """Whether a checkpoint came since then that is after this moment."""
        return any(at > since and passes(checkpoint, moment) for at, checkpoint in list(self.checkpoints))

    def n_checkpoints(self, runs, since):
        """How many different checkpoints of this run of the server came since then."""
        return len({checkpoint for at, checkpoint in list(self.checkpoints) if at > since and is_of_run(checkpoint, runs)})

    def trouble(self):
        worker = self._worker
        if not self._thread.is_alive() or worker is None or worker.closed:
            return "is not connected"
        if not worker.is_caught_up:
            return "has not come to the end of its catch-up"
        return super().trouble() if self._up else "was told that the upstream is down"

    def close(self):
        self._stop.set()
        if self._thread.ident:
            self._thread.join(10)
        if self._worker:
            self._worker.close()


class Library(Member):
    """A worker that uses the C library: pgherald-cat, with its cursor in a file. command: a
    program in another language that does the same."""

    def __init__(self, model, run, name, relay, pubkeys=None, command=(CAT,)):
        super().__init__(name, relay, pubkeys)
        self.command = command
        self.model = model
        self.run = run
        self.directory = run.subdirectory("cat")
        self._cursor = os.path.join(self.directory, "cursor")
        self._runs = 0
        self._killed = False
        self._down = False
        self._read = {}  # output -> bytes taken
        self.process = None

    def start(self):
        arguments = ["--socket", self.relay.path, "--cursor", self._cursor]
        for channel in self.channels:
            arguments += ["--channel", channel]
        for pubkey in sorted(self.pubkeys or []):
            arguments += ["--pubkey", pubkey]
        self._runs += 1
        self._down = False
        self.n_resumed += self._runs > 1
        self._output = os.path.join(self.directory, f"out{self._runs}")
        with open(self._output, "wb") as out, open(os.path.join(self.directory, "err"), "ab") as err:
            self.process = self.run.spawn([*self.command, *arguments], stdout=out, stderr=err)
        self._read[self._output] = 0
        return self

    def take(self):
        """Read what it has printed since the last time."""
        for output, position in list(self._read.items()):
            with open(output, "rb") as file:
                file.seek(position)
                data = file.read()
            whole = data[:data.rfind(b"\n") + 1]
            self._read[output] += len(whole)
            if output != self._output and not whole:
                del self._read[output]
                os.remove(output)
            for line in whole.decode().split("\n")[:-1]:
                self._take_line(json.loads(line))

    def come_back(self):
        """Start again after a kill. Call it in the thread that lives as long as the run: a
        process ends with the thread that started it."""
        if self._killed:
            self._killed = False
            self.process.wait()
            self.start()
        elif self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended with {self.process.returncode}")

    def _take_line(self, line):
        if line["type"] == "change":
            self.heard[line["pubkey"]] += 1
            self.n_recovered += line["recovered"]
        elif line["type"] == "gap":
            self.gaps.append((time.monotonic(), json.dumps(line)))
        elif line["type"] == "upstream":
            self._down = line["state"] == "down"
        elif line["type"] == "subscribed" and self.subscribed_at is None:
            self.subscribed_at = time.monotonic()

    def trouble(self):
        if self.process.poll() is not None:
            return "does not run"
        return super().trouble() or ("was told that the upstream is down" if self._down else None)

    def freeze(self, seconds):
        self.process.send_signal(signal.SIGSTOP)
        threading.Timer(seconds, self.thaw).start()

    def thaw(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def kill(self):
        if not os.path.exists(self._cursor):
            return  # there is no cursor to resume from
        self._killed = True
        self.process.kill()

    def hurry(self):
        self.thaw()

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
