"""A worker that does not read falls out of the backlog, is caught up or told of a gap, and
is live again. No other worker notices, and PostgreSQL does not either."""

import time

import pytest

from harness.datasync import DataSync
from harness.ops import metric
from harness.procs import wait_until
from harness.subscriber import grew_by_at_most, resumed, subscriber
from harness.worker import CHANNEL, Checkpoint, Gap

SMALL = {"PGHERALD_BACKLOG_SIZE": "64K", "PGHERALD_CHECKPOINT_INTERVAL": "0.2"}


@pytest.fixture
def data(run, db):
    return DataSync(run, db).recoverable()


def flood(database, count, name="noise"):
    """Many committed notifications, in transactions of 200."""
    connection = database.server.connect(database.name, "app")
    cursor = connection.cursor()
    for start in range(0, count, 200):
        cursor.execute("SELECT count(pg_notify(%s, '{\"p\":\"' || %s || i || '\"}')) FROM generate_series(%s, %s) AS i",
                       (CHANNEL, name, start + 1, min(start + 200, count)))
    connection.close()


def is_live_again(worker, data, name="again"):
    def heard():
        return [c for c in worker.changes if c.pubkey == name]

    # What came while it was caught up may make it fall out again.
    for _ in range(10):
        before = len(heard())
        data.change(name)
        worker.wait_until(lambda: len(heard()) > before, "again", 30)
        if heard()[-1].flags == 0:
            break
    assert heard()[-1].flags == 0 and heard()[-1].seq
    # and from here on everything comes, in order
    for n in range(5):
        data.change(f"{name}-{n}")
    worker.hears(f"{name}-4")
    assert [p for p in worker.live if p.startswith(f"{name}-")] == [f"{name}-{n}" for n in range(5)]


@pytest.mark.parametrize("pubkeys", [pytest.param(None, marks=pytest.mark.versions),
                                     [f"u{n}" for n in range(300)] + ["again"] + [f"again-{n}" for n in range(5)]],
                         ids=["all", "pubkeys"])
def test_it_is_caught_up_from_the_database(start_relay, db, bouncer, data, pubkeys):
    relay = start_relay(db, bouncer, **SMALL)
    witness = subscriber(relay)
    worker = subscriber(relay, pubkeys, receive_buffer=4096)
    worker.passes(data)
    # it reads nothing from here on; it is owed more than all buffers on the way hold
    for n in range(100):
        data.change(f"u{n}")
        witness.pump()
    for _ in range(80):
        flood(db, 300, "u")
    for n in range(100, 300):
        data.change(f"u{n}")
        witness.pump()
    flood(db, 3000)
    witness.hears("noise3000")
    worker.hears_all(f"u{n}" for n in range(300))
    is_live_again(worker, data)
    assert worker.recovered, "the test overran nothing"
    assert all(c.seq is None for c in worker.changes if c.flags == 1)
    assert not worker.gaps
    # then a CHECKPOINT, from which it may resume
    last = max(i for i, f in enumerate(worker.frames) if getattr(f, "flags", 0) == 1)
    assert [f for f in worker.frames[last:] if isinstance(f, Checkpoint)]


@pytest.mark.parametrize("pubkeys", [None, [f"u{n}" for n in range(301)] + ["again"] + [f"again-{n}" for n in range(5)]],
                         ids=["all", "pubkeys"])
def test_without_the_function_it_is_told_of_the_gap(start_relay, db, bouncer, run, pubkeys):
    data = DataSync(run, db)
    relay = start_relay(db, bouncer, **SMALL)
    witness = subscriber(relay)
    worker = subscriber(relay, pubkeys, receive_buffer=4096)
    for _ in range(80):
        flood(db, 300, "u")
        witness.pump()
    data.notify("end")
    witness.hears("end")
    worker.wait_until(lambda: worker.gaps, "GAP", 30)
    assert set(worker.gaps) == {"overrun"}
    assert worker.of(Gap)[0].text
    is_live_again(worker, data)
    assert not witness.gaps


def test_it_happens_again_and_again(start_relay, db, bouncer, data):
    relay = start_relay(db, bouncer, **SMALL)
    worker = subscriber(relay, receive_buffer=4096)
    for round in range(3):
        worker.passes(data)
        data.change(f"u{round}")
        flood(db, 20000)
        worker.hears_all([f"u{round}"])
    assert not worker.gaps
    is_live_again(worker, data)


def caught_up_halfway(start_relay, db, bouncer, data):
    """A worker that fell out of the backlog, halfway through what 30,000 users missed."""
    relay = start_relay(db, bouncer, PGHERALD_RECONCILE="no", **SMALL)  # otherwise all of it would be announced
    witness = subscriber(relay, ["noise20000"])
    worker = subscriber(relay, receive_buffer=4096)
    worker.passes(data, notify="before")
    data.write_many(1, 30000)
    flood(db, 20000)
    witness.hears("noise20000")
    worker.wait_until(lambda: worker.recovered, "the catch-up's beginning", 30)
    return relay, worker


def test_it_overruns_while_it_is_caught_up(start_relay, db, bouncer, data):
    """It stops reading in the middle of the catch-up, for longer than the backlog reaches."""
    _, worker = caught_up_halfway(start_relay, db, bouncer, data)
    data.change("during")
    flood(db, 20000)
    worker.hears_all([f"u{n}" for n in range(1, 30001)] + ["during"], 60)
    assert not worker.gaps
    is_live_again(worker, data)


def test_a_drop_during_the_catch_up_loses_nothing(start_relay, db, bouncer, data):
    relay, worker = caught_up_halfway(start_relay, db, bouncer, data)
    worker.close()
    again = resumed(relay, worker.cursor)
    assert set(f"u{n}" for n in range(1, 30001)) <= set(worker.pubkeys) | set(again.pubkeys)
    assert set(f"u{n}" for n in range(1, 30001)) <= set(again.pubkeys), "from the old cursor, all of it"


def test_a_worker_that_never_reads_costs_bounded_memory_and_nobody_elses_time(without_sanitizers, start_relay, db, bouncer, data):
    relay = start_relay(db, bouncer, **SMALL)
    witness = subscriber(relay)
    stuck = [subscriber(relay, None if n % 2 else [f"noise{i}" for i in range(1000)], receive_buffer=4096) for n in range(10)]
    data.write_many(1, 30000)
    flood(db, 20000)
    data.change("warm")
    witness.hears_all(["warm"])
    before = relay.rss()
    for n in range(10):
        flood(db, 10000)
        start = time.monotonic()
        data.change(f"live{n}")
        witness.hears_all([f"live{n}"])
        assert time.monotonic() - start < 5
    assert grew_by_at_most(relay, before, 10 << 20), f"{before} bytes grew to {relay.rss()}"
    for worker in stuck[:2]:
        worker.ping()
        assert not worker.gaps
    stuck[1].hears_all(f"live{n}" for n in range(10))


def test_postgresql_is_always_drained(start_relay, own_pg, own_db, own_bouncer, run, cat, cleanup):
    """Every worker is stopped under load. The notification queue stays empty, and the LISTEN
    backend never waits for the relay."""
    data = DataSync(run, own_db).recoverable()
    relay = start_relay(own_db, own_bouncer, **SMALL)
    for n in range(8):
        subscriber(relay, None if n % 2 else [f"noise{i}" for i in range(1000)], receive_buffer=4096)
    stopped = cat("--socket", relay.path).subscribed()
    stopped.process.send_signal(19)
    canaries = cleanup.add(own_db.listen("pgherald_canary"))
    pid, = own_db.backends("pgherald upstream")
    waits = set()
    usage = []
    for n in range(100):
        flood(own_db, 1000)
        waits.update(own_db.sql("SELECT wait_event FROM pg_stat_activity WHERE pid = %s", (pid,), user="postgres")[0])
        usage.append(own_db.queue_usage())
    assert "ClientWrite" not in waits, waits
    # the queue frees its pages when its slowest reader has passed them, which takes a while
    assert max(usage) < 0.001, usage
    data.change("end")  # in the database too, from which an overrun worker is caught up

    def heard_all():
        canaries._poll()
        return own_db.queue_usage() == 0
    wait_until(heard_all, "an empty queue")
    stopped.process.send_signal(18)
    stopped.hears("end", 60)
    assert relay.lines("ERROR") == []


def test_what_comes_at_once_pushes_nobody_out(start_relay, db, bouncer):
    """While the workers have not read yet, more comes at once than the backlog holds."""
    relay = start_relay(db, bouncer, PGHERALD_CHANNELS=f"{CHANNEL},log:text", **SMALL)
    workers = [subscriber(relay) for _ in range(40)]
    for worker in workers:
        worker.subscribe("log")
    small, large = (db.server.connect(db.name, "app") for _ in range(2))
    lasts = []

    def notify(connection, query, *parameters):
        with connection.cursor() as cursor:
            cursor.execute(query, parameters)

    def step():
        n = len(lasts)
        # the second while hardly any worker has read the first, and then a large one
        for name in (f"first{n}", f"second{n}"):
            notify(small, "SELECT pg_notify(%s, %s)", CHANNEL, f'{{"p":"{name}"}}')
        notify(large, "SELECT count(pg_notify('log', i || repeat('x', 3900))) FROM generate_series(1, 40) AS i")
        notify(large, "SELECT pg_notify(%s, %s)", CHANNEL, f'{{"p":"last{n}"}}')
        lasts.append(f"last{n}")
        for worker in workers:
            worker.hears(lasts[-1])

    for _ in range(10):
        step()
    for connection in (small, large):
        connection.close()
    for worker in workers:
        assert not worker.gaps
        assert [p for p in worker.live if p.startswith("last")] == lasts
    assert metric(relay, "pgherald_overruns_total") == 0
