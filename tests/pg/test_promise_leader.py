"""A relay that cannot ask the database does not silence the others: another takes over, the
log says why, and its own workers lose nothing."""

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from promise import Canaries, passes_nothing_unheard, role_that_may_read, silent
from harness.subscriber import resumed, subscriber

REALLY = "ALTER FUNCTION pgherald.changes_since(pg_snapshot) RENAME TO really_since"
FOR_THE_LESSER = "BEGIN IF current_user = 'lesser' THEN {} END IF; RETURN QUERY SELECT * FROM pgherald.really_since(since); END"


@pytest.fixture
def data(run, own_db):
    return DataSync(run, own_db).recoverable()


# What happens to the role, and how it ends.

class NoRightOnTheTable:
    said = "permission denied for table"

    def __init__(self, data):
        self.sql = data.database.sql
        self.sql("REVOKE SELECT ON user_revisions FROM lesser")

    def end(self):
        self.sql("GRANT SELECT ON user_revisions TO lesser")


class NoRightOnTheFunction:
    said = "permission denied for function"

    def __init__(self, data):
        self.sql = data.database.sql
        self.sql("REVOKE EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) FROM PUBLIC")

    def end(self):
        self.sql("GRANT EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot) TO lesser")


class NoRightOnTheSchema:
    said = "no function pgherald.changes_since(pg_snapshot) that this role may see"

    def __init__(self, data):
        self.sql = data.database.sql
        self.sql("REVOKE USAGE ON SCHEMA pgherald FROM PUBLIC")

    def end(self):
        self.sql("GRANT USAGE ON SCHEMA pgherald TO lesser")


class NoConnectionLeft:
    """The role keeps only its connections for listening and publishing."""
    said = "too many connections for role"

    def __init__(self, data):
        self.server = data.database.server
        self.server.sql("ALTER ROLE lesser CONNECTION LIMIT 2")
        self.server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE usename = 'lesser' AND application_name = 'pgherald recovery'")

    def end(self):
        self.server.sql("ALTER ROLE lesser CONNECTION LIMIT -1")


class Raises:
    said = "not for you"
    body = "RAISE 'not for you';"

    def __init__(self, data):
        self.sql = data.database.sql
        self.sql(REALLY)
        data.function(FOR_THE_LESSER.format(self.body))

    def end(self):
        self.sql("DROP FUNCTION pgherald.changes_since(pg_snapshot);"
                 "ALTER FUNCTION pgherald.really_since(pg_snapshot) RENAME TO changes_since")


class Hangs(Raises):
    said = "takes too long"
    body = "PERFORM pg_sleep(1000);"


WAYS = [NoRightOnTheTable, NoRightOnTheFunction, NoRightOnTheSchema, NoConnectionLeft, Raises, Hangs]


class Two:
    """The relay with fewer rights leads, and the other follows it."""

    def __init__(self, start_relay, make_relay, data, canaries):
        url = role_that_may_read(data.database)
        self.lesser = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, PGHERALD_CHECKPOINT_INTERVAL="0.2",
                                 PGHERALD_RECOVERY_TIMEOUT="3").start()
        self.other = start_relay(data.database, PGHERALD_CHECKPOINT_INTERVAL="0.5")
        self.workers = [subscriber(relay) for relay in (self.lesser, self.other)]
        self.workers[1].passes(data)
        silent(data, ["first"])
        for worker in self.workers:
            worker.hears("first")
        canaries.wait_for(lambda c: c.settles, "the lesser's relay settles", self.workers[0].epoch)
        self.workers[1].passes(data)


@pytest.fixture
def two(start_relay, make_relay, data, cleanup, own_db):
    return Two(start_relay, make_relay, data, cleanup.add(Canaries(own_db)))


@pytest.mark.parametrize("way", WAYS)
def test_who_leads_and_can_ask_no_longer_gives_way(two, data, way):
    trouble = way(data)
    for n in range(2):
        silent(data, [f"silent{n}"])
        for worker in two.workers:
            worker.hears(f"silent{n}")
            worker.passes(data)
    wait_until(lambda: [line for line in two.lesser.lines("WARNING", "ERROR") if way.said in line], "the log says why", 20)
    trouble.end()
    silent(data, ["last"])
    for worker in two.workers:
        worker.hears("last")
        worker.passes(data)
        assert not worker.gaps
        passes_nothing_unheard(worker, data)


@pytest.mark.parametrize("way", [NoRightOnTheTable, NoConnectionLeft, Hangs])
def test_when_the_other_goes_too_nothing_is_settled_until_one_comes_back(two, data, way):
    """Alone, the relay that cannot ask passes on no checkpoint over what it does not know.
    Once it can ask, it announces everything."""
    trouble = way(data)
    silent(data, ["before"])
    for worker in two.workers:
        worker.hears("before")
    two.other.kill()
    two.workers[1].close()
    worker = two.workers[0]
    silent(data, ["alone"])
    tokens = len(worker.checkpoints())
    for n in range(5):
        data.notify(f"loud{n}")
        worker.hears(f"loud{n}")
        worker.pump(0.2)
    trouble.end()
    worker.wait_until(lambda: "alone" in worker.pubkeys, "the announcement", 30)
    worker.passes(data)
    assert not worker.gaps and len(worker.checkpoints()) > tokens
    passes_nothing_unheard(worker, data)


def test_one_that_starts_without_the_right_leaves_the_lead_to_the_other(start_relay, make_relay, data, own_db):
    """It never could ask. Its turns come first, and count for no relay. The other relay
    settles for its workers too."""
    url = role_that_may_read(own_db)
    NoRightOnTheTable(data)
    lesser = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, PGHERALD_CHECKPOINT_INTERVAL="0.2").start()
    worker = subscriber(lesser)
    silent(data, ["before-the-other"])  # its workers' alone
    other = subscriber(start_relay(own_db, PGHERALD_CHECKPOINT_INTERVAL="0.5"))
    for n in range(2):
        silent(data, [f"silent{n}"])
        for w in (other, worker):
            w.hears(f"silent{n}")
            w.passes(data)
    worker.hears("before-the-other")
    passes_nothing_unheard(worker, data)
    passes_nothing_unheard(other, data, but=["before-the-other"])
    assert not worker.gaps and not other.gaps


# Settings of a role or database, which are meant for other sessions than the relay's

SETTINGS = {
    "statement_timeout-of-the-role": "ALTER ROLE app SET statement_timeout = '500ms'",
    "statement_timeout-of-the-database": "ALTER DATABASE {db} SET statement_timeout = '500ms'",
    "statement_timeout-of-the-role-in-the-database": "ALTER ROLE app IN DATABASE {db} SET statement_timeout = '500ms'",
    "statement_timeout-of-the-server": "ALTER SYSTEM SET statement_timeout = '500ms'",
    "search_path": "ALTER ROLE app SET search_path = pg_temp",
    "isolation": "ALTER ROLE app SET default_transaction_isolation = 'serializable'",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_for_others_does_not_end_the_relays_questions(start_relay, data, own_db, setting):
    """The question takes longer than statement_timeout allows, and is still answered:
    for all workers, for one that resumes, and for changes that were never notified."""
    own_db.sql(REALLY)
    data.function("BEGIN PERFORM pg_sleep(0.8); RETURN QUERY SELECT * FROM pgherald.really_since(since); END")
    own_db.server.sql(SETTINGS[setting].format(db=own_db.name))
    own_db.server.sql("SELECT pg_reload_conf()")
    relay = start_relay(own_db, PGHERALD_CHECKPOINT_INTERVAL="0.5")
    worker = subscriber(relay)
    with own_db.server.connect(own_db.name, "app") as connection:  # the test's own writer stays within it
        connection.cursor().execute("INSERT INTO public.user_revisions VALUES ('silent', 1)")
    worker.wait_until(lambda: "silent" in worker.pubkeys, "the announcement", 30)
    cursor = ("another-epoch", 1, worker.checkpoints()[0])
    seen = len(worker.frames)
    own_db.terminate("pgherald upstream")
    worker.sees("down", seen)
    worker.sees("live", seen)
    again = resumed(relay, cursor)
    assert "silent" in again.recovered
    assert not again.gaps and not worker.gaps, relay.log()
    assert not [line for line in relay.lines("WARNING") if "timeout" in line and "statement" in line]
