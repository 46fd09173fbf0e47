"""What pgherald.track() costs a writer, and what recovery then costs."""

import contextlib
import time
from functools import partial

from rig import SLOW_DISK
from rows import Case, Row
from sides import RECORDS, publishing

PUBLISHERS = 64
ROWS = 1000000
FOLDED_KEYS = 10000000
MISSED_KEYS = 1000
FOLD_ALL = "DO $$ BEGIN WHILE (SELECT more FROM pgherald.fold()) LOOP COMMIT; END LOOP; END $$"


def track(bench, database):
    """The owner is the role of the connection."""
    bench.migrate(database, "pgherald")
    database.sql("SELECT pgherald.track('bench_records', 'bench', 'pubkey')")


def leave(bench, database):
    """Not tracked."""


def writers():
    def side(prepare):
        return lambda bench: publishing(bench, "none", PUBLISHERS, "--insert", server=SLOW_DISK, prepare=prepare)
    return Case("tracked", "writers", "Writes of 64 clients, where a flush of the disk takes 1 ms.",
                {"plain": side(leave), "tracked": side(track)},
                [Row("rate", f"writes/s, {PUBLISHERS} clients, fsync 1 ms: table tracked / not tracked",
                     "tracked.rate", "plain.rate", at_least=0.85)], ours=("tracked",), seconds=0.6)


def timed(database, query, transaction=True):
    start = time.monotonic()
    database.sql(query, transaction)
    return time.monotonic() - start


@contextlib.contextmanager
def updated(bench, prepare):
    rows = bench.size(ROWS, ROWS // 100)
    with bench.rig.database() as database:
        database.sql(f"{RECORDS}; INSERT INTO bench_records (pubkey) SELECT 'user' || n FROM generate_series(1, {rows}) AS n")
        prepare(bench, database)

        def measure(seconds, _):
            took = timed(database, "UPDATE bench_records SET body = 'y'")
            # Makes room for the next.
            database.sql("VACUUM bench_records", transaction=False)
            if prepare == track:
                database.sql("TRUNCATE pgherald.journal")
            return {"updates": rows / took}
        measure(0, {})
        yield measure


def bulk():
    return Case("tracked", "bulk", "UPDATE of a million rows in one statement.",
                {"plain": partial(updated, prepare=leave), "tracked": partial(updated, prepare=track)},
                [Row("rate", f"UPDATE of {ROWS:,} rows: tracked / not tracked",
                     "tracked.updates", "plain.updates", at_least=0.7)],
                ours=("tracked",), rounds_a_sitting=8, most_rounds=8)


@contextlib.contextmanager
def folded(bench):
    """A table with ten million keys, of which a thousand changed since a snapshot."""
    keys = bench.size(FOLDED_KEYS, FOLDED_KEYS // 1000)
    with bench.rig.database() as database:
        database.sql(RECORDS)
        track(bench, database)
        database.sql(f"INSERT INTO pgherald.folded SELECT '3', false, 'bench', 'key' || n FROM generate_series(1, {keys}) AS n")
        database.sql("VACUUM ANALYZE pgherald.folded", transaction=False)
        database.sql("CREATE TABLE since AS SELECT pg_current_snapshot() AS s")
        database.sql("UPDATE pgherald.folded SET changed_xid = pg_current_xact_id() WHERE channel = 'bench'"
                     f" AND key IN (SELECT 'key' || n * {keys // MISSED_KEYS} FROM generate_series(1, {MISSED_KEYS}) AS n)")

        def measure(seconds, _):
            return {"ms": 1000 * timed(database, "SELECT count(*) FROM pgherald.changes_since((SELECT s FROM since))")}
        yield measure


def recovery():
    return Case("tracked", "recovery", "What changed since a checkpoint, of ten million keys.", {"ours": folded},
                [Row("ms", f"recovery of {MISSED_KEYS:,} keys of {FOLDED_KEYS:,} (ms)", "ours.ms", at_most=50)],
                rounds_a_sitting=12, most_rounds=12)


@contextlib.contextmanager
def day(bench):
    """Twelve parts of a day, each with as many changes of the same keys, folded."""
    changes = bench.size(ROWS // 200, ROWS // 1000)

    def measure(seconds, _):
        with bench.rig.database() as database:
            database.sql(RECORDS)
            track(bench, database)
            parts = [part(database, changes) for _ in range(12)]
        return {"growth": parts[-1][0] / parts[3][0], "fold": sum(cost for _, cost in parts) / 12}
    yield measure


def part(database, changes):
    """Returns the bytes of all that is kept, and the microseconds to fold a change."""
    database.sql(f"DO $$ BEGIN FOR n IN 1..{changes} LOOP INSERT INTO bench_records (pubkey) VALUES ('user' || n % {changes // 10});"
                 " IF n % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$", transaction=False)
    database.sql("SELECT pgherald.fold(); UPDATE pgherald.moment SET at = at - interval '2 minutes'")
    fold = timed(database, FOLD_ALL, transaction=False) / changes * 1e6
    for table in ("journal", "folded", "moment"):
        database.sql(f"VACUUM pgherald.{table}", transaction=False)
    return database.sql("SELECT pg_total_relation_size('pgherald.journal') + pg_total_relation_size('pgherald.folded')"), fold


def simulated_day():
    return Case("tracked", "day", "A day of a tracked table, in twelve parts.", {"ours": day},
                [Row("size", "size of what is kept, after 12 times the same keys / 4 times", "ours.growth", at_most=1.1,
                     counted=True),
                 Row("fold", "fold, a change (microseconds)", "ours.fold", at_most=20)], rounds_a_sitting=8, most_rounds=8)
