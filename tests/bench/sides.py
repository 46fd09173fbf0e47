"""The sides that several cases have in common.

A side is a context manager, made of a bench. While it is open, everything of it runs, and what it
yields measures: measure(seconds, round) returns figures by name. round has the figures of the
sides that were measured before in this round."""

import contextlib
import os
import re
import subprocess

from generator import Generator
from harness.packages import Missing
from harness.relay import Relay
from rig import PLAIN, Quiet

# A table as a service has it: a primary key, and an index on whom the row belongs to.
RECORDS = ("CREATE TABLE bench_records (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, pubkey text NOT NULL,"
           " body text NOT NULL DEFAULT repeat('x', 100)); CREATE INDEX ON bench_records (pubkey)")


class Bench:
    """What sides are made of: the servers, and a build of this project. quick: every size and
    every time is scaled down, so the figures only show that it works."""

    def __init__(self, rig, build, generators, quick=False):
        self.rig, self.build, self.quick = rig, build, quick
        self.run = rig.run
        # The build that the generators are of; they use the library of the other.
        self._generators = generators

    def size(self, full, quick):
        return quick if self.quick else full

    def generator(self, name, *arguments):
        return self._start(self._generators, name, arguments)

    def own_generator(self, name, *arguments):
        """One that contains code of the relay: each build has its own."""
        return self._start(self.build, name, arguments)

    @contextlib.contextmanager
    def _start(self, build, name, arguments):
        generator = Generator(self.run, [build.generator(name), *map(str, arguments)], self.build.environment)
        try:
            yield generator
        finally:
            generator.close()

    @contextlib.contextmanager
    def relays(self, url, n=1, run=None, **settings):
        settings = {"DATABASE_DIRECT_URL": url, "PGHERALD_LOG_LEVEL": "error", **settings}
        relays = [Relay(run or self.run, daemon=self.build.daemon, **settings) for _ in range(n)]
        try:
            for relay in relays:
                relay.launch()
            for relay in relays:
                relay.await_ready()
            yield relays
        finally:
            with Quiet():
                for relay in relays:
                    relay.close()

    def migrate(self, database, name):
        """Install a migration, as the role of the connection."""
        self.run.call(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database.conninfo, "-f", self.build.migration(name)])

    def linked(self, server, library):
        """Raises Missing unless the generators can measure this other side."""
        linked = subprocess.run(["ldd", self._generators.generator("bench-fanout")], capture_output=True, text=True).stdout
        if not any(os.access(os.path.join(path, server), os.X_OK) for path in (*os.get_exec_path(), "/usr/sbin")):
            raise Missing(f"no {server}; apt-get install {server} {library}-dev, and build anew")
        if library not in linked:
            raise Missing(f"built without {library}; apt-get install {library}-dev, and build anew")


def _fanout(generator, width):
    def measure(seconds, _):
        return _fanout_figures(generator.ask(seconds), width)
    return measure


def _fanout_figures(got, width):
    changes = got["changes"]
    cpu = got["cpu_processes"] + got["cpu_relays"] + got["cpu_postgres"]
    return {"rate": changes / got["seconds"], "deliveries": changes * width / got["seconds"],
            "cpu": cpu / changes, "cpu_delivery": cpu / changes / width,
            "postgres": got["cpu_postgres"] / changes, "relay": got["cpu_relays"] / changes,
            "sender": (got["cpu_relays"] or got["cpu_source"]) / changes / width,
            "listener": got["cpu_processes"] / changes / width,
            "p50": got["p50"] / 1000, "p99": got["p99"] / 1000}


@contextlib.contextmanager
def direct(bench, width, *options, kind="direct", major=None):
    """A LISTEN connection for each listener."""
    with bench.rig.database(major=major) as database, bench.generator(
            "bench-fanout", kind, "--listeners", width, "--listen", database.conninfo, "--publish", database.conninfo,
            "--postmaster", database.server.process.pid, *options) as generator:
        yield _fanout(generator, width)


def _frames_and_sends(relay):
    """How many frames the relay has sent, in how many sends."""
    metrics = relay.ops("metrics")
    return [int(re.search(rf"^{name} (\d+)$", metrics, re.M)[1])
            for name in ("pgherald_delivered_frames_total", "pgherald_sends_total")]


@contextlib.contextmanager
def ours(bench, width, *options, kind="ours", relays=1, server=PLAIN, major=None, url=lambda database: database.conninfo):
    """A relay, or several, and a worker for each listener."""
    with bench.rig.database(server, major) as database, bench.relays(url(database), relays) as hosts, bench.generator(
            "bench-fanout", kind, "--listeners", width, "--listen", ",".join(host.path for host in hosts),
            "--publish", database.conninfo, "--postmaster", database.server.process.pid,
            "--relays", ",".join(str(host.process.pid) for host in hosts), *options) as generator:
        def measure(seconds, _):
            before = _frames_and_sends(hosts[0])
            figures = _fanout_figures(generator.ask(seconds), width)
            frames, sends = (now - then for now, then in zip(_frames_and_sends(hosts[0]), before))
            return {**figures, "frames": frames / sends}
        measure.relay = hosts[0]
        yield measure


@contextlib.contextmanager
def floor(bench, width):
    """As many frames a second as the relay just sent, in as many sends, so that its listeners
    sleep and wake like the relay's."""
    path = os.path.join(bench.run.subdirectory("floor"), "floor.sock")
    with bench.generator("bench-fanout", "floor", "--listeners", width, "--listen", path) as generator:
        def measure(seconds, round):
            frames = max(round["ours"]["frames"], 1)
            return _fanout_figures(generator.ask(seconds, frames, round["ours"]["rate"] / frames), width)
        yield measure


@contextlib.contextmanager
def other(bench, width, *options, system):
    """redis or nats."""
    bench.linked(f"{system}-server", {"redis": "libhiredis", "nats": "libnats"}[system])
    with getattr(bench.rig, system)() as (process, address), bench.generator(
            "bench-fanout", system, "--listeners", width, "--listen", address, "--publish", address,
            "--relays", process.pid, *options) as generator:
        yield _fanout(generator, width)


@contextlib.contextmanager
def publishing(bench, kind, publishers, *options, server=PLAIN, prepare=lambda bench, database: None):
    """Processes that publish: own, relay or none, see publish.c. The host listens whatever the
    side: PostgreSQL has much less to do without a listener."""
    with bench.rig.database(server) as database:
        if "--insert" in options:
            database.sql(RECORDS)
        prepare(bench, database)
        with bench.relays(database.conninfo) as (host,), bench.generator(
                "bench-publish", kind, "--publishers", publishers, "--database", database.conninfo, "--relay", host.path,
                "--postmaster", database.server.process.pid, "--relays", host.process.pid, *options) as generator:
            def measure(seconds, _):
                got = generator.ask(seconds)
                cpu = got["cpu_processes"] + got["cpu_relays"] + got["cpu_postgres"]
                return {"rate": got["changes"] / got["seconds"], "cpu": cpu / got["changes"], "p50": got["p50"] / 1000}
            yield measure
