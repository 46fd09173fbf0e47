"""Whole hosts: what they keep and what they do when nothing happens, many on one server, and an
application on one."""

import contextlib
import os
import re
import time

import cpu
from generator import Failure
from harness.packages import Missing
from harness.procs import children
from harness.syncd import SYNCD, Syncd
from rows import Case, Row
from sides import direct, ours

USERS = (1000, 1000000)
HOLDERS = 16
MANY, FEW = 1000, 100
HOSTS = 20
RATE = 200
IDLE_HOSTS = 4
DEVICES = 32
# Enough that PostgreSQL reads them by an index: serializable transactions that read the same pages conflict.
SYNCD_RECORDS = """
INSERT INTO user_revisions (user_id, revision) SELECT 'user' || lpad(n::text, 5, '0'), 1 FROM generate_series(1, 10000) AS n;
INSERT INTO records (user_id, id, data, revision) SELECT user_id, 'another', '', 1 FROM user_revisions;
ANALYZE"""


def resident(bench, width=0, *options):
    """Bytes of a relay with this many workers."""
    with bench.rig.database() as database, bench.relays(database.conninfo) as (host,), contextlib.ExitStack() as stack:
        if width:
            stack.enter_context(bench.generator("bench-fanout", "ours", "--listeners", width, "--listen", host.path, *options))
        return host.rss()


@contextlib.contextmanager
def kept(bench):
    users = [bench.size(n, max(n // 100, HOLDERS)) for n in USERS]

    def measure(seconds, _):
        subscribed = [resident(bench, HOLDERS, "--own", "--users", n) for n in users]
        return {"idle": resident(bench) / 2 ** 20, "worker": (resident(bench, MANY) - resident(bench, FEW)) / (MANY - FEW),
                "subscription": (subscribed[1] - subscribed[0]) / (users[1] - users[0])}
    yield measure


def memory():
    return Case("memory", "", "The relay's resident memory.", {"ours": kept},
                [Row("idle", "RSS, idle relay (MiB)", "ours.idle", at_most=8, counted=True),
                 Row("worker", "RSS, a worker (bytes)", "ours.worker", at_most=1024, counted=True),
                 Row("subscription", "RSS, a subscription by pubkey (bytes)", "ours.subscription", at_most=120, counted=True)],
                rounds_a_sitting=3, most_rounds=3)


def wakes(pid):
    """How often a process stopped to wait for something, all threads."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as file:
            total += int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)$", file.read(), re.M)[1])
    return total


@contextlib.contextmanager
def idle_hosts(bench):
    """Several at once, each with one worker, so that waiting once counts several times."""
    with contextlib.ExitStack() as stack:
        relays, workers = [], []
        for _ in range(IDLE_HOSTS):
            database = stack.enter_context(bench.rig.database())
            relay, = stack.enter_context(bench.relays(database.conninfo))
            generator = stack.enter_context(bench.generator("bench-fanout", "ours", "--listeners", 1, "--listen", relay.path))
            relays.append(relay.process.pid)
            workers += children(generator.process.pid)

        def measure(seconds, _):
            before = [sum(map(wakes, pids)) for pids in (relays, workers)]
            start = time.monotonic()
            time.sleep(seconds)
            passed = time.monotonic() - start
            return {name: (sum(map(wakes, pids)) - then) / IDLE_HOSTS / passed
                    for name, pids, then in zip(("relay", "worker"), (relays, workers), before)}
        measure(1, {})  # what follows a start
        yield measure


def idle():
    return Case("idle", "", "Wakes a second when nothing happens.", {"ours": idle_hosts},
                [Row("relay", "wakes a second, idle relay", "ours.relay", at_most=0.5, counted=True),
                 Row("worker", "wakes a second, idle worker", "ours.worker", at_most=0, counted=True)],
                seconds=20, rounds_a_sitting=3, most_rounds=3)


def many_hosts():
    # Each user has one stream, at one worker of one host. If each of the 320 workers heard all changes, a notify would
    # wake 320 processes on this machine; on 20 real hosts it wakes 16 on each.
    what = f"{HOSTS} hosts on one server, {RATE} notifies a second: a relay and 16 workers each, or one bare listener each."
    return Case("hosts", HOSTS, what,
                {"bare": lambda bench: direct(bench, HOSTS, "--rate", RATE, kind="bare"),
                 "own": lambda bench: ours(bench, HOSTS * 16, "--own", "--rate", RATE, relays=HOSTS)},
                [Row("CPU", f"CPU of all a notify at {RATE}/s: {HOSTS} bare listeners / {HOSTS} relays x 16 workers, "
                     "each its own users", "bare.cpu", "own.cpu", at_least=0.6)], ours=("own",))


@contextlib.contextmanager
def sync_server(bench):
    if not os.path.exists(SYNCD):
        raise Missing(f"there is no {SYNCD}")
    with bench.rig.database() as database, bench.relays(database.conninfo) as (host,):
        server = Syncd(bench.run, host, DATABASE_URL=database.conninfo, SYNCD_WORKERS="4").start()
        try:
            database.sql(SYNCD_RECORDS)
            parts = {"relay": [host.process.pid], "syncd": children(server.process.pid),
                     "PostgreSQL": database.server.processes()}
            with bench.generator("bench-sync", "--clients", DEVICES, "--port", server.port) as generator:
                def measure(seconds, _):
                    before = {name: cpu.seconds(pids) for name, pids in parts.items()}
                    got = generator.ask(seconds)
                    spent = {name: cpu.seconds(pids) - before[name] for name, pids in parts.items()}
                    if not got["changes"]:
                        raise Failure("no device was told of its write")
                    return {"rate": got["changes"] / got["seconds"],
                            **{f"% {name}": 100 * part / sum(spent.values()) for name, part in spent.items()}}
                yield measure
        finally:
            server.close()


def syncd():
    return Case("syncd", 4, "The sync server, 4 workers: a write over HTTP, committed, announced, heard on a stream; "
                f"{DEVICES} clients, each in turn.", {"ours": sync_server})
