"""Relays with different channels share a database, and none loses what another does not
have."""

import pytest

from harness.datasync import DataSync
from promise import Canaries, passes_nothing_unheard, turns
from harness.subscriber import subscriber
from harness.worker import Ok

# A user called "orders/1" stands for a row of the channel "orders".
ROWS = ("SELECT split_part(user_id, '/', 1), user_id::text FROM user_revisions"
        " WHERE changed_xid >= pg_snapshot_xmin(since) AND NOT pg_visible_in_snapshot(changed_xid, since)")
ALL = ("data_sync_changes", "orders", "notes")


@pytest.fixture
def data(run, db):
    data = DataSync(run, db).recoverable()
    data.function(ROWS, "sql")
    return data


class Host:
    """A relay with these channels, and a worker that subscribes to all of them."""

    def __init__(self, start_relay, database, channels, interval):
        self.names = [c.partition(":")[0] for c in channels.split(",")]
        self.relay = start_relay(database, PGHERALD_CHANNELS=channels, PGHERALD_CHECKPOINT_INTERVAL=str(interval))
        self.worker = subscriber(self.relay, channel=self.names[0])
        for name in self.names[1:]:
            assert isinstance(self.worker.subscribe(name), Ok)

    def wants(self, row):
        return row.partition("/")[0] in self.names

    def hears(self, rows):
        """Wait for all of these changes on its channels, of either kind."""
        wanted = {r for r in rows if self.wants(r)}
        self.worker.wait_until(lambda: wanted <= set(self.worker.pubkeys + self.worker.payloads),
                               f"all of {sorted(wanted)}", 30)

    def lost_nothing(self, data):
        self.worker.ping()
        assert not self.worker.gaps
        others = [u for u, in data.database.sql("SELECT user_id FROM user_revisions") if not self.wants(u)]
        passes_nothing_unheard(self.worker, data, but=others)


# The settings of the relay with frequent turns, and of the other, which waits longer for its own turn.
PAIRS = {
    "equal": ("data_sync_changes,orders", "data_sync_changes,orders"),
    "equal-in-another-order": ("data_sync_changes,orders,notes:text", "notes:text,orders,data_sync_changes"),
    "apart": ("orders", "data_sync_changes"),
    "subset": ("data_sync_changes", "data_sync_changes,orders"),
    "superset": ("data_sync_changes,orders", "orders"),
    "overlapping": ("data_sync_changes,orders", "data_sync_changes,notes:text"),
    "text-besides": ("data_sync_changes", "data_sync_changes,notes:text"),
    "text-besides-the-other-way": ("data_sync_changes,notes:text", "data_sync_changes"),
    "another-kind-of-the-same-name": ("orders:text", "orders"),
    "another-kind-besides": ("data_sync_changes,orders", "data_sync_changes,orders:text"),
    "prefix": ("data_sync", "data_sync_changes"),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_what_nobody_notified_reaches_whoever_has_the_channel(start_relay, db, data, pair):
    """The busy relay leads long before the other would. It must not answer for channels that
    it does not have."""
    busy, calm = (Host(start_relay, db, channels, interval) for channels, interval in zip(PAIRS[pair], (0.15, 0.6)))
    for host in (busy, calm):
        host.worker.passes(data)
    for n in range(2):
        rows = [f"{name}/{n}" for name in ALL]
        for row in rows:
            data.write(row)
        for host in (busy, calm):
            host.hears(rows)
            host.worker.passes(data)
    for host in (busy, calm):
        host.lost_nothing(data)


@pytest.mark.parametrize("pair", ["equal", "superset", "text-besides-the-other-way"])
def test_who_has_all_channels_answers_for_the_others(start_relay, db, data, pair, cleanup):
    """One question an interval for the fleet: the calm relay, whose channels the busy one
    has too, does not lead as well."""
    busy, calm = (Host(start_relay, db, channels, interval) for channels, interval in zip(PAIRS[pair], (0.15, 0.6)))
    calm.worker.passes(data)
    canaries = cleanup.add(Canaries(db))
    data.write("orders/0")
    turns(busy.worker, data, canaries, 20, busy.worker.epoch)
    own = canaries.all(calm.worker.epoch)
    assert len(own) <= 2, f"{len(own)} turns of the calm relay in twenty of the busy one"


def test_three_relays_of_which_none_has_all(start_relay, db, data):
    """Each two share one channel, and none has all channels of another."""
    hosts = [Host(start_relay, db, channels, 0.3) for channels in
             ("data_sync_changes,orders", "orders,notes:text", "notes:text,data_sync_changes")]
    for host in hosts:
        host.worker.passes(data)
    for n in range(3):
        rows = [f"{name}/{n}" for name in ALL]
        data.write(*rows)
        for host in hosts:
            host.hears(rows)
            host.worker.passes(data)
    for host in hosts:
        host.lost_nothing(data)


def test_who_leads_goes_and_the_one_of_fewer_channels_stays(start_relay, db, data):
    """What the larger relay settled counts for the smaller. After that the smaller settles
    for itself."""
    large = Host(start_relay, db, "data_sync_changes,orders", 0.15)
    small = Host(start_relay, db, "orders", 0.6)
    for host in (large, small):
        host.worker.passes(data)
    data.write("orders/1")
    large.relay.kill()
    small.hears(["orders/1"])
    small.worker.passes(data)
    small.lost_nothing(data)
