"""A worker comes back with its cursor. It gets what it missed, exactly from the backlog, at
least once from the database, or a GAP that says why not."""

import signal

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.servers import Postgres, make_template
from harness.subscriber import Subscriber, resumed, subscriber
from harness.worker import CHANNEL, NOTIFY, Change, Checkpoint, Gap, Ok, Upstream

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.2"}


@pytest.fixture
def data(run, db):
    return DataSync(run, db).recoverable()


@pytest.fixture
def host(start_relay, db, bouncer, data):
    return start_relay(db, bouncer, **FAST)


def users(count, name="u"):
    return [f"{name}{i}" for i in range(count)]


# From the backlog

@pytest.mark.parametrize("pubkeys", [None, ["u3", "u7", "u31", "never"]], ids=["all", "pubkeys"])
def test_a_replay_is_exact(host, data, pubkeys):
    """Each missed frame once, in order, with its seq; nothing from before; then live frames."""
    witness = subscriber(host, pubkeys)
    worker = subscriber(host, pubkeys)
    for user in users(5):
        data.notify(user)
    data.notify("u3")
    worker.hears("u3")
    worker.ping()
    worker.close()
    for user in users(40):
        data.notify(user)
    again = resumed(host, worker.cursor, pubkeys)
    data.notify("u3")
    again.wait_until(lambda: again.pubkeys.count("u3") == 2, "the live change")
    for w in (again, witness):  # so the witness has all that the other has
        w.ping()
    expected = [f for f in witness.changes if f.seq > worker.cursor[1]]
    assert again.changes == expected
    assert not again.of(Gap)
    # the OK separates what was missed from what is live
    ok = again.caught_up()
    position = again.frames.index(ok)
    assert all(c.seq <= ok.seq for c in again.frames[1:position] if isinstance(c, Change))
    assert all(c.seq > ok.seq for c in again.frames[position:] if isinstance(c, Change))
    # a replay contains the CHECKPOINTs too, once each, in order
    theirs = [c for c in again.of(Checkpoint) if c.seq <= again.frames[-1].seq]
    assert theirs == [c for c in witness.of(Checkpoint) if worker.cursor[1] < c.seq <= again.frames[-1].seq]


def test_nothing_was_missed(host, data):
    worker = subscriber(host)
    data.notify("alice")
    worker.hears("alice")
    worker.ping()
    worker.close()
    again = resumed(host, worker.cursor)
    data.notify("bob")
    again.hears("bob")
    assert again.pubkeys == ["bob"]
    assert not again.of(Gap)


def test_resuming_many_times_under_load_is_one_stream(host, data):
    """One worker drops its connection every few changes, one stays: they hear the same
    frames."""
    witness = subscriber(host)
    worker = subscriber(host)
    first = worker.cursor[1]
    seen = []
    for user in users(120):
        data.notify(user)
        if user.endswith("5"):
            worker.pump(0.001)  # whatever has come by now
            seen += [f for f in worker.frames if isinstance(f, (Change, Checkpoint))]
            worker.close()
            worker = resumed(host, worker.cursor, wait=False)
    worker.hears("u119")
    witness.hears("u119")
    seen += [f for f in worker.frames if isinstance(f, (Change, Checkpoint))]
    last = seen[-1].seq
    witness.wait_until(lambda: witness.cursor[1] >= last, f"seq {last}")
    changes = [f for f in seen if isinstance(f, Change)]
    assert changes == [f for f in witness.changes if first < f.seq <= last], "the same, once each, in order"


def test_what_is_subscribed_when_resuming_counts(host, data):
    """A worker may come back with other subscriptions: it gets the missed changes of the new
    ones."""
    witness = subscriber(host)
    worker = subscriber(host, ["alice"])
    worker.ping()
    worker.close()
    for user in ("alice", "bob", "carol"):
        data.notify(user)
    witness.hears("carol")
    again = resumed(host, worker.cursor, ["bob", "carol"])
    assert again.pubkeys == ["bob", "carol"]


# From the database

def fall_out(relay, data, rounds=3000):
    """Publish more frames than a backlog of 64K holds."""
    data.database.sql("DO $$ BEGIN FOR i IN 1.." + str(rounds) + " LOOP PERFORM pg_notify('" + CHANNEL
                      + "', '{\"p\":\"noise' || i || '\"}'); END LOOP; END $$")


def test_after_falling_out_of_the_backlog(start_relay, db, bouncer, data):
    relay = start_relay(db, bouncer, PGHERALD_BACKLOG_SIZE="64K", **FAST)
    witness = subscriber(relay)
    worker = subscriber(relay)
    worker.passes(data)
    worker.close()
    for user in users(50):
        data.change(user)
    fall_out(relay, data)
    witness.hears("noise3000")
    again = resumed(relay, worker.cursor)
    assert set(users(50)) <= set(again.recovered)
    assert all(c.seq is None for c in again.changes), "recovered for this worker alone"
    assert not again.of(Gap)
    again.wait_until(lambda: again.of(Checkpoint), "a CHECKPOINT after the OK")
    data.change("live")
    assert again.hears("live").seq > again.caught_up().seq
    # and its cursor is good for an exact replay from here on
    again.close()
    data.change("later")
    witness.hears("later")
    third = resumed(relay, again.cursor)
    assert third.pubkeys == ["later"] and third.changes[0].seq


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("pubkeys", [None, ["u1", "u2", "open", "live", "never"]], ids=["all", "pubkeys"])
def test_after_the_relay_starts_anew(host, data, end, pubkeys):
    """Recovered changes have flags 1, seq nil, client id nil. Then OK, then live frames,
    without a hole in between."""
    worker = subscriber(host, pubkeys)
    transaction = data.begin("open")
    worker.passes(data)
    data.change("u1")
    worker.hears("u1")
    getattr(host, end)()
    worker.close()
    for user in users(10):
        data.write(user)
        data.notify(user)
    transaction.commit()
    host.start()
    again = resumed(host, worker.cursor, pubkeys)
    data.change("live")
    live = again.hears("live")
    wanted = set(users(10) + ["open"]) & set(pubkeys or users(10) + ["open"])
    assert wanted <= set(again.recovered)
    assert "never" not in again.pubkeys
    assert len(again.recovered) == len(set(again.recovered)), "one row a user"
    for change in again.changes:
        if change.flags == 1:
            assert change.seq is None and change.client_id is None
    ok = again.caught_up()
    assert ok.seq < live.seq
    assert again.frames.index(ok) < again.frames.index(live)
    assert not again.of(Gap)
    assert again.cursor[0] == again.epoch != worker.cursor[0]


def test_no_hole_between_what_is_recovered_and_what_is_live(host, data):
    """While changes come all the time, workers come back again and again from the first
    one's cursor, across a restart of the relay."""
    worker = subscriber(host)
    worker.passes(data)
    host.kill()
    worker.close()
    host.start()
    last = 0
    for round in range(15):
        for _ in range(10):
            last += 1
            data.change(f"u{last}")
        again = resumed(host, worker.cursor, wait=False)
        for _ in range(10):
            last += 1
            data.change(f"u{last}")
        again.hears_all(f"u{i}" for i in range(1, last + 1))
        assert not again.of(Gap)
        again.close()


def test_a_drop_in_the_middle_of_a_catch_up_starts_it_again(start_relay, db, bouncer, data, host):
    worker = subscriber(host)
    worker.passes(data)
    host.kill()
    worker.close()
    data.write_many(1, 60000)
    host.start()
    cursor = worker.cursor
    for _ in range(3):
        again = resumed(host, cursor, wait=False)
        again.wait_until(lambda: len(again.changes) > 300, "some of what was missed")
        again.close()
        assert again.cursor == cursor, "no part of a catch-up moves the cursor"
    again = resumed(host, cursor)
    assert set(again.recovered) >= set(f"u{i}" for i in range(1, 60001))


def test_those_who_ask_the_same_share_a_query(start_relay, db, bouncer, data):
    """A relay restarts under many workers with the same checkpoint: one question to the
    database, not one each."""
    data.database.sql("CREATE SEQUENCE calls")
    data.function("BEGIN PERFORM nextval('calls'); RETURN QUERY SELECT 'data_sync_changes', user_id::text FROM user_revisions"
                  " WHERE changed_xid >= pg_snapshot_xmin(since) AND NOT pg_visible_in_snapshot(changed_xid, since); END")
    relay = start_relay(db, bouncer, PGHERALD_RECONCILE="no", PGHERALD_CHECKPOINT_INTERVAL="0.2")
    workers = [subscriber(relay) for _ in range(40)]
    data.database.sql("INSERT INTO user_revisions VALUES ('before', 1)")
    data.notify("before")
    workers[-1].passes(data, notify="before")
    for worker in workers:
        worker.ping()
    newest = max((w.cursor for w in workers), key=lambda c: c[1])
    relay.kill()
    data.write("missed")
    calls = db.sql("SELECT last_value FROM calls")[0][0] if db.sql("SELECT is_called FROM calls")[0][0] else 0
    relay.start()
    # frozen, so that all wait to be accepted
    relay.freeze()
    again = [resumed(relay, newest, wait=False) for _ in workers]
    relay.thaw()
    for worker in again:
        worker.caught_up()
        assert worker.recovered.count("missed") == 1
    used = db.sql("SELECT last_value FROM calls")[0][0] - calls
    assert 1 <= used <= 4, f"{used} queries for {len(again)} workers"


def test_who_comes_while_the_query_runs_shares_it(start_relay, db, bouncer, data):
    data.database.sql("CREATE SEQUENCE calls")
    data.function("BEGIN PERFORM pg_advisory_xact_lock_shared(1); PERFORM nextval('calls');"
                  " RETURN QUERY SELECT 'data_sync_changes', user_id::text FROM user_revisions"
                  " WHERE NOT pg_visible_in_snapshot(changed_xid, since); END")
    relay = start_relay(db, bouncer, PGHERALD_RECONCILE="no", PGHERALD_CHECKPOINT_INTERVAL="0.2")
    calls = lambda: db.sql("SELECT last_value * is_called::int FROM calls")[0][0]
    wait_until(lambda: calls() == 1, "the relay tries the function at its start")
    cursor = ("an epoch that is gone", 1, subscriber(relay).passes(data, notify="before"))
    data.write("missed")
    lock = db.server.connect(db.name)
    lock.cursor().execute("SELECT pg_advisory_lock(1)")
    workers = [resumed(relay, cursor, wait=False)]
    wait_until(lambda: db.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")[0][0] == 1,
               "the query runs")
    # The second goes live from before this. No OK of its is before an earlier one: the worker checks that.
    watcher = subscriber(relay)
    data.notify("meanwhile")
    watcher.hears("meanwhile")
    workers.append(resumed(relay, cursor, wait=False))
    workers[1].ping()
    lock.close()
    for worker in workers:
        worker.caught_up()
        assert worker.recovered.count("missed") == 1
        data.change("later")
    for worker in workers:
        worker.hears("later")
        assert worker.pubkeys.count("meanwhile") == 1
    assert calls() == 2


# Neither

def gap_of(relay, cursor, data):
    worker = resumed(relay, cursor)
    ok = worker.caught_up()
    gap, = worker.of(Gap)
    assert worker.frames.index(gap) < worker.frames.index(ok)
    assert gap.text
    assert worker.changes == []
    # live, with a present cursor
    data.notify("live")
    worker.hears("live")
    return gap


@pytest.mark.parametrize("checkpoint", [
    None, "", "garbage", "1;00000001;0/1;3:3:", "1;00000001;0/1", ";;;", "x" * 1000, "9" * 40 + ";1;0/1;1:1:",
    "\x01\x02", "zoë"], ids=lambda c: "none" if c is None else ascii(c)[:20])
def test_a_checkpoint_that_means_nothing_is_a_gap(host, data, checkpoint):
    data.write("missed")
    gap = gap_of(host, ("an-epoch-that-is-gone", 12345, checkpoint), data)
    assert gap.cause == "restart", gap


def test_a_checkpoint_that_is_almost_one_is_a_gap(host, data):
    """What a worker stored may be damaged. No part of it reaches SQL as SQL, or makes the
    relay ask for ever."""
    worker = subscriber(host)
    token = worker.passes(data)
    system, timeline, lsn, snapshot = token.split(";")
    for damaged in (f"{system};{timeline};{lsn};5:3:", f"{system};{timeline};{lsn};3:5:9",
                    f"{system};{timeline};{lsn};3:5:4,4", f"{system};{timeline};{lsn};{snapshot}'; SELECT 1",
                    f"{system};{timeline};FFFFFFFF/0;{snapshot}", f"{int(system) + 1};{timeline};{lsn};{snapshot}",
                    f"{system};00000009;{lsn};{snapshot}", f"{system};{timeline};{lsn};-3:5:",
                    f"{system};{timeline};{lsn};0:0:"):
        gap = gap_of(host, ("gone", 1, damaged), data)
        assert gap.cause == "restart", (damaged, gap)


def test_a_checkpoint_of_another_cluster_is_a_gap(host, data, run, start_relay, cleanup):
    # the others are copies of one, with its system identifier
    other = cleanup.add(Postgres(run, make_template(run))).start()
    db = other.database()
    theirs = start_relay(db, **FAST)
    worker = subscriber(theirs)
    worker.passes(DataSync(run, db), notify="before")
    cursor = worker.cursor
    gap = gap_of(host, cursor, data)
    assert gap.cause == "restart" and "cluster" in gap.text, gap


def test_without_the_function_a_restart_is_a_gap(start_relay, db, bouncer, run):
    data = DataSync(run, db)
    relay = start_relay(db, bouncer, **FAST)
    worker = subscriber(relay)
    worker.passes(data, notify="before")
    relay.kill()
    relay.start()
    gap = gap_of(relay, worker.cursor, data)
    assert gap.cause == "restart", gap


def test_a_replay_needs_no_function(start_relay, db, bouncer, run):
    data = DataSync(run, db)
    relay = start_relay(db, bouncer, **FAST)
    witness = subscriber(relay)
    worker = subscriber(relay)
    worker.close()
    data.notify("alice")
    witness.hears("alice")
    assert resumed(relay, worker.cursor).pubkeys == ["alice"]


def test_a_seq_of_the_future_is_no_replay(host, data):
    worker = subscriber(host)
    worker.passes(data)
    data.change("alice")
    worker.hears("alice")
    epoch, seq, checkpoint = worker.cursor
    again = resumed(host, (epoch, seq + 1000000, checkpoint))
    assert not [c for c in again.changes if c.seq and c.seq > seq + 1000000]
    data.change("live")
    again.hears("live")


def test_requests_while_catching_up_are_answered(start_relay, db, bouncer, data):
    relay = start_relay(db, bouncer, **FAST)
    worker = subscriber(relay)
    worker.passes(data)
    relay.kill()
    data.write_many(1, 30000)
    relay.start()
    again = Subscriber(relay.path, resume=worker.cursor)
    relay._workers.append(again)
    again.subscribe(CHANNEL, None)
    again.begin()
    ping = again.ask(5)
    data.write("mine")
    publish = again.ask(NOTIFY, CHANNEL, "mine", None)
    assert isinstance(again.answer(ping), Ok)
    assert isinstance(again.answer(publish), Ok)
    again.caught_up()
    again.hears("mine")
    assert len(set(again.recovered)) >= 30000


def test_local_mode_replays_and_after_a_restart_tells_the_gap(local_relay):
    worker = subscriber(local_relay)
    publisher = local_relay.connect()
    worker.close()
    publisher.publish("alice")
    assert resumed(local_relay, worker.cursor).pubkeys == ["alice"]
    local_relay.kill()
    local_relay.start()
    again = resumed(local_relay, worker.cursor)
    assert again.gaps == ["restart"]
    local_relay.connect().publish("bob")
    again.hears("bob")


# The library

def test_the_library_keeps_its_cursor_in_a_file_across_its_own_restart(host, data, cat, run):
    cursor = run.subdirectory("cursor") + "/cursor"
    first = cat("--socket", host.path, "--cursor", cursor).subscribed()
    data.change("alice")
    first.hears("alice")
    first.process.terminate()
    first.wait_exit()
    data.change("bob")
    second = cat("--socket", host.path, "--cursor", cursor).subscribed()
    second.hears("bob")
    assert [o["pubkey"] for o in second.lines("change")] == ["bob"], "exact: from the backlog"


def test_the_library_recovers_across_a_restart_of_the_relay(host, data, cat, run):
    stays = cat("--socket", host.path).subscribed()
    cursor = run.subdirectory("cursor") + "/cursor"
    leaves = cat("--socket", host.path, "--cursor", cursor).subscribed()
    worker = subscriber(host)
    worker.passes(data)
    data.change("alice")
    for one in (stays, leaves):
        one.hears("alice")
    leaves.process.send_signal(signal.SIGKILL)
    leaves.wait_exit()
    host.kill()
    for user in users(10):
        data.change(user)
    host.start()
    comes_back = cat("--socket", host.path, "--cursor", cursor)
    for one in (stays, comes_back):
        for user in users(10):
            assert one.hears(user)["recovered"] is True
        assert not one.lines("gap")
    data.change("live")
    for one in (stays, comes_back):
        assert one.hears("live")["recovered"] is False


def test_the_library_resumes_again_after_a_drop_in_the_middle(host, data, cat):
    one = cat("--socket", host.path).subscribed()
    worker = subscriber(host)
    worker.passes(data)
    host.kill()
    data.write_many(1, 40000)
    for _ in range(2):
        host.start()
        seen = len(one.lines("change"))
        wait_until(lambda: len(one.lines("change")) > seen + 100, "some of what was missed")
        host.kill()
    host.start()
    wait_until(lambda: len({o["pubkey"] for o in one.lines("change")}) == 40000, "all that was missed", 60)
    assert not one.lines("gap")


def test_it_is_told_that_the_upstream_came_back_between_hello_and_begin(run, own_pg, own_db, start_relay):
    """Its WELCOME said that the upstream is down, and it is live from after the UPSTREAM that
    says otherwise."""
    DataSync(run, own_db).recoverable()
    host = start_relay(own_db, **FAST)
    witness = subscriber(host)
    own_pg.stop()
    witness.wait_until(lambda: witness.of(Upstream), "that the upstream is down")
    again = Subscriber(host.path, resume=("gone", 1, witness.cursor[2]))
    host._workers.append(again)
    again.wait_until(lambda: again.frames, "WELCOME")
    assert again.welcome.info["upstream"] == "down"
    own_pg.start()
    witness.wait_until(lambda: witness.of(Upstream)[-1].state == "live", "that the upstream is live")
    again.subscribe()
    again.begin()
    again.caught_up()
    assert [u.state for u in again.of(Upstream)] == ["live"]
