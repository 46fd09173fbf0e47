"""A machine: the real systemd with the real units, in a container over an overlay of this
system.

It shares the network with the tests, so it reaches PostgreSQL by TCP. It also sees PostgreSQL's
directory, for its Unix socket. What it writes is removed with it.
"""

import os
import shutil
import signal
import subprocess

import pytest

from harness.procs import children, signal_all, wait_until
from harness.relay import BUILD, TOP

# The build that is installed: without sanitizers, which do not work in the sandbox of the units.
INSTALLED = os.path.join(TOP, os.environ.get("PGHERALD_INSTALLED_BUILD", BUILD))

TARGET = """
[Unit]
Requires=pgherald@main.service
After=pgherald@main.service
"""

WITHOUT_SERVICE = """
[Unit]
Requires=basic.target
After=basic.target
"""


def why_not():
    """The reason why a machine cannot run here; None if it can."""
    for program in ("systemd-nspawn", "/lib/systemd/systemd", "meson"):
        if not shutil.which(program):
            return f"there is no {program}"
    if os.geteuid() != 0:
        return "only root can boot a container"
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode != 0:
        return "there can be no namespaces here"
    return None


needs_machine = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))


def over_tcp(pg, db):
    """A URL from inside, without a password."""
    return f"postgresql://app@127.0.0.1:{pg.port}/{db.name}"


def over_unix(pg, db):
    return f"postgresql:///{db.name}?host=/srv/postgresql&port={pg.port}&user=app"


class Machine:
    def __init__(self, run, postgres=None):
        self.run = run
        self.directory = run.subdirectory("machine")
        self.root = os.path.join(self.directory, "root")
        self._postgres = postgres
        self._process = None
        self.leader = None
        for name in ("upper", "work", "root"):
            os.mkdir(os.path.join(self.directory, name))
        layers = f"lowerdir=/,upperdir={self.directory}/upper,workdir={self.directory}/work"
        run.call(["mount", "-t", "overlay", "overlay", "-o", layers, self.root])
        # Only what is tested, nothing that this system's administrator has installed.
        shutil.rmtree(self.path("/etc/systemd/system"))
        os.mkdir(self.path("/etc/systemd/system"))

    def path(self, inside):
        """The path of the machine's file before the machine runs."""
        return self.root + inside

    def write(self, inside, text, mode=0o644):
        os.makedirs(os.path.dirname(self.path(inside)), exist_ok=True)
        with open(self.path(inside), "w") as file:
            file.write(text)
        os.chmod(self.path(inside), mode)

    def install(self):
        """Install as `meson install` does."""
        self.run.call(["meson", "install", "-C", INSTALLED, "--no-rebuild", "--quiet", "--destdir", self.root])
        self.call_before("systemd-sysusers")
        return self

    def call_before(self, *argv):
        """Run a program in the machine before it boots."""
        return self.run.call(["systemd-nspawn", *self._options(), "--as-pid2", *argv], env=self._env)

    _env = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}

    def _options(self):
        options = ["--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--console=pipe",
                   "--machine=" + os.path.basename(self.directory), "-D", self.root]
        if self._postgres:
            options.append(f"--bind={self._postgres.directory}:/srv/postgresql")
        return options

    def boot(self, wait=True, installed=True):
        """Without the service if it is not installed yet."""
        self.write("/etc/systemd/system/test.target", TARGET if installed else WITHOUT_SERVICE)
        log = open(os.path.join(self.directory, "log"), "ab")
        self._process = self.run.spawn(
            ["systemd-nspawn", *self._options(), "/lib/systemd/systemd", "--unit=test.target"],
            self._env, stdout=log, stderr=log)
        log.close()
        self.leader = wait_until(lambda: self._ended() or self._first_process(), "the machine boots")
        wait_until(lambda: self.systemctl("is-system-running", check=False).strip() in
                   ("starting", "running", "degraded"), "systemd answers")
        if wait:
            wait_until(lambda: self.state() == "active", lambda: f"the service is ready: {self.journal()}", 30)
        return self

    def _first_process(self):
        for pid in children(self._process.pid):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    if file.read().startswith("/lib/systemd/systemd\0"):
                        return pid
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended since
        return None

    def _ended(self):
        if self._process.poll() is not None:
            with open(os.path.join(self.directory, "log"), errors="replace") as file:
                raise AssertionError(f"the machine does not boot: {file.read()}")

    # What its operator does

    def call(self, *argv, input="", check=True):
        done = subprocess.run(["nsenter", "--target", str(self.leader), "--all", "--wd=/", *argv], input=input,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 or not check, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def systemctl(self, *arguments, check=True):
        return self.call("systemctl", *arguments, check=check)

    def state(self):
        return self.systemctl("is-active", "pgherald@main.service", check=False).strip()

    def show(self, property):
        return self.systemctl("show", "--property", property, "--value", "pgherald@main.service").strip()

    def main_pid(self):
        return int(self.show("MainPID"))

    def journal(self):
        return self.call("journalctl", "-u", "pgherald@main", "-o", "cat", "--no-pager", check=False)

    def ops(self, command):
        return self.call("socat", "-", "UNIX-CONNECT:/run/pgherald/main/ops.sock", input=command + "\n")

    @property
    def socket(self):
        """The path of the workers' socket, as seen from outside."""
        return f"/proc/{self.leader}/root/run/pgherald/main/relay.sock"

    def close(self):
        if self._process and self._process.poll() is None:
            print(f"--- journal of {self.directory}\n{self.journal()}")
            # All other processes end with the first.
            signal_all([self.leader] if self.leader else [], signal.SIGKILL)
            self._process.terminate()
            self._process.wait()
        self.run.call(["umount", self.root])
