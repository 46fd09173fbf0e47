"""The Debian packages."""

import contextlib
import glob
import os
import re
import shutil
import socket
import threading

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.relay import TOP
from ongoing import Load, assert_no_hole
from machine import Machine, needs_machine, over_tcp


@pytest.fixture(scope="session")
def packages(run):
    """Packages built from a copy of this tree; their directory."""
    for program in ("dpkg-buildpackage", "dh", "lintian"):
        if not shutil.which(program):
            pytest.skip(f"there is no {program}")
    directory = run.subdirectory("packages")
    source = os.path.join(directory, "source")
    shutil.copytree(TOP, source, ignore=shutil.ignore_patterns("build*", ".git", "__pycache__"))
    run.call(["dpkg-buildpackage", "-us", "-uc", "-b"], cwd=source, seconds=600)
    return directory


def debs(packages, *names):
    return [glob.glob(os.path.join(packages, f"{name}_*.deb"))[0] for name in names]


def test_lintian_finds_no_error(packages, run):
    changes, = glob.glob(os.path.join(packages, "*.changes"))
    report = run.call(["lintian", "--allow-root", "--profile", "debian", "--fail-on", "error", changes])
    assert not re.search(r"^E: ", report, re.M), report


def test_debians_symbols_are_those_of_the_library():
    with open(os.path.join(TOP, "client", "pgherald.map")) as library, open(os.path.join(TOP, "debian", "libpgherald0.symbols")) as debian:
        assert sorted(re.findall(r"^\s+(pgherald_\w+);", library.read(), re.M)) == re.findall(r"^ (pgherald_\w+)@PGHERALD_0 ", debian.read(), re.M)


@needs_machine
def test_a_program_builds_with_the_library_packages(packages, run):
    """As a user of libpgherald-dev does it; and one of python3-pgherald, and of
    golang-pgherald-dev."""
    machine = Machine(run)
    try:
        for deb in debs(packages, "libpgherald0", "libpgherald-dev", "python3-pgherald", "golang-pgherald-dev"):
            shutil.copy(deb, machine.path("/srv"))
        machine.call_before("sh", "-c", "dpkg -i /srv/*.deb")
        machine.write("/srv/p.c", '#include <pgherald.h>\n#include <stdio.h>\n'
                                  'int main(void) { puts(pgherald_strerror(0)); }\n')
        output = machine.call_before("sh", "-c", "cc /srv/p.c -o /srv/p $(pkg-config --cflags --libs pgherald) && /srv/p")
        assert "success\n" in output
        program = "import pgherald; c = pgherald.Client(''); print(c.wait().text, pgherald.__file__)"
        output = machine.call_before("/usr/bin/python3", "-c", program)
        assert "in-process /usr/lib/python3/dist-packages/pgherald/" in output
        output = machine.call_before("sh", "-c", "cd /usr/share/gocode/src/pgherald && GOPATH=/usr/share/gocode GO111MODULE=off "
                                     "GOCACHE=/tmp/cache go test ./notifier")
        assert "ok" in output
    finally:
        machine.close()


@contextlib.contextmanager
def knocking(path):
    """A worker that connects again and again, which starts the service whenever systemd listens."""
    stop = threading.Event()

    def knock():
        while not stop.wait(0.001):
            with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(OSError):
                connection.connect(path)
    thread = threading.Thread(target=knock)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@needs_machine
def test_the_package_installs_starts_upgrades_and_purges(packages, run, cleanup, own_pg, own_db, cat):
    data = DataSync(run, own_db).recoverable()
    m = cleanup.add(Machine(run, own_pg))
    for deb in debs(packages, "libpgherald0", "pgherald"):
        shutil.copy(deb, m.path("/srv"))
    install = ["sh", "-c", "dpkg -i /srv/*.deb"]
    m.call_before(*install)
    m.write("/etc/pgherald/main.conf", f"DATABASE_DIRECT_URL={over_tcp(own_pg, own_db)}\n", 0o600)
    m.boot()
    m.systemctl("enable", "pgherald@main")
    assert m.call("stat", "-c", "%U:%G %a", "/etc/pgherald") == "root:root 700\n", "applications join the group pgherald"
    listener = cat("--socket", m.socket).subscribed()
    load, pid = Load(data), m.main_pid()
    try:
        load.goes_on()
        m.call(*install)  # over itself, as an upgrade does
        wait_until(lambda: m.state() == "active" and m.main_pid() not in (0, pid), "the upgrade restarts it")
        load.goes_on()
    finally:
        users = load.stop()
    assert_no_hole([listener], users)

    own_pg.stop("immediate")
    m.call(*install)
    assert m.call("dpkg-query", "-W", "-f", "${Status}", "pgherald") == "install ok installed", "PostgreSQL is away"
    own_pg.start()
    wait_until(lambda: m.state() == "active", "it comes back", 30)

    with knocking(m.socket):
        m.call("dpkg", "--remove", "pgherald")
    assert m.state() in ("inactive", "failed", "unknown")
    assert m.call("sh", "-c", "ls /etc/pgherald") == "main.conf\n"
    m.call("dpkg", "--purge", "pgherald")
    assert m.call("sh", "-c", "ls -d /etc/pgherald /lib/systemd/system/pgherald* /usr/bin/pgherald 2>/dev/null || true") == ""


HEARS = ["journalctl", "--unit=hears", "--output=cat", "--no-pager"]


@needs_machine
@pytest.mark.long
def test_getting_started_from_top_to_bottom(packages, run, cleanup, own_pg):
    """Each command of the guide as it stands there, on a machine that has never had pgherald."""
    with open(os.path.join(TOP, "docs", "getting-started.md"), encoding="utf-8") as file:
        blocks = re.findall(r"^```sh\n(.*?)^```$", file.read(), re.M | re.S)
    m = cleanup.add(Machine(run, own_pg))
    for deb in glob.glob(os.path.join(packages, "*.deb")):
        shutil.copy(deb, m.path("/srv"))
    m.boot(wait=False, installed=False)
    own_pg.sql("CREATE DATABASE template1 TEMPLATE template0")  # as every server has it but those of the tests

    expected = {"ctl status": r"\AAll is well\.", "'carol'": r'"pubkey":"carol".*"recovered":true',
                "journalctl": r'"type":"change".*"pubkey":"alice"', "/healthz": r"ok, postgres mode\n\Z"}
    exports = ""
    for block in blocks:
        text = exports + block.replace("db.example", f"127.0.0.1:{own_pg.port}")
        told = [m.call("bash", "-ec", "cd /srv\n" + text)]
        exports = "".join(line + "\n" for line in text.splitlines() if line.startswith("export "))
        for what, wanted in expected.items():
            if what in block:
                def goes_on():
                    if "journalctl" in block:
                        told.append(m.call(*HEARS))
                    return re.search(wanted, told[-1])
                wait_until(goes_on, lambda: f"{block}: {told[-1]}", 30)
                break
    with open(os.path.join(TOP, "docs", "getting-started.md"), encoding="utf-8") as file:
        assert m.call("cat", "/usr/share/doc/pgherald/docs/getting-started.md") == file.read(), "the guide is installed, and not compressed"
    assert '"pubkey":"bob"' in m.call(*HEARS) and '"type":"gap"' not in m.call(*HEARS)


@needs_machine
@pytest.mark.long
def test_the_readme_installs_from_the_tree(run, cleanup):
    """As README.md says; then pgherald-cat finds its library, and cc finds what a program needs."""
    with open(os.path.join(TOP, "README.md"), encoding="utf-8") as file:
        page = file.read()
    commands, = (text for text in re.findall(r"^```sh\n(.*?)^```$", page, re.M | re.S) if "meson setup" in text)
    m = cleanup.add(Machine(run))
    shutil.copytree(TOP, m.path("/srv/source"), ignore=shutil.ignore_patterns("build*", ".git", "__pycache__", "node_modules"))
    m.write("/srv/source/app.c", re.search(r"^```c\n(.*?)^```$", page, re.M | re.S)[1])
    for command in (*commands.splitlines(), re.search(r"`(cc app\.c .*?)`", page)[1]):
        m.call_before("bash", "-ec", "cd /srv/source\n" + command)
    assert re.search(r"\d\.\d", m.call_before("bash", "-ec", "pgherald --version && pgherald-cat --version"))
    assert "not found" not in m.call_before("ldd", "/srv/source/a.out")
