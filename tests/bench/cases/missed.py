"""What workers missed while they had no relay."""

import contextlib
import os
import socket
import time

from generator import Failure
from harness.datasync import TABLES
from rows import Case, Row

WORKERS, MISSED = 1000, 2000
CHANGED = 1000000
MIB = 2 ** 20
# A worker whose connection lasted 2 seconds connects again at once (client/session.c). One of a shorter connection
# waits, up to 0.4 seconds in the fourth round.
SETTLED_SECONDS = 2.2


def make_users(bench, database, users):
    database.sql(TABLES + f"INSERT INTO user_revisions SELECT 'user' || n, 1 FROM generate_series(1, {users}) AS n")
    bench.migrate(database, "recovery")
    database.sql("ANALYZE user_revisions")
    database.sql("CREATE TABLE bench_since AS SELECT pg_current_snapshot() AS since")


def change_all(database):
    database.sql("UPDATE user_revisions SET revision = revision + 1")


class Activated:
    """A run whose relay inherits the socket of its workers, as from systemd: while it restarts, they
    connect and wait."""

    def __init__(self, run):
        self._run = run
        self._socket = socket.socket(socket.AF_UNIX)

    def spawn(self, argv, env=None, **options):
        if not self._socket.getsockname():
            self._socket.bind(env["PGHERALD_SOCKET"])
            self._socket.listen(4096)
        inherited = self._socket.fileno()
        script = f'exec 3<&{inherited}; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=relay exec "$@"'
        return self._run.spawn(["bash", "-c", script, "bash", *argv], env, pass_fds=[inherited], **options)

    def __getattr__(self, name):
        return getattr(self._run, name)


@contextlib.contextmanager
def restarted(bench):
    """The relay ends, users change, and it starts again: until every worker has heard of them."""
    workers, missed = bench.size(WORKERS, 50), bench.size(MISSED, 200)
    with bench.rig.database() as database:
        make_users(bench, database, missed)
        with bench.relays(database.conninfo, run=Activated(bench.run)) as (relay,), \
                bench.generator("bench-restart", "ours", "--listeners", workers, "--listen", relay.path) as generator:
            before, live_since = relay.peak(), time.monotonic()

            def measure(seconds, _):
                nonlocal live_since
                time.sleep(max(0, live_since + SETTLED_SECONDS - time.monotonic()))
                relay.stop()
                change_all(database)
                generator.ask(missed)
                relay.launch()
                got = generator.answer()
                live_since = time.monotonic()
                if relay.process.poll() is not None:
                    raise Failure(f"the relay ended: {relay.log()}")
                return {"seconds": got["seconds"], "memory": (relay.peak() - before) / MIB}
            yield measure


@contextlib.contextmanager
def sent_at_once(bench):
    """The rows, read once by libpq, and their frames sent to the same workers."""
    workers, missed = bench.size(WORKERS, 50), bench.size(MISSED, 200)
    path = os.path.join(bench.run.subdirectory("floor"), "floor.sock")
    with bench.rig.database() as database:
        make_users(bench, database, missed)
        change_all(database)
        with bench.generator("bench-restart", "floor", "--listeners", workers, "--listen", path,
                             "--database", database.conninfo) as generator:
            yield lambda seconds, _: {"seconds": generator.ask(missed)["seconds"]}


def restart():
    what = f"{WORKERS:,} workers that missed {MISSED:,} changes"
    return Case("restart", "", f"A relay starts again, with {what} each: until all are live.",
                {"ours": restarted, "floor": sent_at_once},
                [Row("time", f"restart, {what}: ours / rows read once and sent to {WORKERS:,} sockets",
                     "ours.seconds", "floor.seconds", at_most=2),
                 Row("memory", "the same: memory of the relay above that before (MiB)", "ours.memory", at_most=8, counted=True)])


@contextlib.contextmanager
def resumed(bench):
    """A worker that resumes from before the changes."""
    users = bench.size(CHANGED, CHANGED // 50)
    with bench.rig.database() as database:
        make_users(bench, database, users)
        with bench.relays(database.conninfo) as (relay,), \
                bench.generator("bench-recover", "ours", "--listen", relay.path) as generator:
            # A relay that ran meanwhile would announce them, as nobody notified.
            relay.stop()
            change_all(database)
            database.sql("VACUUM ANALYZE user_revisions", transaction=False)
            relay.start()
            yield lambda seconds, _: {"seconds": generator.ask(users)["seconds"]}


@contextlib.contextmanager
def asked_by_libpq(bench):
    users = bench.size(CHANGED, CHANGED // 50)
    with bench.rig.database() as database:
        make_users(bench, database, users)
        with bench.generator("bench-recover", "bare", "--database", database.conninfo) as generator:
            change_all(database)
            database.sql("VACUUM ANALYZE user_revisions", transaction=False)
            yield lambda seconds, _: {"seconds": generator.ask(users)["seconds"]}


def recovery():
    return Case("recovery", "", "A million users changed; one worker resumes.", {"ours": resumed, "bare": asked_by_libpq},
                [Row("time", f"recovery of {CHANGED:,} changed users to one worker: ours / a bare loop of libpq, row by row",
                     "ours.seconds", "bare.seconds", at_most=1.5)], rounds_a_sitting=8, most_rounds=16)
