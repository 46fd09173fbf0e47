"""What a benchmark runs on: servers of PostgreSQL, Redis and NATS of its own."""

import contextlib
import io
import os
import shutil
import subprocess

import psycopg2

from harness.packages import Missing
from harness.procs import Run, wait_until
from harness.servers import Postgres, free_port, make_template, pg_bin
from harness.tls import Authority, serve

# One connection for each direct listener, and some more.
SETTINGS = """
max_connections = 400
shared_buffers = 64MB
wal_buffers = 8MB
"""
PLAIN, SLOW_DISK, TLS = "plain", "slow disk", "tls"


class Quiet(contextlib.redirect_stdout):
    """The fixtures print logs when they end, for tests that failed."""

    def __init__(self):
        super().__init__(io.StringIO())


class WithEnvironment:
    """A run whose processes get more environment variables."""

    def __init__(self, run, **environment):
        self._run, self._environment = run, environment

    def spawn(self, argv, env=None, **options):
        return self._run.spawn(argv, {**self._environment, **(env or {})}, **options)

    def __getattr__(self, name):
        return getattr(self._run, name)


class Database:
    """A database of one side, alone on its server: the server's CPU time is the side's."""

    def __init__(self, server, name):
        self.server, self.name = server, name
        # The Unix socket, for every side.
        self.conninfo = f"postgresql:///{name}?host={server.directory}&port={server.port}&user=app"

    def sql(self, query, transaction=True):
        """The first value of its result. transaction: False for what may not run in one."""
        with contextlib.closing(psycopg2.connect(self.conninfo)) as connection, connection.cursor() as cursor:
            connection.autocommit = not transaction
            cursor.execute(query)
            value = cursor.fetchone()[0] if cursor.description else None
            connection.commit()
            return value


class Rig:
    """The servers of one run of benchmarks. A server that a side no longer needs serves the next."""

    def __init__(self, slow_fsync):
        self.run = Run()
        self._slow_fsync = slow_fsync
        self._templates = {}
        self._idle = {}

    def close(self):
        self.run.close()

    @contextlib.contextmanager
    def database(self, kind=PLAIN, major=None):
        """On a server that no other side uses meanwhile. SLOW_DISK: a flush of its WAL takes 1 ms."""
        idle = self._idle.setdefault((kind, major), [])
        server = idle.pop() if idle else self._start(kind, major)
        database = server.database()
        try:
            yield Database(server, database.name)
        finally:
            database.close()
            idle.append(server)

    def _start(self, kind, major):
        if major not in self._templates:
            try:
                self._templates[major] = make_template(self.run, major)
            except FileNotFoundError as why:
                raise Missing(str(why)) from None
        run, settings = self.run, SETTINGS
        if kind == SLOW_DISK:
            # A copy each: to write into a library that a server has mapped would crash that server.
            run = WithEnvironment(run, LD_PRELOAD=shutil.copy(self._slow_fsync, self.run.subdirectory("library")))
            settings += "fsync = on\n"
        server = Postgres(run, self._templates[major], major=major)
        with open(os.path.join(server.data, "postgresql.conf"), "a") as file:
            file.write(settings)
        server.start()
        if kind == TLS:
            server.authority = Authority(self.run)
            serve(server, server.authority, "host all all 127.0.0.1/32 trust\n")
        return server

    def program(self, major=None):
        return pg_bin("postgres", major)

    @contextlib.contextmanager
    def _other(self, argv, serves, what):
        process = self.run.spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: serves() or process.poll() is not None, what)
            if process.poll() is not None:
                raise AssertionError(f"{argv[0]} ended with {process.returncode}")
            yield process
        finally:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def redis(self):
        """Redis on a Unix socket, which drops no slow subscriber: its process and its address."""
        path = os.path.join(self.run.subdirectory("redis"), "redis.sock")
        argv = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no",
                "--maxclients", "4000", "--client-output-buffer-limit", "pubsub 0 0 0"]
        with self._other(argv, lambda: os.path.exists(path), "redis-server serves") as process:
            yield process, path

    @contextlib.contextmanager
    def nats(self):
        directory, port = self.run.subdirectory("nats"), free_port()
        config = os.path.join(directory, "conf")
        with open(config, "w") as file:
            file.write(f'host: 127.0.0.1\nport: {port}\nmax_pending: 1GB\nports_file_dir: "{directory}"\n')

        def serves():
            return any(name.endswith(".ports") for name in os.listdir(directory))
        with self._other(["nats-server", "-c", config], serves, "nats-server serves") as process:
            yield process, f"nats://127.0.0.1:{port}"
