"""PostgreSQL, pgbouncer, a relay, the healthy workers and root, who looks after the relay; and one measurement of them, under
attackers or without any."""

import contextlib
import json
import math
import os
import random
import re
import resource
import select
import signal
import socket
import struct
import sys
import threading
import time
from types import SimpleNamespace

from attacker import OF_A_ROLE, PROCESSES
from harness.datasync import DataSync
from healthy import KEPT, silent
from harness.procs import DEADLINE, close_all, wait_until
from harness.relay import TOP, Relay
from harness.servers import Bouncer, Postgres, make_template
from harness.worker import Checkpoint

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
HEALTHY_UID = 1
ROLE = "stranger"
MISSED = 5000          # changes since the checkpoint that resumes begin from
SILENT_MAX = 2000
SILENT_SECONDS = 2     # between two changes that nobody notifies
ROOT_SECONDS = 0.5     # between two looks at the relay
AT_ONCE = 4            # attackers in the mixed attack
TURN_SECONDS = (3, 8)  # how long each of them goes on there
# As the unit has it.
DESCRIPTORS = 16384


def of_unit(pattern):
    with open(os.path.join(TOP, "systemd", "pgherald@.service.in")) as file:
        return int(re.search(pattern, file.read(), re.M)[1])


def memory_limit():
    """MemoryMax= of the unit, in bytes."""
    return of_unit(r"^MemoryMax=(\d+)G$") << 30


def give_weight(pid):
    """CPUWeight= of the unit, as a nice value: each step is a factor of 1.25. A kernel with autogroup goes by the session's."""
    nice = -round(math.log(of_unit(r"^CPUWeight=(\d+)$") / 100, 1.25))
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/autogroup", "w") as file:
        file.write(str(nice))


class Root:
    """The operator: asks for the status, the metrics and the health, all the time."""

    def __init__(self, relay, metrics_path):
        self._relay, self._metrics_path = relay, metrics_path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="root")
        self.begin()

    def begin(self):
        self.amiss, self.seconds = [], []

    def start(self):
        self._thread.start()
        return self

    def _exchange(self, path, request):
        with socket.socket(socket.AF_UNIX) as s:
            # Without a timeout of Python's the kernel lets it wait in turn where many connect.
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", DEADLINE, 0))
            s.connect(path)
            s.settimeout(DEADLINE)
            s.sendall(request)
            s.shutdown(socket.SHUT_WR)
            answer = b""
            while data := s.recv(1 << 16):
                answer += data
            return answer

    def _look(self, what, path, request, expected):
        began = time.monotonic()
        try:
            answer = self._exchange(path, request)
        except OSError as e:
            self.amiss.append(f"{what}: {e}")
            return
        self.seconds.append(time.monotonic() - began)
        if not answer.startswith(expected) or len(answer) == len(expected):
            self.amiss.append(f"{what}: {answer[:200]!r}")

    def _run(self):
        while not self._stop.wait(ROOT_SECONDS):
            self._look("status", self._relay.ops_path, b"status json\n", b'{"')
            self._look("metrics", self._metrics_path, b"GET /metrics HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 ")
            self._look("health", self._metrics_path, b"GET /healthz HTTP/1.0\r\n\r\n", b"HTTP/1.0 200 ")

    def close(self):
        self._stop.set()
        if self._thread.ident:
            self._thread.join()


class Program:
    """A process that is spoken to in lines."""

    def __init__(self, scene, name, *arguments):
        self.name = name
        self._errors = os.path.join(scene.run.subdirectory("program"), "err")
        with open(self._errors, "wb") as errors:
            self.process = scene.run.spawn([sys.executable, "-B", *map(str, arguments)], {"PYTHONPATH": TESTS}, stdin=-1, stdout=-1, stderr=errors)

    def errors(self):
        with open(self._errors, errors="replace") as file:
            return file.read()

    def say(self, line):
        try:
            os.write(self.process.stdin.fileno(), line.encode() + b"\n")
        except BrokenPipeError:
            raise AssertionError(f"{self.name} ended: {self.errors()}") from None

    def hear(self, deadline):
        if not select.select([self.process.stdout], [], [], deadline)[0]:
            raise AssertionError(f"{self.name} says nothing for {deadline} s: {self.errors()}")
        line = self.process.stdout.readline().decode()
        assert line, f"{self.name} ended: {self.errors()}"
        return line.strip()

    def end(self):
        self.process.terminate()
        line = self.process.stdout.readline().decode()
        self.process.wait(DEADLINE)
        assert line, f"{self.name} ended by itself: {self.errors()}"
        return line.strip()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()


class Scene:
    def __init__(self, run, seed):
        self.run, self.seed = run, seed
        self._things = []
        self._silent = 0
        self.memory_limit = memory_limit()

    def __enter__(self):
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def _add(self, thing):
        self._things.append(thing)
        return thing

    def _open(self):
        # Inherited by all.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard), hard))
        self.pg = self._add(Postgres(self.run, make_template(self.run))).start()
        self.bouncer = self._add(Bouncer(self.run, self.pg)).start()
        self.database = self.pg.database()
        self.data = DataSync(self.run, self.database).recoverable()
        self.pg.sql(f"CREATE ROLE {ROLE} LOGIN")
        self.relay = self._add(Relay(
            self.run, DATABASE_URL=self.bouncer.url(self.database), DATABASE_DIRECT_URL=self.database.direct_url,
            PGHERALD_SOCKET_MODE="0666", PGHERALD_CHECKPOINT_INTERVAL="1"))
        self.metrics_path = os.path.join(self.relay.directory, "metrics.sock")
        self.relay.environment["PGHERALD_METRICS_SOCKET"] = self.metrics_path
        self.relay.start()
        give_weight(self.relay.process.pid)
        self.token = self._first_token()
        self.data.write_many(1, MISSED)
        self.data.write(KEPT)
        healthy = os.path.join(HERE, "healthy.py")
        self.hearers = self._add(Program(self, "those who hear", healthy, "hear", self.relay.path, HEALTHY_UID, SILENT_MAX))
        self.resumer = self._add(Program(self, "who resumes", healthy, "resume", self.relay.path, HEALTHY_UID, self.token))
        for program in (self.hearers, self.resumer):
            assert program.hear(60) == "ready"
        self.root = self._add(Root(self.relay, self.metrics_path)).start()

    def _first_token(self):
        worker = self.relay.worker()
        worker.wait_until(lambda: worker.of(Checkpoint), "the first checkpoint")
        token = worker.of(Checkpoint)[0].checkpoint
        worker.close()
        return token

    # Attackers

    def _attacker(self, name, dice):
        told = {"path": self.relay.path, "ops_path": self.relay.ops_path, "metrics_path": self.metrics_path, "token": self.token,
                "host": self.pg.directory, "port": self.pg.port, "database": self.database.name, "role": ROLE,
                "seed": dice.randrange(1 << 30)}
        return self._add(Program(self, f"the attacker {name}", os.path.join(HERE, "attacker.py"), name, json.dumps(told)))

    def _dismiss(self, attacker, did):
        for what, count in json.loads(attacker.end()).items():
            did[what] = did.get(what, 0) + count
        self._things.remove(attacker)
        attacker.close()

    def _attack(self, name, seconds, did):
        dice = random.Random(f"{self.seed} {name}")
        attackers = [self._attacker(one, dice) for one in name.split("+")]
        for attacker in attackers:
            assert attacker.hear(60) == "attacking"
        self._pass(seconds)
        for attacker in attackers:
            self._dismiss(attacker, did)

    def _mix(self, names, seconds, did):
        """Some at a time, each for a while; each comes once before one comes twice."""
        dice = random.Random(f"{self.seed} mixed")
        end = time.monotonic() + seconds
        waiting, active = [], []
        while True:
            now = time.monotonic()
            for until, attacker in [a for a in active if now >= min(a[0], end)]:
                active.remove((until, attacker))
                self._dismiss(attacker, did)
            if now >= end:
                return
            while len(active) < AT_ONCE:
                waiting = waiting or dice.sample(names, len(names))
                attacker = self._attacker(waiting.pop(), dice)
                print(f"at {time.monotonic() - end + seconds:.1f} s {attacker.name}", flush=True)
                assert attacker.hear(60) == "attacking"
                active.append((time.monotonic() + dice.uniform(*TURN_SECONDS), attacker))
            self._pass(min(1, max(0, end - now)))

    def _spin(self, count, seconds):
        """As many processes that only use the processor."""
        spinning = [self.run.spawn([sys.executable, "-c", "while True: pass"], unprivileged=True) for _ in range(count)]
        self._pass(seconds)
        for process in spinning:
            process.kill()
            process.wait()

    def _pass(self, seconds):
        """Let the time pass, and write changes that nobody notifies."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, SILENT_SECONDS))
            if time.monotonic() < end or seconds < SILENT_SECONDS:
                self.data.write(silent(self._silent))
                self._silent += 1

    # Measurements

    def _upstreams(self):
        return self.database.backends("pgherald upstream")

    def _forget_peak(self):
        with open(f"/proc/{self.relay.process.pid}/clear_refs", "w") as file:
            file.write("5")

    def _processor_seconds(self):
        with open(f"/proc/{self.relay.process.pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def _at_rest(self):
        """Those who attacked are gone."""
        wait_until(lambda: self.relay_has_workers() <= 4, "only the healthy workers are left", 60)

    def relay_has_workers(self):
        return json.loads(self.relay.ops("status json"))["workers"]["connected"]

    def measure(self, name, during):
        """during(did): what goes on meanwhile. Returns the figures."""
        did = {}
        upstreams = self._upstreams()
        self._forget_peak()
        self.root.begin()
        began, used = time.monotonic(), self._processor_seconds()
        for program in (self.hearers, self.resumer):
            program.say("begin")
        during(did)
        used, seconds = self._processor_seconds() - used, time.monotonic() - began
        for program in (self.hearers, self.resumer):
            program.say(f"end {self._silent}")
        heard, resumed = json.loads(self.hearers.hear(90)), json.loads(self.resumer.hear(90))
        self._at_rest()
        return SimpleNamespace(name=name, seconds=seconds, did=did, rss=self.relay.peak(), used=used / seconds, heard=heard,
                               resumed=resumed, root_amiss=list(self.root.amiss), root_max=max(self.root.seconds, default=0),
                               listen_kept=self._upstreams() == upstreams and len(upstreams) == 1)

    def calm(self, seconds):
        return self.measure("calm", lambda did: self._pass(seconds))

    def spun(self, count, seconds):
        return self.measure(f"{count} that spin", lambda did: self._spin(count, seconds))

    def attacked(self, name, seconds):
        return self.measure(name, lambda did: self._attack(name, seconds, did))

    def mixed(self, names, seconds):
        return self.measure("mixed", lambda did: self._mix(names, seconds, did))

    def close(self):
        things, self._things = self._things, []
        close_all(things)


def load(name):
    """How many processes an attack keeps busy, the relay and its connections to PostgreSQL apart."""
    return AT_ONCE if name == "mixed" else sum(PROCESSES.get(one, 2 if one in OF_A_ROLE else 1) for one in name.split("+"))
