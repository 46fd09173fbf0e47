"""PostgreSQL and pgbouncer, as operations: start, stop, freeze, kill a backend, make a standby."""

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import uuid

import psycopg2
import psycopg2.extensions

from harness.procs import DEADLINE, children, give_away, signal_all, wait_until

# In every URL that the relays get, although the servers trust every client. It must not appear in any output (see relay.py).
PASSWORD = "Sesame7Open"
# The major version of the servers. Without it, the newest of Debian's that is installed.
VERSION = os.environ.get("PGHERALD_TEST_POSTGRES")
# Where tests/deps installs the versions that Debian does not have.
INSTALLED = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "build-run", "postgres")


def pg_bin(name, major=None):
    """Path of a program of the server, of this major version. Debian keeps them out of PATH."""
    major = major or VERSION
    found = sorted(glob.glob(f"/usr/lib/postgresql/{major or '*'}/bin/{name}"))
    if major and not found:
        found = glob.glob(f"{INSTALLED}/{major}/bin/{name}")
        if not found:
            raise FileNotFoundError(f"there is no {name} of PostgreSQL {major};"
                                    f" tests/deps postgres {major} installs initdb and postgres")
    if found:
        return found[-1]
    bindir = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=True).stdout.strip()
    return os.path.join(bindir, name)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


SETTINGS = """
listen_addresses = '127.0.0.1'
fsync = off
autovacuum = off
shared_buffers = 16MB
dynamic_shared_memory_type = mmap
max_connections = 100
log_line_prefix = '%m %a '
"""


def make_template(run, major=None):
    """A cluster from which others are copied: initdb takes seconds, a copy tenths of a
    second."""
    directory = run.subdirectory("template")
    give_away(directory)
    data = os.path.join(directory, "data")
    run.call([pg_bin("initdb", major), "-N", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C",
              "--wal-segsize=1", "-D", data], unprivileged=True)
    # A third of the files that each copy would have. Databases are made from template0.
    run.call([pg_bin("postgres", major), "--single", "-D", data, "postgres"], unprivileged=True,
             input="UPDATE pg_database SET datistemplate = false WHERE datname = 'template1'\nDROP DATABASE template1\n")
    with open(os.path.join(data, "postgresql.conf"), "a") as conf:
        conf.write(SETTINGS)
    return data


class Postgres:
    """One server on its own copy of a cluster."""

    def __init__(self, run, template, port=None, major=None):
        self.run = run
        self._program = pg_bin("postgres", major)
        self.directory = run.subdirectory("pg")
        give_away(self.directory)
        self.data = os.path.join(self.directory, "data")
        self.port = port or free_port()
        self.process = None
        if template:
            run.call(["cp", "-a", template, self.data])

    def start(self):
        log = os.open(os.path.join(self.directory, "log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        self.process = self.run.spawn(
            [self._program, "-D", self.data, "-k", self.directory, "-p", str(self.port)],
            unprivileged=True, stdout=log, stderr=log)
        os.close(log)

        def accepts():
            if self.process.poll() is not None:
                raise AssertionError("PostgreSQL did not start: " + self.log())
            try:
                self.connect().close()
                return True
            except psycopg2.OperationalError:
                return False
        wait_until(accepts, "PostgreSQL accepts connections")
        if not self.sql("SELECT pg_is_in_recovery()")[0][0]:
            if not self.sql("SELECT 1 FROM pg_roles WHERE rolname = 'app'"):
                self.sql("CREATE ROLE app LOGIN")
        return self

    def stop(self, mode="fast"):
        if self.process and self.process.poll() is None:
            self.process.send_signal({"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
            self.process.wait(DEADLINE)

    def restart(self, mode="fast"):
        self.stop(mode)
        self.start()

    def processes(self):
        return [self.process.pid, *children(self.process.pid)]

    def freeze(self):
        """Stop the whole server, like a machine that hangs: its sockets stay open, and
        nothing answers."""
        self.process.send_signal(signal.SIGSTOP)
        signal_all(self.processes(), signal.SIGSTOP)

    def thaw(self):
        signal_all(self.processes(), signal.SIGCONT)

    def close(self):
        if self.process and self.process.poll() is None:
            self.thaw()
            self.stop("immediate")
        shutil.rmtree(self.data, ignore_errors=True)

    def log(self):
        with open(os.path.join(self.directory, "log"), errors="replace") as file:
            return file.read()

    def connect(self, database="postgres", user="postgres"):
        connection = psycopg2.connect(host=self.directory, port=self.port, dbname=database, user=user, connect_timeout=5,
                                      client_encoding="UTF8")
        connection.autocommit = True
        return connection

    def sql(self, query, params=None, database="postgres", user="postgres"):
        connection = self.connect(database, user)
        try:
            with connection.cursor() as cursor:
                cursor.execute(query, params)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def version(self):
        """Like 150004."""
        with contextlib.closing(self.connect()) as connection:
            return connection.server_version

    def url(self, database, user="app", password=PASSWORD):
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def database(self, encoding="UTF8"):
        """Make a database. Notifications do not leave their database."""
        name = "db_" + uuid.uuid4().hex[:8]
        self.sql(f"CREATE DATABASE {name} OWNER app TEMPLATE template0 ENCODING '{encoding}'")
        return Database(self, name)

    def require_password(self, user, password):
        """From now on this user needs this password over TCP."""
        # PostgreSQL 13 makes MD5 hashes otherwise.
        self.sql(f"SET password_encryption = 'scram-sha-256'; ALTER ROLE {user} PASSWORD %s", (password,))
        with open(os.path.join(self.data, "pg_hba.conf"), "w") as file:
            file.write("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        self.sql("SELECT pg_reload_conf()")

        def refused():
            try:
                psycopg2.connect(host="127.0.0.1", port=self.port, dbname="postgres", user=user).close()
            except psycopg2.OperationalError:
                return True
        wait_until(refused, "PostgreSQL asks for a password")

    def copy(self, into, port=None):
        """The files as they are now become those of another server, which has none yet. With a
        port, that server is a hot standby, which reaches this one through the port.
        pg_basebackup would do it too, but not every version that is tested has it."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            newer = connection.server_version >= 150000
            cursor.execute("SELECT pg_backup_start('copy', true)" if newer else "SELECT pg_start_backup('copy', true, false)")
            _copy_files(self.data, into.data)
            cursor.execute("SELECT labelfile FROM " + ("pg_backup_stop(false)" if newer else "pg_stop_backup(false, false)"))
            label, = cursor.fetchone()
        _copy_files(os.path.join(self.data, "pg_wal"), os.path.join(into.data, "pg_wal"))  # as far as the end of the backup
        with open(os.path.join(into.data, "backup_label"), "w") as file:
            file.write(label)
        if port:
            with open(os.path.join(into.data, "standby.signal"), "w"), \
                    open(os.path.join(into.data, "postgresql.auto.conf"), "a") as conf:
                conf.write(f"primary_conninfo = 'host=127.0.0.1 port={port} user=postgres'\n"
                           "wal_retrieve_retry_interval = '200ms'\n")
        give_away(into.data)

    def standby(self):
        """A hot standby that streams from this server."""
        standby = Postgres(self.run, None)
        self.copy(standby, self.port)
        return standby.start()


def _copy_files(source, target):
    """Copy the files of a server that runs, and may remove some of them meanwhile."""
    def copy(source, target):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(source, target)
    shutil.copytree(source, target, copy_function=copy, ignore=shutil.ignore_patterns("postmaster.*"), dirs_exist_ok=True)


class Database:
    """One database, and what an operator or a plain client does to it."""

    def __init__(self, server, name):
        self.server = server
        self.name = name
        self.direct_url = server.url(name)

    def sql(self, query, params=None, user="app"):
        return self.server.sql(query, params, database=self.name, user=user)

    def notify(self, channel, payload):
        """Publish as a plain client does, in a transaction of its own."""
        self.sql("SELECT pg_notify(%s, %s)", (channel, payload))

    def listen(self, *channels):
        return Listener(self, channels)

    def backends(self, application_name):
        return [row[0] for row in self.sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
            (application_name,), user="postgres")]

    def terminate(self, application_name):
        """Kill the backends with this application name; there must be one."""
        killed = self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                          " WHERE datname = current_database() AND application_name = %s",
                          (application_name,), user="postgres")
        assert killed, f"no backend is called {application_name!r}"

    def close(self):
        """Drop the database, even if somebody is connected, for example a pool."""
        self.server.sql(f"DROP DATABASE {self.name} WITH (FORCE)")

    def queue_usage(self):
        return self.sql("SELECT pg_notification_queue_usage()")[0][0]


class Listener:
    """A plain LISTEN connection, like that of any other client."""

    def __init__(self, database, channels):
        self._connection = database.server.connect(database.name, "app")
        self.heard = []
        with self._connection.cursor() as cursor:
            for channel in channels:
                cursor.execute('LISTEN "' + channel.replace('"', '""') + '"')

    def _poll(self):
        self._connection.poll()
        self.heard += [(n.channel, n.payload) for n in self._connection.notifies]
        del self._connection.notifies[:]
        return self.heard

    def wait(self, count):
        """The first count notifications, as (channel, payload)."""
        wait_until(lambda: len(self._poll()) >= count, f"{count} notifications on a plain LISTEN, not {self.heard}")
        return self.heard[:count]

    def wait_for(self, payload):
        wait_until(lambda: payload in [p for _, p in self._poll()], f"{payload!r} on a plain LISTEN")

    def close(self):
        self._connection.close()


class Bouncer:
    """pgbouncer in transaction mode in front of one server."""

    def __init__(self, run, server, ignore_startup_parameters=""):
        self.run = run
        self.server = server
        self.port = free_port()
        self.process = None
        self.directory = run.subdirectory("bouncer")
        give_away(self.directory)
        with open(self._path("users"), "w") as file:
            file.write(f'"app" "{PASSWORD}"\n')
        # server_login_retry: after a failed connect pgbouncer waits 15 s by default before the next.
        with open(self._path("ini"), "w") as file:
            file.write(f"""
[databases]
* = host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir = {self.directory}
auth_type = trust
auth_file = {self._path("users")}
pool_mode = transaction
server_login_retry = 1
max_client_conn = 500
ignore_startup_parameters = {ignore_startup_parameters}
""")

    def _path(self, name):
        return os.path.join(self.directory, name)

    def start(self):
        log = os.open(self._path("log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        self.process = self.run.spawn(["/usr/sbin/pgbouncer", self._path("ini")], unprivileged=True,
                                      stdout=log, stderr=log)
        os.close(log)

        def accepts():
            if self.process.poll() is not None:
                raise AssertionError("pgbouncer did not start: " + self.log())
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            except OSError:
                return False
        wait_until(accepts, "pgbouncer accepts connections")
        return self

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

            def ended():
                # The first ends an older one at once. Since 1.23 it waits for the clients until it gets the second.
                self.process.send_signal(signal.SIGTERM)
                return self.process.poll() is not None
            wait_until(ended, "the end of pgbouncer")

    close = stop

    def restart(self):
        self.stop()
        self.start()

    def log(self):
        with open(self._path("log"), errors="replace") as file:
            return file.read()

    def url(self, database):
        return f"postgresql://app:{PASSWORD}@127.0.0.1:{self.port}/{database.name}"
