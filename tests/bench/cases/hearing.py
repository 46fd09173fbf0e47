"""What it costs a host to hear, by what the connection, the subscriptions and the client are."""

import contextlib
import os

from harness.packages import go_program, node_program, python_program
from harness.tls import url
from rig import TLS
from rows import Case, Row
from sides import ours

BATCH = 100
USERS = (1000, 100000, 1000000)
HOLDERS = 16  # of those users
CLIENTS = 8
NOTIFICATIONS = 20000
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Listeners with the packages for other languages: functions that return the command, or raise Missing.
LISTENERS = {
    "go": lambda: [go_program("./bench/go", os.path.dirname(HERE))],
    "node": lambda: node_program(os.path.join(HERE, "node.mjs")),
    "python": lambda: python_program(os.path.join(HERE, "listener.py")),
    "python-asyncio": lambda: [*python_program(os.path.join(HERE, "listener.py")), "asyncio"],
}


def over_tls():
    def by(**options):
        return lambda database: url(database.server.port, database, **options)

    def encrypted(database):
        return by(sslrootcert=database.server.authority.root)(database)
    return Case("hearing", "TLS", f"Transactions of {BATCH}, one worker: the relay's connections over TCP, with TLS and without.",
                {name: lambda bench, url=url_of: ours(bench, 1, "--batch", BATCH, server=TLS, url=url)
                 for name, url_of in (("plain", by(sslmode="disable")), ("tls", encrypted))},
                [Row("CPU", "relay CPU a notification: over TLS / without", "tls.relay", "plain.relay", at_most=1.2)],
                ours=("tls", "plain"))


@contextlib.contextmanager
def drained(bench):
    with bench.rig.database() as database, bench.own_generator("bench-drain", database.conninfo) as generator:
        yield lambda seconds, _: generator.ask(bench.size(NOTIFICATIONS, NOTIFICATIONS // 2))


def drain():
    return Case("drain", "", "CPU time to take one notification off the LISTEN connection, in nanoseconds.", {"ours": drained},
                [Row("CPU", "drain: decode + encode / a bare PQnotifies loop", "ours.relay", "ours.bare", at_most=1.5)])


def subscriptions():
    names = {users: f"{users:,}" for users in USERS}

    def holding(users):
        return lambda bench: ours(bench, HOLDERS, "--own", "--users", bench.size(users, users // 10), "--batch", BATCH)
    return Case("subscriptions", "", "The same load with few and with many subscriptions by pubkey.",
                {name: holding(users) for users, name in names.items()},
                [Row(names[users], f"relay CPU a notification: {names[users]} subscriptions / {names[USERS[0]]}",
                     f"{names[users]}.relay", f"{names[USERS[0]]}.relay", at_most=1.5) for users in USERS[1:]],
                ours=names.values(), rounds_a_sitting=8)


def clients():
    def in_language(command):
        @contextlib.contextmanager
        def side(bench):
            with ours(bench, CLIENTS, "--batch", BATCH, "--command", " ".join(command()), kind="command") as measure:
                yield measure
        return side
    return Case("clients", CLIENTS, f"Transactions of {BATCH}, as fast as they go, to {CLIENTS} workers of each language.",
                {"ours": lambda bench: ours(bench, CLIENTS, "--batch", BATCH),
                 **{language: in_language(command) for language, command in LISTENERS.items()}},
                [Row("Go", f"deliveries/s, transactions of {BATCH}, W = {CLIENTS}: Go / libpgherald",
                     "go.deliveries", "ours.deliveries", at_least=0.5)], ours=("ours", *LISTENERS))
