"""The workers in client/examples that are written in other languages: each speaks the
protocol with its own msgpack."""

import json
import os
import shutil
import subprocess

import pytest

from harness.datasync import DataSync
from harness.procs import DEADLINE, wait_until
from harness.relay import TOP, check_output
from harness.worker import CHANNEL

EXAMPLES = os.path.join(TOP, "client", "examples")
NPM_SECONDS = 120


class Example:
    """One such worker, which keeps its cursor and its output over several lives."""

    def __init__(self, run, argv, relay):
        self._run, self._argv, self._relay = run, argv, relay
        self._directory = run.subdirectory("example")
        self._lives = 0
        self.process = None

    def start(self, *arguments):
        self._lives += 1
        with open(os.path.join(self._directory, f"out{self._lives}"), "wb") as out, \
                open(os.path.join(self._directory, "err"), "ab") as err:
            self.process = self._run.spawn([*self._argv, os.path.join(self._directory, "cursor"), *arguments],
                                           {"PGHERALD_SOCKET": self._relay.path, "LC_ALL": "C.UTF-8"}, stdout=out, stderr=err)
        return self

    def lines(self, life=None):
        """The lines of its present life. A kill may have cut the last one."""
        with open(os.path.join(self._directory, f"out{life or self._lives}"), "rb") as out:
            return [line.rstrip() for line in out.read().decode("utf-8").split("\n")[:-1]]

    def changed(self, life=None):
        return [line.split()[1] for line in self.lines(life) if line.startswith("changed ")]

    def ever_changed(self):
        return {user for life in range(1, self._lives + 1) for user in self.changed(life)}

    def gaps(self):
        return [line for life in range(1, self._lives + 1) for line in self.lines(life) if line.startswith("gap")]

    def errors(self):
        with open(os.path.join(self._directory, "err"), errors="replace") as err:
            return err.read()

    def prints(self, *expected, times=1):
        def printed():
            assert self.process.poll() is None, f"it ended: {self.errors()}"
            return all(self.lines().count(line) >= times for line in expected)
        wait_until(printed, lambda: f"{expected} in {self.lines()}; {self.errors()}")
        return self

    def stores(self, epoch):
        """Wait until its cursor on disk is of this run of the relay. It prints first, and
        stores then."""
        def stored():
            with open(os.path.join(self._directory, "cursor")) as file:
                return json.load(file)[0] == epoch
        wait_until(stored, "the cursor on disk")
        return self

    def kill(self):
        self.process.kill()
        self.process.wait(DEADLINE)

    def close(self):
        if self.process:
            self.kill()
        check_output("the example", self.errors())


@pytest.fixture(scope="session")
def node(run):
    """The command line of the worker for Node, next to what it imports."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"there is no {program}")
    directory = run.subdirectory("node")
    shutil.copy(os.path.join(EXAMPLES, "worker.mjs"), directory)
    # With the tester's environment, which may say where the registry is; all that it writes is in the run's directory.
    try:
        npm = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--cache", os.path.join(directory, "cache"),
                              "--prefix", directory, "@msgpack/msgpack@3"], cwd=directory, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=NPM_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm does not install @msgpack/msgpack within {NPM_SECONDS} s")
    if npm.returncode != 0:
        pytest.skip(f"npm does not install @msgpack/msgpack: {npm.stdout[-500:]}")
    return ["node", os.path.join(directory, "worker.mjs")]


@pytest.fixture(params=["python", "node"])
def language(request):
    """The command line of a worker."""
    if request.param == "node":
        return request.getfixturevalue("node")
    return ["/usr/bin/python3", os.path.join(EXAMPLES, "worker.py")]


@pytest.fixture
def example(language, run, cleanup):
    return lambda relay: cleanup.add(Example(run, language, relay))


@pytest.fixture
def data(run, db):
    return DataSync(run, db).recoverable()


def test_it_subscribes_and_hears(relay, example, db):
    worker = example(relay).start().prints("live")
    db.notify(CHANNEL, '{"p":"Zo\\u00eb","c":"phone"}')
    db.notify(CHANNEL, '{"p":"bob"}')
    worker.prints("changed Zoë phone", "changed bob")
    assert worker.changed() == ["Zoë", "bob"]


def test_it_publishes(relay, example, language, db, listen):
    plain, other = listen(db, CHANNEL), relay.worker()
    name = os.path.basename(language[-1])
    example(relay).start("alice").prints("published alice", f"changed alice {name}")
    assert plain.wait(1) == [(CHANNEL, f'{{"p":"alice","c":"{name}"}}')]
    other.hears("alice", name)


def test_it_resumes_after_a_kill(relay, example, db):
    """It is killed in the middle of a stream, again and again. Nothing is lost, and no life
    hears anything twice."""
    worker, users = example(relay), [f"u{i}" for i in range(60)]
    worker.start().prints("live")
    for i, user in enumerate(users):
        db.notify(CHANNEL, f'{{"p":"{user}"}}')
        if i % 20 == 7:
            worker.prints(f"changed {users[i - 3]}")
            worker.kill()
        if i % 20 == 15:
            worker.start().prints("live")
    worker.prints("changed u59")
    assert worker.ever_changed() == set(users)
    for life in range(1, 5):
        heard = worker.changed(life)
        assert heard == [u for u in users if u in heard], "in order, and once"
    assert worker.changed(4) == users[users.index(worker.changed(4)[0]):], "a life hears all from its cursor on"
    assert not worker.gaps()


def test_it_resumes_from_the_database_when_the_relay_was_restarted(start_relay, db, bouncer, data, example):
    relay = start_relay(db, bouncer, PGHERALD_CHECKPOINT_INTERVAL="0.2")
    worker = example(relay).start().prints("live")
    data.write("alice")
    data.notify("alice")
    worker.prints("changed alice")
    relay.kill()
    data.write("bob")
    relay.start()
    worker.prints("live", times=2).prints("changed bob")
    db.notify(CHANNEL, '{"p":"carol"}')
    worker.prints("changed carol")
    assert not worker.gaps()


def test_it_is_told_of_a_gap(local_relay, example):
    """Local mode has no database to ask."""
    worker = example(local_relay).start().prints("live")
    local_relay.kill()
    local_relay.start()
    worker.prints("live", times=2)
    assert len(worker.gaps()) == 1
    other = local_relay.worker()
    worker.stores(other.welcome.epoch).kill()
    other.publish("alice")
    worker.start().prints("live", "changed alice")
    assert len(worker.gaps()) == 1, "its cursor is of the new run"


@pytest.mark.parametrize("name", ["worker.py", "worker.mjs"])
def test_it_is_short(name):
    with open(os.path.join(EXAMPLES, name)) as file:
        assert len(file.readlines()) < 60
