"""The database of a run: its servers, who may connect to them, and where changes of which
channel are written."""

import os
import random
import socket
import threading
from typing import NamedTuple

import psycopg2

from harness.datasync import DataSync
from harness.failover import Forward, Pair, lead
from harness.procs import close_all, wait_until
from harness.servers import PASSWORD, Bouncer, Postgres, pg_bin
from harness.subscriber import sees
from harness.worker import CHANNEL

# Channels next to that of the data-sync tables. Their changes are rows of site.changed.
OTHERS = ("orders", "tickets")

# An operator with more channels writes the recovery function for them. recovery.sql writes it for one channel only, each
# time that it runs. In the same transaction, this extends it to all channels.
OTHERS_SQL = """
CREATE SCHEMA site AUTHORIZATION app;
GRANT USAGE ON SCHEMA site TO PUBLIC;
CREATE TABLE site.changed (channel text, id text, changed_xid xid8 NOT NULL, PRIMARY KEY (channel, id));
ALTER TABLE site.changed OWNER TO app;
CREATE INDEX ON site.changed (changed_xid);
CREATE FUNCTION site.join_channels() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('site.joining', true) = 'yes' OR NOT EXISTS (
        SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE 'pgherald.changes_since(%') THEN
        RETURN;
    END IF;
    PERFORM set_config('site.joining', 'yes', true);
    DROP FUNCTION IF EXISTS site.changes_since(pg_snapshot);
    ALTER FUNCTION pgherald.changes_since(pg_snapshot) SET SCHEMA site;
    CREATE FUNCTION pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)
    LANGUAGE sql STABLE AS $f$
        SELECT * FROM site.changes_since(since)
        UNION ALL
        SELECT channel, id FROM site.changed
        WHERE changed_xid >= pg_snapshot_xmin(since) AND NOT pg_visible_in_snapshot(changed_xid, since)
    $f$;
    PERFORM set_config('site.joining', 'no', true);
END
$$;
CREATE EVENT TRIGGER join_channels ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION')
    EXECUTE FUNCTION site.join_channels();
"""

# Recovery as the origin did it, the wrong way: rows whose updated_at is after the application's clock at the last
# notification. updated_at is the time when a transaction started.
TIMESTAMPS_SQL = """
CREATE SCHEMA pgherald;
GRANT USAGE ON SCHEMA pgherald TO PUBLIC;
CREATE TABLE pgherald.clock (at timestamptz);
INSERT INTO pgherald.clock VALUES (now());
GRANT SELECT ON records, pgherald.clock TO PUBLIC;
CREATE INDEX ON records (updated_at);
CREATE FUNCTION pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)
LANGUAGE sql STABLE AS $$
    SELECT 'data_sync_changes'::text, user_id::text FROM records
    WHERE updated_at > (SELECT at FROM pgherald.clock) $$
"""

# Tables of which pgherald.track() tells. The owner of a row is what a worker hears. site.written is for this driver alone.
TRACKED_SQL = """
CREATE SCHEMA site AUTHORIZATION app;
CREATE TABLE site.written (channel text, id text);
CREATE TABLE site.{channel} (number serial, owner text, body text);
ALTER TABLE site.written OWNER TO app;
ALTER TABLE site.{channel} OWNER TO app;
"""
NOTE_WRITTEN = "INSERT INTO site.written SELECT %(channel)s, unnest(%(users)s)"
INSERT_TRACKED = "INSERT INTO site.{channel} (owner) SELECT unnest(%(users)s)"
# After the INSERT, in the same transaction or subtransaction.
CHANGE_TRACKED = ("SELECT", "SAVEPOINT s; UPDATE site.{channel} SET body = 'x' WHERE owner = ANY (%(users)s); RELEASE s",
                  "DELETE FROM site.{channel} WHERE owner = ANY (%(users)s)",
                  "UPDATE site.{channel} SET owner = %(last)s WHERE owner = ANY (%(users)s)")

WRITE_USERS = """
WITH r AS (INSERT INTO user_revisions AS u (user_id, revision) SELECT unnest(%(users)s), 1
           ON CONFLICT (user_id) DO UPDATE SET revision = u.revision + 1 RETURNING user_id, revision)
INSERT INTO records (user_id, id, data, revision) SELECT user_id, 'r' || revision, 'x', revision FROM r
"""
WRITE_OTHERS = "INSERT INTO site.changed SELECT %(channel)s, unnest(%(users)s), pg_current_xact_id()"

SETTINGS = "max_connections = 250\n"  # a crowd of writers, next to all others
EPOCH = 3  # of the transaction ids: with it they have 11 digits, as on an old server

RUN_SQL = ("SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint,"
           " (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint")


def quiet_port():
    """A free port that the kernel assigns to no client: a server may be gone for a while and
    come back to it."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


class Moment(NamedTuple):
    """A transaction that is over, on the server as it runs now."""
    xid: int
    lsn: int
    runs: tuple


def lsn_of(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def is_of_run(checkpoint, runs):
    """The second part of a token names the run of the server, in microseconds. In old tokens
    it is the timeline, in hexadecimal."""
    timeline, started = runs
    part = checkpoint.split(";")[1]
    return part == str(started) or (len(part) == 8 and int(part, 16) == timeline)


def passes(checkpoint, moment):
    """Whether a worker with this checkpoint is owed nothing from before this moment."""
    return (is_of_run(checkpoint, moment.runs) and lsn_of(checkpoint.split(";")[2]) >= moment.lsn
            and sees(checkpoint, moment.xid))


class Rights(NamedTuple):
    """What a relay's role may read."""
    tables: bool = True  # in which it finds changes
    key: bool = True     # by which it believes other relays


class Site:
    def __init__(self, run, template, names, channels):
        self.run = run
        self.channels = channels
        self.tracked = "tracked" in names
        # What a recovery reads, and no write needs for long.
        self.locked_table = "pgherald.journal" if self.tracked else "user_revisions"
        self._things = []
        self._lock = threading.Lock()
        # the addresses of the server that accepts writes and of its possible successors: all that a relay knows
        self.ports = [quiet_port() for _ in range(3)]
        self.postgres = self._add(Postgres(run, template, self.ports[0]))
        with open(os.path.join(self.postgres.data, "postgresql.conf"), "a") as conf:
            conf.write(SETTINGS)
        if "crowd" in names:
            run.call([pg_bin("pg_resetwal"), "-e", str(EPOCH), "-D", self.postgres.data], unprivileged=True)
        self.postgres.start()
        self.database = self.postgres.database()
        self.note_server()

    def _add(self, thing):
        self._things.append(thing)
        return thing

    def server(self, port):
        """A server, without files yet."""
        return self._add(Postgres(self.run, None, port))

    def with_standby(self):
        """The server that accepts writes, and a new standby in step with it."""
        return self._add(Pair(self.run, self.postgres, self.spare_port()))

    def servers(self):
        """All servers that there ever were."""
        pairs = [thing for thing in self._things if isinstance(thing, Pair)]
        return [thing for thing in self._things if isinstance(thing, Postgres)] + [pair.standby for pair in pairs]

    def spare_port(self, but=None):
        return next(port for port in self.ports if port not in (self.postgres.port, but))

    def install(self, roles, timestamps=False):
        """roles: {name of a relay's role: Rights}"""
        self._roles = roles
        self._data = DataSync(self.run, self.database)
        for role in roles:
            self.sql(f"CREATE ROLE {role} LOGIN")
        if self.tracked:
            self._install_tracked()
        elif len(self.channels) > 1:
            self.sql(OTHERS_SQL)
        if timestamps:
            self.database.sql(TIMESTAMPS_SQL)
        else:
            self.install_recovery()
        for role, rights in roles.items():
            if rights.tables:
                self.grant(role)

    def _install_tracked(self):
        schema, written, table, *owners = TRACKED_SQL.strip().split(";\n")
        self.sql(";".join([schema, written, owners[0]]))
        self._data.migrate("pgherald")
        for channel in self.channels:
            self.sql(";".join([table, owners[1]]).format(channel=channel))
            self.database.sql(f"SELECT pgherald.track('site.{channel}', '{channel}', 'owner')")

    def install_recovery(self):
        self._data.migrate("pgherald" if self.tracked else "recovery")
        if self.sql("SELECT to_regclass('pgherald.relay_key')")[0][0]:
            for role, rights in self._roles.items():
                if rights.key:
                    self.sql(f"GRANT SELECT ON pgherald.relay_key TO {role}")

    def take_down_recovery(self):
        # What is tracked is an upgrade's, and not another installation's.
        if not self.tracked:
            self._data.migrate("recovery_down")

    def lead_ways(self, roles):
        """Start what leads to the server: the pool, and the way that can be made to swallow
        what is sent."""
        self.bouncer = self._add(Bouncer(self.run, self.postgres))
        with open(os.path.join(self.bouncer.directory, "users"), "a") as file:
            file.writelines(f'"{role}" "{PASSWORD}"\n' for role in roles)
        self.bouncer.start()
        self.way = self._add(Forward(self.run, self.postgres.port))

    def _rights(self):
        """What a relay's role needs to ask."""
        if self.tracked:
            return ["EXECUTE ON FUNCTION pgherald.changes_since(pg_snapshot)"]
        return [f"SELECT ON {table}" for table in (["user_revisions", "site.changed"] if len(self.channels) > 1 else ["user_revisions"])]

    def grant(self, role):
        for right in self._rights():
            self.sql(f"GRANT {right} TO {role}")

    def revoke(self, role):
        for right in self._rights():
            self.sql(f"REVOKE {right} FROM {role}")

    # What relays are told

    def direct_url(self, role):
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"postgresql://{role}:{PASSWORD}@{hosts}/{self.database.name}?target_session_attrs=read-write"

    def pool_url(self, role):
        return f"postgresql://{role}:{PASSWORD}@127.0.0.1:{self.bouncer.port}/{self.database.name}"

    def way_url(self, role):
        return f"postgresql://{role}:{PASSWORD}@127.0.0.1:{self.way.port}/{self.database.name}"

    # The server that accepts writes

    def note_server(self):
        """The server was started, or another took its place."""
        self.runs = tuple(self.sql(RUN_SQL)[0])

    def lead_to(self, server):
        self.postgres = server
        self.database.server = server
        self.note_server()
        if self.bouncer.server is not server:
            lead(self.bouncer, server)
        self.way.lead_to(server.port)

    def start_again(self, mode, pause):
        self.postgres.stop(mode)
        pause()
        self.postgres.start()
        self.note_server()

    def connect(self, user="app", timeout=20000, name="writer"):
        server = self.postgres
        return psycopg2.connect(host=server.directory, port=server.port, dbname=self.database.name, user=user,
                                connect_timeout=3, application_name=name, options=f"-c statement_timeout={timeout}")

    def sql(self, query, params=None):
        connection = self.connect("postgres", 5000, "driver")
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query, params)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def answers(self):
        try:
            return self.sql("SELECT true")
        except psycopg2.Error:
            return False

    def moment(self):
        xid, lsn = self.sql("SELECT pg_current_xact_id()::text::bigint, pg_current_wal_insert_lsn()::text")[0]
        return Moment(xid, lsn_of(lsn), self.runs)

    def present(self):
        """The users of all changes that the database contains."""
        query = "SELECT id FROM site.written" if self.tracked else "SELECT user_id FROM user_revisions"
        if len(self.channels) > 1 and not self.tracked:
            query += " UNION ALL SELECT id FROM site.changed"
        return {row[0] for row in self.sql(query)}

    def listening(self):
        """The roles whose relays hear."""
        rows = self.sql("SELECT usename FROM pg_stat_activity WHERE application_name = 'pgherald upstream'")
        return {row[0] for row in rows}

    def terminate(self, name, role=None):
        """Backends with this application name; or, with None, all backends of a relay."""
        try:
            self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE (%s IS NULL OR application_name = %s)"
                     " AND (%s IS NULL OR usename = %s) AND application_name LIKE 'pgherald%%'", (name, name, role, role))
        except psycopg2.Error:
            pass  # the server is away: that fault is active already

    def close(self):
        close_all(self._things)


def write(site, cursor, channel, users):
    """A change of each of these users, in the open transaction."""
    values = {"channel": channel, "users": list(users), "last": users[-1]}
    if not site.tracked:
        cursor.execute(WRITE_USERS if channel == CHANNEL else WRITE_OTHERS, values)
        return
    for statement in (NOTE_WRITTEN, INSERT_TRACKED, random.choice(CHANGE_TRACKED)):
        cursor.execute(statement.format(channel=channel), values)


class Barred:
    """While it lasts, a server accepts only connections on its Unix socket: the driver's,
    and no relay's."""

    def __init__(self, server):
        self.server = server
        self._path = os.path.join(server.data, "pg_hba.conf")

    def __enter__(self):
        with open(self._path) as file:
            self._text = file.read()
        self._write("local all all trust\nhost replication all 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 reject\n")
        if self.server.process:  # otherwise it starts like this
            self._reload()
            wait_until(self._refuses, "the server lets nobody in")
        return self

    def __exit__(self, *_):
        self._write(self._text)
        self._reload()

    def _write(self, text):
        with open(self._path, "w") as file:
            file.write(text)

    def _reload(self):
        self.server.sql("SELECT pg_reload_conf()")

    def _refuses(self):
        try:
            psycopg2.connect(host="127.0.0.1", port=self.server.port, dbname="postgres", user="app", connect_timeout=5).close()
        except psycopg2.OperationalError:
            return True
        return False
