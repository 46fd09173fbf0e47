#!/usr/bin/python3
"""Failure injection: each allocation and each system call that our code makes fails once, and every promise holds.

    tests/inject/run [--long] [SCENARIO...]              all, or some of each scenario's sites when it has many
    tests/inject/run SCENARIO --site SITE                one of them again

A scenario runs once to learn the sites (see inject.c), then once for each site, two at a time, in the build with
sanitizers that PGHERALD_BUILD names (build-run/asan). Scenarios: client (the library against a real relay), local and
postgres (the relay).

The class Promises lists what must hold. Prints a line for each broken promise and one a scenario; ends with an error
when a promise is broken.
"""

import argparse
import concurrent.futures
import json
import os
import re
import signal
import socket
import sys
import threading
import time

os.environ.setdefault("PGHERALD_BUILD", "build-run/asan")

from harness.datasync import DataSync
from harness.procs import DEADLINE, Run, wait_until
from harness.relay import BUILD, DAEMON, Relay, check_output
from harness.servers import Postgres, make_template
from harness.subscriber import Subscriber
from harness.worker import BEGIN, CHANNEL, NOTIFY, SEND, SUBSCRIBE, Change, Error, Gap, Message, Worker

INJECT = os.path.join(BUILD, "tests", "inject", "inject.so")
CLIENT = os.path.join(BUILD, "tests", "inject", "inject-client")
SANITIZER = "verify_asan_link_order=0:abort_on_error=1:detect_leaks=1"

# When libev is out of memory, it ends the process, and systemd restarts it.
LIBEV_ENDS = "(libev)"
# One failure may cost one connection or one request, which is asked again. More than that is a failure that spreads.
TOLD_MAX = 3
# How many sites are tried without --long.
SOME = {"client": 100, "local": 60, "postgres": 10}


class Told(Exception):
    """The relay reported the failure: it ended a connection or answered a request with ERROR."""


class Promises:
    """What a relay promises after one of its calls has failed.

    1. At start it serves, or exits with a status that is not 0 and one ERROR line.
    2. Later it continues to serve. The only exception is libev, see above.
    3. It may disconnect a worker or refuse a request; when the worker asks again, it is served.
    4. A change that was acknowledged with OK reaches a subscriber, or the subscriber is told of a gap; also when it
       resumes in between.
    5. A reply of ops.sock or metrics.sock is whole, or the connection ends before the reply's end.
    6. Without workers it has as many open descriptors as it has without a failure.
    7. On SIGTERM it exits with status 0, and no sanitizer reports anything: no leak, no use after free.
    """

    def __init__(self, relay, reference):
        self.relay = relay
        self.reference = reference  # what a run without a failure saw; filled by that run
        self.told = 0
        self.listener = None
        self.gaps = 0  # those that explain a missed change

    def again(self, step):
        """Take the step, and again while the relay reports that it failed."""
        while True:
            try:
                return step()
            except (Told, ConnectionError) as e:
                self.told += 1
                if isinstance(e, ConnectionRefusedError):
                    self.relay.wait_exit(2)
                assert self.relay.process.poll() is None, f"2: the relay ended with {self.relay.process.returncode}: {self.relay.log()}"
                assert self.told <= TOLD_MAX, f"3: told once more: {e!r}: {self.relay.log()}"

    def alike(self, what, shape):
        known = self.reference.setdefault(what, shape)
        assert shape == known, f"{what} is {shape} and was {known}: {self.relay.log()}"

    # 1

    def started(self):
        self.relay.launch().settles()
        if self.relay.process.poll() is None:
            return True
        status, log = self.relay.process.returncode, self.relay.log()
        if LIBEV_ENDS not in log:
            assert status > 0 and len(self.relay.lines("ERROR")) == 1, f"1: status {status}: {log}"
            check_output("the relay", log)
        return False

    # 3 and 4

    @staticmethod
    def until(worker, condition, what):
        end = time.monotonic() + DEADLINE
        while not condition():
            if worker.closed:
                raise Told(what)
            assert time.monotonic() < end, f"4: not within {DEADLINE} s, and nobody was told: {what}; came: {worker.tail()}"
            worker.pump(0.2)

    def ask(self, worker, *request):
        id = worker.ask(*request)
        self.until(worker, lambda: id in worker._answers, f"the answer to {request}")
        if isinstance(worker._answers[id], Error):
            raise Told(worker._answers[id])

    def listen(self, **options):
        """A subscriber of everything, which resumes when it is disconnected."""
        def connect():
            cursor = self.listener.cursor if self.listener else None
            # Without a cursor there is nothing to resume.
            worker = Subscriber(self.relay.path, resume=cursor, **options)
            self.relay._workers.append(worker)
            for channel in (CHANNEL, "log"):
                self.ask(worker, SUBSCRIBE, channel, None)
            if cursor:
                begun = worker.begin()
                self.until(worker, lambda: begun in worker._answers, "the OK to BEGIN")
            self.listener = worker
        self.again(connect)

    def hears(self, *texts):
        def all_heard():
            missing = set(texts) - set(self.listener.pubkeys) - set(self.listener.payloads)
            return not missing or len(self.listener.of(Gap)) > self.gaps

        def step():
            if self.listener.closed:
                before = self.listener.of((Change, Message, Gap))
                self.listen()
                self.listener.frames.extend(before)
            self.until(self.listener, all_heard, f"{texts[:3]} or a gap")
        self.again(step)
        # Changes after a gap are heard, or there is another gap.
        self.gaps = len(self.listener.of(Gap))

    def publish(self, kind, channel, *what):
        def step():
            worker = Worker(self.relay.path)
            try:
                self.ask(worker, kind, channel, *what)
            finally:
                worker.close()
        self.again(step)

    # 5

    @staticmethod
    def _exchange(path, request, shut):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(DEADLINE)
            s.connect(path)
            s.sendall(request)
            if shut:
                s.shutdown(socket.SHUT_WR)
            answer = b""
            while True:
                data = s.recv(65536)
                if not data:
                    return answer.decode()
                answer += data

    def operator_asks(self, command):
        def step():
            reply = self._exchange(self.relay.ops_path, command.encode() + b"\n", True)
            if not reply.endswith("\n\n"):
                raise Told(command)
            if reply.startswith("ERR memory ") or re.match(r"\w+=", reply):
                return  # out of memory for the table
            if command.endswith(" json"):
                shape = [sorted(json.loads(line)) for line in reply.splitlines() if line]
                if command.startswith("workers"):
                    shape = shape[:1]
            elif command.startswith("metrics"):
                shape = self.families(reply)
            else:
                shape = [re.sub(r"\d+", "N", line.split()[0]) if line.split() else "" for line in reply.splitlines()]
                # The number of workers depends on which connections have failed.
                shape = [name for i, name in enumerate(shape) if name != "N" or shape[i - 1] != "N"]
            self.alike(f"5: the reply to {command}", shape)
        self.again(step)

    @staticmethod
    def families(page):
        """The names that are always there: those from /proc are not promised."""
        return [line.split()[0] for line in page.splitlines() if line and "process_" not in line]

    def prometheus_asks(self):
        def step():
            head, end, body = self._exchange(self.relay.metrics_path, b"GET /metrics HTTP/1.0\r\n\r\n", False).partition("\r\n\r\n")
            length = re.search(r"Content-Length: (\d+)", head)
            if not end or not length or len(body) < int(length[1]):
                raise Told("metrics")
            self.alike("5: the answer to GET /metrics", [head.split("\r\n")[0], *self.families(body)])
        self.again(step)

    # 6 and 7

    def ends(self):
        self.relay.disconnect()
        # Without an eventfd, libev uses a pipe, which has two ends.
        fds = self.reference.setdefault("fds", self.relay.fds()) + self.relay.environment.get("INJECT_FAIL", "").startswith("eventfd-")
        wait_until(lambda: self.relay.fds() <= fds, lambda: f"6: {fds} descriptors, not {self.relay.fds()}")
        self.relay.stop()
        check_output("7: the relay", self.relay.log() + self.relay.stdout())


class Scenario:
    """Steps that run with an environment for the program whose call is to fail."""

    program = DAEMON  # whose calls fail

    def __init__(self, run):
        self.run = run
        self.reference = {}

    def close(self):
        pass

    def relay(self, environment, **settings):
        relay = Relay(self.run, PGHERALD_CHANNELS=CHANNEL + ",log:text", **settings, **environment)
        relay.metrics_path = relay.environment["PGHERALD_METRICS_SOCKET"] = os.path.join(relay.directory, "metrics.sock")
        return relay

    def play_relay(self, relay, steps):
        promises = Promises(relay, self.reference)
        try:
            if promises.started():
                steps(promises)
                promises.ends()
        except Exception:
            if LIBEV_ENDS not in relay.log():
                raise
            assert relay.wait_exit(2) == -signal.SIGABRT
        finally:
            relay.disconnect()
            relay.kill()


class Client(Scenario):
    """client.c checks the library's promises."""

    program = os.path.join(BUILD, "client", "libpgherald.so")

    def __init__(self, run):
        super().__init__(run)
        self.server = self.relay({}).start()

    def play(self, environment):
        self.run.call([CLIENT, self.server.path], env={**environment, "INJECT_OWN": "libpgherald.so"})

    def close(self):
        self.server.close()


class Local(Scenario):
    def play(self, environment):
        self.play_relay(self.relay(environment, PGHERALD_ALLOW="*=both"), self.steps)

    def steps(self, p):
        p.listen()
        for pubkey in ("plain", 'quo"te', "Zoë" * 200):
            p.publish(NOTIFY, CHANNEL, pubkey, "me")
            p.hears(pubkey)
        p.publish(SEND, "log", "text")
        p.hears("text")
        # Many pubkeys in one request, and a request in pieces.
        p.again(lambda: p.ask(self.worker(p), SUBSCRIBE, CHANNEL, [f"user{i}" for i in range(200)]))
        p.again(lambda: self.torn(p))
        for command in ("status", "workers", "channels", "metrics", "config", "help", "version", "workers json", "config json"):
            p.operator_asks(command)
        p.prometheus_asks()
        # A change that is published while the subscriber is away.
        p.listener.close()
        p.publish(NOTIFY, CHANNEL, "missed", None)
        p.hears("missed")
        # A cursor of another run of the relay: the worker is told of a gap.
        p.again(lambda: self.foreign(p))

    @staticmethod
    def worker(p, resume=None):
        worker = Worker(p.relay.path, resume=resume)
        p.relay._workers.append(worker)
        return worker

    def torn(self, p):
        worker = self.worker(p)
        worker.write(b"\x95\x03\x09\xb1data_sync")
        p.ask(self.worker(p), SUBSCRIBE, CHANNEL, None)
        worker._asked[9] = (NOTIFY, CHANNEL, None)
        worker.write(b"_changes\xa4torn\xc0")
        p.until(worker, lambda: 9 in worker._answers, "the answer to what came torn")
        if isinstance(worker._answers[9], Error):
            raise Told(worker._answers[9])
        p.hears("torn")

    def foreign(self, p):
        worker = Subscriber(p.relay.path, resume=("another", 1, "7;1;0/1;3:3:"))
        p.relay._workers.append(worker)
        worker.begin()
        p.until(worker, lambda: worker.of(Gap), "a gap")


class PostgresMode(Scenario):
    def __init__(self, run):
        super().__init__(run)
        self.server = Postgres(run, make_template(run)).start()

    def close(self):
        self.server.close()

    def play(self, environment):
        database = self.server.database()
        data = DataSync(self.run, database).recoverable()
        # Without GSSAPI and TLS: Kerberos' library dereferences NULL when it is out of memory.
        url = database.direct_url + "?gssencmode=disable&sslmode=disable"
        relay = self.relay(environment, DATABASE_URL=url, DATABASE_DIRECT_URL=url,
                           PGHERALD_BACKLOG_SIZE="64K", PGHERALD_CHECKPOINT_INTERVAL="0.3")
        try:
            self.play_relay(relay, lambda p: self.steps(p, data))
        finally:
            database.close()

    @staticmethod
    def steps(p, data):
        p.listen(receive_buffer=4096)
        p.publish(NOTIFY, CHANNEL, "published", "me")
        p.hears("published")
        checkpoint = p.listener.cursor[2]
        data.change("written")
        data.database.notify(CHANNEL, '{ "p" : "unusual" }')
        data.database.notify("log", "text")
        p.hears("written", "unusual", "text")
        # A change that nobody notified: it is reconciled.
        data.write("silent")
        p.hears("silent")
        # Changes that the upstream misses.
        data.database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pgherald%%'"
                          " AND datname = current_database()", user="postgres")
        data.change("while it was away")
        p.hears("while it was away")
        # The subscriber falls out of the backlog.
        data.write_many(1, 3000, "a user with a long name " + "x" * 100)
        data.database.sql("SELECT count(pg_notify(%s, '{\"p\":\"' || user_id || '\"}')) FROM user_revisions", (CHANNEL,))
        data.change("last")
        p.hears("last", "a user with a long name " + "x" * 100 + "1500")
        # The subscriber has only a checkpoint, and catches up from the database.
        p.listener.close()
        p.listener.cursor = ("another run", 1, checkpoint)
        data.change("while the worker was away")
        p.hears("while the worker was away")
        for command in ("status", "upstream"):
            p.operator_asks(command)


SCENARIOS = {"client": Client, "local": Local, "postgres": PostgresMode}


class Injection:
    """The runs of one scenario."""

    def __init__(self, run, name):
        self.run, self.name = run, name
        self.scenario = SCENARIOS[name](run)
        self.directory = run.subdirectory("inject")
        self.lock = threading.Lock()
        self.n = 0

    def environment(self, **variables):
        sanitizer = os.environ.get("ASAN_OPTIONS", "")
        return {"LD_PRELOAD": INJECT, "ASAN_OPTIONS": f"{sanitizer}:{SANITIZER}", **variables}

    def sites(self):
        """The sites that a run without a failure meets."""
        path = os.path.join(self.directory, "sites")
        self.scenario.play(self.environment(INJECT_SITES=path))
        with open(path) as file:
            sites = [line.split()[0] for line in file]
        # The first descriptor that libev adds wakes it for a signal. When the kernel does not watch it, libev does not report that.
        libev = [site for site in sites if site.startswith("epoll_ctl")][:1] if self.scenario.program == DAEMON else []
        return [site for site in sites if site not in libev]

    def fail(self, site):
        """None: every promise was kept; "": the call was not met again; otherwise what broke."""
        with self.lock:
            self.n += 1
            done = os.path.join(self.directory, f"done{self.n}")
        try:
            self.scenario.play(self.environment(INJECT_FAIL=site, INJECT_DONE=done))
        except Exception as e:
            return f"{self.name} --site {site}: {self.where(done)}: {type(e).__name__}: {e}"
        return None if os.path.exists(done) else ""

    def where(self, done):
        """The stack of the call that failed, as lines of our source."""
        if not os.path.exists(done):
            return "before any failure"
        with open(done) as file:
            frames = file.read().split()[1:]
        output = self.run.call(["addr2line", "-s", "-e", self.scenario.program, *(hex(int(f, 16) - 1) for f in frames)])
        return " < ".join(output.split())


def play(run, name, site, limit, part):
    injection = Injection(run, name)
    try:
        sites = [site] if site else injection.sites()
        if site:
            injection.sites()
        # Spread evenly over all of them, and the same in every run of a build.
        every = max(1, -(-len(sites) // limit)) if limit else 1
        chosen = sites[::every]
        chosen = chosen[part[0] - 1::part[1]]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            results = []
            for result in pool.map(injection.fail, chosen):
                results.append(result)
                if result:
                    print("BROKEN: " + result[:6000], flush=True)
    finally:
        injection.scenario.close()
    broken = [r for r in results if r]
    unmet = results.count("")
    print(f"{name:12} {len(chosen)} of {len(sites)} sites failed once, {unmet} of them not met again, "
          + (f"FAILED: {len(broken)} broke a promise" if broken else "every promise kept"), flush=True)
    return not broken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--site")
    parser.add_argument("--part", default="1/1", metavar="K/N", help="every Nth of the sites, from the Kth")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    arguments = parser.parse_args()
    part = tuple(map(int, arguments.part.split("/")))
    run = Run()
    try:
        kept = [play(run, name, arguments.site, None if arguments.long else SOME[name], part)
                for name in arguments.scenarios or SCENARIOS]
    finally:
        run.close()
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
