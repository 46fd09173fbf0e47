"""What a benchmark runs on: PostgreSQL, relays, Redis and NATS of its own, and the load
generators."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time

import psycopg2

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("PGHERALD_BUILD", "build-bench")

from harness.datasync import SQL
from harness.packages import Missing, go_program, node_program, python_program
from harness.procs import Run, children, wait_until
from harness.relay import BUILD, Relay
from harness.servers import Postgres, free_port, make_template
from harness.syncd import SYNCD, Syncd

GENERATORS = os.path.join(BUILD, "tests", "bench")
# One for each direct listener, and some more.
SETTINGS = """
max_connections = 400
shared_buffers = 64MB
wal_buffers = 8MB
"""


class Failure(Exception):
    """A measurement that did not succeed."""


class Quiet(contextlib.redirect_stdout):
    """The fixtures print logs when they end, for tests that failed."""

    def __init__(self):
        super().__init__(io.StringIO())


def program(name):
    return os.path.join(GENERATORS, name)


def measure(run, name, *arguments, env=None, seconds=300, held=None):
    """Run a load generator to its end and return what it measured. held: called when all its
    processes are ready, before it continues."""
    process = run.spawn([program(name), *map(str, arguments), *(["--hold"] if held else [])], env,
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        if held and process.stdout.readline() == "listening\n":
            held()
        output, errors = process.communicate("\n" if held else "", timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failure(f"{name} hangs") from None
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise Failure(f"{name} {' '.join(map(str, arguments))}: {errors.strip() or process.returncode}")
    result = json.loads(output) if output else {}
    if result.get("faults"):
        raise Failure(f"{name} {' '.join(map(str, arguments))}: {result['faults']} gaps")
    return result


class WithEnvironment:
    """A run whose processes get more environment variables."""

    def __init__(self, run, **environment):
        self._run, self._environment = run, environment

    def spawn(self, argv, env=None, **options):
        return self._run.spawn(argv, {**self._environment, **(env or {})}, **options)

    def __getattr__(self, name):
        return getattr(self._run, name)


class Rig:
    """One run of benchmarks."""

    def __init__(self):
        self.run = Run()
        self._template = make_template(self.run)
        self._postgres = None

    def close(self):
        self.run.close()

    @contextlib.contextmanager
    def postgres(self):
        """The server of all measurements except those that need one of their own. It runs to
        the end."""
        if not self._postgres:
            self._postgres = self._start(self.run)
        yield self._postgres

    @contextlib.contextmanager
    def slow_disk(self):
        """A server whose flush of the WAL takes 1 ms."""
        library = shutil.copy(program("slow_fsync.so"), self.run.directory)
        server = self._start(WithEnvironment(self.run, LD_PRELOAD=library), "fsync = on\n")
        try:
            yield server
        finally:
            with Quiet():
                server.close()

    def _start(self, run, settings=""):
        server = Postgres(run, self._template)
        with open(os.path.join(server.data, "postgresql.conf"), "a") as file:
            file.write(SETTINGS + settings)
        return server.start()

    def sql(self, conninfo, query, transaction=True):
        """Returns how many seconds it took. transaction: False for what may not run in one."""
        with contextlib.closing(psycopg2.connect(conninfo)) as connection:
            connection.autocommit = not transaction
            start = time.monotonic()
            with connection.cursor() as cursor:
                cursor.execute(query)
            connection.commit()
            return time.monotonic() - start

    def value(self, conninfo, query):
        with contextlib.closing(psycopg2.connect(conninfo)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    def migrate(self, conninfo, name):
        """Install a migration of relay/sql, as the role of the connection."""
        self.run.call(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", conninfo, "-f", os.path.join(SQL, name + ".sql")])

    @contextlib.contextmanager
    def database(self, server):
        """Its connection string: the Unix socket, for every side."""
        database = server.database()
        try:
            yield f"postgresql:///{database.name}?host={server.directory}&port={server.port}&user=app"
        finally:
            database.close()

    @contextlib.contextmanager
    def relays(self, conninfo, n=1):
        relays = [Relay(self.run, DATABASE_DIRECT_URL=conninfo, PGHERALD_LOG_LEVEL="error") for _ in range(n)]
        try:
            for relay in relays:
                relay.launch()
            for relay in relays:
                relay.await_ready()
            yield relays
        finally:
            for relay in relays:
                relay.terminate()
            for relay in relays:
                relay.wait_exit()
            with Quiet():
                for relay in relays:
                    relay.close()

    @contextlib.contextmanager
    def _server(self, argv, serves, what):
        process = self.run.spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: serves() or process.poll() is not None, what)
            if process.poll() is not None:
                raise Failure(f"{argv[0]} ended with {process.returncode}")
            yield
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def redis(self):
        """Redis on a Unix socket, which drops no slow subscriber."""
        path = os.path.join(self.run.subdirectory("redis"), "redis.sock")
        argv = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no",
                "--maxclients", "4000", "--client-output-buffer-limit", "pubsub 0 0 0"]
        with self._server(argv, lambda: os.path.exists(path), "redis-server serves"):
            yield path

    @contextlib.contextmanager
    def nats(self):
        directory, port = self.run.subdirectory("nats"), free_port()
        config = os.path.join(directory, "conf")
        with open(config, "w") as file:
            file.write(f'host: 127.0.0.1\nport: {port}\nmax_pending: 1GB\nports_file_dir: "{directory}"\n')

        def serves():
            return any(name.endswith(".ports") for name in os.listdir(directory))
        with self._server(["nats-server", "-c", config], serves, "nats-server serves"):
            yield f"nats://127.0.0.1:{port}"


def cpu_seconds(pids):
    """Of all their threads, and of their children that have ended."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
            total += sum(map(int, stat.read().rpartition(")")[2].split()[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def have(server, library):
    """Why this side is left out; nothing if it is not."""
    if not shutil.which(server, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin"):
        return f"no {server}; apt-get install {server} {library}-dev, and build anew"
    linked = subprocess.run(["ldd", program("bench-fanout")], capture_output=True, text=True).stdout
    return "" if library in linked else f"built without {library}; apt-get install {library}-dev, and build anew"


def frames_and_sends(relay):
    """How many frames the relay has sent, in how many sends."""
    metrics = relay.ops("metrics")
    return tuple(int(re.search(rf"^{name} (\d+)$", metrics, re.M)[1])
                 for name in ("pgherald_delivered_frames_total", "pgherald_sends_total"))
