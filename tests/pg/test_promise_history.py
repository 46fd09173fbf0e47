"""Two histories of one cluster with the same timeline, LSNs and transaction ids. A relay
tells what it has of the other history apart."""

import os
import shutil

import pytest

from harness.datasync import DataSync
from harness.failover import Pair
from harness.procs import wait_until
from harness.servers import PASSWORD, give_away
from harness.subscriber import resumed, subscriber
from harness.worker import Upstream

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}
NEW = [f"new{n}" for n in range(27)]


def parts(token):
    """The parts of a token, with the LSN as a number."""
    cluster, run, lsn, snapshot = token.split(";")
    high, low = lsn.split("/")
    return cluster, run, int(high, 16) << 32 | int(low, 16), snapshot


def grow_past(server, token):
    """Let the server write until it is far beyond the LSN of this token."""
    wait_until(lambda: server.sql("SELECT pg_switch_wal(), pg_logical_emit_message(true, 'test', ''),"
                                  " pg_current_wal_insert_lsn() > %s::pg_lsn", (token.split(";")[2],))[0][2],
               "the LSN of the other history")


def ids_are_given_again(database, token):
    """Whether the next transaction has an id that the token's history had used too."""
    return int(database.sql("SELECT pg_current_xact_id()::text")[0][0]) < int(parts(token)[3].split(":")[1])


def exact_or_gap(worker, users):
    worker.wait_until(lambda: worker.gaps or set(users) <= set(worker.pubkeys), f"all of {users[0]}..{users[-1]}, or a GAP", 40)


def goes_on(worker, data):
    """As always: what is notified is heard, what is not is announced, and checkpoints move."""
    for n in range(2):
        data.change(f"after{n}")
        data.write(f"silent{n}")
        for user in (f"after{n}", f"silent{n}"):
            worker.hears(user)
        worker.passes(data)


class Branches:
    """A primary with two standbys. One is promoted, lives on alone, and dies. The other
    never heard of that and is promoted too: both are timeline 2. Then the second writes past
    everything that the first had, with the same transaction ids."""

    def __init__(self, run, own_pg, make_relay, cleanup, way=("immediate", "immediate"), **settings):
        self.db = own_pg.database()
        self.data = DataSync(run, self.db).recoverable()
        self.pairs = [cleanup.add(Pair(run, own_pg)) for _ in range(2)]
        hosts = ",".join(f"127.0.0.1:{port}" for port in (own_pg.port, *(p.standby.port for p in self.pairs)))
        url = f"postgresql://app:{PASSWORD}@{hosts}/{self.db.name}?target_session_attrs=read-write"
        self.relay = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **{**FAST, **settings}).start()
        self.worker = subscriber(self.relay)
        self.way = way

    def first_branch(self):
        self.data.change("common")
        self.worker.hears("common")
        self.worker.passes(self.data, notify="common")
        for pair in self.pairs:
            pair.in_step()
        self.pairs[1].cut()
        self.to(self.pairs[0], self.way[0])
        self.live()
        for n in range(30):
            self.data.change(f"doomed{n}")
        self.worker.hears("doomed29")
        self.token = self.worker.passes(self.data, notify="doomed")
        self.worker.ping()
        self.cursor = self.worker.cursor

    def second_branch(self, freeze=True):
        self.seen = len(self.worker.frames)
        if freeze:
            self.relay.freeze()
        self.db.server.stop(self.way[1])
        self.to(self.pairs[1], None)
        assert ids_are_given_again(self.db, self.token), "else this test shows nothing"
        for user in NEW:
            self.data.change(user)
        grow_past(self.db.server, self.token)

    def to(self, pair, mode):
        if mode:
            self.seen = len(self.worker.frames)
            pair.primary.stop(mode)
        pair.standby.sql("SELECT pg_promote()")
        wait_until(lambda: not pair.standby.sql("SELECT pg_is_in_recovery()")[0][0], "the promotion")
        self.db.server = pair.standby

    def live(self):
        self.worker.wait_until(lambda: [f for f in self.worker.frames[self.seen:] if isinstance(f, Upstream)
                                        and f.state == "live"], "live", 40)


@pytest.fixture
def branches(run, own_pg, make_relay, cleanup):
    def make(*arguments, **settings):
        made = Branches(run, own_pg, make_relay, cleanup, *arguments, **settings)
        made.first_branch()
        return made
    return make


@pytest.mark.parametrize("reconcile, way", [
    ("yes", "immediate"), ("no", "fast"),
    pytest.param("yes", "fast", marks=pytest.mark.long), pytest.param("no", "immediate", marks=pytest.mark.long)])
def test_two_failovers_to_timelines_of_one_number(branches, reconcile, way):
    """The relay comes from one to the other."""
    site = branches((way, way), PGHERALD_RECONCILE=reconcile)
    site.second_branch()
    site.relay.thaw()
    site.live()
    exact_or_gap(site.worker, NEW)
    if reconcile == "yes":
        goes_on(site.worker, site.data)


def test_a_worker_that_was_away_over_both(branches):
    """It resumes with what it has of the first branch, at a relay that was there all the
    time."""
    site = branches()
    site.worker.close()
    site.second_branch(freeze=False)
    again = resumed(site.relay, site.cursor, wait=False)
    again.caught_up(40)
    exact_or_gap(again, NEW)
    goes_on(again, site.data)


def test_a_worker_of_the_first_at_a_relay_of_the_second(branches):
    """The relay knows only the second branch."""
    site = branches()
    site.relay.kill()
    site.worker.close()
    site.second_branch(freeze=False)
    site.relay.start()
    again = resumed(site.relay, site.cursor)
    exact_or_gap(again, NEW)
    goes_on(again, site.data)


def test_the_second_was_restarted_too(branches):
    site = branches()
    site.second_branch()
    site.db.server.restart("immediate")
    site.relay.thaw()
    site.live()
    exact_or_gap(site.worker, NEW)
    goes_on(site.worker, site.data)


def test_the_old_primary_comes_back_instead(branches):
    """With what only it had, on the timeline before."""
    site = branches()
    site.seen = len(site.worker.frames)
    site.relay.freeze()
    site.db.server.stop("immediate")
    site.db.server = site.pairs[0].primary.start()
    for user in NEW:
        site.data.change(user)
    grow_past(site.db.server, site.token)
    site.relay.thaw()
    site.live()
    exact_or_gap(site.worker, NEW)
    goes_on(site.worker, site.data)


def test_one_failover_after_the_other_in_step_is_exact(run, own_pg, make_relay, cleanup):
    """No branch is lost here: each new primary had everything of the previous one. So
    nothing is a gap."""
    db = own_pg.database()
    data = DataSync(run, db).recoverable()
    pair = cleanup.add(Pair(run, own_pg))
    url = pair.url(db.name)
    worker = subscriber(make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **FAST).start())
    for n in range(2):
        data.change(f"before{n}")
        worker.hears(f"before{n}")
        worker.passes(data)
        pair.in_step()
        seen = len(worker.frames)
        db.server = pair.fail_over()
        data.write(f"during{n}")
        worker.wait_until(lambda: [f for f in worker.frames[seen:] if isinstance(f, Upstream) and f.state == "live"], "live", 40)
        worker.hears(f"during{n}")
        pair.renew()
    assert not worker.gaps


# A disk that was set back

class Volume:
    """The server's files. A copy is taken and put back: while the server runs, as a storage
    system does, or when it is stopped."""

    def __init__(self, server):
        self.server = server
        self.copy = os.path.join(server.directory, "copy")

    def snapshot(self, running):
        if running:
            self.server.freeze()  # all its processes at one moment
        else:
            self.server.stop("fast")
        shutil.rmtree(self.copy, ignore_errors=True)
        self.server.run.call(["cp", "-a", self.server.data, self.copy])
        if running:
            self.server.thaw()
            os.unlink(os.path.join(self.copy, "postmaster.pid"))
        else:
            self.server.start()

    def set_back(self):
        self.server.stop("immediate")
        shutil.rmtree(self.server.data)
        self.server.run.call(["cp", "-a", self.copy, self.server.data])
        give_away(self.server.data)
        self.server.start()


class Disk:
    """A relay whose checkpoints go beyond a snapshot of the volume. The server is set back
    to that snapshot, and then past it again."""

    def __init__(self, run, own_pg, start_relay, running):
        self.db = own_pg.database()
        self.data = DataSync(run, self.db).recoverable()
        self.volume = Volume(own_pg)
        if not running:
            self.volume.snapshot(False)
        self.relay = start_relay(self.db, **FAST)
        self.worker = subscriber(self.relay)
        self.data.change("common")
        self.worker.hears("common")
        self.worker.passes(self.data)
        if running:
            self.volume.snapshot(True)

    def go_on_and_set_back(self, freeze=True):
        for n in range(30):
            self.data.change(f"doomed{n}")
        self.worker.hears("doomed29")
        self.token = self.worker.passes(self.data)
        self.worker.ping()
        self.cursor = self.worker.cursor
        self.seen = len(self.worker.frames)
        if freeze:
            self.relay.freeze()
        self.volume.set_back()
        assert ids_are_given_again(self.db, self.token), "else this test shows nothing"
        for user in NEW:
            self.data.change(user)
        grow_past(self.db.server, self.token)


@pytest.fixture(params=[True, False], ids=["of-a-running-server", "of-a-stopped-server"])
def disk(run, own_pg, start_relay, request):
    return Disk(run, own_pg, start_relay, request.param)


def test_a_disk_set_back_and_past_the_old_place_before_the_relay_is_back(disk):
    disk.go_on_and_set_back()
    disk.relay.thaw()
    disk.worker.sees("live", disk.seen)
    exact_or_gap(disk.worker, NEW)
    goes_on(disk.worker, disk.data)


def test_twice(disk):
    """Back to the same place, with the same ids a third time."""
    disk.go_on_and_set_back()
    disk.relay.thaw()
    disk.worker.sees("live", disk.seen)
    exact_or_gap(disk.worker, NEW)
    for n in range(30):
        disk.data.change(f"more{n}")
    disk.worker.hears("more29")
    token = disk.worker.passes(disk.data)
    seen, heard, gaps = len(disk.worker.frames), len(disk.worker.pubkeys), len(disk.worker.gaps)
    disk.relay.freeze()
    disk.volume.set_back()
    for user in NEW:
        disk.data.change(user)
    grow_past(disk.db.server, token)
    disk.relay.thaw()
    disk.worker.sees("live", seen)
    disk.worker.wait_until(lambda: len(disk.worker.gaps) > gaps or set(NEW) <= set(disk.worker.pubkeys[heard:]),
                           "all of them, or a GAP", 40)
    goes_on(disk.worker, disk.data)


def test_a_worker_that_was_away_while_the_disk_was_set_back(disk):
    disk.go_on_and_set_back(freeze=False)
    disk.worker.close()
    for cursor in (disk.cursor, ("another-epoch", *disk.cursor[1:])):
        again = resumed(disk.relay, cursor)
        exact_or_gap(again, NEW)
        goes_on(again, disk.data)
        again.close()
