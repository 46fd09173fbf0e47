"""The packages for other languages, as their users get them."""

import json
import os
import subprocess
import tarfile

import pytest

from harness.datasync import DataSync
from harness.ops import objects
from harness.packages import CATS, GO, NODE, Missing, go, node_program, npm_install, npm_pack
from harness.procs import DEADLINE, wait_until
from harness.relay import TOP, check_output
from harness.worker import CHANNEL

PACKAGES = sorted(set(CATS) - {"c"})  # test_cat.py has C's


def made(make):
    try:
        return make()
    except Missing as why:
        pytest.skip(str(why))


class Program:
    """A program that prints JSON lines, over several lives."""

    def __init__(self, run, argv, relay):
        self._run, self._argv, self._relay = run, argv, relay
        self.directory = run.subdirectory("program")
        self.process = None

    def start(self, *arguments):
        with open(os.path.join(self.directory, "out"), "wb") as out, open(os.path.join(self.directory, "err"), "ab") as err:
            self.process = self._run.spawn([*self._argv, *arguments], {"PGHERALD_SOCKET": self._relay.path}, stdout=out, stderr=err)
        return self

    def lines(self):
        """Of its present life. A kill may have cut the last one."""
        with open(os.path.join(self.directory, "out"), encoding="utf-8") as out:
            return out.read().split("\n")[:-1]

    def errors(self):
        with open(os.path.join(self.directory, "err"), errors="replace") as err:
            return err.read()

    def prints(self, expected):
        def printed():
            assert self.process.poll() is None, f"it ended: {self.errors()}"
            return any(map(expected, self.lines()))
        wait_until(printed, lambda: f"{self.lines()}; {self.errors()}")
        return self

    def tells(self, kind, **fields):
        def told(line):
            event = json.loads(line)
            return event["type"] == kind and fields.items() <= event.items()
        return self.prints(told)

    def told(self, kind):
        return [event for event in map(json.loads, self.lines()) if event["type"] == kind]

    def kill(self):
        self.process.kill()
        self.process.wait(DEADLINE)

    def close(self):
        if self.process:
            self.kill()
        check_output("the program", self.errors())


@pytest.fixture(params=PACKAGES)
def cat(request, run, cleanup):
    command = made(CATS[request.param])
    return lambda relay: cleanup.add(Program(run, command, relay))


def test_it_hears_and_publishes(relay, db, cat, run):
    worker = cat(relay).start().tells("connected", text="postgres").tells("upstream", state="live").tells("subscribed")
    db.notify(CHANNEL, '{"p":"Zo\\u00eb","c":"phone"}')
    worker.tells("change", pubkey="Zoë", client_id="phone", channel=CHANNEL, recovered=False)
    publisher = cat(relay).start("--notify", "bob")
    assert publisher.process.wait(DEADLINE) == 0, publisher.errors()
    worker.tells("change", pubkey="bob", client_id=None)


def test_it_resumes_over_its_own_end_and_the_relays(start_relay, run, db, bouncer, cat):
    data = DataSync(run, db).recoverable()
    relay = start_relay(db, bouncer, PGHERALD_CHECKPOINT_INTERVAL="0.2")
    worker = cat(relay)
    cursor = ("--cursor", os.path.join(worker.directory, "cursor"))
    worker.start(*cursor).tells("subscribed")

    def has_checkpoint():
        try:
            with open(cursor[1]) as file:
                return len(file.read().split()) == 4
        except FileNotFoundError:
            return False
    wait_until(has_checkpoint, "a stored cursor with a checkpoint")
    worker.kill()
    data.write("alice")
    relay.kill()
    relay.start()
    worker.start(*cursor).tells("change", pubkey="alice", recovered=True, client_id=None)
    data.write("bob")
    data.notify("bob")
    worker.tells("change", pubkey="bob")
    relay.kill()
    data.write("carol")
    relay.start()
    worker.tells("change", pubkey="carol")
    assert worker.told("gap") == []


# Go

def test_go_is_formatted_and_vetted():
    tests, programs = os.path.join(TOP, "tests"), ["./conformance/drivers/go", "./bench/go"]
    made(lambda: go("vet", "./..."))
    go("vet", *programs, cwd=tests)
    directories = [GO, *(os.path.join(tests, program) for program in programs)]
    assert subprocess.run(["gofmt", "-l", *directories], capture_output=True, text=True, check=True).stdout == ""


def test_go_tests():
    print(made(lambda: go("test", "-count=1", "./...")))


def test_a_go_module_of_its_own_uses_it(run):
    """As the README says; and with Debian's packages in place of downloads."""
    directory = run.subdirectory("app")
    with open(os.path.join(directory, "main.go"), "w") as file:
        file.write('package main\n\nimport (\n\t"fmt"\n\n\t"pgherald/notifier"\n)\n\nfunc main() { fmt.Println(notifier.Channel) }\n')
    made(lambda: go("mod", "init", "app", cwd=directory))
    go("mod", "edit", "-require=pgherald@v0.2.0", f"-replace=pgherald={GO}", cwd=directory)
    with open(os.path.join(GO, "debian.mod")) as file, open(os.path.join(directory, "go.mod"), "a") as module:
        module.write("\n".join(line for line in file.read().split("\n") if line.startswith(("require", "replace"))))
    assert go("run", ".", cwd=directory) == CHANNEL + "\n"


def test_go_without_debian_needs_the_same():
    """debian.mod is go.mod, and where Debian has what it requires."""
    with open(os.path.join(GO, "go.mod")) as file:
        users = file.read()
    with open(os.path.join(GO, "debian.mod")) as file:
        debian = [line for line in file.read().split("\n\n") if not line.startswith("replace")]
    assert "\n\n".join(debian).split("\n", 1)[1].strip() == users.strip()


def test_go_shows_its_documentation():
    text = made(lambda: go("doc", "-all", "."))
    for name in ("func Open(", "SubscribeFunc(", "Notify(ctx", "Send(ctx", "Cursor() (string, error)", "type Change struct", "type Message struct",
                 "type Gap struct", "ErrTimeout"):
        assert name in text
    assert "at least once" in text


# Node

def test_node_tests():
    directory = os.path.dirname(made(lambda: node_program(os.path.join(NODE, "examples", "cat.mjs")))[1])
    # Where the package is, and what it imports, stays as in the tree.
    tests = os.path.join(directory, "tree", "client", "node")
    subprocess.run(["rm", "-rf", os.path.join(directory, "tree")], check=True)
    os.makedirs(tests)
    os.makedirs(os.path.join(directory, "tree", "proto"))
    for name in ("lib", "test", "package.json"):
        os.symlink(os.path.join(NODE, name), os.path.join(tests, name))
    os.symlink(os.path.join(TOP, "proto", "vectors"), os.path.join(directory, "tree", "proto", "vectors"))
    done = subprocess.run(["node", "--preserve-symlinks", "--preserve-symlinks-main", "--test", "test/"], cwd=tests, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, "\n".join(line for line in done.stdout.split("\n") if not line.startswith(("ok", "# Subtest")))


def test_npm_packs_what_it_should_and_no_more(run):
    archive = made(lambda: npm_pack(run.subdirectory("pack")))
    with tarfile.open(archive) as tar:
        names = sorted(tar.getnames())
    lib = [f"package/lib/{name}" for name in os.listdir(os.path.join(NODE, "lib"))]
    assert names == sorted(["package/LICENSE", "package/README.md", "package/package.json", *lib])


def test_npm_installs_it_from_the_tree(run):
    """npm install ./client/node, in a copy: npm writes next to what it links."""
    directory = run.subdirectory("app")
    subprocess.run(["cp", "-r", NODE, os.path.join(directory, "node")], check=True)
    subprocess.run(["rm", "-rf", os.path.join(directory, "node", "node_modules")], check=True)
    made(lambda: npm_install(directory, "./node"))
    program = 'import { open } from "pgherald"; const c = open({ socket: "" }); console.log(await c.notify("x", "y")); c.close();'
    done = subprocess.run(["node", "--input-type=module", "-e", program], cwd=directory, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_cluster_in_node(relay, db, cleanup, run):
    """A worker that dies is replaced, and its replacement hears what was missed."""
    command = made(lambda: node_program(os.path.join(NODE, "examples", "cluster.mjs")))
    cluster = cleanup.add(Program(run, command, relay))
    cluster.start(cluster.directory, "2").prints("worker 0: subscribed".__eq__).prints("worker 1: subscribed".__eq__)
    db.notify(CHANNEL, '{"p":"alice"}')
    cluster.prints("worker 0: alice changed".__eq__).prints("worker 1: alice changed".__eq__)
    wait_until(lambda: os.path.exists(os.path.join(cluster.directory, "cursor.0")), "the cursor of worker 0")
    os.kill({worker["name"]: worker["pid"] for worker in objects(relay.ops("workers json"))}["worker 0"], 9)
    db.notify(CHANNEL, '{"p":"bob"}')
    cluster.prints("worker 0: bob changed".__eq__).prints("worker 1: bob changed".__eq__)
    assert not any("gap" in line for line in cluster.lines())
