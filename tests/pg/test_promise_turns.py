"""What one relay's turns mean to another: no checkpoint is passed on too early, and what was
heard long ago hides no later change."""

import pytest

from harness.datasync import DataSync
from promise import Canaries, passes_nothing_unheard, silent, turns
from harness.subscriber import subscriber
from harness.worker import CHANNEL

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}
# No relay reconciles, and no test is as long as an interval.
LATE = {"PGHERALD_CHECKPOINT_INTERVAL": "300", "PGHERALD_RECONCILE": "no"}


@pytest.fixture
def data(run, own_db):
    return DataSync(run, own_db).recoverable()

# For a relay that must not announce the change that a test is about.
ELSEWHERE = {"PGHERALD_CHANNELS": "elsewhere"}


class Writer:
    """Commits a change, and notifies it when told to, over a connection that exists already."""

    def __init__(self, data, user):
        self._connection = data.database.server.connect(data.database.name, "app")
        self.user = user
        data.write(user)

    def notify(self):
        self._connection.cursor().execute("SELECT pg_notify(%s, %s)", (CHANNEL, '{"p":"%s"}' % self.user))

    def close(self):
        self._connection.close()


def notified_while_away(worker, data, writer):
    """The relay's LISTEN connection is lost while the NOTIFY comes. The change comes later,
    or a gap is told."""
    server, name = data.database.server, data.database.name
    seen = len(worker.frames)
    server.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
               " AND application_name = 'pgherald upstream'", (name,))
    worker.sees("down", seen)
    writer.notify()
    server.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    worker.sees("live", seen)


# Without reconciliation a checkpoint is at least an interval old

def starts(start_relay, data):
    for _ in range(4):
        start_relay(data.database, **LATE)


def starts_of_relays_that_reconcile(start_relay, data):
    for _ in range(4):
        start_relay(data.database, PGHERALD_CHECKPOINT_INTERVAL="300", **ELSEWHERE)


def reconnects_of_another(start_relay, data):
    other = subscriber(start_relay(data.database, **LATE))
    for _ in range(3):
        seen = len(other.frames)
        data.database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                          " AND application_name = 'pgherald upstream' ORDER BY backend_start DESC LIMIT 1", user="postgres")
        other.sees("live", seen)


def turns_of_one_that_reconciles_often(start_relay, data):
    other = subscriber(start_relay(data.database, **FAST, **ELSEWHERE), channel="elsewhere")
    for _ in range(3):
        other.passes(data)


def turns_of_one_that_does_not_but_often(start_relay, data):
    other = subscriber(start_relay(data.database, **FAST, PGHERALD_RECONCILE="no"))
    for n in range(3):
        other.passes(data, notify=f"other{n}")


@pytest.mark.parametrize("meanwhile", [starts, starts_of_relays_that_reconcile, reconnects_of_another,
                                       turns_of_one_that_reconciles_often, turns_of_one_that_does_not_but_often])
def test_where_nobody_reconciles_a_checkpoint_is_an_interval_old(start_relay, data, own_db, cleanup, meanwhile):
    """A NOTIFY comes well within one interval of its commit, during an outage. Other relays
    start or take turns in between."""
    worker = subscriber(start_relay(own_db, **LATE))
    canaries = cleanup.add(Canaries(own_db))
    writer = cleanup.add(Writer(data, "within"))
    meanwhile(start_relay, data)
    assert len(canaries.all()) >= 3, "else this test shows nothing"
    notified_while_away(worker, data, writer)
    worker.hears("within")
    assert not worker.gaps


def test_where_nobody_reconciles_checkpoints_move_all_the_same(start_relay, data, own_db):
    """They are an interval old, and do not get older."""
    worker = subscriber(start_relay(own_db, **FAST, PGHERALD_RECONCILE="no"))
    other = subscriber(start_relay(own_db, **FAST, PGHERALD_RECONCILE="no"))
    for n in range(3):
        for w in (worker, other):
            w.passes(data, notify=f"u{n}")


# A change of lead

def hosts(start_relay, data, cleanup, count, interval="1"):
    """Relays of which the first leads. Each has a worker and has passed on a first
    checkpoint."""
    canaries = cleanup.add(Canaries(data.database))
    relays = [start_relay(data.database, PGHERALD_CHECKPOINT_INTERVAL=interval) for _ in range(count)]
    workers = [subscriber(relay) for relay in relays]
    return relays, workers, canaries


def leader(canaries):
    """The epoch of the relay that last claimed that something is settled."""
    return canaries.wait_for(lambda c: c.settles, "somebody settles") and [c for c in canaries.all() if c.settles][-1].relay


def hears_again(worker, data, user, count):
    """It was announced in the end: heard this many times, before a checkpoint passes it."""
    worker.wait_until(lambda: worker.pubkeys.count(user) >= count, f"{user} for the {count}. time", 30)
    worker.passes(data)


@pytest.mark.parametrize("how", ["kill", "freeze", "stop"])
def test_what_was_heard_turns_ago_hides_no_later_change_from_a_new_leader(start_relay, data, cleanup, how):
    """The user's first change is notified. Two turns later the user changes again without a
    NOTIFY, and the leader is gone. The new leader heard of the first change before the last
    turn, which says nothing of the second."""
    relays, workers, canaries = hosts(start_relay, data, cleanup, 2)
    turns(workers[0], data, canaries, 3)
    first = leader(canaries)
    gone, = (relay for relay, worker in zip(relays, workers) if worker.epoch == first)
    stays, = (worker for worker in workers if worker.epoch != first)
    data.change("twice")
    stays.hears("twice")
    turns(stays, data, canaries, 2)
    getattr(gone, how)()
    heard = stays.pubkeys.count("twice")
    silent(data, ["twice"])
    hears_again(stays, data, "twice", heard + 1)
    assert not stays.gaps


def test_nor_over_two_changes_of_lead(start_relay, data, cleanup):
    """One relay after the other goes, each after turns of its own."""
    relays, workers, canaries = hosts(start_relay, data, cleanup, 3, "0.5")
    stays = workers[2]
    for relay, worker in list(zip(relays, workers))[:2]:
        turns(stays, data, canaries, 3)
        data.change("twice")
        stays.wait_until(lambda: "twice" in stays.pubkeys, "its change")
        turns(stays, data, canaries, 2)
        relay.kill()
        worker.close()
        heard = stays.pubkeys.count("twice")
        silent(data, ["twice"])
        hears_again(stays, data, "twice", heard + 1)
    passes_nothing_unheard(stays, data)


# Twice within one interval

def twice_within_an_interval(data, canaries, user):
    """Commits a change of the user, notifies it, and commits another, with no relay's turn in between. Returns the user's name."""
    for n in range(20):
        name = f"{user}{n}"
        before = len(canaries.all())
        data.change(name)
        silent(data, [name])
        if len(canaries.all()) == before:
            return name
    raise AssertionError("a turn came in between each time")


def test_how_often_a_change_is_announced(start_relay, data, cleanup):
    """One that was notified: never, and it hides a second change within the interval, and none later. One that nobody notified: once,
    to the workers of both relays, and at most once more by a relay that takes the lead."""
    relays, workers, canaries = hosts(start_relay, data, cleanup, 2)
    turns(workers[0], data, canaries, 2)
    twice = twice_within_an_interval(data, canaries, "twice")
    data.change("once")
    silent(data, ["never"])
    for worker in workers:
        worker.hears_all([twice, "once", "never"])
        worker.passes(data)
    turns(workers[0], data, canaries, 3)

    def counts(worker):
        worker.pump(0)
        return {user: worker.pubkeys.count(user) for user in (twice, "once", "never")}
    for worker in workers:
        assert counts(worker) == {twice: 1, "once": 1, "never": 1}
    # Another turn is over: the change that was notified hides no more.
    silent(data, [twice])
    for worker in workers:
        hears_again(worker, data, twice, 2)

    first = leader(canaries)
    gone, = (relay for relay, worker in zip(relays, workers) if worker.epoch == first)
    stays, = (worker for worker in workers if worker.epoch != first)
    gone.kill()
    silent(data, ["afterwards"])
    stays.wait_until(lambda: "afterwards" in stays.pubkeys, "the new leader's announcement", 30)
    turns(stays, data, canaries, 3, stays.epoch)
    stays.passes(data)
    assert counts(stays)["once"] <= 2 and counts(stays)["never"] <= 2 and counts(stays)[twice] <= 3
    assert stays.pubkeys.count("afterwards") == 1
    assert not stays.gaps
