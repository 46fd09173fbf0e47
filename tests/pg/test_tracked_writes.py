"""pgherald.track(): each way to write a table is a change of its keys, by any role and any kind of
statement; and nothing of it makes writers wait for each other."""

import contextlib
import threading

import psycopg2
import pytest

from harness.datasync import DataSync
from harness.procs import wait_until

@pytest.fixture(scope="module")
def server(run, template):
    """A server that prepares transactions."""
    from harness.servers import Postgres
    server = Postgres(run, template).start()
    server.sql("ALTER SYSTEM SET max_prepared_transactions = 5")
    server.sql("ALTER SYSTEM SET wal_level = logical")
    server.restart()
    yield server
    server.close()


@pytest.fixture
def db(server, cleanup):
    return cleanup.add(server.database())


@pytest.fixture
def data(run, db):
    data = DataSync(run, db)
    data.migrate("pgherald")
    return data


@pytest.fixture
def docs(data, db):
    db.sql("CREATE TABLE docs (id int PRIMARY KEY, owner text, body text);"
           " INSERT INTO docs VALUES (1, 'ann', ''), (2, 'bob', ''), (3, 'cat', '');"
           " SELECT pgherald.track('docs', 'docs', 'owner')")
    return db


def snapshot(db):
    return db.sql("SELECT pg_current_snapshot()::text")[0][0]


def changes(db, since, user="app"):
    """The keys that recovery tells, by channel."""
    keys = {}
    for channel, value in db.sql("SELECT * FROM pgherald.changes_since(%s::pg_snapshot)", (since,), user=user):
        keys.setdefault(channel, []).append(value)
    return {channel: sorted(values) for channel, values in keys.items()}


def after(db, *statements, user="app"):
    """What changed by these statements, of one transaction."""
    since = snapshot(db)
    # Only a superuser may set it.
    connection = db.server.connect(db.name, "postgres" if "replica" in statements[0] else user)
    with contextlib.closing(connection):
        connection.autocommit = False
        for statement in statements:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        connection.commit()
    return changes(db, since).get("docs", [])


def fold(db, until_gone=False):
    """Fold everything, as the relays do a minute later."""
    db.sql("SELECT * FROM pgherald.fold(); UPDATE pgherald.moment SET at = at - interval '1 minute'")
    db.sql("SELECT * FROM pgherald.fold(); UPDATE pgherald.moment SET at = at - interval '1 minute'")
    while db.sql("SELECT * FROM pgherald.fold()")[0][1]:
        pass
    assert db.sql("SELECT count(*) FROM pgherald.journal")[0][0] == 0


@pytest.mark.versions
@pytest.mark.parametrize("statements, keys", [
    (["INSERT INTO docs VALUES (4, 'dan', '')"], ["dan"]),
    (["INSERT INTO docs SELECT i, 'eve', '' FROM generate_series(10, 99) AS i"], ["eve"]),
    (["UPDATE docs SET body = 'new'"], ["ann", "bob", "cat"]),
    (["UPDATE docs SET owner = 'zoe' WHERE id = 1"], ["ann", "zoe"]),
    (["UPDATE docs SET owner = CASE id WHEN 1 THEN 'bob' ELSE 'ann' END WHERE id < 3"], ["ann", "bob"]),
    (["DELETE FROM docs WHERE owner = 'bob'"], ["bob"]),
    (["TRUNCATE docs"], ["ann", "bob", "cat"]),
    (["INSERT INTO docs VALUES (1, 'new', ''), (9, 'old', '') ON CONFLICT (id) DO UPDATE SET owner = excluded.owner"],
     ["ann", "new", "old"]),
    (["INSERT INTO docs VALUES (1, 'new', '') ON CONFLICT DO NOTHING"], []),
    (["UPDATE docs SET body = s.b FROM (VALUES (2, 'x')) AS s (i, b) WHERE id = s.i"], ["bob"]),
    (["WITH gone AS (DELETE FROM docs WHERE id = 3 RETURNING *) INSERT INTO docs SELECT 30, 'fay', body FROM gone"],
     ["cat", "fay"]),
    (["SAVEPOINT s", "UPDATE docs SET body = 'x' WHERE id = 1", "ROLLBACK TO s", "UPDATE docs SET body = 'x' WHERE id = 2",
      "RELEASE s"], ["bob"]),
    (["DO $$ BEGIN UPDATE docs SET body = 'x' WHERE id = 1; BEGIN DELETE FROM docs WHERE id = 2; RAISE 'no';"
      " EXCEPTION WHEN raise_exception THEN NULL; END; END $$"], ["ann"]),
    (["SET LOCAL session_replication_role = replica", "UPDATE docs SET owner = 'rep' WHERE id = 1"], ["ann", "rep"]),
    (["SET LOCAL session_replication_role = replica", "TRUNCATE docs"], ["ann", "bob", "cat"]),
    (["INSERT INTO docs VALUES (5, NULL, '')"], []),
    (["UPDATE docs SET owner = NULL WHERE id = 1"], ["ann"]),
    (["INSERT INTO docs VALUES (5, '', ''), (6, 'Ünï ''\"\\', '')"], ["", "Ünï '\"\\"]),
], ids=lambda value: value[-1][:40] if isinstance(value, list) and value and " " in value[-1] else "")
def test_a_statement(docs, statements, keys):
    assert after(docs, *statements) == sorted(keys)


def test_merge(docs):
    if docs.server.version() < 150000:
        pytest.skip("MERGE came with PostgreSQL 15")
    assert after(docs, "MERGE INTO docs USING (VALUES (1), (2), (7)) AS s (i) ON id = s.i"
                 " WHEN MATCHED AND id = 1 THEN DELETE WHEN MATCHED THEN UPDATE SET owner = 'new'"
                 " WHEN NOT MATCHED THEN INSERT VALUES (s.i, 'ins', '')") == ["ann", "bob", "ins", "new"]


def test_copy(docs, run):
    since = snapshot(docs)
    run.call(["psql", "-X", "-q", "-h", docs.server.directory, "-p", str(docs.server.port), "-U", "app", "-d", docs.name,
              "-c", "COPY docs FROM STDIN"], input="20\tcop\t\n21\tcop\t\n22\tier\t\n")
    assert changes(docs, since) == {"docs": ["cop", "ier"]}


def test_a_cascade(docs):
    docs.sql("CREATE TABLE parents (id int PRIMARY KEY); INSERT INTO parents VALUES (1), (2), (3);"
             " ALTER TABLE docs ADD FOREIGN KEY (id) REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE")
    assert after(docs, "DELETE FROM parents WHERE id = 1", "UPDATE parents SET id = 20 WHERE id = 2") == ["ann", "bob"]


def test_a_prepared_transaction_counts_from_its_commit(docs):
    """Everybody's checkpoints pass it, and the journal is folded, before it is committed."""
    connection = docs.server.connect(docs.name, "app")
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE docs SET body = 'x' WHERE id = 1")
        cursor.execute("SELECT pgherald.send('msgs', 'prepared')")
        cursor.execute("PREPARE TRANSACTION 'later'")
    docs.sql("UPDATE docs SET body = 'x' WHERE id = 2")
    docs.sql("SELECT pgherald.fold()")
    docs.sql("UPDATE pgherald.moment SET at = at - interval '3 hours'")
    docs.sql("SELECT pgherald.fold()")
    since = snapshot(docs)
    assert changes(docs, since) == {}
    docs.sql("COMMIT PREPARED 'later'")
    docs.sql("SELECT pgherald.fold()")
    assert changes(docs, since) == {"docs": ["ann"], "msgs": ["prepared"]}


@pytest.mark.parametrize("key, row, told", [
    ("id", "", "1"), ("big Name", "", "x"), ("lower(owner) || '/' || id", "", "ann/1"), ("docs.owner", "", "ann"),
    ("day", "", "2026-01-31"), ("mood", "", "good"), ("fits", "", "true"), ("tags[1]", "", "t"),
    ("concat_ws(',', owner, body) -- a comment", "", "ann,b"), ("data->>'user'", "", "json"), ("uid", "", "00000000-0000-0000-0000-000000000001"),
], ids=lambda value: value)
def test_a_key_is_a_column_or_an_expression(data, db, key, row, told):
    db.sql("CREATE TYPE mood AS ENUM ('good'); CREATE TABLE docs (id int, owner text DEFAULT 'Ann', body text DEFAULT 'b',"
           " \"big Name\" text DEFAULT 'x', day date DEFAULT '2026-01-31', mood mood DEFAULT 'good', fits boolean DEFAULT true,"
           " tags text[] DEFAULT '{t}', data jsonb DEFAULT '{\"user\": \"json\"}', uid uuid DEFAULT '00000000-0000-0000-0000-000000000001')")
    db.sql("SELECT pgherald.track('docs', 'docs', %s)", (key,))
    told = told if key not in ("docs.owner",) and not key.startswith("concat") else told.replace("ann", "Ann")
    for statements in (["INSERT INTO docs (id) VALUES (1)"], ["UPDATE docs SET body = 'b'"],
                       ["SET LOCAL session_replication_role = replica", "UPDATE docs SET body = 'b'"], ["TRUNCATE docs"]):
        assert after(db, *statements) == [told]


@pytest.mark.parametrize("arguments, complaint", [
    ("'docs', 'c', 'nothing'", "neither a column of public.docs nor an expression"),
    ("'docs', 'c', 'max(owner)'", "aggregate"),
    ("'docs', 'c', 'unnest(ARRAY[owner])'", "set-returning"),
    ("'docs', 'c', 'owner) FROM docs; DROP TABLE docs; --'", "neither a column"),
    ("'docs', 'c', ' '", "a key are needed"),
    ("'docs', '', 'owner'", "1 to 63 bytes"),
    ("'docs', repeat('x', 64), 'owner'", "1 to 63 bytes"),
    ("'docs', 'pgherald_canary', 'owner'", "the relays' own"),
    ("'docs', NULL, 'owner'", "1 to 63 bytes"),
    ("'view', 'c', 'owner'", "it is not a table of yours"),
    ("'pg_class', 'c', 'relname'", "it is not a table of yours"),
    ("'unlogged', 'c', 'a'", "temporary or unlogged"),
    ("'nowhere', 'c', 'a'", 'relation "nowhere" does not exist'),
], ids=lambda value: value[:30])
def test_what_cannot_be_tracked(docs, arguments, complaint):
    docs.sql("CREATE VIEW view AS SELECT * FROM docs; CREATE UNLOGGED TABLE unlogged (a int)")
    with pytest.raises(psycopg2.Error, match=complaint):
        docs.sql(f"SELECT pgherald.track({arguments})")
    assert docs.sql("SELECT tbl::text FROM pgherald.tracked") == [("docs",)]


@pytest.mark.parametrize("call, complaint", [
    ("retain('-1 s')", "not negative"), ("retain('2000 years')", "at most 1000 years"), ("retain(deleted => '2000 years')", "at most 1000 years"),
    ("send('msgs', NULL)", "not NULL"), ("send('msgs', repeat('x', 8000))", "less than 8000"), ("send('', 'x')", "1 to 63 bytes"),
    ("send('msgs', 'x', NULL)", "notify is true or false"),
])
def test_what_cannot_be_called(data, db, call, complaint):
    with pytest.raises(psycopg2.Error, match=complaint):
        db.sql(f"SELECT pgherald.{call}")


def test_the_longest_time_to_retain(docs):
    docs.sql("SELECT pgherald.retain('1000 years', '1000 years'), pgherald.send('msgs', 'hello')")
    docs.sql("DELETE FROM docs WHERE id = 1")
    fold(docs)
    assert changes(docs, "3:3:") == {"docs": ["ann", "bob", "cat"], "msgs": ["hello"]}


def test_track_says_nothing_when_all_is_well(data, run, db):
    db.sql("CREATE TABLE docs (owner text)")
    output = run.call(["psql", "-XAtq", "-h", db.server.directory, "-p", str(db.server.port), "-U", "app", "-d", db.name,
                       "-c", "SELECT pgherald.track('docs', 'docs', 'owner')"])
    assert output.strip() == ""


def test_tracking_twice_is_once_and_two_keys_are_two(docs):
    docs.sql("SELECT pgherald.track('docs', 'docs', 'owner'), pgherald.track('docs', 'docs', 'id', notify => true)")
    assert docs.sql("SELECT tbl::text, channel, key, notify, problem FROM pgherald.tracked") == [
        ("docs", "docs", "owner", False, None), ("docs", "docs", "id", True, None)]
    assert after(docs, "UPDATE docs SET body = 'x' WHERE id = 1") == ["1", "ann"]
    docs.sql("SELECT pgherald.untrack('docs', key => 'id')")
    assert after(docs, "UPDATE docs SET body = 'x' WHERE id = 1") == ["ann"]
    docs.sql("SELECT pgherald.untrack('docs')")
    assert after(docs, "UPDATE docs SET body = 'x' WHERE id = 1") == []
    docs.sql("SELECT pgherald.untrack('docs')")
    assert docs.sql("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pgherald%'") == [(0,)]


def test_a_table_may_be_renamed_or_dropped(docs):
    docs.sql("ALTER TABLE docs RENAME TO papers; CREATE SCHEMA s; ALTER TABLE papers SET SCHEMA s")
    assert after(docs, "UPDATE s.papers SET owner = 'new' WHERE id = 1") == ["ann", "new"]
    assert after(docs, "TRUNCATE s.papers") == ["bob", "cat", "new"]
    docs.sql("DROP TABLE s.papers")
    assert docs.sql("SELECT * FROM pgherald.tracked") == []


PARTITIONED = """
CREATE TABLE docs (id int, owner text, body text) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF docs FOR VALUES FROM (0) TO (100);
CREATE TABLE high PARTITION OF docs FOR VALUES FROM (100) TO (200) PARTITION BY LIST (owner);
CREATE TABLE high_ann PARTITION OF high FOR VALUES IN ('ann');
SELECT pgherald.track('docs', 'docs', 'owner');
INSERT INTO docs VALUES (1, 'bob', ''), (101, 'ann', '');
CREATE TABLE later PARTITION OF docs FOR VALUES FROM (200) TO (300);
CREATE TABLE attached (id int, owner text, body text);
ALTER TABLE docs ATTACH PARTITION attached FOR VALUES FROM (300) TO (400);
"""


@pytest.mark.versions
@pytest.mark.parametrize("statements, keys", [
    (["INSERT INTO docs VALUES (2, 'bob', ''), (102, 'ann', ''), (202, 'lea', ''), (302, 'att', '')"], ["ann", "att", "bob", "lea"]),
    (["INSERT INTO low VALUES (3, 'dir', '')"], ["dir"]),
    (["INSERT INTO high VALUES (103, 'ann', '')"], ["ann"]),
    (["INSERT INTO later VALUES (203, 'dir', '')", "UPDATE later SET body = 'x'"], ["dir"]),
    (["INSERT INTO attached VALUES (303, 'att', '')"], ["att"]),
    (["UPDATE docs SET id = 250 WHERE id = 1"], ["bob"]),
    (["UPDATE docs SET id = 250, owner = 'mov' WHERE id = 1"], ["bob", "mov"]),
    (["DELETE FROM docs"], ["ann", "bob"]),
    (["TRUNCATE docs"], ["ann", "bob"]),
    (["TRUNCATE low"], ["bob"]),
    (["TRUNCATE high"], ["ann"]),
    (["SET LOCAL session_replication_role = replica", "INSERT INTO later VALUES (203, 'rep', '')"], ["rep"]),
], ids=lambda value: value[-1][:40] if isinstance(value, list) and " " in value[-1] else "")
def test_partitions(data, db, statements, keys):
    db.sql(PARTITIONED)
    assert after(db, *statements) == keys


def test_a_new_partition_is_noticed(data, db):
    db.sql(PARTITIONED)
    (problem,), = db.sql("SELECT problem FROM pgherald.tracked")
    assert "TRUNCATE of a new partition" in problem
    db.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
    assert db.sql("SELECT problem FROM pgherald.tracked") == [(None,)]
    db.sql("INSERT INTO later VALUES (201, 'lea', '')")
    assert after(db, "TRUNCATE later") == ["lea"]


def test_a_partition_that_is_foreign_or_unlogged(data, db):
    """A foreign table has no TRUNCATE triggers. A crash empties an unlogged one."""
    db.sql("CREATE FOREIGN DATA WRAPPER far; CREATE SERVER far FOREIGN DATA WRAPPER far; GRANT USAGE ON FOREIGN SERVER far TO app", user="postgres")
    db.sql("CREATE TABLE docs (id int, owner text) PARTITION BY RANGE (id); CREATE TABLE near PARTITION OF docs FOR VALUES FROM (0) TO (9);"
           " CREATE FOREIGN TABLE away PARTITION OF docs FOR VALUES FROM (10) TO (19) SERVER far; SELECT pgherald.track('docs', 'docs', 'owner')")
    assert db.sql("SELECT problem FROM pgherald.tracked") == [(None,)]
    assert after(db, "INSERT INTO docs VALUES (1, 'ann')", "TRUNCATE near") == ["ann"]
    db.sql("ALTER TABLE near SET UNLOGGED")
    assert "near is unlogged" in db.sql("SELECT problem FROM pgherald.tracked")[0][0]


def test_writes_through_a_parent(data, db):
    db.sql("CREATE TABLE parent (id int, owner text, body text); CREATE TABLE docs () INHERITS (parent);"
           " SELECT pgherald.track('docs', 'docs', 'owner'); INSERT INTO docs VALUES (1, 'ann', '')")
    assert after(db, "UPDATE parent SET body = 'x'") == ["ann"]


@pytest.mark.parametrize("statement, problem", [
    ("ALTER TABLE docs DISABLE TRIGGER ALL", "missing or disabled"),
    ("DROP TRIGGER pgherald_1_update ON docs", "missing or disabled"),
    ("DROP TRIGGER pgherald_1_key ON docs", "missing or disabled"),
    ("ALTER TABLE docs SET UNLOGGED", "unlogged"),
    ("CREATE TABLE parent (LIKE docs); ALTER TABLE docs INHERIT parent", "has got a parent"),
])
def test_what_is_wrong_with_a_table_is_told(docs, statement, problem):
    try:
        docs.sql(statement)
    except psycopg2.errors.FeatureNotSupported:
        pytest.skip("this minor version of PostgreSQL gives no table with such triggers a parent")
    assert problem in docs.sql("SELECT problem FROM pgherald.tracked")[0][0]
    assert problem in docs.sql("SELECT pgherald.problem()")[0][0]
    if "UNLOGGED" not in statement:
        docs.sql("ALTER TABLE docs ENABLE TRIGGER ALL; SELECT pgherald.track('docs', 'docs', 'owner')")
        assert docs.sql("SELECT problem FROM pgherald.tracked") == [(None,)]
        assert after(docs, "UPDATE docs SET owner = 'new' WHERE id = 1") == ["ann", "new"]


def test_logical_replication(docs, run, template, cleanup):
    """What a subscription applies fires triggers for rows alone."""
    from harness.servers import Postgres
    other = cleanup.add(Postgres(run, template)).start()
    far = other.database()
    DataSync(run, far).migrate("pgherald")
    far.sql("CREATE TABLE docs (id int PRIMARY KEY, owner text, body text); SELECT pgherald.track('docs', 'docs', 'owner')")
    since = snapshot(far)
    docs.sql("CREATE PUBLICATION p FOR TABLE docs", user="postgres")
    far.sql(f"CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port={docs.server.port} dbname={docs.name} user=postgres' PUBLICATION p",
            user="postgres")

    def told(*keys):
        wait_until(lambda: changes(far, since) == {"docs": sorted(keys)}, f"the changes of {keys}")
    try:
        told("ann", "bob", "cat")
        since = snapshot(far)
        docs.sql("UPDATE docs SET owner = 'new' WHERE id = 1")
        told("ann", "new")
        docs.sql("DELETE FROM docs WHERE id = 2")
        told("ann", "bob", "new")
        docs.sql("TRUNCATE docs")
        told("ann", "bob", "cat", "new")
    finally:
        far.sql("DROP SUBSCRIPTION s", user="postgres")


def test_folding_keeps_every_key_and_its_size_follows_the_keys(docs):
    before = snapshot(docs)
    for n in range(3):
        docs.sql("UPDATE docs SET body = %s", (str(n),))
        docs.sql("INSERT INTO docs SELECT 1000 * (1 + %s) + i, 'u' || i %% 10, '' FROM generate_series(1, 50) AS i", (n,))
        fold(docs)
    docs.sql("INSERT INTO docs VALUES (9001, repeat('long', 1900), '')")
    fold(docs)
    between = snapshot(docs)
    docs.sql("UPDATE docs SET body = 'again' WHERE owner = 'u3' OR id = 9001")
    keys = sorted(["ann", "bob", "cat", "long" * 1900] + [f"u{i}" for i in range(10)])
    assert changes(docs, before) == {"docs": keys}
    assert changes(docs, between) == {"docs": ["long" * 1900, "u3"]}
    fold(docs)
    assert changes(docs, before) == {"docs": keys}
    assert changes(docs, between) == {"docs": ["long" * 1900, "u3"]}
    assert docs.sql("SELECT count(*) FROM pgherald.folded") == [(len(keys),)]


BULK = 2750  # rows: more than a trigger notes one by one, and no multiple of what it notes together


@pytest.mark.versions
@pytest.mark.parametrize("key", ["owner", "owner || ''"])
@pytest.mark.parametrize("notify", [False, True])
def test_many_rows_in_one_statement(docs, key, notify):
    """Equal keys, NULL, and the other kinds of statement, exactly; also once it is folded."""
    docs.sql("SELECT pgherald.untrack('docs'); SELECT pgherald.track('docs', 'docs', %s, %s)", (key, notify))
    fold(docs)
    some = sorted(f"user{n}" for n in range(900) if n % 10)  # the others' owner is NULL
    everything = sorted(some + ["new" + k for k in some])
    began = snapshot(docs)
    assert after(docs, "INSERT INTO docs SELECT n, CASE n % 10 WHEN 0 THEN NULL ELSE 'user' || n % 900 END, ''"
                 f" FROM generate_series(1001, {BULK + 1000}) AS n") == some
    assert after(docs, "UPDATE docs SET body = 'x' WHERE id > 1000") == some
    assert after(docs, "UPDATE docs SET owner = 'new' || owner WHERE id > 1000") == everything
    assert after(docs, "DELETE FROM docs WHERE id > 1000") == ["new" + k for k in some]
    assert changes(docs, began)["docs"] == everything
    while docs.sql("SELECT count(*) FROM pgherald.journal")[0][0]:
        fold(docs)
    assert changes(docs, began)["docs"] == everything
    rows = docs.sql("SELECT key, gone FROM pgherald.folded WHERE key LIKE 'newuser%'")
    assert len(rows) == len(some) and all(gone for _, gone in rows)


def test_many_rows_leave_few_to_fold(docs):
    """A statement with many rows, and one row after it in the same transaction."""
    assert len(after(docs, f"INSERT INTO docs SELECT n, 'user' || n, '' FROM generate_series(1001, {BULK + 1000}) AS n",
                     "INSERT INTO docs VALUES (9999, 'last', '')")) == BULK + 1
    assert docs.sql("SELECT count(*) FROM pgherald.journal")[0][0] < BULK / 50
    docs.sql("SELECT * FROM pgherald.fold(); UPDATE pgherald.moment SET at = at - interval '2 minutes'")
    assert docs.sql("SELECT folded FROM pgherald.fold()")[0][0] >= BULK


def test_a_snapshot_that_sees_the_later_change_and_not_the_earlier(docs):
    """Folding keeps the last change of a key alone. A checkpoint may see that one, and not one
    before, whose transaction ended later."""
    connection = docs.server.connect(docs.name, "app")
    with contextlib.closing(connection):
        connection.autocommit = False
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO docs VALUES (50, 'ann', '')")
        docs.sql("INSERT INTO docs VALUES (51, 'ann', '')")
        since = snapshot(docs)
        connection.commit()
    fold(docs)
    assert changes(docs, since) == {"docs": ["ann"]}


def test_what_was_forgotten_is_an_error_that_says_so(docs):
    since = snapshot(docs)
    docs.sql("SELECT pgherald.retain(messages => '2 hours', deleted => '3 hours'), pgherald.send('msgs', 'hello')")
    docs.sql("DELETE FROM docs WHERE id = 1")
    fold(docs)
    docs.sql("UPDATE pgherald.moment SET at = at - interval '1 hour'")
    docs.sql("SELECT pgherald.fold()")
    assert changes(docs, since) == {"docs": ["ann"], "msgs": ["hello"]}
    for hours, why in ((1, "messages are kept for 02:00:00"), (1, "keys of deleted rows are kept for 03:00:00")):
        docs.sql("UPDATE pgherald.moment SET at = at - interval '1 hour'")
        docs.sql("SELECT pgherald.fold()")
        with pytest.raises(psycopg2.Error, match=why) as error:
            changes(docs, since)
        assert error.value.pgcode == "PH001"
    assert changes(docs, snapshot(docs)) == {}


def test_a_large_table_that_is_truncated_is_a_gap(docs):
    docs.sql("INSERT INTO docs SELECT i, 'u' || i, '' FROM generate_series(100, 100200) AS i")
    since = snapshot(docs)
    docs.sql("TRUNCATE docs")
    for _ in range(2):
        with pytest.raises(psycopg2.Error, match="more was changed in a table (of the channel docs )?than"):
            changes(docs, since)
        fold(docs)
    assert changes(docs, snapshot(docs)) == {}


def test_a_table_that_the_owner_may_not_read_is_a_gap_when_it_is_truncated(docs, data):
    docs.sql("CREATE ROLE other; CREATE TABLE theirs (owner text); INSERT INTO theirs VALUES ('x'); ALTER TABLE theirs OWNER TO other;"
             " GRANT other TO app; REVOKE SELECT ON theirs FROM other", user="postgres")
    docs.sql("SELECT pgherald.track('theirs', 'docs', 'owner')")
    try:
        since = snapshot(docs)
        docs.sql("UPDATE theirs SET owner = 'y'", user="postgres")
        assert changes(docs, since) == {"docs": ["x", "y"]}
        docs.sql("TRUNCATE theirs", user="postgres")
        with pytest.raises(psycopg2.Error, match="more was changed"):
            changes(docs, since)
    finally:
        docs.sql("DROP TABLE theirs; DROP ROLE other", user="postgres")


def test_row_level_security_hides_no_change(docs):
    docs.sql("ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs FORCE ROW LEVEL SECURITY;"
             " CREATE POLICY own ON docs USING (owner = current_setting('my.name', true))")
    assert after(docs, "SET LOCAL my.name = 'ann'", "UPDATE docs SET body = 'x'") == ["ann"]
    with pytest.raises(psycopg2.Error, match="more was changed"):
        after(docs, "TRUNCATE docs")


@pytest.fixture
def stranger_role(db):
    db.sql("CREATE ROLE stranger LOGIN; GRANT CREATE ON SCHEMA public TO stranger", user="postgres")
    yield "stranger"
    db.sql("DROP OWNED BY stranger CASCADE; DROP ROLE stranger", user="postgres")


@pytest.fixture
def stranger(docs, stranger_role):
    """A role that may write the table, and nothing else."""
    docs.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO stranger")
    return stranger_role


def test_a_writer_needs_no_rights_and_gets_none(docs, stranger):
    assert after(docs, "UPDATE docs SET owner = 'new' WHERE id = 1", user=stranger) == ["ann", "new"]
    for statement in ("SELECT * FROM pgherald.changes_since(pg_current_snapshot())", "SELECT * FROM pgherald.fold()",
                      "SELECT * FROM pgherald.tracking()", "SELECT * FROM pgherald.changes_of_tracked(pg_current_snapshot())",
                      "SELECT * FROM pgherald.journal", "SELECT * FROM pgherald.folded", "SELECT * FROM pgherald.message",
                      "INSERT INTO pgherald.journal VALUES (1, false, false, 'docs', 'x')", "SELECT pgherald.retain('1 s', '1 s')",
                      "SELECT pgherald.track('docs', 'docs', 'id')", "SELECT pgherald.untrack('docs')",
                      "CREATE TABLE mine (owner text); CREATE TRIGGER t AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION pgherald.changed_1_row()"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            docs.sql(statement, user=stranger)
    docs.sql("SELECT pgherald.send('msgs', 'hello')", user=stranger)


def test_a_writers_own_functions_do_not_run_as_the_owner(docs, stranger):
    """The search_path of the writer has its own lower(), its own || and its own tables."""
    docs.sql("SELECT pgherald.track('docs', 'docs', 'lower(owner) || 1')")
    docs.sql("CREATE SCHEMA trap; GRANT ALL ON SCHEMA trap TO stranger", user="postgres")
    docs.sql("CREATE TABLE trap.caught (who text); GRANT ALL ON trap.caught TO PUBLIC; CREATE FUNCTION trap.lower(text) RETURNS text"
             " LANGUAGE plpgsql AS $$ BEGIN INSERT INTO trap.caught VALUES (current_user); RETURN 'trapped'; END $$;"
             " CREATE TEMP TABLE journal (LIKE docs)", user=stranger)
    assert after(docs, "SET LOCAL search_path = trap, pg_temp, pg_catalog", "UPDATE public.docs SET body = 'x' WHERE id = 1",
                 user=stranger) == ["ann", "ann1"]
    assert docs.sql("SELECT * FROM trap.caught", user="postgres") == []
    docs.sql("DROP SCHEMA trap CASCADE", user="postgres")


def test_a_cast_of_another_role_does_not_run_as_the_owner(docs, stranger):
    docs.sql("CREATE TYPE mine AS (a int); CREATE TABLE theirs (k mine, v text); GRANT ALL ON theirs TO app; CREATE TABLE caught (who text);"
             " GRANT ALL ON caught TO PUBLIC; CREATE FUNCTION steal(mine) RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
             " INSERT INTO public.caught VALUES (current_user); RETURN 'stolen'; END $$; CREATE CAST (mine AS text) WITH FUNCTION steal(mine)",
             user=stranger)
    docs.sql("GRANT stranger TO app", user="postgres")
    docs.sql("SELECT pgherald.track('theirs', 'docs', 'k')")
    assert after(docs, "INSERT INTO theirs VALUES (ROW(1), '')", user=stranger) == ["(1)"]
    assert docs.sql("SELECT * FROM caught", user="postgres") == []


@pytest.mark.parametrize("kind", ["int", "text", "int[]", "int4range", "mood"])
def test_the_owner_of_a_table_who_changes_its_key_runs_nothing_as_the_installer(docs, stranger, kind):
    """The new type has a cast that is the owner's own function."""
    docs.sql("CREATE TYPE mood AS ENUM ('good'); GRANT USAGE ON TYPE mood TO PUBLIC; CREATE TABLE caught (who text); GRANT ALL ON caught TO PUBLIC")
    docs.sql("GRANT stranger TO app", user="postgres")
    docs.sql(f"CREATE TABLE theirs (k {kind})", user=stranger)
    docs.sql("SELECT pgherald.track('theirs', 'docs', 'k')")
    docs.sql("CREATE TYPE mine AS ENUM ('x'); CREATE TYPE span AS RANGE (subtype = text)", user=stranger)
    for name, into in (("mine", "text"), ("mine", "int"), ("span", "text"), ("span", "int4range")):
        docs.sql(f"CREATE FUNCTION steal(i {name}, OUT o {into}) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.caught VALUES (current_user); END $$;"
                 f" CREATE CAST ({name} AS {into}) WITH FUNCTION steal({name}) AS IMPLICIT; DROP CAST ({name} AS {into});"
                 f" ALTER FUNCTION steal({name}) RENAME TO steal_{into}; CREATE CAST ({name} AS {into}) WITH FUNCTION steal_{into}({name}) AS IMPLICIT",
                 user=stranger)
    for other, value in (("mine", "x"), ("mine[]", "{x}"), ("span", "[a,b)")):
        docs.sql(f"DROP TRIGGER IF EXISTS pgherald_2_key ON theirs; ALTER TABLE theirs DROP k; ALTER TABLE theirs ADD k {other}", user=stranger)
        for statement in (f"INSERT INTO theirs VALUES ('{value}')", "UPDATE theirs SET k = k", "DELETE FROM theirs", "TRUNCATE theirs"):
            with contextlib.suppress(psycopg2.errors.DatatypeMismatch):
                docs.sql(statement, user=stranger)
    assert [who for who, in docs.sql("SELECT who FROM caught") if who != "stranger"] == []


def test_writers_in_opposite_orders_do_not_wait_for_each_other(docs):
    """Two writers hold each other's keys, in rows of their own. With a row a key they would
    deadlock, or wait."""
    docs.sql("CREATE TABLE plain (owner text); SELECT pgherald.track('plain', 'docs', 'owner')")
    first, second = (docs.server.connect(docs.name, "app") for _ in range(2))
    with contextlib.closing(first), contextlib.closing(second):
        for connection in (first, second):
            connection.autocommit = False
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '1s'")
        for n in range(300):
            for order in (("ann", "bob"), ("bob", "ann")):
                for connection, key in zip((first, second), order):
                    with connection.cursor() as cursor:
                        cursor.execute("INSERT INTO plain VALUES (%s)", (key,))
            if n % 50 == 0:
                docs.sql("SELECT pgherald.fold()")
            first.commit()
            second.commit()


def test_writers_and_folds_at_once(docs):
    """No writer fails, and nothing is lost."""
    since = snapshot(docs)
    stop, failures = threading.Event(), []

    def write(number):
        try:
            with contextlib.closing(docs.server.connect(docs.name, "app")) as connection, connection.cursor() as cursor:
                for n in range(200):
                    cursor.execute("INSERT INTO docs VALUES (%s, %s, '') ON CONFLICT (id) DO UPDATE SET body = 'x'",
                                   (1000 + (n * (1 if number % 2 else -1)) % 50, f"w{n % 50}"))
        except psycopg2.Error as e:
            failures.append(e)

    def keep_folding():
        try:
            with contextlib.closing(docs.server.connect(docs.name, "app")) as connection, connection.cursor() as cursor:
                while not stop.is_set():
                    cursor.execute("SELECT pgherald.fold()")
                    cursor.execute("UPDATE pgherald.moment SET at = at - interval '1 minute'")
        except psycopg2.Error as e:
            failures.append(e)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    folders = [threading.Thread(target=keep_folding) for _ in range(2)]
    for thread in writers + folders:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in folders:
        thread.join()
    assert not failures
    owners = sorted(owner for owner, in docs.sql("SELECT DISTINCT owner FROM docs WHERE id >= 950"))
    assert set(owners) <= set(changes(docs, since)["docs"])


@pytest.mark.parametrize("settings", ["DateStyle = German; IntervalStyle = iso_8601; TimeZone = 'Asia/Tokyo'",
                                      "bytea_output = escape; extra_float_digits = -15; standard_conforming_strings = off"])
def test_a_key_does_not_depend_on_the_writers_settings(data, db, settings):
    """A worker that subscribes by pubkey would hear of one spelling only."""
    db.sql("CREATE TABLE docs (day date DEFAULT '2026-01-31', at timestamptz DEFAULT '2026-01-31 12:00+00', span interval DEFAULT '1 day',"
           " raw bytea DEFAULT 'x', real float8 DEFAULT 0.1, days date[] DEFAULT '{2026-01-31}', body text DEFAULT 'a1b')")
    keys = ["day", "at", "span", "raw", "real", "days", "day || ''", r"regexp_replace(body, '\d', '-')"]
    for key in keys:
        db.sql("SELECT pgherald.track('docs', 'docs', %s)", (key,))
    told = sorted(["2026-01-31", "2026-01-31 12:00:00+00", "1 day", "\\x78", "0.1", "{2026-01-31}", "a-b"])
    for statement in ("INSERT INTO docs DEFAULT VALUES", "UPDATE docs SET body = body", "TRUNCATE docs"):
        assert after(db, *(f"SET LOCAL {s}" for s in settings.split("; ")), statement) == told


@pytest.mark.parametrize("key", ["owner", "owner || twin", "owner || ''"])
def test_keys_that_a_collation_calls_equal_are_different_keys(data, db, key):
    if not db.sql("SELECT 1 FROM pg_collation WHERE collprovider = 'i' LIMIT 1"):
        pytest.skip("this server is built without ICU")
    db.sql("CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
           " CREATE COLLATION other (provider = icu, locale = 'und');"
           " CREATE TABLE docs (owner text COLLATE blind, twin text COLLATE other DEFAULT '')")
    for notify in (False, True):
        db.sql("SELECT pgherald.track('docs', 'docs', %s, %s)", (key, notify))
        assert after(db, "INSERT INTO docs VALUES ('ann'), ('ANN')") == ["ANN", "ann"]
        assert after(db, "UPDATE docs SET owner = 'Ann'") == ["ANN", "Ann", "ann"]
        assert after(db, "UPDATE docs SET owner = CASE WHEN ctid = (SELECT min(ctid) FROM docs) THEN 'a' ELSE 'A' END") == ["A", "Ann", "a"]
        assert after(db, "TRUNCATE docs") == ["A", "a"]


def test_a_truncate_in_a_transaction_that_sees_no_newer_rows(docs):
    """TRUNCATE also removes rows that its snapshot does not see."""
    with contextlib.closing(docs.server.connect(docs.name, "app")) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        docs.sql("INSERT INTO docs VALUES (4, 'unseen', '')")
        since = snapshot(docs)
        cursor.execute("TRUNCATE docs; COMMIT")
    with pytest.raises(psycopg2.Error, match="more was changed"):
        changes(docs, since)


@pytest.mark.parametrize("kind", ["fits", "mood", "pair"])
def test_a_row_whose_key_is_null_does_not_count(data, db, kind):
    db.sql("CREATE DOMAIN fits AS int; CREATE TYPE mood AS ENUM ('good'); CREATE TYPE pair AS (a int, b int);"
           f" CREATE TABLE docs (k {kind}, body text); SELECT pgherald.track('docs', 'docs', 'k')")
    for statements in (["INSERT INTO docs VALUES (NULL)"], ["SET LOCAL session_replication_role = replica", "INSERT INTO docs VALUES (NULL)"],
                       ["TRUNCATE docs"]):
        assert after(db, *statements) == []
    if kind == "pair":
        assert after(db, "INSERT INTO docs VALUES ((NULL, NULL)), ((1, NULL))") == ["(,)", "(1,)"]


def test_triggers_that_were_disabled_for_a_while_are_noticed_and_a_gap(docs):
    """As pg_restore --disable-triggers does it. What was deleted meanwhile is not known."""
    since = snapshot(docs)
    docs.sql("ALTER TABLE docs DISABLE TRIGGER USER; DELETE FROM docs WHERE id = 1; ALTER TABLE docs ENABLE TRIGGER USER")
    assert "missing or disabled" in docs.sql("SELECT problem FROM pgherald.tracked")[0][0]
    docs.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
    assert docs.sql("SELECT problem FROM pgherald.tracked") == [(None,)]
    with pytest.raises(psycopg2.Error, match="more was changed"):
        changes(docs, since)
    since = snapshot(docs)
    docs.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
    assert changes(docs, since) == {}


def test_a_key_column_that_takes_the_place_of_another(docs):
    docs.sql("ALTER TABLE docs RENAME owner TO old_owner; ALTER TABLE docs ADD owner text DEFAULT 'fresh'")
    assert "missing or disabled" in docs.sql("SELECT problem FROM pgherald.tracked")[0][0]
    docs.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
    assert docs.sql("SELECT problem FROM pgherald.tracked") == [(None,)]
    assert after(docs, "UPDATE docs SET owner = 'new' WHERE id = 1") == ["fresh", "new"]


def test_a_key_column_that_is_renamed_is_a_problem_that_is_told(docs):
    docs.sql("ALTER TABLE docs RENAME owner TO possessor")
    assert 'no longer has the key "owner"' in docs.sql("SELECT problem FROM pgherald.tracked")[0][0]
    docs.sql("SELECT pgherald.untrack('docs'), pgherald.track('docs', 'docs', 'possessor')")
    assert after(docs, "UPDATE docs SET possessor = 'new' WHERE id = 1") == ["ann", "new"]


def test_an_expression_that_names_a_table_that_is_renamed(docs, data):
    docs.sql("SELECT pgherald.untrack('docs'), pgherald.track('docs', 'docs', 'lower(docs.owner)'); ALTER TABLE docs RENAME TO papers")
    for again in ("SELECT 1", "SELECT pgherald.track('papers', 'docs', 'lower(docs.owner)')"):
        docs.sql(again)
        data.migrate("pgherald")
        assert docs.sql("SELECT problem FROM pgherald.tracked") == [(None,)]
        assert after(docs, "UPDATE papers SET body = 'x' WHERE id = 1") == ["ann"]
        assert after(docs, "SET LOCAL session_replication_role = replica", "UPDATE papers SET body = 'x' WHERE id = 1") == ["ann"]
    assert after(docs, "TRUNCATE papers") == ["ann", "bob", "cat"]


def test_a_virtual_column_is_no_key(docs):
    """Triggers do not see its value."""
    if docs.server.version() < 180000:
        pytest.skip("virtual columns came with PostgreSQL 18")
    docs.sql("CREATE TABLE virtual (owner text, big text GENERATED ALWAYS AS (upper(owner)))")
    for key in ("big", "big || ''", "virtual.big"):
        with pytest.raises(psycopg2.Error, match="neither a column|virtual"):
            docs.sql("SELECT pgherald.track('virtual', 'docs', %s)", (key,))
    docs.sql("SELECT pgherald.track('virtual', 'docs', 'upper(owner)')")
    assert after(docs, "INSERT INTO virtual VALUES ('ann')") == ["ANN"]


def test_a_stored_generated_column_is_a_key(data, db):
    db.sql("CREATE TABLE docs (owner text, big text GENERATED ALWAYS AS (upper(owner)) STORED); SELECT pgherald.track('docs', 'docs', 'big')")
    assert after(db, "INSERT INTO docs VALUES ('ann')") == ["ANN"]
    assert after(db, "UPDATE docs SET owner = 'bob'") == ["ANN", "BOB"]


def test_children_of_a_tracked_table(docs):
    """Who writes a child by its own name fires no trigger of the parent."""
    docs.sql("CREATE TABLE child () INHERITS (docs); INSERT INTO child VALUES (9, 'kid', '')")
    assert "child" in docs.sql("SELECT problem FROM pgherald.tracked")[0][0]
    docs.sql("SELECT pgherald.track('child', 'docs', 'owner')")
    assert docs.sql("SELECT problem FROM pgherald.tracked") == [(None,), (None,)]
    assert after(docs, "UPDATE child SET owner = 'new'") == ["kid", "new"]
    assert after(docs, "UPDATE docs SET body = 'x' WHERE id = 9") == ["new"]
    assert after(docs, "TRUNCATE docs") == ["ann", "bob", "cat", "new"]


def test_the_rows_of_a_partition_that_is_attached(data, db):
    db.sql(PARTITIONED)
    db.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
    db.sql("CREATE TABLE full_one (id int, owner text, body text); INSERT INTO full_one VALUES (401, 'ful', '')")
    assert after(db, "ALTER TABLE docs ATTACH PARTITION full_one FOR VALUES FROM (400) TO (500)",
                 "SELECT pgherald.track('docs', 'docs', 'owner')") == ["ful"]


def test_names_with_quotes_percent_signs_and_backslashes(data, db):
    table, column, channel = 't%I"\'\\%s', 'k%1$s"\'\\', 'C%L"\'\\ GROUP BY k'
    quoted = '"' + table.replace('"', '""') + '"'
    field = '"' + column.replace('"', '""') + '"'
    db.sql("CREATE TABLE " + quoted + " (" + field + " text)")
    for key, notify in ((column, False), (f"length({field})", True)):
        db.sql("SELECT pgherald.track(%s::regclass, %s, %s, %s)", (quoted, channel, key, notify))
    since = snapshot(db)
    db.sql("INSERT INTO " + quoted + " VALUES ('%s %I \\')")
    assert changes(db, since) == {channel: ["%s %I \\", "7"]}
    since = snapshot(db)
    db.sql("UPDATE " + quoted + " SET " + field + " = 'x'")
    assert changes(db, since) == {channel: ["%s %I \\", "1", "7", "x"]}
    since = snapshot(db)
    db.sql("TRUNCATE " + quoted)
    assert changes(db, since) == {channel: ["1", "x"]}


def test_a_trigger_of_another_role_that_has_our_name(docs, stranger):
    """It belongs to its table, and is not ours."""
    docs.sql("CREATE TABLE mine (a int); CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
             " CREATE TRIGGER pgherald_1_mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION mine()", user=stranger)
    docs.sql("SELECT pgherald.untrack('docs')")
    assert docs.sql("SELECT count(*) FROM pg_trigger WHERE tgname = 'pgherald_1_mine'") == [(1,)]


def test_copy_freeze(docs, run):
    since = snapshot(docs)
    run.call(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", docs.server.directory, "-p", str(docs.server.port), "-U", "app", "-d", docs.name],
             input="BEGIN;\nTRUNCATE docs;\nCOPY docs FROM STDIN (FREEZE);\n20\tcop\t\n\\.\nCOMMIT;\n")
    assert changes(docs, since) == {"docs": ["ann", "bob", "cat", "cop"]}


def test_serializable_writers_do_not_fail_by_it(docs):
    with contextlib.closing(docs.server.connect(docs.name, "app")) as first, contextlib.closing(docs.server.connect(docs.name, "app")) as second:
        for n in range(3):
            with first.cursor() as a, second.cursor() as b:
                for cursor, number in ((a, 1), (b, 2)):
                    cursor.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
                    cursor.execute("INSERT INTO docs VALUES (%s, 'new', '')", (10 * n + 100 + number,))
                docs.sql("SELECT pgherald.fold()")
                a.execute("COMMIT")
                b.execute("COMMIT")


@pytest.mark.versions
def test_the_owner_of_a_table_who_is_not_the_installer_adds_partitions(docs, stranger):
    """A new partition gets a copy of the trigger for rows, with the rights of who adds it."""
    docs.sql("GRANT stranger TO app", user="postgres")
    docs.sql("CREATE TABLE theirs (id int, owner text) PARTITION BY RANGE (id);"
             " CREATE TABLE half PARTITION OF theirs FOR VALUES FROM (0) TO (9) PARTITION BY RANGE (id)", user=stranger)
    docs.sql("SELECT pgherald.track('theirs', 'docs', 'owner')")
    docs.sql("CREATE TABLE one PARTITION OF half FOR VALUES FROM (0) TO (5); CREATE TABLE more PARTITION OF theirs FOR VALUES FROM (10) TO (19)", user=stranger)
    assert after(docs, "INSERT INTO theirs VALUES (1, 'ann'), (11, 'bob')", user=stranger) == ["ann", "bob"]


def test_functions_can_be_called_where_new_ones_are_nobodys(data, db, stranger_role):
    data.migrate("pgherald_down")
    db.sql("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    data.migrate("recovery", "pgherald", relay=stranger_role)
    for call in ("fold()", "tracking()", "problem()", "send('msgs', 'hello')", "changes_since('3:3:')"):
        db.sql(f"SELECT * FROM pgherald.{call}", user=stranger_role)
    db.sql("REVOKE EXECUTE ON FUNCTION pgherald.send(text, text, boolean) FROM PUBLIC")
    data.migrate("pgherald")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        db.sql("SELECT pgherald.send('msgs', 'hello')", user=stranger_role)


def test_a_session_in_which_a_backslash_escapes_touches_no_other_tracking(docs):
    for n in range(2, 12):  # 1 and 10 begin alike
        docs.sql(f"SELECT pgherald.track('docs', 'c{n}', 'owner')")
    old = "SET standard_conforming_strings = off; SET escape_string_warning = off; "
    docs.sql(old + "SELECT pgherald.track('docs', 'docs', 'owner')")
    assert docs.sql("SELECT count(*), count(problem) FROM pgherald.tracked") == [(11, 0)]
    docs.sql(old + "SELECT pgherald.untrack('docs', 'docs')")
    assert docs.sql("SELECT count(*), count(problem) FROM pgherald.tracked") == [(10, 0)]


def test_a_clock_that_was_set_back_does_not_end_the_fold(docs):
    docs.sql("UPDATE docs SET body = 'x'")
    docs.sql("SELECT pgherald.fold(); UPDATE pgherald.moment SET at = at + interval '1 year'")
    docs.sql("UPDATE docs SET body = 'y'")
    fold(docs)


def test_it_goes_and_comes_again(docs, data):
    data.migrate("pgherald")
    assert after(docs, "UPDATE docs SET body = 'x' WHERE id = 1") == ["ann"]
    data.migrate("pgherald_down")
    data.migrate("pgherald_down")
    assert docs.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgherald'") == [(0,)]
    docs.sql("UPDATE docs SET body = 'y'")
    data.migrate("pgherald")
    docs.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
    assert after(docs, "UPDATE docs SET body = 'x' WHERE id = 1") == ["ann"]


@pytest.mark.parametrize("order", ["pgherald recovery", "recovery pgherald"])
def test_beside_the_data_sync_tables(docs, data, order):
    data.migrate(*order.split())
    since = snapshot(docs)
    docs.sql("UPDATE docs SET body = 'x' WHERE id = 1")
    data.write("u1")
    assert changes(docs, since) == {"docs": ["ann"], "data_sync_changes": ["u1"]}
    data.migrate("recovery_down")
    assert changes(docs, since) == {"docs": ["ann"]}
    data.migrate("recovery")
    data.migrate("pgherald_down")
    since = snapshot(docs)
    data.write("u2")
    assert changes(docs, since) == {"data_sync_changes": ["u2"]}


def test_an_upgrade_holds_up_no_writer(docs, data):
    """A writer has a transaction open for as long as it likes."""
    with contextlib.closing(docs.server.connect(docs.name, "app")) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; UPDATE docs SET body = 'x' WHERE id = 1")
        data.migrate("pgherald")
        cursor.execute("COMMIT")
    assert after(docs, "UPDATE docs SET body = 'y' WHERE id = 1") == ["ann"]


def test_an_upgrade_replaces_the_triggers_of_tracked_tables(docs, data):
    """Those of an older version had other bodies, and one that is not needed any more. What they
    noted is not lost."""
    docs.sql("CREATE FUNCTION pgherald.changed_1_past() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
             " CREATE TRIGGER pgherald_1_past AFTER UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION pgherald.changed_1_past()")
    docs.sql("ALTER TABLE pgherald.journal DROP COLUMN keys;"
             " DROP INDEX IF EXISTS pgherald.journal_changed_xid_idx;"
             " CREATE INDEX journal_changed_xid_idx ON pgherald.journal USING brin (changed_xid)")
    since = snapshot(docs)
    docs.sql("INSERT INTO pgherald.journal VALUES (txid_current(), false, false, 'docs', 'noted')")
    for body in ("insert", "update", "delete", "row", "truncate"):
        docs.sql(f"CREATE OR REPLACE FUNCTION pgherald.changed_1_{body}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$")
    docs.sql("UPDATE docs SET body = 'x' WHERE id = 1")
    data.migrate("pgherald")
    assert changes(docs, since) == {"docs": ["noted"]}, "the older version loses the other; else this test shows nothing"
    assert docs.sql("SELECT count(*) FROM pg_trigger WHERE tgname = 'pgherald_1_past'") == [(0,)]
    for statement, keys in (("UPDATE docs SET owner = 'new' WHERE id = 1", ["ann", "new"]), ("DELETE FROM docs WHERE id = 2", ["bob"]),
                            ("TRUNCATE docs", ["cat", "new"])):
        assert after(docs, statement) == keys
    assert docs.sql("SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgherald'::regnamespace AND prosecdef"
                    " AND NOT coalesce(proconfig, '{}') @> ARRAY['search_path=pg_catalog, pg_temp']") == [(0,)]


def test_beside_a_function_of_ones_own(db, run):
    data = DataSync(run, db)
    data.function("BEGIN RETURN QUERY SELECT 'own'::text, 'x'::text; END")
    db.sql("CREATE TABLE docs (owner text)")
    data.migrate("pgherald")
    data.migrate("pgherald")
    db.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
    since = snapshot(db)
    db.sql("INSERT INTO docs VALUES ('ann')")
    assert changes(db, since) == {"docs": ["ann"], "own": ["x"]}
    data.migrate("pgherald_down")
    assert changes(db, since) == {"own": ["x"]}


def test_all_of_it_or_nothing(run, db):
    """A role that may not create the schema, and one that is not its owner."""
    data = DataSync(run, db)
    db.sql("CREATE ROLE nobodys LOGIN", user="postgres")
    try:
        with pytest.raises(Exception, match="may not create a schema"):
            data.migrate("pgherald", user="nobodys")
        assert db.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgherald'") == [(0,)]
        data.migrate("pgherald")
        with pytest.raises(Exception, match="belongs to another role"):
            data.migrate("pgherald", user="nobodys")
        with pytest.raises(Exception, match="does not own"):
            data.migrate("recovery", user="nobodys")
        data.migrate("pgherald_down")
        db.sql(f"GRANT CREATE ON DATABASE {db.name} TO nobodys", user="postgres")
        with pytest.raises(Exception, match="does not own"):
            data.migrate("recovery", user="nobodys")
        assert db.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'pgherald'") == [(0,)]
        db.sql(f"REVOKE CREATE ON DATABASE {db.name} FROM nobodys", user="postgres")
    finally:
        db.sql("DROP ROLE nobodys", user="postgres")


def test_a_dump_that_is_restored_into_a_younger_cluster(docs, data, run, dump, template, cleanup):
    """Its transaction ids are of the future there. They are noticed, and put right."""
    from harness.servers import Postgres
    docs.sql("DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
    docs.sql("UPDATE docs SET body = 'x' WHERE id = 1")
    docs.sql("SELECT pgherald.send('msgs', 'old')")
    fold(docs)
    docs.sql("UPDATE docs SET body = 'x' WHERE id = 2")
    young = cleanup.add(Postgres(run, template)).start()
    far = young.database()
    run.call(["psql", "-X", "-q", "-h", young.directory, "-p", str(young.port), "-U", "postgres", "-d", far.name],
             input=dump(docs.server, docs.name))
    while far.sql("SELECT * FROM pgherald.fold()")[0][1]:
        pass
    since = snapshot(far)
    far.sql("DO $$ BEGIN FOR i IN 1..4000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
    assert changes(far, since) == {}
    far.sql("UPDATE docs SET body = 'x' WHERE id = 3")
    assert changes(far, since) == {"docs": ["cat"]}


def test_a_dump_of_a_table_that_did_not_change_since_it_was_tracked(docs, data, run, dump, template, cleanup):
    """Nothing else is of the future in the younger cluster."""
    from harness.servers import Postgres
    docs.sql("DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
    docs.sql("SELECT pgherald.untrack('docs'), pgherald.track('docs', 'docs', 'owner')")
    young = cleanup.add(Postgres(run, template)).start()
    far = young.database()
    run.call(["psql", "-X", "-q", "-h", young.directory, "-p", str(young.port), "-U", "postgres", "-d", far.name],
             input=dump(docs.server, docs.name))
    far.sql("SELECT pgherald.fold()")
    assert changes(far, snapshot(far)) == {}


def test_a_dump_without_data(docs, data, run, dump, server, cleanup):
    """Triggers come without the rows of tracked_table, and the next table that is tracked gets the
    number of theirs."""
    docs.sql("CREATE TABLE other (n int)")
    there = cleanup.add(server.database())
    run.call(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", server.directory, "-p", str(server.port), "-U", "postgres", "-d", there.name],
             input=dump(server, docs.name, "--schema-only"))
    assert "run pgherald.sql again" in there.sql("SELECT pgherald.problem()", user="postgres")[0][0]
    here = DataSync(run, there, restored=True)
    here.migrate("pgherald")
    assert there.sql("SELECT pgherald.problem(), (SELECT count(*) FROM pgherald.relay_key)") == [(None, 1)]
    there.sql("SELECT pgherald.track('other', 'docs', 'n'); INSERT INTO docs VALUES (1, 'ann', '')")
    assert after(there, "INSERT INTO other VALUES (5)") == ["5"]
    there.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
    assert after(there, "UPDATE docs SET body = 'x'") == ["ann"]
    fold(there)


def test_a_dump_without_data_of_which_pgherald_is_removed(docs, run, dump, server, cleanup):
    there = cleanup.add(server.database())
    run.call(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", server.directory, "-p", str(server.port), "-U", "postgres", "-d", there.name],
             input=dump(server, docs.name, "--schema-only"))
    DataSync(run, there, restored=True).migrate("pgherald_down")
    there.sql("INSERT INTO docs VALUES (1, 'ann', '')")


def test_a_dump_keeps_the_triggers(data, db, run, dump, server):
    other = server.database()
    db.sql("CREATE ROLE other; GRANT other TO app; CREATE TYPE mood AS ENUM ('good')", user="postgres")
    try:
        db.sql(PARTITIONED.replace("SELECT pgherald", "CREATE TYPE pair AS (a int, b int); SELECT pgherald"))
        db.sql("CREATE TABLE kinds (day date, owner text, raw bytea, mood mood, pair pair, id int, real float4, data jsonb);"
               " ALTER TABLE kinds OWNER TO other; GRANT ALL ON SCHEMA public TO PUBLIC", user="postgres")
        for key in ("day", "owner", "raw", "mood", "pair", "id", "real", "data", "id || owner"):
            db.sql("SELECT pgherald.track('kinds', 'docs', %s)", (key,))
        db.sql("SELECT pgherald.track('docs', 'docs', 'owner')")
        run.call(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", server.directory, "-p", str(server.port), "-U", "postgres", "-d", other.name],
                 input=dump(server, db.name))
        assert other.sql("SELECT count(*), count(problem) FROM pgherald.tracked") == [(10, 0)]
        DataSync(run, other, restored=True).migrate("pgherald")
        since = snapshot(other)
        DataSync(run, other, restored=True).migrate("pgherald")
        assert changes(other, since) == {}
        assert after(other, "INSERT INTO kinds (day, raw, mood) VALUES ('2026-01-31', 'x', 'good')") == ["2026-01-31", "\\x78", "good"]
        assert after(other, "UPDATE kinds SET day = NULL, raw = 'y'") == ["2026-01-31", "\\x78", "\\x79", "good"]
    finally:
        db.sql("DROP TABLE kinds; DROP OWNED BY other", user="postgres")
        other.sql("DROP TABLE IF EXISTS kinds; DROP OWNED BY other; DROP ROLE other", user="postgres")
