"""The tables of a data-sync service, and its writers.

A write is what that service commits: a record, and the user's revision counted up. Notifying is
a separate step, which a test omits if it is about missed changes.
"""

import os

from harness.procs import wait_until
from harness.worker import CHANNEL

HERE = os.path.dirname(os.path.abspath(__file__))
SQL = os.path.join(os.path.dirname(os.path.dirname(HERE)), "relay", "sql")
OLDER = os.path.join(HERE, "older")  # the migrations of version 1

TABLES = """
CREATE TABLE records (
    user_id varchar NOT NULL, id varchar NOT NULL, data bytea, revision bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_id, id));
CREATE TABLE user_revisions (user_id varchar PRIMARY KEY, revision bigint NOT NULL);
"""

WRITE = """
WITH r AS (INSERT INTO user_revisions AS u (user_id, revision) VALUES (%(user)s, 1)
           ON CONFLICT (user_id) DO UPDATE SET revision = u.revision + 1 RETURNING user_id, revision)
INSERT INTO records (user_id, id, data, revision) SELECT user_id, 'r' || revision, 'x', revision FROM r
"""


def psql(run, server, database, *paths, user="app", **variables):
    """Run files as an operator does. Returns their output."""
    return run.call(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", server.directory, "-p", str(server.port),
                     "-U", user, "-d", database, *(a for name, value in variables.items() for a in ("-v", f"{name}={value}")),
                     *(a for path in paths for a in ("-f", path))])


class Transaction:
    """A writer that has not committed yet."""

    def __init__(self, data, users):
        self._connection = data.database.server.connect(data.database.name, "app")
        self._connection.autocommit = False
        self._cursor = self._connection.cursor()
        for user in users:
            self._cursor.execute(WRITE, {"user": user})

    def notify(self, user):
        self._cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, '{"p":"%s"}' % user))

    def commit(self):
        self._connection.commit()
        self._connection.close()

    def close(self):
        self._connection.close()


class DataSync:
    """The tables in one database."""

    def __init__(self, run, database, restored=False):
        self.run = run
        self.database = database
        if not restored:
            database.sql(TABLES)

    def migrate(self, *names, directory=SQL, user="app", **variables):
        """Run some files of relay/sql."""
        return psql(self.run, self.database.server, self.database.name,
                    *(os.path.join(directory, name + ".sql") for name in names), user=user, **variables)

    def recoverable(self):
        self.migrate("recovery")
        return self

    def write(self, *users):
        """Commit one transaction with a change of each user, without a NOTIFY."""
        transaction = Transaction(self, users)
        transaction.commit()

    def begin(self, *users):
        """The same, but the transaction stays open."""
        return Transaction(self, users)

    def write_many(self, first, last, prefix="u", notify=False):
        """Commit a change of each of the users u<first> .. u<last>, in one transaction with its notifications."""
        statements = ("INSERT INTO user_revisions (user_id, revision)"
                      " SELECT %s || i, 1 FROM generate_series(%s, %s) AS i"
                      " ON CONFLICT (user_id) DO UPDATE SET revision = user_revisions.revision + 1")
        if notify:
            statements += f"; SELECT count(pg_notify('{CHANNEL}', json_build_object('p', %s || i)::text)) FROM generate_series(%s, %s) AS i"
        users = (prefix, first, last)
        self.database.sql(statements, users * 2 if notify else users)

    def notify(self, user):
        self.database.notify(CHANNEL, '{"p":"%s"}' % user)

    def change(self, user):
        """Write, then notify: what a correct writer does."""
        self.write(user)
        self.notify(user)

    def function(self, body, language="plpgsql", returns="TABLE (channel text, value text)", volatile="VOLATILE"):
        """Install another pgherald.changes_since, as an operator may write it."""
        self.database.sql("CREATE SCHEMA IF NOT EXISTS pgherald; DROP FUNCTION IF EXISTS pgherald.changes_since(pg_snapshot);"
                          f" CREATE FUNCTION pgherald.changes_since(since pg_snapshot) RETURNS {returns}"
                          f" LANGUAGE {language} {volatile} AS $function$ {body} $function$")


