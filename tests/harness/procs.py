"""Processes, and waiting. Everything that a run starts ends with it, however the run itself
ends.

Every process started here works inside one directory, the run's. A janitor, a process of its
own, notices the end of the run, even by kill -9. It kills every process that still works in
that directory, then removes it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

# Seconds of time.monotonic(): bounds a wait. What a test waits for takes far less, also on a
# busy machine, so a wait that reaches this has failed.
DEADLINE = 15
# Linux mounts a tmpfs there.
MEMORY = "/dev/shm"
# Bytes: more than the servers of a run have at any time.
MEMORY_LEAST = 4 << 30


def wait_until(condition, what, deadline=DEADLINE):
    """Wait until condition() is true, and return what it returned."""
    start = time.monotonic()
    while True:
        result = condition()
        if result:
            return result
        waited = time.monotonic() - start
        if waited > deadline:
            raise AssertionError(f"not within {deadline} s: {what() if callable(what) else what}")
        # A condition may cost a session of PostgreSQL. The longer it takes, the less often it is asked.
        time.sleep(min(max(waited / 10, 0.005), 0.1))


def _processes():
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            yield int(entry)


def children(pid):
    """The direct children of a process."""
    found = []
    for child in _processes():
        try:
            with open(f"/proc/{child}/stat") as stat:
                if int(stat.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(child)
        except OSError:
            pass
    return found


def stopped(pid):
    """Whether SIGSTOP has stopped the process."""
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


def signal_all(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def leftovers(directory):
    """Processes that work in this directory, as {pid: command line}. PostgreSQL overwrites
    its environment with its title and changes directory; other daemons may leave the
    directory. So this looks at both."""
    found = {}
    for pid in _processes():
        try:
            cwd = os.readlink(f"/proc/{pid}/cwd")
            with open(f"/proc/{pid}/environ", "rb") as environ:
                marked = f"PGHERALD_RUN={directory}".encode() in environ.read().split(b"\0")
            if marked or (cwd + "/").startswith(directory + "/"):
                with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                    found[pid] = cmdline.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            pass
    return found


def close_all(things, closed=lambda thing: None):
    """Close them in reverse, all of them, and raise the first failure. closed(thing) follows
    each."""
    failure = None
    for thing in reversed(things):
        try:
            thing.close()
        except Exception as e:
            failure = failure or e
        closed(thing)
    if failure:
        raise failure


def _parent_of_runs():
    """Where the directory of a run is made. Not below TMPDIR: the path of a Unix socket has at
    most 107 bytes. Servers make and remove thousands of files, so rather in memory, where there
    is enough of it."""
    try:
        memory = os.statvfs(MEMORY)
    except OSError:
        return "/tmp"
    spacious = memory.f_bavail * memory.f_frsize >= MEMORY_LEAST
    return MEMORY if spacious and not memory.f_flag & os.ST_NOEXEC and os.access(MEMORY, os.W_OK) else "/tmp"


class Run:
    """One run: its directory, its processes, its janitor."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="pgherald-", dir=_parent_of_runs())
        os.chmod(self.directory, 0o755)
        self._janitor = subprocess.Popen(
            [sys.executable, "-B", os.path.abspath(__file__), self.directory], stdin=subprocess.PIPE,
            cwd="/", start_new_session=True)
        self._names = 0

    def subdirectory(self, name):
        self._names += 1
        path = os.path.join(self.directory, f"{name}{self._names}")
        os.mkdir(path)
        return path

    def spawn(self, argv, env=None, unprivileged=False, **options):
        """Start a process that ends with this run. PostgreSQL and pgbouncer refuse to run as
        root, so they run unprivileged."""
        # A clean environment: without the tester's PG* variables, locale, and HOME with its
        # .pgpass.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "PGHERALD_RUN": self.directory,
                       "HOME": "/nonexistent"}
        environment.update((k, v) for k, v in os.environ.items() if k.endswith("SAN_OPTIONS"))
        environment.update(env or {})
        if unprivileged:
            argv = unprivileged_argv(argv)
        options.setdefault("cwd", self.directory)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(argv, env=environment, start_new_session=True, **options)

    def call(self, argv, input="", seconds=120, **options):
        """Run a command to its end, within these seconds, and return its output."""
        process = self.spawn(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             encoding="utf-8", errors="replace", **options)
        output, _ = process.communicate(input, timeout=seconds)
        if process.returncode != 0:
            raise AssertionError(f"{argv[0]} ended with {process.returncode}: {output}")
        return output

    def leftovers(self):
        return leftovers(self.directory)

    def close(self):
        """Kill what is left and remove the directory."""
        self._janitor.stdin.close()
        self._janitor.wait()


def unprivileged_argv(argv):
    if os.geteuid() != 0:
        return argv
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=QUIT", *argv]


def give_away(path):
    """Make the unprivileged user the owner of a file, or of a directory and of all in it."""
    if os.geteuid() == 0:
        shutil.chown(path, "nobody", "nogroup")
        for directory, inner, files in os.walk(path):
            for name in (*inner, *files):
                shutil.chown(os.path.join(directory, name), "nobody", "nogroup")


def janitor(directory):
    sys.stdin.buffer.read()  # returns when the run ends
    # PostgreSQL removes its shared memory if it ends by SIGQUIT, not by SIGKILL.
    signal_all(leftovers(directory), signal.SIGCONT)
    for name in os.listdir(directory):
        try:
            with open(os.path.join(directory, name, "data", "postmaster.pid")) as file:
                pid = int(file.readline())
        except (OSError, ValueError):
            continue
        if pid in leftovers(directory):
            signal_all([pid], signal.SIGQUIT)
    end = time.monotonic() + 2
    while leftovers(directory) and time.monotonic() < end:
        time.sleep(0.02)
    while leftovers(directory):
        signal_all(leftovers(directory), signal.SIGKILL)
        time.sleep(0.02)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    janitor(sys.argv[1])
