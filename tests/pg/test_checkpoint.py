"""Checkpoints come, one fleet shares their cost, and an idle fleet costs nothing. The relay
notices an upstream that is silently dead."""

import os
import signal
import subprocess
import time

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.servers import PASSWORD, free_port
from harness.subscriber import sees, subscriber
from harness.worker import Checkpoint, Welcome

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}
NOTICED = 15  # seconds, the bound, with every setting at its default


@pytest.fixture
def own_data(run, own_db):
    return DataSync(run, own_db).recoverable()


# Checkpoints

def test_a_new_worker_has_one_from_its_first_moment(relay):
    worker = subscriber(relay)
    assert [type(f) for f in worker.frames[:2]] == [Welcome, Checkpoint]
    assert worker.frames[1].seq <= worker.welcome.seq
    assert worker.cursor == (worker.epoch, worker.welcome.seq, worker.frames[1].checkpoint)


def test_all_workers_are_told_the_same_in_the_same_place(start_relay, own_db, own_bouncer, own_data):
    relay = start_relay(own_db, own_bouncer, **FAST)
    workers = [subscriber(relay), subscriber(relay, ["u1"]), subscriber(relay, ["never"])]
    for n in range(10):
        own_data.change(f"u{n}")
        workers[0].hears(f"u{n}")
    last = workers[0].passes(own_data)
    for worker in workers:
        worker.wait_until(lambda: last in worker.checkpoints(), "the last checkpoint")
        assert worker.of(Checkpoint)[1:] == workers[0].of(Checkpoint)[1:][-len(worker.of(Checkpoint)[1:]):]
        tokens = worker.checkpoints()
        lsns = [tuple(int(x, 16) for x in token.split(";")[2].split("/")) for token in tokens]
        assert lsns == sorted(lsns), "they only go forward"


def test_a_long_transaction_stays_visible_in_the_snapshot_until_it_ends(start_relay, own_db, own_data):
    relay = start_relay(own_db, **FAST)
    worker = subscriber(relay)
    transaction = own_data.begin("late")
    xid = own_db.sql("SELECT backend_xid::text::bigint FROM pg_stat_activity WHERE backend_xid IS NOT NULL", user="postgres")[0][0]
    token = worker.passes(own_data)
    assert not sees(token, xid)
    transaction.commit()
    worker.hears("late")
    assert sees(worker.passes(own_data), xid)


def test_a_long_snapshot_is_shortened_and_nothing_is_lost(start_relay, own_db, own_data):
    """Three hundred transactions in progress make a snapshot of more than 1 KiB."""
    own_db.sql("ALTER SYSTEM SET max_prepared_transactions = 400", user="postgres")
    own_db.server.restart()
    relay = start_relay(own_db, **FAST)
    worker = subscriber(relay)
    connection = own_db.server.connect(own_db.name, "app")
    cursor = connection.cursor()
    for n in range(300):
        cursor.execute(f"BEGIN; INSERT INTO user_revisions VALUES ('held{n}', 1); PREPARE TRANSACTION 'held{n}'")
    own_data.change("mark")
    whole, = own_db.sql("SELECT pg_current_snapshot()::text")[0]
    assert len(whole) > 1024
    mark, = own_db.sql("SELECT changed_xid::text::bigint FROM user_revisions WHERE user_id = 'mark'")[0]
    worker.hears("mark")
    worker.wait_until(lambda: len(worker.of(Checkpoint)) > 4, "checkpoints")
    token = worker.checkpoints()[-1]
    assert len(token) < 1024 + 64 and not sees(token, mark), "of the past, but it loses nothing"
    own_db.terminate("pgherald upstream")
    worker.sees("down")
    for n in range(300):
        cursor.execute(f"COMMIT PREPARED 'held{n}'")
    connection.close()
    worker.hears_all(f"held{n}" for n in range(300))
    assert not worker.gaps
    assert sees(worker.passes(own_data), mark)


def test_an_idle_fleet_consumes_no_transaction_id(start_relay, own_db, own_data):
    """Nothing happens for as many probes as five minutes have at the default interval. The
    WAL does not grow either."""
    relays = [start_relay(own_db, PGHERALD_CHECKPOINT_INTERVAL="0.1") for _ in range(3)]
    worker = subscriber(relays[0])
    own_data.change("alice")
    worker.hears("alice")

    def probes():
        return sum(int(relay.ops("status").split("probes ")[1].split(",")[0].split()[0]) for relay in relays)

    def state():
        return own_db.sql("SELECT pg_current_snapshot()::text")

    def at_rest():
        now, count = state(), probes()
        wait_until(lambda: probes() > count + 12, "probes")
        return state() == now
    wait_until(at_rest, "an idle server")
    worker.ping()
    before, count, frames = state(), probes(), len(worker.frames)
    wait_until(lambda: probes() >= count + 60, "the probes of five minutes", 60)
    assert state() == before
    worker.ping()
    assert [f for f in worker.frames[frames:] if isinstance(f, Checkpoint)] == []
    # and they all still hear
    own_data.change("bob")
    worker.hears("bob")


def canaries_while(listener, worker, data, seconds):
    """How many canaries there were during a steady trickle of changes."""
    before = len(listener._poll())
    end = time.monotonic() + seconds
    n = 0
    while time.monotonic() < end:
        n += 1
        data.change(f"{seconds}-{n}")
        worker.pump(0.05)
    return len(listener._poll()) - before


def test_twenty_relays_cost_what_one_costs(start_relay, own_db, own_bouncer, own_data, cleanup):
    """Canaries on the server in a number of intervals: of one relay, and of twenty. The test
    prints the figures."""
    interval, intervals = 0.4, 8
    listener = cleanup.add(own_db.listen("pgherald_canary"))
    relays = [start_relay(own_db, own_bouncer, PGHERALD_CHECKPOINT_INTERVAL=str(interval))]
    worker = subscriber(relays[0])
    worker.passes(own_data)
    alone = canaries_while(listener, worker, own_data, interval * intervals)
    relays += [start_relay(own_db, own_bouncer, PGHERALD_CHECKPOINT_INTERVAL=str(interval)) for _ in range(19)]
    last = subscriber(relays[-1])
    worker.passes(own_data)
    together = canaries_while(listener, worker, own_data, interval * intervals)
    print(f"canaries in {intervals} intervals: {alone} by one relay; {together} by twenty, which without sharing would be"
          f" {alone * 20}")
    assert alone >= intervals - 3
    assert together <= 2 * alone, f"{together} by twenty relays, {alone} by one"
    # and each of the twenty passes checkpoints on
    last.passes(own_data)


# A dead upstream

def is_noticed_and_healed(worker, data, name, since):
    """The connection has been dead since then. The relay notices it, replaces it, and
    recovers what was missed."""
    data.write(name)
    data.notify(name)
    worker.wait_until(lambda: [f for f in worker.frames if getattr(f, "state", "") == "down"], "it is noticed",
                      NOTICED + 1)
    assert time.monotonic() - since < NOTICED
    worker.wait_until(lambda: name in worker.pubkeys, "the change", 30)
    worker.sees("live")
    assert not worker.gaps


def test_a_frozen_backend(start_relay, own_db, own_bouncer, own_data):
    relay = start_relay(own_db, own_bouncer)
    worker = subscriber(relay)
    pid, = own_db.backends("pgherald upstream")
    os.kill(pid, signal.SIGSTOP)
    try:
        is_noticed_and_healed(worker, own_data, "missed", time.monotonic())
        assert own_db.backends("pgherald upstream") != [pid]
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: pid not in own_db.backends("pgherald upstream"), "the end of the old backend")


def test_a_frozen_backend_of_an_idle_server(start_relay, own_db, own_bouncer, own_data):
    """Nothing is written, so only the probe can detect it."""
    relay = start_relay(own_db, own_bouncer)
    worker = subscriber(relay)
    pid, = own_db.backends("pgherald upstream")
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    try:
        worker.wait_until(lambda: [f for f in worker.frames if getattr(f, "state", "") == "down"], "it is noticed", NOTICED + 1)
        assert time.monotonic() - start < NOTICED
        worker.sees("live")
    finally:
        os.kill(pid, signal.SIGCONT)


class Blackhole:
    """A way to PostgreSQL on which packets vanish. The relay gets a network namespace. The
    other end of the link to the server gets a hardware address that no host has."""

    def __init__(self, run):
        self.run = run
        self.name = "pgherald-%d" % os.getpid()
        self.link = "pgh%d" % (os.getpid() % 100000)
        net = os.getpid() % 250
        self.address = f"10.213.{net}.1"
        ip = self._ip
        try:
            ip("netns", "add", self.name)
            ip("link", "add", self.link, "type", "veth", "peer", "name", "up0", "netns", self.name)
            ip("addr", "add", self.address + "/24", "dev", self.link)
            ip("link", "set", self.link, "up")
            ip("-n", self.name, "addr", "add", f"10.213.{net}.2/24", "dev", "up0")
            ip("-n", self.name, "link", "set", "up0", "up")
            ip("-n", self.name, "link", "set", "lo", "up")
        except (OSError, AssertionError) as e:
            self.close()
            pytest.skip(f"network namespaces are not permitted: {e}")

    def _ip(self, *arguments):
        self.run.call(["ip", *arguments])

    def vanish(self):
        self._ip("-n", self.name, "neigh", "replace", self.address, "lladdr", "02:00:00:00:00:fe", "dev", "up0", "nud",
                 "permanent")

    def heal(self):
        self._ip("-n", self.name, "neigh", "del", self.address, "dev", "up0")

    def close(self):
        for arguments in (("link", "del", self.link), ("netns", "del", self.name)):
            subprocess.run(["ip", *arguments], capture_output=True)


def test_packets_vanish(run, own_pg, own_db, own_data, make_relay, cleanup):
    way = cleanup.add(Blackhole(run))
    with open(os.path.join(own_pg.data, "pg_hba.conf"), "a") as file:
        file.write("host all all 10.213.0.0/16 trust\n")
    own_db.sql("ALTER SYSTEM SET listen_addresses = '*'", user="postgres")
    own_pg.restart()
    url = own_db.direct_url.replace("127.0.0.1", way.address)
    relay = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url)
    relay.launcher = ["ip", "netns", "exec", way.name]
    relay.start()
    worker = subscriber(relay)
    own_data.change("before")
    worker.hears("before")
    way.vanish()
    start = time.monotonic()
    own_data.change("missed")
    worker.wait_until(lambda: [f for f in worker.frames if getattr(f, "state", "") == "down"], "it is noticed", NOTICED + 1)
    assert time.monotonic() - start < NOTICED
    worker.ping()
    way.heal()
    worker.wait_until(lambda: "missed" in worker.pubkeys, "the change", 60)
    worker.sees("live")
    assert not worker.gaps


def test_a_pooler_takes_the_direct_urls_place(run, own_pg, own_db, own_data, own_bouncer, make_relay, cleanup):
    """The direct URL now leads to pgbouncer. LISTEN through it succeeds and hears nothing:
    the relay must not call that live."""
    front = cleanup.add(Forward(own_pg.port))
    relay = make_relay(DATABASE_URL=own_bouncer.url(own_db),
                       DATABASE_DIRECT_URL=f"postgresql://app:{PASSWORD}@127.0.0.1:{front.port}/{own_db.name}").start()
    worker = subscriber(relay)
    own_data.change("before")
    worker.hears("before")
    front.lead_to(own_bouncer.port)
    worker.sees("down")
    own_data.change("missed")
    wait_until(lambda: [line for line in relay.lines("WARNING") if "pooler" in line], "a WARNING that names the pooler", 30)
    seen = [f.state for f in worker.frames if hasattr(f, "state")]
    assert seen == ["down"], "it never passed for live"
    assert len(relay.lines()) < 30, "and is not tried in a busy loop"
    front.lead_to(own_pg.port)
    worker.wait_until(lambda: "missed" in worker.pubkeys, "the change", 60)
    worker.sees("live")
    assert not worker.gaps


class Forward:
    """A socat on a port, whose target can be changed."""

    def __init__(self, target):
        self.port = free_port()
        self.process = None
        self.lead_to(target)

    def lead_to(self, target):
        self.close()
        self.process = subprocess.Popen(
            ["socat", f"TCP-LISTEN:{self.port},bind=127.0.0.1,fork,reuseaddr", f"TCP:127.0.0.1:{target}"],
            stderr=subprocess.DEVNULL, start_new_session=True)

    def close(self):
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
