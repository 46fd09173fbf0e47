"""After a restart or failover of PostgreSQL reconciliation goes on. No relay adopts what
belongs to another run."""

import pytest

from harness.datasync import DataSync
from harness.failover import Pair
from harness.subscriber import subscriber
from harness.worker import Upstream

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}


class Fleet:
    """A primary and its standby, and relays that know both."""

    def __init__(self, run, own_pg, make_relay, cleanup):
        self.run, self.make_relay = run, make_relay
        self.db = own_pg.database()
        self.data = DataSync(run, self.db).recoverable()
        self.pair = cleanup.add(Pair(run, own_pg))
        self.relays, self.workers = [], []

    def host(self, **settings):
        url = self.pair.url(self.db.name)
        self.relays.append(self.make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **{**FAST, **settings}).start())
        self.workers.append(subscriber(self.relays[-1]))
        return self

    def cut_and_commit(self):
        """Checkpoints of the primary go far beyond what the standby has."""
        self.data.change("kept")
        for worker in self.workers:
            worker.hears("kept")
            worker.passes(self.data)
        self.pair.in_step()
        self.pair.cut()
        for n in range(30):
            self.data.change(f"doomed{n}")
        for worker in self.workers:
            worker.hears("doomed29")
            worker.passes(self.data)
            worker.passes(self.data)
        self.seen = [len(worker.frames) for worker in self.workers]

    def freeze(self, count=None):
        for relay in self.relays[:count]:
            relay.freeze()

    def thaw(self):
        for relay in self.relays:
            relay.thaw()

    def fail_over(self):
        self.db.server = self.pair.fail_over()

    def live(self):
        for worker, seen in zip(self.workers, self.seen):
            worker.wait_until(lambda: [f for f in worker.frames[seen:] if isinstance(f, Upstream) and f.state == "live"],
                              "live", 40)

    def goes_on(self, rounds=3):
        """Changes that are never notified are announced to all, checkpoints pass them, and
        at most one GAP is told."""
        for n in range(rounds):
            self.data.write(f"silent{n}")
            for worker in self.workers:
                worker.hears(f"silent{n}")
                worker.passes(self.data)
        assert max(len(worker.gaps) for worker in self.workers) <= 1


@pytest.fixture
def fleet(run, own_pg, make_relay, cleanup):
    return Fleet(run, own_pg, make_relay, cleanup)


@pytest.mark.parametrize("relays, mode", [
    (2, "immediate"), (3, "fast"),
    pytest.param(2, "fast", marks=pytest.mark.long), pytest.param(3, "immediate", marks=pytest.mark.long)])
def test_relays_after_a_failover_whose_new_primary_was_restarted_before_they_looked(fleet, relays, mode):
    """Neither relay can learn from the other that the old run goes on."""
    for _ in range(relays):
        fleet.host()
    fleet.cut_and_commit()
    fleet.freeze()
    fleet.fail_over()
    fleet.pair.standby.restart(mode)
    fleet.thaw()
    fleet.live()
    fleet.goes_on()


def test_one_of_them_looked_before(fleet):
    fleet.host().host()
    fleet.cut_and_commit()
    fleet.freeze(1)
    fleet.fail_over()
    worker = fleet.workers[1]
    worker.wait_until(lambda: [f for f in worker.frames[fleet.seen[1]:] if isinstance(f, Upstream) and f.state == "live"], "live", 40)
    worker.passes(fleet.data)
    fleet.seen[1] = len(worker.frames)
    fleet.pair.standby.restart("immediate")
    fleet.thaw()
    fleet.live()
    fleet.goes_on()


def test_relays_of_unlike_intervals(fleet):
    """If any relay infects the other, it is the one with frequent turns."""
    fleet.host(PGHERALD_CHECKPOINT_INTERVAL="0.15").host(PGHERALD_CHECKPOINT_INTERVAL="0.6")
    fleet.cut_and_commit()
    fleet.freeze()
    fleet.fail_over()
    fleet.pair.standby.restart("immediate")
    fleet.thaw()
    fleet.live()
    fleet.goes_on()


def test_a_database_that_keeps_no_note_of_runs(fleet):
    """There a GAP is due: one to each worker. Then everything goes on."""
    fleet.db.sql("DROP TABLE IF EXISTS pgherald.server_run")
    fleet.host().host()
    fleet.cut_and_commit()
    fleet.freeze()
    fleet.fail_over()
    fleet.pair.standby.restart("immediate")
    fleet.data.write("unknown")
    fleet.thaw()
    fleet.live()
    for worker in fleet.workers:
        worker.ping()
        assert worker.gaps or "unknown" in worker.pubkeys
    fleet.goes_on()


@pytest.mark.parametrize("noted", [True, False], ids=["noted", "not-noted"])
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_two_relays_over_restarts_of_a_server(run, own_pg, own_db, start_relay, mode, noted):
    """If the database notes its runs, a restart loses nothing and is not a gap."""
    data = DataSync(run, own_db).recoverable()
    if not noted:
        own_db.sql("DROP TABLE IF EXISTS pgherald.server_run")
    workers = [subscriber(start_relay(own_db, **FAST)) for _ in range(2)]
    for n in range(2):
        for worker in workers:
            worker.passes(data)
        seen = [len(worker.frames) for worker in workers]
        own_pg.restart(mode)
        data.write(f"missed{n}")
        for worker, frames in zip(workers, seen):
            worker.sees("live", frames)
            assert worker.gaps or f"missed{n}" in worker.pubkeys or worker.hears(f"missed{n}")
        data.write(f"silent{n}")
        for worker in workers:
            worker.hears(f"silent{n}")
    for worker in workers:
        assert worker.gaps == [] or not noted


# The LISTEN connection is back, and no canary can be committed

@pytest.mark.parametrize("then", ["pooler", "both"])
def test_a_restart_while_the_pooler_is_away(run, own_pg, own_db, own_bouncer, start_relay, then):
    """The relay hears again, but cannot prove it. What it has is of the run before. Once the
    pooler is back, checkpoints move, and changes that were never notified are announced."""
    data = DataSync(run, own_db).recoverable()
    worker = subscriber(start_relay(own_db, own_bouncer, **FAST))
    data.change("before")
    worker.hears("before")
    worker.passes(data)
    seen = len(worker.frames)
    own_bouncer.stop()
    own_pg.restart("fast")
    data.write("missed")
    worker.wait_until(lambda: [f for f in worker.frames[seen:] if isinstance(f, Upstream) and f.state == "live"], "live", 40)
    worker.hears("missed")
    if then == "both":
        silent = "silent-meanwhile"
        data.write(silent)
    own_bouncer.start()
    if then == "both":
        worker.wait_until(lambda: silent in worker.pubkeys, "the announcement", 30)
    data.write("silent")
    worker.wait_until(lambda: "silent" in worker.pubkeys, "the announcement", 30)
    worker.passes(data)
    assert not worker.gaps
