"""Two canaries at once, with a fork between their LSNs: recovery chooses the checkpoint to
go back to by what it sees."""

import pytest

from harness.datasync import DataSync
from harness.failover import Pair
from harness.subscriber import resumed, subscriber
from harness.worker import Upstream

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}


class Fork:
    """A relay of a primary whose standby takes its place. The standby lacks the last changes
    that the primary committed."""

    def __init__(self, run, own_pg, make_relay, cleanup):
        self.db = own_pg.database()
        self.data = DataSync(run, self.db).recoverable()
        self.pair = cleanup.add(Pair(run, own_pg))
        url = self.pair.url(self.db.name)
        self.relay = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **FAST).start()
        self.worker = subscriber(self.relay)
        self.data.change("first")
        self.worker.hears("first")
        self.worker.passes(self.data)

    def snapshot(self):
        return self.db.sql("SELECT pg_current_snapshot()::text")[0][0]

    def passes_and_is_in_step(self, user):
        """The relay has a checkpoint that sees this change, and the standby has both."""
        self.worker.hears(user)
        self.early = self.worker.passes(self.data)
        self.pair.in_step()
        self.pair.cut()

    def late(self, snapshot):
        """The token of a canary that took its snapshot then, and reads its LSN only now,
        when the standby follows no longer."""
        self.data.change("doomed")
        self.worker.hears("doomed")
        lsn = self.db.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0]
        cluster, run, _, _ = self.early.split(";")
        return ";".join((cluster, run, lsn, snapshot))

    def fail_over(self):
        seen = len(self.worker.frames)
        self.db.server = self.pair.fail_over()
        self.worker.wait_until(lambda: [f for f in self.worker.frames[seen:] if isinstance(f, Upstream) and f.state == "live"],
                               "live", 40)


@pytest.fixture
def fork(run, own_pg, make_relay, cleanup):
    return Fork(run, own_pg, make_relay, cleanup)


def has_it(fork, token, user):
    """A worker that resumes from there is given the change, or is told of a gap."""
    again = resumed(fork.relay, ("another-epoch", 1, token))
    assert again.gaps or user in again.recovered, again.tail()
    fork.data.change("after")
    again.hears("after")


def test_a_late_canary_that_took_its_snapshot_before_the_change(fork):
    """By LSN, the relay's own checkpoint comes before the worker's, and it sees the change.
    The worker's does not."""
    snapshot = fork.snapshot()
    fork.data.change("between")
    fork.passes_and_is_in_step("between")
    token = fork.late(snapshot)
    fork.fail_over()
    has_it(fork, token, "between")


def test_a_late_canary_whose_snapshot_has_the_change_in_progress(fork):
    transaction = fork.data.begin("between")
    fork.data.change("younger")
    snapshot = fork.snapshot()
    assert snapshot.split(":")[2], "the transaction is in progress"
    transaction.commit()
    fork.data.notify("between")
    fork.passes_and_is_in_step("between")
    token = fork.late(snapshot)
    fork.fail_over()
    has_it(fork, token, "between")


def test_a_canary_that_sees_all_that_the_relay_has_is_recovered_exactly(fork):
    """The same fork, and a token that is only later: no gap."""
    fork.data.change("between")
    fork.passes_and_is_in_step("between")
    token = fork.late(fork.snapshot())
    fork.fail_over()
    fork.data.write("new")
    again = resumed(fork.relay, ("another-epoch", 1, token))
    assert "new" in again.pubkeys and not again.gaps
