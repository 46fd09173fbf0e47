"""The service under systemd: readiness, status, the watchdog, sockets that outlive it, the
sandbox."""

import glob
import grp
import os
import re
import shutil
import signal
import socket
import subprocess

import pytest

from harness.datasync import DataSync
from harness.ops import objects
from harness.procs import DEADLINE, wait_until
from harness.relay import DAEMON, TOP, Relay
from harness.servers import free_port
from harness.worker import Worker
from ongoing import Load, assert_no_hole
from machine import Machine, needs_machine, over_tcp, over_unix

UNITS = os.path.join(TOP, "systemd")


class Manager(Relay):
    """Holds a relay's sockets and reads its notifications, as systemd does."""

    def __init__(self, run, names=("relay", "ops"), watchdog=None, **environment):
        super().__init__(run, "managed", **environment)
        self.sockets = []
        self.names = names
        self.told = []
        for name in names:
            s = socket.socket(socket.AF_UNIX)
            s.bind(os.path.join(self.directory, name + ".sock"))
            s.listen(128)
            self.sockets.append(s)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(os.path.join(self.directory, "notify"))
        self.notify.setblocking(False)
        self.environment["NOTIFY_SOCKET"] = self.notify.getsockname()
        if watchdog:
            self.environment["WATCHDOG_USEC"] = str(int(watchdog * 1e6))

    def launch(self):
        fds = [s.fileno() for s in self.sockets]
        moves = "".join(f"exec {3 + i}<&{50 + i}; " for i in range(len(fds)))
        script = (f"{moves} LISTEN_PID=$$ LISTEN_FDS={len(fds)} LISTEN_FDNAMES={':'.join(self.names)}"
                  f" exec {DAEMON}")

        def place():
            for i, fd in enumerate(fds):
                os.dup2(fd, 50 + i)
        with open(self._log_path, "ab") as log, open(os.path.join(self.directory, "stdout"), "ab") as stdout:
            environment = {"PATH": os.environ["PATH"], "PGHERALD_RUN": self.run.directory, **self.environment}
            environment.update((k, v) for k, v in os.environ.items() if k.endswith("SAN_OPTIONS"))
            self.process = subprocess.Popen(["/bin/bash", "-c", script], env=environment, stdout=stdout, stderr=log,
                                            stdin=subprocess.DEVNULL, close_fds=False, preexec_fn=place,
                                            start_new_session=True, cwd=self.directory)
        self._may_have_ended = False
        return self

    def all_told(self):
        try:
            while True:
                self.told += self.notify.recv(4096).decode().split("\n")
        except BlockingIOError:
            return self.told

    def hears(self, state, deadline=DEADLINE):
        """Wait until the relay has notified this."""
        return wait_until(lambda: [t for t in self.all_told() if re.fullmatch(state, t)],
                          lambda: f"the relay tells {state}, not {self.told}", deadline)

    def start(self):
        self.launch()
        self.hears("READY=1")
        return self

    def close(self):
        super().close()
        for s in (*self.sockets, self.notify):
            s.close()


@pytest.fixture
def managed(run, cleanup):
    return lambda *args, **options: cleanup.add(Manager(run, *args, **options))


def test_it_tells_when_it_is_ready_and_when_it_stops(managed, db):
    relay = managed(DATABASE_DIRECT_URL=db.direct_url).start()
    worker = relay.worker()
    worker.publish("alice")
    worker.hears("alice")
    relay.hears("STATUS=hears PostgreSQL, 1 workers")
    relay.stop()
    relay.hears("STOPPING=1")
    assert worker.bye().code == "shutdown"


def test_it_is_not_ready_before_the_first_canary(managed, own_pg, own_db):
    own_pg.freeze()
    relay = managed(DATABASE_DIRECT_URL=own_db.direct_url).launch()
    early = Worker(relay.path)  # the socket is there, and the connection waits
    assert not early.pump(1) and "READY=1" not in relay.all_told()
    own_pg.thaw()
    relay.hears("READY=1")
    assert early.welcome
    early.close()


def test_the_status_tells_of_an_outage(managed, own_pg, own_db):
    relay = managed(DATABASE_DIRECT_URL=own_db.direct_url).start()
    own_pg.stop("immediate")
    relay.hears("STATUS=upstream (waiting|connecting), 0 workers; last error: .*")
    own_pg.start()
    relay.told.clear()
    relay.hears("STATUS=hears PostgreSQL, 0 workers")


def test_draining_is_told_at_once(managed):
    """And systemd waits as long as it may take."""
    relay = managed(PGHERALD_DRAIN="600").start()
    worker = relay.worker()
    relay.terminate()
    relay.hears("STOPPING=1")
    relay.hears("EXTEND_TIMEOUT_USEC=60[0-9]{7}")
    relay.hears("STATUS=stops, and serves 1 workers until then")
    worker.ping()
    worker.close()
    assert relay.wait_exit() == 0


def test_a_start_without_a_limit_keeps_systemd_waiting(managed):
    relay = managed(DATABASE_DIRECT_URL=f"postgresql://app@127.0.0.1:{free_port()}/x", PGHERALD_START_TIMEOUT="0").launch()
    relay.hears("EXTEND_TIMEOUT_USEC=.*")
    relay.hears("STATUS=upstream waiting, 0 workers; last error: .*")
    relay.stop()


def test_a_reload_is_told(managed):
    relay = managed().start()
    relay.told.clear()
    relay.process.send_signal(signal.SIGHUP)
    relay.hears("READY=1")
    assert [t.partition("=")[0] for t in relay.told][:3] == ["RELOADING", "MONOTONIC_USEC", "READY"]
    assert not [t for t in relay.told if t.startswith("STATUS=")], "nothing has changed"


def test_the_watchdog_is_fed_by_the_loop(managed):
    relay = managed(watchdog=0.4).start()
    relay.told.clear()
    wait_until(lambda: len(relay.hears("WATCHDOG=1")) >= 4, "WATCHDOG=1 again and again")
    relay.freeze()
    relay.hears(".*")
    relay.told.clear()
    with pytest.raises(AssertionError):
        relay.hears("WATCHDOG=1", 1)
    relay.thaw()
    relay.hears("WATCHDOG=1")


def test_without_a_watchdog_there_is_none(managed):
    relay = managed().start()
    relay.hears("STATUS=local mode, 0 workers")
    assert "WATCHDOG=1" not in relay.all_told()


def test_inherited_sockets_stay(managed):
    relay = managed(names=("relay", "ops", "metrics")).start()
    assert "local" in relay.ops("status")
    reply = relay.run.call(["curl", "-sS", "--unix-socket", os.path.join(relay.directory, "metrics.sock"),
                            "http://localhost/healthz"])
    assert reply == "ok, local mode\n"
    assert not glob.glob(os.path.join(relay.directory, "*.lock"))
    relay.stop()
    assert os.path.exists(relay.path) and os.path.exists(relay.ops_path)
    waiting = Worker(relay.path)
    relay.start()
    assert waiting.welcome, "whoever connected in between is served"
    waiting.close()


def test_what_the_sockets_of_systemd_override_is_shown_as_what_it_is(managed):
    relay = managed(names=("relay", "ops", "metrics"), PGHERALD_SOCKET="/run/elsewhere.sock", PGHERALD_SOCKET_MODE="0600")
    os.chmod(relay.path, 0o622)
    relay.start()
    shown = {o["setting"]: (o["value"], o["origin"]) for o in objects(relay.ops("config json"))}
    assert {name: shown[f"PGHERALD_{name}"] for name in ("SOCKET", "SOCKET_MODE", "OPS_SOCKET", "METRICS_SOCKET")} == {
        "SOCKET": (relay.path, "systemd"), "SOCKET_MODE": ("0622", "systemd"), "OPS_SOCKET": (relay.ops_path, "systemd"),
        "METRICS_SOCKET": (relay.sockets[2].getsockname(), "systemd")}
    assert shown["PGHERALD_SOCKET_GROUP"] == (grp.getgrgid(os.stat(relay.path).st_gid).gr_name, "systemd")
    assert f"PGHERALD_SOCKET={relay.path} (systemd)\n" in relay.ops("config")
    assert [name for name in ("PGHERALD_SOCKET", "PGHERALD_SOCKET_MODE", "PGHERALD_OPS_SOCKET")
            if any(f"{name} is not in force" in line for line in relay.lines("WARNING"))] == ["PGHERALD_SOCKET", "PGHERALD_SOCKET_MODE"]


@pytest.mark.parametrize("kind", ["a stranger's", "a datagram socket"])
def test_sockets_that_cannot_be_used_refuse_the_start(managed, kind):
    relay = managed(names=("relay", "stranger") if kind == "a stranger's" else ("relay",))
    if kind != "a stranger's":
        relay.sockets[0].close()
        relay.sockets[0] = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        relay.sockets[0].bind(os.path.join(relay.directory, "datagram"))
        os.unlink(relay.path)
    relay.launch()
    assert relay.process.wait(DEADLINE) == 1
    relay._may_have_ended = True
    error, = relay.lines("ERROR")
    assert ("stranger" if kind == "a stranger's" else "relay") in error


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_under_load_leaves_no_hole(managed, run, db, cat, how):
    data = DataSync(run, db).recoverable()
    relay = managed(DATABASE_DIRECT_URL=db.direct_url).start()
    cats = [cat("--socket", relay.path).subscribed() for _ in range(4)]
    load = Load(data)
    try:
        for _ in range(3):
            load.goes_on()
            getattr(relay, how)()
            load.goes_on()
            relay.told.clear()
            relay.start()
    finally:
        users = load.stop()
    assert_no_hole(cats, users)


# The units

@pytest.fixture
def units(tmp_path):
    """The units as they are installed, for a daemon at this path."""
    for path in glob.glob(os.path.join(UNITS, "*@.*")):
        with open(path) as file:
            text = file.read().replace("@BINDIR@/pgherald", "/bin/true")
        (tmp_path / os.path.basename(path).removesuffix(".in")).write_text(text)
    return tmp_path


needs_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")


@needs_analyze
def test_systemd_has_no_complaint(units):
    names = [str(p).replace("@.", "@main.") for p in units.iterdir()]
    assert len(names) == 6
    check = subprocess.run(["systemd-analyze", "verify", "--recursive-errors=yes", "--man=no", *names],
                           capture_output=True, text=True)
    # It also reads the units of the machine, about which it has complaints of its own.
    complaints = [line for line in (check.stdout + check.stderr).splitlines()
                  if not re.match(r"(/usr)?/lib/systemd/system/(?!pgherald)", line)]
    assert check.returncode == 0 and not complaints, complaints


@needs_analyze
@pytest.mark.parametrize("unit", ["pgherald@main.service", "pgherald-metrics-proxy@main.service"])
def test_the_exposure_is_low(units, unit):
    report = subprocess.run(["systemd-analyze", "security", "--offline=true", str(units / unit)],
                            capture_output=True, text=True).stdout
    assert float(re.search(r"Overall exposure level.*: ([\d.]+)", report)[1]) <= 1.2, report


# The machine

@pytest.fixture
def machine(run, cleanup, own_pg):
    def boot(url, files=None, wait=True):
        machine = cleanup.add(Machine(run, own_pg)).install()
        machine.write("/etc/pgherald/main.conf", f"DATABASE_DIRECT_URL={url}\n", 0o600)
        for path, text in (files or {}).items():
            machine.write(path, text, 0o600)
        return machine.boot(wait)
    return boot


@needs_machine
@pytest.mark.parametrize("way", [over_tcp, over_unix])
def test_the_units_start_answer_and_come_back(machine, own_pg, own_db, cat, way):
    m = machine(way(own_pg, own_db))
    listener = cat("--socket", m.socket).subscribed()
    publisher = Worker(m.socket)
    publisher.publish("alice")
    listener.hears("alice")
    status = objects(m.ops("status json"))[0]
    assert status["upstream"]["state"] == "live" and status["workers"]["connected"] == 2
    wait_until(lambda: m.show("StatusText") == "hears PostgreSQL, 2 workers", "systemctl shows the status")
    worker, = [w for w in objects(m.ops("workers json")) if w["name"] == "pgherald-cat"]
    assert worker["uid"] == 0, "SO_PEERCRED tells who it is"
    publisher.close()

    pid = m.main_pid()
    m.call("kill", "-9", str(pid))
    wait_until(lambda: m.state() == "active" and m.main_pid() not in (0, pid), "it comes back")
    again = Worker(m.socket)
    again.publish("bob")
    again.close()
    listener.hears("bob")
    assert m.call("stat", "-c", "%U:%G %a", "/run/pgherald/main/relay.sock") == "root:pgherald 660\n"
    assert m.call("stat", "-c", "%U:%G %a", "/run/pgherald/main/ops.sock") == "root:adm 660\n"
    own = m.call("ps", "-o", "user=", "-p", str(m.main_pid())).strip()
    assert own == "pgherald"


@needs_machine
def test_the_password_comes_as_a_credential(machine, own_pg, own_db):
    own_pg.require_password("app", "Sesame7Open")
    m = machine(over_tcp(own_pg, own_db), wait=False)
    wait_until(lambda: "put it into /etc/pgherald/main.pgpass, which" in m.journal(), m.journal, 30)
    m.call("sh", "-c", "umask 077; echo '*:*:*:app:Sesame7Open' >/etc/pgherald/main.pgpass")
    wait_until(lambda: m.state() == "active", m.journal, 30)
    assert "live" in m.ops("status")
    assert "Sesame7Open" not in m.journal() + m.ops("config") + m.ops("status")


@needs_machine
def test_an_instance_without_settings_says_so_once(machine, own_pg, own_db):
    m = machine(over_tcp(own_pg, own_db))
    m.systemctl("start", "pgherald@other", check=False)
    journal = m.call("journalctl", "-u", "pgherald@other", "-o", "cat", "--no-pager")
    told, = re.findall(r"there is no (\S+) with the settings of this instance; write it \(an example: (\S+)\)", journal)
    assert told[0] == "/etc/pgherald/other.conf" and "Failed to load environment files" not in journal
    assert m.call("head", "-1", told[1]).startswith("# /etc/pgherald/main.conf")
    assert m.systemctl("show", "--property=ActiveState,SubState,NRestarts", "pgherald@other") == "NRestarts=0\nActiveState=failed\nSubState=failed\n"
    m.call("sh", "-c", "cp /etc/pgherald/main.conf /etc/pgherald/other.conf; systemctl start pgherald@other")


@needs_machine
@pytest.mark.parametrize("how", [["systemctl", "restart", "pgherald@main.service"],
                                 ["systemctl", "kill", "-s", "KILL", "pgherald@main.service"]], ids=["restart", "kill"])
def test_a_restart_by_systemd_under_load_leaves_no_hole(machine, run, own_pg, own_db, cat, how):
    data = DataSync(run, own_db).recoverable()
    m = machine(over_tcp(own_pg, own_db))
    cats = [cat("--socket", m.socket).subscribed() for _ in range(4)]
    load = Load(data)
    try:
        for _ in range(3):
            load.goes_on()
            pid = m.main_pid()
            m.call(*how)
            wait_until(lambda: m.state() == "active" and m.main_pid() not in (0, pid), "it comes back")
    finally:
        users = load.stop()
    assert_no_hole(cats, users)


@needs_machine
def test_systemd_restarts_one_that_hangs(machine, own_pg, own_db):
    m = machine(over_tcp(own_pg, own_db),
                {"/etc/systemd/system/pgherald@.service.d/test.conf": "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\n"})
    pid = m.main_pid()
    m.call("kill", "-STOP", str(pid))
    wait_until(lambda: m.state() == "active" and m.main_pid() not in (0, pid), "a new one", 20)


@needs_machine
def test_a_setting_that_cannot_work_is_told_in_the_journal(machine, own_pg, own_db):
    m = machine(over_tcp(own_pg, own_db) + "x", wait=False)
    wait_until(lambda: "start refused" in m.journal(), "the journal tells why")
    assert m.state() != "active"


@needs_machine
def test_reload_and_the_sockets_paths(machine, own_pg, own_db, cat):
    """The settings of main.conf without a restart; and no path that refuses everybody."""
    m = machine(over_tcp(own_pg, own_db))
    listener, pid = cat("--socket", m.socket).subscribed(), m.main_pid()
    assert m.call("sh", "-c", "ls /run/pgherald/main") .split() == ["ops.sock", "relay.sock"], "the metrics socket is not enabled"
    conf = f"DATABASE_DIRECT_URL={over_tcp(own_pg, own_db)}\n"

    def reload(text):
        m.call("sh", "-c", "cat > /etc/pgherald/main.conf", input=conf + text)
        m.systemctl("reload", "pgherald@main.service")
    reload("PGHERALD_CHANNELS=data_sync_changes,two\nPGHERALD_WORKERS_MAX=9\n")
    wait_until(lambda: "two" in m.ops("channels") and "PGHERALD_WORKERS_MAX=9 (file)" in m.ops("config"), "they are in force")
    reload("PGHERALD_CHANNELS=three:wrong\n")
    wait_until(lambda: "the settings stay as they were" in m.journal(), "the journal says so")
    assert "two" in m.ops("channels") and m.state() == "active"
    with_worker = Worker(m.socket)
    with_worker.publish("alice")
    listener.hears("alice")
    with_worker.close()
    assert m.main_pid() == pid
    reload("")
    m.systemctl("enable", "pgherald-metrics@main.socket")
    m.systemctl("restart", "pgherald@main.service")
    assert m.call("curl", "-sS", "--unix-socket", "/run/pgherald/main/metrics.sock", "http://x/healthz") == "ok, postgres mode\n"
    m.systemctl("stop", "pgherald@main.socket", "pgherald-ops@main.socket", "pgherald-metrics@main.socket")
    wait_until(lambda: m.state() != "active", "the service ends with its socket")
    assert m.call("sh", "-c", "ls /run/pgherald/main 2>/dev/null || true") == ""
