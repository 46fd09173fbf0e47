"""pgpool-II in the place of either URL. It balances load: statements that only read go to a
standby, which lags."""

import os
import signal
import socket

import pytest

from harness.datasync import DataSync
from harness.procs import DEADLINE, give_away, wait_until
from harness.servers import PASSWORD, free_port
from harness.subscriber import subscriber

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.3"}


class Pgpool:
    """pgpool-II in front of a primary and a standby. It prefers the standby."""

    def __init__(self, run, primary, standby, allow_sql_comments):
        self.run = run
        self.port = free_port()
        self.process = None
        self.directory = run.subdirectory("pgpool")
        give_away(self.directory)
        with open(self._path("conf"), "w") as file:
            file.write(f"""
listen_addresses = '127.0.0.1'
port = {self.port}
socket_dir = '{self.directory}'
pcp_socket_dir = '{self.directory}'
pcp_port = {free_port()}
pcp_listen_addresses = ''
pid_file_name = '{self._path("pid")}'
logdir = '{self.directory}'
work_dir = '{self.directory}'
num_init_children = 8
backend_clustering_mode = 'streaming_replication'
backend_hostname0 = '127.0.0.1'
backend_port0 = {primary.port}
backend_weight0 = 0
backend_hostname1 = '127.0.0.1'
backend_port1 = {standby.port}
backend_weight1 = 1
load_balance_mode = on
allow_sql_comments = {allow_sql_comments}
sr_check_period = 1
sr_check_user = 'postgres'
sr_check_database = 'postgres'
failover_on_backend_shutdown = off
failover_on_backend_error = off
""")
        for name in ("hba", "pcp"):
            open(self._path(name), "w").close()

    def _path(self, name):
        return os.path.join(self.directory, name)

    def start(self):
        with open(self._path("log"), "ab") as log:
            self.process = self.run.spawn(
                ["/usr/sbin/pgpool", "-n", "-f", self._path("conf"), "-a", self._path("hba"), "-F", self._path("pcp")],
                unprivileged=True, stdout=log, stderr=log)
        wait_until(self._is_ready, "pgpool knows the primary")
        return self

    def _is_ready(self):
        assert self.process.poll() is None, self.log()
        if "primary node is 0" not in self.log():
            return False
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def log(self):
        with open(self._path("log"), errors="replace") as file:
            return file.read()

    def url(self, database):
        return f"postgresql://app:{PASSWORD}@127.0.0.1:{self.port}/{database.name}"

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(DEADLINE)


@pytest.fixture
def standby(own_pg, cleanup):
    return cleanup.add(own_pg.standby())


@pytest.fixture
def pgpool(run, own_pg, standby, cleanup):
    return lambda allow_sql_comments="off": cleanup.add(Pgpool(run, own_pg, standby, allow_sql_comments)).start()


@pytest.mark.parametrize("where", ["DATABASE_URL", "DATABASE_DIRECT_URL", "both"])
def test_it_publishes_hears_and_recovers(pgpool, standby, own_db, run, make_relay, where):
    data = DataSync(run, own_db).recoverable()
    url = pgpool().url(own_db)
    urls = {name: url if where in (name, "both") else own_db.direct_url for name in ("DATABASE_URL", "DATABASE_DIRECT_URL")}
    worker = subscriber(make_relay(**urls, **FAST).start())
    for n in range(20):
        worker.publish(f"u{n}")
    worker.hears_all(f"u{n}" for n in range(20))
    worker.passes(data)
    # From now on the standby knows nothing new.
    standby.sql("SELECT pg_wal_replay_pause()")
    data.write("silent")
    worker.hears("silent")
    data.write("missed")
    seen = len(worker.frames)
    own_db.terminate("pgherald upstream")
    worker.sees("live", seen)
    worker.hears("missed")
    worker.passes(data)
    assert not worker.gaps


def test_one_that_sends_what_only_reads_elsewhere_is_refused(pgpool, own_db, make_relay):
    pool = pgpool(allow_sql_comments="on")
    line = make_relay(DATABASE_URL=own_db.direct_url, DATABASE_DIRECT_URL=pool.url(own_db)).launch().fails()
    assert "DATABASE_DIRECT_URL" in line and "load balancer" in line
