"""PostgreSQL crashes, and uses again the transaction ids that it had not flushed. No
checkpoint of a worker or of the relay may have seen these ids: it would take the changes of
their new owners for old ones."""

import pytest

from harness.datasync import DataSync
from harness.subscriber import resumed, subscriber

# No turn in between: it would flush.
SELDOM = {"PGHERALD_CHECKPOINT_INTERVAL": "3600"}


@pytest.fixture
def data(run, own_db):
    own_db.sql("ALTER SYSTEM SET wal_writer_delay = '10s'", user="postgres")
    own_db.server.restart()
    data = DataSync(run, own_db).recoverable()
    # whatever the role's default is
    own_db.sql("ALTER ROLE app SET synchronous_commit = off", user="postgres")
    return data


class Ids:
    """Transactions that take an id and end, committed or not, before any of it is on disk. A
    transaction that only notifies is like that with every setting."""

    def __init__(self, database):
        self.database = database

    def take(self, count):
        connection = self.database.server.connect(self.database.name, "app")
        connection.autocommit = False
        cursor = connection.cursor()
        for n in range(count):
            cursor.execute("SELECT pg_current_xact_id()::text::bigint")
            self.last, = cursor.fetchone()
            (connection.commit if n % 2 else connection.rollback)()
        connection.close()


def crash(data, ids):
    """Crash before the last of the ids are flushed. New transactions take these ids at once."""
    ids.take(20)
    server = data.database.server
    server.stop("immediate")
    server.start()
    data.write("after0")
    data.write("after1")
    xid, = data.database.sql("SELECT changed_xid::text::bigint FROM user_revisions WHERE user_id = 'after1'")[0]
    assert xid <= ids.last, "no id is used again; this test shows nothing"


def hears_all(worker):
    worker.hears_all(["after0", "after1"])
    assert not worker.gaps


def test_the_first_checkpoint_of_a_relay(start_relay, own_db, data):
    ids = Ids(own_db)
    ids.take(40)
    worker = subscriber(start_relay(own_db, **SELDOM))
    crash(data, ids)
    hears_all(worker)


def test_the_checkpoint_after_a_recovery(start_relay, own_db, data):
    worker = subscriber(start_relay(own_db, **SELDOM))
    ids = Ids(own_db)
    ids.take(40)
    seen = len(worker.frames)
    own_db.terminate("pgherald upstream")
    worker.sees("live", seen)
    crash(data, ids)
    hears_all(worker)


@pytest.mark.parametrize("missed", [True, False])
def test_the_checkpoint_that_a_worker_is_given_when_it_is_caught_up(start_relay, own_db, data, missed):
    relay = start_relay(own_db, **SELDOM)
    subscriber(relay)
    first = subscriber(relay).cursor
    if missed:
        data.write("missed")
    ids = Ids(own_db)
    ids.take(40)
    worker = resumed(relay, ("another", *first[1:]))
    assert ("missed" in worker.recovered) == missed
    worker.ping()
    cursor = worker.cursor
    relay.kill()
    crash(data, ids)
    relay.start()
    hears_all(resumed(relay, cursor))
