"""What is measured, and the rows of the table. Each row is a ratio of two figures of the
same round, and what it must be."""

import os
import statistics

from rig import SYNCD, Failure, Missing, Syncd, children, cpu_seconds, frames_and_sends, go_program, have, measure, node_program, python_program

WIDTHS = (1, 8, 64, 256)
WIDEST = 1000  # too many for a connection of each listener's own
BATCH = 100
RATE = 200
PUBLISHERS = 64
USERS = (1000, 100000, 1000000)
HOLDERS = 16  # of those users
HOSTS = 20
CLIENTS = 8
HERE = os.path.dirname(os.path.abspath(__file__))
# Listeners with the packages for other languages: functions that return the command, or raise Missing.
LISTENERS = {
    "go": lambda: [go_program("./bench/go", os.path.dirname(HERE))],
    "node": lambda: node_program(os.path.join(HERE, "node.mjs")),
    "python": lambda: python_program(os.path.join(HERE, "listener.py")),
    "python-asyncio": lambda: [*python_program(os.path.join(HERE, "listener.py")), "asyncio"],
}
# Enough that PostgreSQL reads them by an index: serializable transactions that read the same pages conflict.
SYNCD_RECORDS = """
INSERT INTO user_revisions (user_id, revision) SELECT 'user' || lpad(n::text, 5, '0'), 1 FROM generate_series(1, 10000) AS n;
INSERT INTO records (user_id, id, data, revision) SELECT user_id, 'another', '', 1 FROM user_revisions;
ANALYZE"""


class Figures:
    """Every figure by name, one a round."""

    def __init__(self):
        self.values = {}

    def add(self, *name, **values):
        for key, value in values.items():
            self.values.setdefault("/".join(map(str, (*name, key))), []).append(value)

    def median(self, name):
        return statistics.median(self.values[name]) if name in self.values else None


class Bench:
    """One round's measurements, on one rig."""

    def __init__(self, rig, figures, seconds):
        self.rig, self.figures, self.seconds = rig, figures, seconds
        self.run = rig.run
        self.missing = {side: why for side, why in (
            ("redis", have("redis-server", "libhiredis")), ("nats", have("nats-server", "libnats"))) if why}

    # One side of a fan-out. Each has a database, and so listeners, of its own.

    def fanout(self, name, side, width, *options, addresses, postmaster=None, relays=(), held=None):
        listen, publish = addresses
        arguments = ["--listeners", width, "--listen", listen, "--seconds", self.seconds, *options]
        if publish:
            arguments += ["--publish", publish]
        if postmaster:
            arguments += ["--postmaster", postmaster.process.pid]
        if relays:
            arguments += ["--relays", ",".join(str(relay.process.pid) for relay in relays)]
        got = measure(self.run, "bench-fanout", side, *arguments, held=held)
        if not got:
            return None
        changes = got["changes"]
        cpu = got["cpu_listeners"] + got["cpu_relays"] + got["cpu_postgres"]
        sender = got["cpu_relays"] or got["cpu_source"]
        self.figures.add(*name, width, rate=changes / got["seconds"], deliveries=changes * width / got["seconds"],
                         cpu=cpu / changes, sender=sender / changes / width, relay=got["cpu_relays"] / changes,
                         listener=got["cpu_listeners"] / changes / width,
                         p50=got["p50"] / 1000, p99=got["p99"] / 1000)
        return got

    def direct(self, case, width, *options, side="direct"):
        with self.rig.postgres() as server, self.rig.database(server) as conninfo:
            self.fanout((case, side), side, width, *options, addresses=(conninfo, conninfo), postmaster=server)

    def ours(self, case, width, *options, side="ours", relays=1, kind="ours"):
        """Returns how many changes a second, and how many frames a send."""
        with self.rig.postgres() as server, self.rig.database(server) as conninfo, \
                self.rig.relays(conninfo, relays) as hosts:
            before = frames_and_sends(hosts[0])
            got = self.fanout((case, side), kind, width, *options, postmaster=server, relays=hosts,
                              addresses=(",".join(host.path for host in hosts), conninfo))
            frames, sends = (b - a for a, b in zip(before, frames_and_sends(hosts[0])))
            self.figures.add(case, side, width, frames=frames / sends)
            return got["changes"] / got["seconds"], max(frames / sends, 1)

    def floor(self, case, width, rate, frames):
        """As many frames a second as the relay sent, in as many sends, so that its listeners
        sleep and wake like the relay's."""
        path = os.path.join(self.run.subdirectory("floor"), "floor.sock")
        self.fanout((case, "floor"), "floor", width, "--batch", frames, "--rate", rate / frames, addresses=(path, None))

    def other(self, case, side, width, *options):
        if side in self.missing:
            return
        with getattr(self.rig, side)() as address:
            self.fanout((case, side), side, width, *options, addresses=(address, address))

    def publish(self, name, side, publishers, *options, server=None, relay=False, prepare=lambda conninfo: None):
        with self.rig.postgres() as shared:
            with self.rig.database(server or shared) as conninfo:
                arguments = [side, "--publishers", publishers, "--seconds", self.seconds, "--database", conninfo, *options]
                if "--insert" in options:
                    self.rig.sql(conninfo, "CREATE TABLE bench_records (pubkey text NOT NULL)")
                prepare(conninfo)
                # The host listens on either side: PostgreSQL has much less to do without a listener.
                with self.rig.relays(conninfo) as (host,):
                    if relay:
                        arguments += ["--relay", host.path]
                    got = measure(self.run, "bench-publish", *arguments)
        self.figures.add(*name, rate=got["changes"] / got["seconds"])


# Cases

def transactions(b):
    """One pg_notify a transaction, from one client, as fast as possible."""
    for width in WIDTHS:
        b.direct("transactions", width)
        rate, frames = b.ours("transactions", width)
        b.floor("transactions", width, rate, frames)
        b.ours("transactions", width, "--own", side="own")
    rate, frames = b.ours("transactions", WIDEST)
    b.floor("transactions", WIDEST, rate, frames)


def saturated(b):
    """Transactions of 100, as fast as possible."""
    for width in WIDTHS:
        b.direct("saturated", width, "--batch", BATCH)
        rate, frames = b.ours("saturated", width, "--batch", BATCH)
        b.floor("saturated", width, rate, frames)
        for side in ("redis", "nats"):
            b.other("saturated", side, width, "--batch", BATCH)
    rate, frames = b.ours("saturated", WIDEST, "--batch", BATCH)
    b.floor("saturated", WIDEST, rate, frames)


def clients(b):
    """Transactions of 100, as fast as possible, to workers in each language."""
    b.ours("clients", CLIENTS, "--batch", BATCH)
    for language, command in LISTENERS.items():
        try:
            words = " ".join(command())
        except Missing as why:
            b.missing[language] = str(why)
            continue
        b.ours("clients", CLIENTS, "--batch", BATCH, "--command", words, side=language, kind="command")


def latency(b):
    """From just before the statement is sent to the callback, at 200 a second."""
    for width in WIDTHS:
        b.direct("latency", width, "--rate", RATE)
        b.ours("latency", width, "--rate", RATE)
    b.ours("latency", WIDTHS[-1], "--rate", RATE, "--own", side="own")


def drain(b):
    """CPU time to read one notification from the LISTEN connection."""
    with b.rig.postgres() as server, b.rig.database(server) as conninfo:
        got = measure(b.run, "bench-drain", conninfo, int(100000 * b.seconds))
    b.figures.add("drain", **got)


def publish(b):
    """Publishing: a connection and a round trip for each change, or through the relay."""
    b.publish(("publish", "own", PUBLISHERS), "own", PUBLISHERS)
    for outstanding in (1, 16):
        b.publish(("publish", "relay", PUBLISHERS, outstanding), "relay", PUBLISHERS, "--outstanding", outstanding,
                  relay=True)
    b.publish(("publish", "own", 1), "own", 1)
    b.publish(("publish", "relay", 1, 1), "relay", 1, relay=True)


def write(b):
    """The sync server's write, with a disk whose flush takes 1 ms."""
    with b.rig.slow_disk() as server:
        b.publish(("write", "own"), "own", PUBLISHERS, "--insert", server=server)
        b.publish(("write", "none"), "none", PUBLISHERS, "--insert", server=server)
        b.publish(("write", "relay"), "relay", PUBLISHERS, "--insert", server=server, relay=True)


TRACKED_ROWS = 1000000
FOLDED_KEYS = 10000000
MISSED_KEYS = 1000


def tracked(b):
    """What pgherald.track() costs a writer, and what recovery then costs."""
    with b.rig.slow_disk() as server:
        b.publish(("tracked", "plain"), "none", PUBLISHERS, "--insert", server=server)
        b.publish(("tracked", "tracked"), "none", PUBLISHERS, "--insert", server=server, prepare=lambda conninfo: track(b, conninfo))
    rows, keys = (TRACKED_ROWS, FOLDED_KEYS) if b.seconds >= 2 else (TRACKED_ROWS // 100, FOLDED_KEYS // 1000)
    with b.rig.postgres() as server, b.rig.database(server) as conninfo:
        b.rig.sql(conninfo, f"CREATE TABLE plain AS SELECT n AS id, 'user' || n AS pubkey, 'x' AS body FROM generate_series(1, {rows}) AS n;"
                  "CREATE TABLE bench_records AS SELECT * FROM plain")
        track(b, conninfo)
        for table in ("plain", "bench_records"):
            for _ in range(2):  # the first makes room for the second
                took = b.rig.sql(conninfo, f"UPDATE {table} SET body = 'y'")
                b.rig.sql(conninfo, f"VACUUM {table}", transaction=False)
            b.figures.add("tracked", table, updates=rows / took)
        b.rig.sql(conninfo, "SELECT pgherald.fold(); UPDATE pgherald.moment SET at = at - interval '1 hour'")
        b.figures.add("tracked", fold=b.rig.sql(conninfo, FOLD_ALL) / rows / 2 * 1e6)
        b.rig.sql(conninfo, f"INSERT INTO pgherald.folded SELECT '3', false, 'bench', 'key' || n FROM generate_series(1, {keys}) AS n")
        b.rig.sql(conninfo, "VACUUM ANALYZE pgherald.folded", transaction=False)
        b.rig.sql(conninfo, "CREATE TABLE since AS SELECT pg_current_snapshot() AS s")
        b.rig.sql(conninfo, f"UPDATE pgherald.folded SET changed_xid = pg_current_xact_id() WHERE channel = 'bench'"
                  f" AND key IN (SELECT 'key' || n * {keys // MISSED_KEYS} FROM generate_series(1, {MISSED_KEYS}) AS n)")
        b.figures.add("tracked", recovery=1000 * b.rig.sql(conninfo, "SELECT count(*) FROM pgherald.changes_since((SELECT s FROM since))"))
    with b.rig.postgres() as server, b.rig.database(server) as conninfo:
        b.rig.sql(conninfo, "CREATE TABLE bench_records (pubkey text)")
        track(b, conninfo)
        sizes = [day(b, conninfo, rows // 10) for _ in range(12)]
        b.figures.add("tracked", growth=sizes[-1] / sizes[3])


FOLD_ALL = "DO $$ BEGIN WHILE (SELECT more FROM pgherald.fold()) LOOP COMMIT; END LOOP; END $$"


def track(b, conninfo):
    """The owner is the role of the connection."""
    b.rig.migrate(conninfo, "pgherald")
    b.rig.sql(conninfo, "SELECT pgherald.track('bench_records', 'bench', 'pubkey')")


def day(b, conninfo, changes):
    """Part of a day: that many changes of a tenth as many keys, folded. Returns the bytes of all that is kept."""
    b.rig.sql(conninfo, f"INSERT INTO bench_records SELECT 'user' || n % {changes // 10} FROM generate_series(1, {changes}) AS n")
    b.rig.sql(conninfo, "SELECT pgherald.fold(); UPDATE pgherald.moment SET at = at - interval '2 minutes'")
    b.rig.sql(conninfo, FOLD_ALL, transaction=False)
    for table in ("journal", "folded", "moment"):
        b.rig.sql(conninfo, f"VACUUM pgherald.{table}", transaction=False)
    return b.rig.value(conninfo, "SELECT pg_total_relation_size('pgherald.journal') + pg_total_relation_size('pgherald.folded')")


def subscriptions(b):
    """The same load with few and with many subscriptions by pubkey."""
    for users in USERS:
        b.ours("subscriptions", HOLDERS, "--own", "--users", users, "--batch", BATCH, side=str(users))


def memory(b):
    """The relay's resident memory."""
    def resident(width, *options):
        with b.rig.postgres() as server, b.rig.database(server) as conninfo, b.rig.relays(conninfo) as (host,):
            sizes = [host.rss()]
            if width:
                b.fanout((), "ours", width, *options, addresses=(host.path, None), held=lambda: sizes.append(host.rss()))
            return sizes[-1]
    few, many = 100, WIDEST
    b.figures.add("memory", idle=resident(0) / 2 ** 20, worker=(resident(many) - resident(few)) / (many - few),
                  subscription=(resident(HOLDERS, "--own", "--users", USERS[-1])
                                - resident(HOLDERS, "--own", "--users", USERS[0])) / (USERS[-1] - USERS[0]))


def hosts(b):
    """20 hosts on one server: each with a relay and 16 workers, or each with one bare
    listener."""
    b.direct("hosts", HOSTS, side="bare")
    # Each user has one stream, at one worker of one host. If each of the 320 workers heard all changes, a notify would
    # wake 320 processes on this machine; on 20 real hosts it wakes 16 on each.
    b.ours("hosts", HOSTS * 16, "--own", relays=HOSTS, side="own")
    b.ours("hosts", HOSTS * 16, relays=HOSTS)


def syncd(b):
    """The sync server with 4 workers: a write over HTTP, committed, announced, heard on a
    stream; 32 clients, each in turn."""
    if not os.path.exists(SYNCD):
        return
    with b.rig.postgres() as server, b.rig.database(server) as conninfo, b.rig.relays(conninfo) as (host,):
        server_of_records = Syncd(b.run, host, DATABASE_URL=conninfo, SYNCD_WORKERS="4").start()
        try:
            b.rig.sql(conninfo, SYNCD_RECORDS)
            parts = {"relay": lambda: [host.process.pid], "syncd": lambda: children(server_of_records.process.pid),
                     "PostgreSQL": server.processes}
            before = {name: cpu_seconds(pids()) for name, pids in parts.items()}
            got = measure(b.run, "bench-sync", "--clients", 32, "--port", server_of_records.port, "--seconds", b.seconds)
            spent = {name: cpu_seconds(pids()) - before[name] for name, pids in parts.items()}
        finally:
            server_of_records.close()
    b.figures.add("syncd", "4", rate=got["changes"] / got["seconds"],
                  **{f"% of the CPU time {name}": 100 * part / sum(spent.values()) for name, part in spent.items()})


CASES = (transactions, saturated, clients, latency, drain, publish, write, tracked, subscriptions, memory, hosts, syncd)


# Rows

class Row:
    def __init__(self, case, text, figure, over=None, at_least=None, at_most=None):
        self.case, self.text, self.figure, self.over = case, text, figure, over
        self.at_least, self.at_most = at_least, at_most

    def result(self, figures):
        """Median, least and greatest over the rounds. Nothing if a side is missing."""
        values = figures.values.get(self.figure)
        if self.over:
            below = figures.values.get(self.over)
            values = [a / b for a, b in zip(values, below)] if values and below else None
        return (statistics.median(values), min(values), max(values)) if values else None

    @property
    def target(self):
        return f"≥ {self.at_least:g}" if self.at_least else f"≤ {self.at_most:g}"

    def passes(self, median):
        return median >= self.at_least if self.at_least else median <= self.at_most

    def goodness(self, median):
        """1 just meets the target; more is better."""
        return median / self.at_least if self.at_least else self.at_most / median


def _rows():
    for width, ratio in ((1, 0.9), (8, 2), (64, 15), (256, 80)):
        yield Row("transactions", f"notifies/s, one a transaction: ours / direct, W = {width}",
                  f"transactions/ours/{width}/rate", f"transactions/direct/{width}/rate", at_least=ratio)
    for width, ratio in ((64, 5), (256, 10)):
        yield Row("saturated", f"deliveries/s, transactions of {BATCH}: ours / direct, W = {width}",
                  f"saturated/ours/{width}/deliveries", f"saturated/direct/{width}/deliveries", at_least=ratio)
    for width, ratio in ((64, 3), (256, 6)):
        yield Row("saturated", f"the same: ours / Redis pipelined, W = {width}",
                  f"saturated/ours/{width}/deliveries", f"saturated/redis/{width}/deliveries", at_least=ratio)
    for case, what in (("transactions", "one a transaction"), ("saturated", f"transactions of {BATCH}")):
        for width in (64, 256):
            yield Row(case, f"CPU a delivery, {what}: relay / floor, W = {width}",
                      f"{case}/ours/{width}/sender", f"{case}/floor/{width}/sender", at_most=1.5)
    for width, ratio in ((64, 12), (256, 60)):
        yield Row("transactions", f"CPU of host and PostgreSQL a notify: direct / ours, W = {width}",
                  f"transactions/direct/{width}/cpu", f"transactions/ours/{width}/cpu", at_least=ratio)
    yield Row("clients", f"deliveries/s, transactions of {BATCH}, W = {CLIENTS}: Go / libpgherald",
              f"clients/go/{CLIENTS}/deliveries", f"clients/ours/{CLIENTS}/deliveries", at_least=0.5)
    for width, ratio in ((1, 1.2), (8, 0.9), (64, 0.42), (256, 0.35)):
        yield Row("latency", f"latency p50 at {RATE}/s: ours / direct, W = {width}",
                  f"latency/ours/{width}/p50", f"latency/direct/{width}/p50", at_most=ratio)
    yield Row("latency", "the same: ours, 256 workers each on its own users / direct, W = 1",
              "latency/own/256/p50", "latency/direct/1/p50", at_most=1.3)
    yield Row("drain", "drain: decode + encode / a bare PQnotifies loop", "drain/relay", "drain/bare", at_most=1.5)
    for outstanding, ratio in ((1, 3.5), (16, 12)):
        yield Row("publish", f"publish, {PUBLISHERS} workers, {outstanding} outstanding: ours / {PUBLISHERS} own connections",
                  f"publish/relay/{PUBLISHERS}/{outstanding}/rate", f"publish/own/{PUBLISHERS}/rate", at_least=ratio)
    yield Row("publish", "publish, one worker, one outstanding: ours / own connection",
              "publish/relay/1/1/rate", "publish/own/1/rate", at_least=0.75)
    yield Row("write", f"write, {PUBLISHERS} clients, fsync 1 ms: commit, then notify / notify in the transaction",
              "write/relay/rate", "write/own/rate", at_least=15)
    yield Row("tracked", f"write, {PUBLISHERS} clients, fsync 1 ms: table tracked / not tracked",
              "tracked/tracked/rate", "tracked/plain/rate", at_least=0.85)
    yield Row("tracked", f"UPDATE of {TRACKED_ROWS:,} rows: tracked / not tracked",
              "tracked/bench_records/updates", "tracked/plain/updates", at_least=0.7)
    yield Row("tracked", f"recovery of {MISSED_KEYS:,} keys of {FOLDED_KEYS:,} (ms)", "tracked/recovery", at_most=50)
    yield Row("tracked", "fold, a change (microseconds)", "tracked/fold", at_most=20)
    yield Row("tracked", "size of what is kept, after 12 times the same keys / 4 times", "tracked/growth", at_most=1.1)
    for users in USERS[1:]:
        yield Row("subscriptions", f"relay CPU a notification: {users:,} subscriptions / {USERS[0]:,}",
                  f"subscriptions/{users}/{HOLDERS}/relay", f"subscriptions/{USERS[0]}/{HOLDERS}/relay", at_most=1.5)
    yield Row("memory", "RSS, idle relay (MiB)", "memory/idle", at_most=8)
    yield Row("memory", "RSS, a worker (bytes)", "memory/worker", at_most=1024)
    yield Row("memory", "RSS, a subscription by pubkey (bytes)", "memory/subscription", at_most=120)
    yield Row("hosts", f"notifies/s: {HOSTS} relays x 16 workers, each its own users / {HOSTS} bare listeners",
              f"hosts/own/{HOSTS * 16}/rate", f"hosts/bare/{HOSTS}/rate", at_least=0.8)


ROWS = tuple(_rows())
__all__ = ["CASES", "ROWS", "Bench", "Failure", "Figures"]
