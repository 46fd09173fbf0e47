"""A standby takes the primary's place, without the last changes that the primary committed.
What follows is recovered exactly, or workers are told of a gap."""

import os

import pytest

from harness.datasync import DataSync
from harness.failover import Forward, Pair
from harness.procs import wait_until
from harness.servers import PASSWORD, Postgres, make_template
from harness.subscriber import resumed, subscriber
from harness.worker import Upstream

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}


class Site:
    """A pair of servers, and a host whose relay knows both."""

    def __init__(self, run, own_pg, make_relay, cleanup, **settings):
        self.primary = own_pg
        self.db = own_pg.database()
        self.data = DataSync(run, self.db).recoverable()
        self.pair = cleanup.add(Pair(run, own_pg))
        url = self.pair.url(self.db.name)
        self.relay = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **{**FAST, **settings}).start()
        self.worker = subscriber(self.relay)

    def cut_and_commit(self):
        """The standby receives nothing more. The primary goes on, and its checkpoints go far
        beyond what the standby has."""
        for n in range(5):
            self.data.change(f"kept{n}")
        self.worker.passes(self.data)
        self.pair.in_step()
        self.pair.cut()
        for n in range(30):
            self.data.change(f"doomed{n}")
        self.worker.hears("doomed29")
        self.last_of_old = self.xid()
        self.worker.passes(self.data)
        self.worker.passes(self.data)

    def xid(self):
        return int(self.db.sql("SELECT pg_current_xact_id()::text")[0][0])

    def fail_over(self):
        self.seen = len(self.worker.frames)
        self.db.server = self.pair.fail_over()

    def sees(self, state):
        self.worker.wait_until(lambda: [f for f in self.worker.frames[self.seen:] if isinstance(f, Upstream)
                                        and f.state == state], state, 40)


@pytest.fixture
def site(run, own_pg, make_relay, cleanup):
    return Site(run, own_pg, make_relay, cleanup)


@pytest.mark.versions
def test_recovery_is_exact_across_a_failover_that_lost_commits(site):
    """The new primary uses the ids of the lost transactions again. A bare snapshot would
    take the new changes for old ones."""
    site.cut_and_commit()
    site.relay.freeze()  # so that it is not back before the new changes, which it would then announce
    site.fail_over()
    # with ids that the old primary had used too
    for n in range(12):
        site.data.write(f"new{n}")
    assert site.xid() < site.last_of_old, "the ids are reused; else this test shows nothing"
    site.relay.thaw()
    site.sees("live")
    new = {f"new{n}" for n in range(12)}
    site.worker.hears_all(new)
    assert not site.worker.gaps
    assert new <= set(site.worker.recovered)
    assert not [u for u in site.worker.recovered if u.startswith("kept")][5:], "from a checkpoint close to the fork"
    # and so on: on the new timeline as before
    site.data.change("after")
    site.worker.hears("after")
    site.worker.passes(site.data)
    seen = len(site.worker.frames)
    site.db.terminate("pgherald upstream")
    site.worker.sees("down", seen)
    site.data.write("after-loss")
    site.worker.hears("after-loss")
    assert not site.worker.gaps


def test_a_resuming_workers_cursor_is_treated_the_same_way(site):
    """The worker was away during the failover. The relay knows an older checkpoint than the
    worker's."""
    site.cut_and_commit()
    site.worker.ping()
    cursor = site.worker.cursor
    site.worker.close()
    site.fail_over()
    for n in range(8):
        site.data.write(f"new{n}")
    watcher = resumed(site.relay, cursor, wait=False)
    watcher.hears_all((f"new{n}" for n in range(8)), 40)
    watcher.close()
    # not by replay: from the database
    again = resumed(site.relay, ("another-epoch", cursor[1], cursor[2]))
    assert {f"new{n}" for n in range(8)} <= set(again.recovered)
    assert not again.gaps


def test_a_relay_that_started_since_does_not_know_and_says_so(site):
    site.cut_and_commit()
    cursor = site.worker.cursor
    site.relay.kill()
    site.worker.close()
    site.fail_over()
    site.data.write("new")
    site.relay.start()
    again = resumed(site.relay, cursor)
    assert again.gaps == ["restart"]
    site.data.change("after")
    again.hears("after")


def test_a_checkpoint_that_the_standby_had_needs_no_history(site):
    """The relay restarts after the failover, but the worker's checkpoint is from before the
    fork."""
    site.worker.passes(site.data)
    site.pair.in_step()
    site.worker.ping()
    cursor = site.worker.cursor
    site.data.change("later")
    site.worker.hears("later")
    site.pair.in_step()
    site.relay.kill()
    site.worker.close()
    site.fail_over()
    site.data.write("new")
    site.relay.start()
    again = resumed(site.relay, cursor)
    assert {"later", "new"} <= set(again.recovered)
    assert not again.gaps


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_new_primary_that_was_restarted_does_not_know_where_it_forked(site, mode):
    """It was restarted before the relay could ask. After a crash it knows where crash
    recovery ended, which is not the fork."""
    site.cut_and_commit()
    site.fail_over()
    for n in range(12):
        site.data.write(f"new{n}")
    site.pair.standby.restart(mode)
    cursor = ("gone", 1, site.worker.checkpoints()[-1])
    site.sees("live")
    again = resumed(site.relay, cursor)
    new = {f"new{n}" for n in range(12)}
    # the relay may have been quicker, before the writes even: then it must have everything, though it may announce it
    # only after the restart; otherwise it says that it cannot know
    for worker in (site.worker, again):
        worker.wait_until(lambda w=worker: w.gaps or new <= set(w.pubkeys), "all that is new, or a gap", 40)
    site.data.change("after")
    for worker in (site.worker, again):
        worker.hears("after")


def test_what_nobody_notified_is_announced_where_the_past_means_nothing(site):
    """The new primary was restarted before the relay looked. Whether recovery is exact or a
    gap: what is written after the relay's return is announced in both cases."""
    site.cut_and_commit()
    site.relay.freeze()  # so the test decides what it hears last, and what it does first
    site.fail_over()
    site.pair.standby.restart("immediate")
    site.relay.thaw()
    site.sees("live")
    for n in range(12):
        site.data.write(f"silent{n}")
        site.worker.pump(0.05)
    site.worker.hears_all(f"silent{n}" for n in range(12))


def test_the_old_primary_is_still_there(run, own_pg, make_relay, cleanup):
    """The relay is still connected to the old primary with the connection of its last
    recovery. It must ask the new one, which its upstream hears."""
    db = own_pg.database()
    data = DataSync(run, db).recoverable()
    pair = cleanup.add(Pair(run, own_pg))
    way = cleanup.add(Forward(run, own_pg.port))
    url = f"postgresql://app:{PASSWORD}@127.0.0.1:{way.port}/{db.name}"
    # no reconciliation finds what recovery misses, and recovery's connections stay for a minute
    relay = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, PGHERALD_RECONCILE="no", PGHERALD_CHECKPOINT_INTERVAL="20").start()
    worker = subscriber(relay)
    cursor = ("another", *worker.cursor[1:])
    db.terminate("pgherald upstream")
    worker.sees("live")
    resumed(relay, cursor).close()
    assert len(db.backends("pgherald recovery")) == 2, "else this test shows nothing"
    pair.in_step()
    pair.standby.sql("SELECT pg_promote()")
    wait_until(lambda: not pair.standby.sql("SELECT pg_is_in_recovery()")[0][0], "the promotion")
    way.lead_newcomers_to(pair.standby.port)
    old = db.server
    db.server = pair.standby
    data.write("new")
    seen = len(worker.frames)
    for name in ("publisher", "upstream"):
        old.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", (f"pgherald {name}",))
    worker.sees("live", seen)
    worker.hears("new")
    assert "new" in resumed(relay, cursor).recovered
    assert not worker.gaps
    db.terminate("pgherald recovery")  # the relay ends before their minute is over, and more than one connection counts as left open


def test_another_cluster_in_its_place_is_a_gap(run, own_pg, dump, make_relay, cleanup):
    """A dump was restored into a new cluster at the address of the old one."""
    db = own_pg.database()
    data = DataSync(run, db).recoverable()
    way = cleanup.add(Forward(run, own_pg.port))
    url = f"postgresql://app:{PASSWORD}@127.0.0.1:{way.port}/{db.name}"
    relay = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **FAST).start()
    worker = subscriber(relay)
    data.change("before")
    worker.hears("before")
    worker.passes(data)
    sql = dump(own_pg, db.name)
    other = cleanup.add(Postgres(run, make_template(run))).start()
    other.sql(f"CREATE DATABASE {db.name} OWNER app TEMPLATE template0")
    run.call(["psql", "-X", "-q", "-h", other.directory, "-p", str(other.port), "-U", "postgres", "-d", db.name],
             input=sql)
    seen = len(worker.frames)
    way.lead_to(other.port)
    db.server = other
    worker.wait_until(lambda: [f for f in worker.frames[seen:] if isinstance(f, Upstream) and f.state == "live"], "live", 40)
    assert worker.gaps == ["upstream"]
    data.change("after")
    worker.hears("after")
    worker.passes(data)


def test_a_server_set_back_to_an_earlier_time_is_a_gap(run, own_pg, make_relay, cleanup):
    """An earlier copy of the server's files is started in its place. The checkpoint is from
    a future that this copy does not have."""
    db = own_pg.database()
    data = DataSync(run, db).recoverable()
    own_pg.stop("fast")
    copy = os.path.join(own_pg.directory, "copy")
    run.call(["cp", "-a", own_pg.data, copy])
    own_pg.start()
    relay = make_relay(DATABASE_URL=db.direct_url, DATABASE_DIRECT_URL=db.direct_url, **FAST).start()
    worker = subscriber(relay)
    for n in range(50):
        data.change(f"doomed{n}")
    worker.hears("doomed49")
    worker.passes(data)
    seen = len(worker.frames)
    own_pg.stop("immediate")
    run.call(["rm", "-rf", own_pg.data])
    os.rename(copy, own_pg.data)
    own_pg.start()
    data.write("after-copy")
    worker.wait_until(lambda: [f for f in worker.frames[seen:] if isinstance(f, Upstream) and f.state == "live"], "live", 40)
    assert worker.gaps == ["upstream"]
    data.change("after")
    worker.hears("after")


def test_the_relay_stays_with_the_primary(site):
    """The URL names both hosts. The relay finds the one that accepts writes, before and
    after."""
    assert site.db.backends("pgherald upstream")
    site.fail_over()
    site.sees("live")
    assert site.db.backends("pgherald upstream") and site.db.backends("pgherald publisher")
    assert isinstance(site.worker.publish("alice").seq, int)
    site.worker.hears("alice")
