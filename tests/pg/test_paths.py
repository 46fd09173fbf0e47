"""Programs find the sockets of a host by themselves, or say what to do. Each test has a /run of its own, so it needs root."""

import json
import os
import subprocess

import pytest

from harness.procs import wait_until
from harness.relay import CAT, DAEMON, TOP

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


class Host:
    """A mount namespace whose /run is empty."""

    def __init__(self, run):
        self.run = run
        self.processes = []
        self.leader = self.spawn_plain(["unshare", "--mount", "sh", "-c",
                                        "mount -t tmpfs -o mode=755 none /run && echo && exec sleep 1000"])
        assert self.leader.stdout.readline() == b"\n"

    def spawn_plain(self, command, environment=None):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env={**os.environ, "TERM": "dumb", **(environment or {})})
        self.processes.append(process)
        return process

    def inside(self, *command):
        return ["nsenter", f"--mount=/proc/{self.leader.pid}/ns/mnt", *command]

    def call(self, *command, **environment):
        """(status, output, errors)"""
        done = subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=60,
                              env={**os.environ, "TERM": "dumb", **environment})
        return done.returncode, done.stdout, done.stderr

    def relay(self, **environment):
        process = self.spawn_plain(self.inside(DAEMON), environment)
        line = process.stderr.readline().decode()
        assert "ready" in line, line
        return process

    def instance(self, name):
        where = f"/run/pgherald/{name}"
        return self.relay(PGHERALD_SOCKET=f"{where}/relay.sock", PGHERALD_OPS_SOCKET=f"{where}/ops.sock")

    def close(self):
        for process in reversed(self.processes):
            process.kill()
            process.communicate()


@pytest.fixture
def host(run, cleanup):
    if os.geteuid() != 0:
        pytest.skip("only root can have a /run of its own")
    return cleanup.add(Host(run))


def test_where_there_is_no_relay_all_say_what_they_tried(host):
    cats = [host.spawn_plain(host.inside(CAT, *arguments)) for arguments in
            ([], ["--notify", "alice"], ["-c", "text", "--send", "x"], ["-i", "main", "--notify", "alice"],
             ["-s", "/run/no/such.sock", "--notify", "alice"])]
    assert host.call(DAEMON, "ctl", "status")[0] == 3
    assert "/run/pgherald/ops.sock" in host.call(DAEMON, "ctl")[2]
    errors = [cat.communicate(timeout=30)[1].decode() for cat in cats]
    assert [cat.returncode for cat in cats] == [3] * 5
    for text in errors[:3]:
        assert "/run/pgherald/relay.sock" in text and "/run/pgherald/*/relay.sock" in text and "-s PATH" in text
    assert "/run/pgherald/main/relay.sock" in errors[3] and "systemctl start pgherald@main" in errors[3]
    assert "/run/no/such.sock" in errors[4] and "start the relay" in errors[4]


def test_the_only_relay_is_found_and_of_several_one_is_chosen(host):
    main = host.instance("main")
    assert host.call(CAT, "--notify", "alice") == (0, "", "")
    assert host.call(DAEMON, "ctl", "version")[1].startswith("pgherald ")
    host.relay()
    for command, file in (([CAT, "--notify", "alice"], "relay.sock"), ([DAEMON, "ctl"], "ops.sock")):
        status, _, errors = host.call(*command)
        assert status == 2 and f"-s /run/pgherald/{file}" in errors and "-i main" in errors
    assert host.call(CAT, "-i", "main", "--notify", "alice")[0] == 0
    assert json.loads(host.call(DAEMON, "ctl", "-i", "main", "version", "json")[1])["version"]
    for name in ("", "../main", ".", "a/b"):
        assert host.call(CAT, "-i", name, "--notify", "alice")[0] == 2
        assert host.call(DAEMON, "ctl", "-i", name)[0] == 2
    # A socket that a killed relay left does not count.
    main.kill()
    main.communicate()
    assert host.call(CAT, "--notify", "alice")[0] == 0
    status, _, errors = host.call(DAEMON, "ctl", "-i", "main")
    assert status == 3 and "systemctl start pgherald@main" in errors


def test_ctl_replies_as_the_ops_socket_does(host):
    host.relay()
    status, out, _ = host.call(DAEMON, "ctl")
    assert status == 0 and "mode" in out and not out.endswith("\n\n")
    assert host.call(DAEMON, "ctl", "/run/pgherald/ops.sock", "version") == host.call(DAEMON, "ctl", "version")
    commands = host.call(DAEMON, "ctl", "help", "json")[1].splitlines()
    assert len(commands) > 10
    with open(os.path.join(TOP, "completion", "pgherald")) as file:
        completion = file.read()
    shown = host.call(DAEMON, "ctl", "--help")[1]
    for line in commands:
        name = json.loads(line)["command"]
        assert name in completion and name in shown
    for refused in (["nonsense"], ["kill", "77"], ["log"], ["status", "too", "many"]):
        status, out, errors = host.call(DAEMON, "ctl", *refused)
        assert status == 1 and out == "" and "refused the command" in errors
    for misused in (["--no-such"], ["status\nworkers"], ["-i", "main", "-s", "/x"], ["x" * 5000]):
        assert host.call(DAEMON, "ctl", *misused)[0] == 2
    tail = host.spawn_plain(host.inside(DAEMON, "ctl", "tail"))
    wait_until(lambda: host.call(CAT, "--notify", "alice")[0] == 0 and "tail" in completion
               and os.set_blocking(tail.stdout.fileno(), False) is None and b"alice" in (tail.stdout.read() or b""), "the tail")
    status, _, errors = host.call(*NOBODY, DAEMON, "ctl")
    assert status == 3 and "Permission denied" in errors and "root" in errors


def test_a_relay_by_hand_makes_its_directory_or_says_how(host):
    status, _, errors = host.call(*NOBODY, DAEMON)
    assert status == 1 and len(errors.splitlines()) == 1
    assert "install -d -o 65534 /run/pgherald" in errors and "PGHERALD_SOCKET=" in errors
    relay = host.spawn_plain(host.inside("sh", "-c", f"umask 077; exec {DAEMON}"))
    assert b"ready" in relay.stderr.readline()
    assert host.call("stat", "-c", "%a", "/run/pgherald")[1] == "755\n"


def test_forms_timeouts_and_cursors(host):
    host.relay()
    status, out, _ = host.call(CAT, "--timeout", "0.2", "--show-cursor")
    assert status == 0
    cursor = json.loads(out.splitlines()[-1])
    assert cursor["type"] == "cursor"
    assert host.call(CAT, "--notify", "alice\x1b[31m", "phone")[0] == 0
    since = ["--since", cursor["cursor"], "--timeout", "20"]
    status, out, _ = host.call(CAT, *since, "--count", "1")
    assert status == 0 and json.loads(out.splitlines()[-1])["client_id"] == "phone"
    status, out, _ = host.call(CAT, *since, "--count", "1", "--human")
    assert status == 0 and "data_sync_changes: alice\\u001b[31m changed, by phone" in out and "\x1b" not in out
    status, _, errors = host.call(CAT, "--count", "2", "--timeout", "0.2")
    assert status == 4 and "heard 0 of 2" in errors
    assert host.call(CAT, "--channel", "elsewhere", "--timeout", "20")[0] == 1
    # On a terminal it prints for people, unless --json says otherwise.
    for flag, is_json in (("", False), ("--json", True)):
        _, out, _ = host.call("script", "-qec", f"{CAT} -t 0.2 {flag}", "/dev/null")
        assert out.startswith('{"type"') == is_json and "subscribed" in out
    for misused in (["--timeout", "0"], ["--timeout", "soon"], ["--since", "nonsense"], ["--json", "--human"],
                    ["--since", "1 1 x", "--cursor", "x"], ["-i", "x", "-s", "y"], ["--notify", "x", "--count", "1"]):
        status, _, errors = host.call(CAT, *misused)
        assert status == 2 and errors.strip()


def test_the_help_fits_a_screen(run):
    lines = run.call([CAT, "--help"]).splitlines()
    assert len(lines) < 24 and max(map(len, lines)) <= 80


@pytest.mark.parametrize("file, words, expected", [
    ("pgherald-cat", [CAT, "--show"], "--show-cursor"), ("pgherald-cat", [CAT, "-"], "--timeout"),
    ("pgherald", [DAEMON, "--check"], "--check"), ("pgherald", [DAEMON, "c"], "ctl"),
    ("pgherald", [DAEMON, "ctl", "sta"], "status"), ("pgherald", [DAEMON, "ctl", "--j"], "--json"),
    ("pgherald", [DAEMON, "--log-level", "="], "debug"), ("pgherald", [DAEMON, "ctl", "log", "w"], "warning")])
def test_bash_completes(run, file, words, expected):
    function = "_" + file.replace("-", "_")
    script = f'. {TOP}/completion/{file}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); {function}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    assert expected in run.call(["bash", "-c", script, "bash", *words]).splitlines()
