"""Tracked tables and sent messages, as workers hear of them: live, after an outage, and when
something is wrong."""

import pytest

from harness.datasync import DataSync
from harness.ops import objects
from harness.procs import wait_until
from harness.subscriber import resumed, subscriber
from harness.worker import Message

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25", "PGHERALD_CHANNELS": "docs,msgs:text"}

@pytest.fixture
def data(run, db):
    data = DataSync(run, db)
    data.migrate("pgherald")
    db.sql("CREATE TABLE docs (id int PRIMARY KEY, owner text, body text);"
           " INSERT INTO docs SELECT i, 'u' || i, '' FROM generate_series(1, 20) AS i;"
           " SELECT pgherald.track('docs', 'docs', 'owner')")
    return data


def workers_of(relay):
    return subscriber(relay, channel="docs"), subscriber(relay, channel="msgs")


def texts(worker):
    return [m.payload for m in worker.of(Message)]


def says(worker, payload, times=1):
    worker.wait_until(lambda: texts(worker).count(payload) >= times, f"{times} times {payload!r}")


def status(relay):
    return objects(relay.ops("status json"))[0]


def passes(worker, data):
    """A checkpoint that sees all that is committed."""
    return worker.passes(data)


@pytest.mark.versions
def test_every_host_hears_what_nobody_notified(start_relay, db, bouncer, data):
    hosts = [start_relay(db, bouncer, **FAST) for _ in range(2)]
    pairs = [workers_of(host) for host in hosts]
    for worker, _ in pairs:
        worker.passes(data)
    db.sql("UPDATE docs SET owner = 'moved' WHERE id = 1; DELETE FROM docs WHERE id = 2; INSERT INTO docs VALUES (50, 'new', '')")
    for worker, _ in pairs:
        worker.hears_all(["u1", "moved", "u2", "new"])
    db.sql("TRUNCATE docs")
    for worker, _ in pairs:
        worker.hears_all([f"u{n}" for n in range(3, 21)] + ["moved", "new"])
        worker.passes(data)
        assert not worker.gaps


def test_each_message_is_told_although_an_equal_one_was(start_relay, db, bouncer, data):
    hosts = [start_relay(db, bouncer, **FAST) for _ in range(2)]
    pairs = [workers_of(host) for host in hosts]
    for worker, _ in pairs:
        worker.passes(data)
    for n in range(1, 5):  # the previous one was heard only just now
        db.sql("SELECT pgherald.send('msgs', 'twice')")
        for _, worker in pairs:
            says(worker, "twice", n)
    db.sql("SELECT pgherald.send('msgs', 'at once', notify => true)")
    for worker, texter in pairs:
        says(texter, "at once")
        worker.passes(data)
        worker.passes(data)
        assert texts(texter).count("at once") == 1, "what its transaction notified is not announced again"
        assert all(m.flags == 0 for m in texter.of(Message))


def test_notify_in_the_transaction(start_relay, db, bouncer, data):
    """Heard though nothing reconciles, once a key, with the originator's id."""
    db.sql("SELECT pgherald.track('docs', 'docs', 'owner', notify => true)")
    relay = start_relay(db, bouncer, **FAST)
    worker, _ = workers_of(relay)
    worker.passes(data)
    db.sql("BEGIN; SET LOCAL pgherald.client_id = 'me'; UPDATE docs SET body = 'x', owner = 'same' WHERE id < 3; COMMIT")
    for key in ("u1", "u2", "same"):
        worker.hears(key, "me")
    worker.passes(data)
    worker.passes(data)
    assert sorted(worker.pubkeys) == ["same", "u1", "u2"]


@pytest.mark.parametrize("keys", [2000, 100000])
def test_a_bulk_write_that_the_publish_queue_does_not_take_at_once(start_relay, db, bouncer, data, keys):
    """Each key is announced once. By default the queue takes 32,768 of a user, and 65,536 wait for
    their NOTIFY."""
    limit = {"PGHERALD_PUBLISH_QUEUE_MAX": "500"} if keys == 2000 else {}
    relay = start_relay(db, bouncer, **FAST, **limit)
    worker, _ = workers_of(relay)
    worker.passes(data)
    db.sql("INSERT INTO docs SELECT i, 'k' || i FROM generate_series(101, %s) AS i", (100 + keys,))
    worker.wait_until(lambda: len(worker.frames) > keys and len({c.pubkey for c in worker.changes}) == keys, "all keys", 60)
    worker.passes(data)
    assert len(worker.changes) < keys * 1.1 and not worker.gaps
    assert not [w for w in relay.lines("WARNING") if "queue" in w or "not committed" in w]


@pytest.mark.versions
def test_an_outage_is_made_good(start_relay, db, bouncer, data):
    """The relay dies. Meanwhile rows are deleted, keys are changed, messages are sent: by
    programs that know nothing of pgherald."""
    relay = start_relay(db, bouncer, **FAST)
    worker, texter = workers_of(relay)
    worker.passes(data)
    texter.passes(data)
    cursors = worker.cursor, texter.cursor
    relay.kill()
    db.sql("UPDATE docs SET owner = 'moved' WHERE id = 1; DELETE FROM docs WHERE id = 2")
    db.sql("SELECT pgherald.send('msgs', 'missed'), pgherald.send('msgs', 'missed'), pgherald.send('msgs', 'also', notify => true)")
    db.sql("SELECT pgherald.fold(); UPDATE pgherald.moment SET at = at - interval '2 minutes'; SELECT pgherald.fold()")
    relay = start_relay(db, bouncer, **FAST)
    worker, texter = (resumed(relay, cursor, channel=channel) for cursor, channel in zip(cursors, ("docs", "msgs")))
    assert sorted(worker.recovered) == ["moved", "u1", "u2"] and not worker.gaps
    assert [(m.payload, m.flags) for m in texter.of(Message)] == [("missed", 1), ("missed", 1), ("also", 1)] and not texter.gaps


def test_the_listen_connection_is_lost(start_relay, db, bouncer, data):
    relay = start_relay(db, bouncer, **FAST)
    worker, _ = workers_of(relay)
    worker.passes(data)
    for n in range(1, 4):
        seen = len(worker.frames)
        db.terminate("pgherald upstream")
        db.sql("DELETE FROM docs WHERE id = %s", (n,))
        worker.sees("live", seen)
        worker.hears(f"u{n}")
    assert not worker.gaps


@pytest.mark.parametrize("forget, why", [
    ("SELECT pgherald.send('msgs', 'x')", "messages are kept for"),
    ("INSERT INTO docs SELECT i, i::text FROM generate_series(100, 100200) AS i; SELECT pgherald.track('docs', 'docs', 'id')",
     "is tracked only since"),
    ("INSERT INTO docs SELECT i, i::text FROM generate_series(100, 100200) AS i; TRUNCATE docs", "more was changed"),
])
def test_what_was_forgotten_is_a_gap_that_says_so(start_relay, db, bouncer, data, forget, why):
    relay = start_relay(db, bouncer, **FAST)
    worker, _ = workers_of(relay)
    worker.passes(data)
    relay.kill()
    db.sql(forget)
    if "kept" in why:
        db.sql("SELECT pgherald.fold(); UPDATE pgherald.moment SET at = at - interval '2 hours'; SELECT pgherald.fold()")
    relay = start_relay(db, bouncer, **FAST)
    worker = resumed(relay, worker.cursor, channel="docs")
    assert len(worker.gaps) == 1
    assert any(why in line for line in relay.lines("WARNING", "ERROR", "NOTICE")), relay.log()
    worker.passes(data)
    db.sql("INSERT INTO docs VALUES (1000000, 'after', '')")
    worker.hears("after")


def test_what_a_table_had_when_tracking_began_counts_as_changed(start_relay, db, bouncer, data):
    """A worker was away when it began: its cursor is older."""
    relay = start_relay(db, bouncer, **FAST)
    worker, _ = workers_of(relay)
    worker.passes(data)
    relay.kill()
    db.sql("CREATE TABLE more (owner text); INSERT INTO more VALUES ('early'), ('gone'); SELECT pgherald.track('more', 'docs', 'owner')")
    db.sql("DELETE FROM more WHERE owner = 'gone'")
    relay = start_relay(db, bouncer, **FAST)
    worker = resumed(relay, worker.cursor, channel="docs")
    assert sorted(worker.recovered) == ["early", "gone"] and not worker.gaps


def test_a_truncate_of_very_many_rows_is_a_gap_for_live_workers(start_relay, db, bouncer, data):
    relay = start_relay(db, bouncer, **FAST)
    worker, _ = workers_of(relay)
    worker.passes(data)
    db.sql("BEGIN; INSERT INTO docs SELECT i, 'one' FROM generate_series(100, 100200) AS i; TRUNCATE docs; COMMIT")
    worker.wait_until(lambda: worker.gaps, "a gap")
    db.sql("INSERT INTO docs VALUES (1, 'after', '')")
    worker.hears("after")
    worker.passes(data)
    assert len(worker.gaps) == 1


def test_a_channel_for_which_nothing_is_tracked(start_relay, db, bouncer, data):
    """What is notified there is not recovered: so an outage is a gap, and the start says it."""
    relay = start_relay(db, bouncer, **{**FAST, "PGHERALD_CHANNELS": "docs,other"})
    wait_until(lambda: [w for w in relay.lines("WARNING") if "no table is tracked for the channel other" in w], "a warning")
    worker = subscriber(relay, channel="docs")
    worker.passes(data)
    seen = len(worker.frames)
    db.terminate("pgherald upstream")
    worker.sees("live", seen)
    assert worker.gaps == ["upstream"]


def test_a_tracked_channel_that_is_not_served(start_relay, db, bouncer, data):
    db.sql("SELECT pgherald.track('docs', 'elsewhere', 'id')")
    relay = start_relay(db, bouncer, **FAST)
    wait_until(lambda: [w for w in relay.lines("WARNING") if "is tracked for a channel" in w and 'channel="elsewhere"' in w], "a warning")
    worker, _ = workers_of(relay)
    worker.passes(data)
    db.sql("UPDATE docs SET body = 'x' WHERE id = 1")
    worker.hears("u1")
    assert [w for w in relay.lines("WARNING") if "row is skipped" in w and 'channel="elsewhere"' in w]
    wait_until(lambda: objects(relay.ops("upstream json"))[0]["recovery"]["rows_of_other_channels"] > 0, "a count")


@pytest.fixture
def reader(db):
    """The relays' role, which is not the owner of anything."""
    db.sql("CREATE ROLE reader LOGIN", user="postgres")
    yield "reader"
    db.sql("DROP OWNED BY reader; DROP ROLE reader", user="postgres")


def test_the_relays_role_needs_one_right(start_relay, make_relay, db, data, reader):
    """Without it, the start says what to grant; with it alone, everything works."""
    url = db.server.url(db.name, user="reader")
    relay = make_relay(DATABASE_DIRECT_URL=url, **FAST)
    relay.start()
    wait_until(lambda: [w for w in relay.lines("WARNING") if "recovery does not work" in w], "a warning")
    assert "may not read what was changed" in relay.log() or "permission denied" in relay.log()
    worker = subscriber(relay, channel="docs")
    db.sql("GRANT EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) TO reader")
    worker.passes(data)
    seen = len(worker.frames)
    db.terminate("pgherald upstream")
    db.sql("DELETE FROM docs WHERE id = 1")
    worker.sees("live", seen)
    worker.hears("u1")
    assert not worker.gaps
    db.sql("UPDATE docs SET body = 'x' WHERE id = 2")
    wait_until(lambda: db.sql("UPDATE pgherald.moment SET at = at - interval '2 minutes' RETURNING 1"), "a moment")
    db.sql("UPDATE docs SET body = 'y' WHERE id = 2")
    worker.hears("u2")
    wait_until(lambda: status(relay)["tracking"]["folded"] > 0, "the fold")


@pytest.mark.versions
def test_the_relay_folds(start_relay, db, bouncer, data):
    relay = start_relay(db, bouncer, **FAST)
    def folded():
        db.sql("UPDATE docs SET body = 'x'")
        db.sql("UPDATE pgherald.moment SET at = at - interval '1 minute'")
        return db.sql("SELECT count(*) FROM pgherald.folded") == [(20,)] and status(relay)["tracking"]["folded"] >= 20
    wait_until(folded, "folded keys")
    tracking = status(relay)["tracking"]
    assert tracking["on"] is True and tracking["tables"] == 1
    assert tracking["problem"] == "none" and tracking["fold_fails"] == "none"
    metrics = relay.ops("metrics")
    assert "pgherald_tracked_tables 1" in metrics
    wait_until(lambda: status(relay)["tracking"]["fold_lag_seconds"] is None, "no lag")


def test_a_problem_of_a_table_is_a_warning(start_relay, db, bouncer, data):
    db.sql("ALTER TABLE docs DISABLE TRIGGER ALL")
    relay = start_relay(db, bouncer, **FAST)
    wait_until(lambda: [w for w in relay.lines("WARNING") if "changes may be missed: public.docs: a trigger is missing" in w
                        or "changes may be missed: docs: a trigger is missing" in w], "a warning")
    assert "trigger is missing" in status(relay)["tracking"]["problem"]


def test_an_idle_database_stays_idle(start_relay, db, bouncer, data):
    """Folding does not wake the relays for ever."""
    relay = start_relay(db, bouncer, **FAST)
    worker, _ = workers_of(relay)
    db.sql("UPDATE docs SET body = 'x'")
    worker.passes(data)

    def sent():
        return status(relay)["canary"]["sent"]

    def rests():
        before, probes = sent(), status(relay)["canary"]["probes"]
        wait_until(lambda: status(relay)["canary"]["probes"] >= probes + 4, "probes")
        return sent() == before
    wait_until(rests, "no more canaries", 30)


def test_values_that_look_like_payloads(start_relay, db, bouncer, run):
    data = DataSync(run, db)
    data.function("""SELECT 'docs', '{"p":"u1"}'""", "sql")
    relay = start_relay(db, bouncer, **FAST)
    wait_until(lambda: [w for w in relay.lines("WARNING") if "looks like the JSON of a notification" in w], "a warning")


def test_a_stamp_of_the_future_in_the_data_sync_tables(start_relay, db, bouncer, run):
    data = DataSync(run, db).recoverable()
    data.write("u1")
    db.sql("ALTER TABLE user_revisions DISABLE TRIGGER ALL; UPDATE user_revisions SET changed_xid = '99999999999';"
           " ALTER TABLE user_revisions ENABLE ALWAYS TRIGGER pgherald_stamp; ALTER TABLE user_revisions ENABLE ALWAYS TRIGGER pgherald_former")
    relay = start_relay(db, bouncer, PGHERALD_CHECKPOINT_INTERVAL="0.25")
    wait_until(lambda: [w for w in relay.lines("WARNING") if "transaction ids of another cluster" in w and "recovery.sql" in w], "a warning")
    data.migrate("recovery")
    assert db.sql("SELECT pgherald.problem()") == [(None,)]


def test_it_goes_and_comes_again_under_a_running_relay(start_relay, db, bouncer, data):
    relay = start_relay(db, bouncer, **FAST)
    worker, _ = workers_of(relay)
    worker.passes(data)
    data.migrate("pgherald_down")
    db.sql("UPDATE docs SET body = 'x' WHERE id = 1")
    data.migrate("pgherald")
    db.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
    db.sql("UPDATE docs SET body = 'x' WHERE id = 2")
    worker.hears("u2")
    wait_until(lambda: status(relay)["tracking"]["problem"] == "none" and status(relay)["tracking"]["tables"] == 1, "tracking")
    worker.passes(data)


def test_a_database_whose_transactions_are_serializable_by_default(start_relay, db, bouncer, data):
    """The fold reads what writers write, but must not be a reason for them to fail."""
    db.sql(f"ALTER DATABASE {db.name} SET default_transaction_isolation = serializable")
    relay = start_relay(db, bouncer, **FAST)
    worker, _ = workers_of(relay)
    worker.passes(data)
    db.sql("UPDATE docs SET body = 'x' WHERE id = 1")
    worker.hears("u1")
    db.sql("CREATE TABLE seen (level text); GRANT ALL ON seen TO PUBLIC; CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS"
           " $$ BEGIN INSERT INTO public.seen VALUES (current_setting('transaction_isolation')); RETURN NULL; END $$;"
           " CREATE TRIGGER see AFTER INSERT ON pgherald.moment EXECUTE FUNCTION see()")

    def folds():
        db.sql("UPDATE docs SET body = 'y' WHERE id = 1")
        db.sql("BEGIN ISOLATION LEVEL READ COMMITTED; UPDATE pgherald.moment SET at = at - interval '1 minute'; COMMIT")
        return db.sql("SELECT * FROM seen")
    wait_until(folds, "a fold")
    assert set(db.sql("SELECT * FROM seen")) == {("read committed",)}
