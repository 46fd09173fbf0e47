"""Every worker of every host hears every change, the publisher included, in commit order."""

import threading

import pytest

from harness.servers import PASSWORD
from harness.worker import CHANNEL, Change, Gap, Ok


@pytest.mark.versions
def test_a_change_reaches_every_worker_of_every_host_and_its_publisher(relays):
    a, b = relays
    workers = [a.worker(), a.worker(), b.worker(), b.worker()]

    workers[0].publish("alice", "phone")
    for worker in workers:
        change = worker.hears("alice")
        assert (change.channel, change.client_id, change.flags) == (CHANNEL, "phone", 0)

    # and back, and once each
    workers[3].publish("bob", "laptop")
    for worker in workers:
        worker.hears("bob")
        assert worker.pubkeys == ["alice", "bob"]
        assert not worker.of(Gap)


def test_a_worker_that_only_publishes_is_sent_nothing(relay):
    listener, publisher = relay.worker(), relay.connect()
    publisher.publish("alice")
    listener.hears("alice")
    publisher.ping()
    assert publisher.changes == []


@pytest.mark.versions
def test_a_plain_notify_is_heard_by_all(relays, db):
    workers = [relay.worker() for relay in relays for _ in range(2)]
    db.notify(CHANNEL, '{"p":"alice","c":"web"}')
    for worker in workers:
        assert worker.hears("alice").client_id == "web"


def test_a_nil_client_id_stays_nil(relays):
    a, b = relays
    workers = [a.worker(), b.worker()]
    workers[0].publish("alice", None)
    workers[0].publish("bob", "")
    for worker in workers:
        assert worker.hears("alice").client_id is None
        assert worker.hears("bob").client_id == "", "an empty client id is not nil"


def test_direct_url_alone_listens_and_publishes(make_relay, db, listen):
    relay = make_relay(DATABASE_DIRECT_URL=db.direct_url).start()
    plain = listen(db, CHANNEL)
    worker = relay.worker()
    assert worker.welcome.info["mode"] == "postgres"
    worker.publish("alice")
    worker.hears("alice")
    assert plain.wait(1) == [(CHANNEL, '{"p":"alice"}')]


def test_both_urls_direct(start_relay, db):
    worker = start_relay(db).worker()
    worker.publish("alice", "phone")
    worker.hears("alice", "phone")


def test_settings_as_flags(make_relay, db, bouncer, run):
    directory = run.subdirectory("flags")
    relay = make_relay(flags=[
        "--database-url", bouncer.url(db), "--database-direct-url=" + db.direct_url,
        "--socket", directory + "/s", "--ops-socket", directory + "/o", "--channels", "one,two:text",
        "--checkpoint-interval", "0.5"])
    relay.path, relay.ops_path = directory + "/s", directory + "/o"  # flags go before the environment
    worker = relay.start().worker("one", "two")
    with open(f"/proc/{relay.process.pid}/cmdline") as cmdline:
        assert PASSWORD not in cmdline.read(), "everyone may see the process list"
    assert sorted(worker.welcome.info["channels"]) == ["one", "two:text"]
    worker.publish("alice", channel="one")
    worker.hears("alice")


def test_welcome_says_what_the_relay_is(relay):
    welcome = relay.worker().welcome
    assert welcome.info["mode"] == "postgres"
    assert welcome.info["upstream"] == "live"
    assert list(welcome.info["channels"]) == [CHANNEL]
    assert welcome.epoch and welcome.info["version"]


def test_each_run_of_a_relay_has_its_own_epoch(relay):
    first = relay.connect().welcome.epoch
    relay.stop()
    relay.start()
    assert relay.connect().welcome.epoch != first


@pytest.mark.parametrize("publishers", ["plain", "workers", "both"])
def test_every_worker_hears_the_same_order_which_is_that_of_the_commits(relays, db, listen, publishers):
    a, b = relays
    plain = listen(db, CHANNEL)
    workers = [a.worker(), a.worker(), b.worker(), b.worker()]
    total = 0

    def commit_from_many_clients(number):
        connection = db.server.connect(db.name, "app")
        cursor = connection.cursor()
        for i in range(60):
            # now and then several in a transaction
            cursor.execute("BEGIN")
            for j in range(1 + i % 3):
                cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, '{"p":"plain-%d-%d-%d"}' % (number, i, j)))
            cursor.execute("COMMIT")
        connection.close()

    threads = []
    if publishers != "workers":
        threads = [threading.Thread(target=commit_from_many_clients, args=(n,)) for n in range(4)]
        total += 4 * 120
    for thread in threads:
        thread.start()
    if publishers != "plain":
        asked = []
        for i in range(100):
            for n, worker in enumerate(workers):
                asked.append((worker, worker.ask(3, CHANNEL, f"worker-{n}-{i}", None)))
        total += len(asked)
        for worker, id in asked:
            assert isinstance(worker.answer(id), Ok)
    for thread in threads:
        thread.join()

    committed = [p.split('"')[3] for _, p in plain.wait(total)]
    for worker in workers:
        worker.wait_until(lambda: len(worker.changes) >= total, f"{total} changes")
        assert worker.pubkeys == committed
    # on one host the seqs are the same too
    assert workers[0].changes == workers[1].changes
    assert workers[2].changes == workers[3].changes


def test_ok_to_a_subscribe_is_the_moment_from_which_nothing_is_missed(relay, db):
    """While changes come all the time, each new worker hears every one from its first on."""
    stop = threading.Event()
    published = []

    def pour():
        connection = db.server.connect(db.name, "app")
        cursor = connection.cursor()
        while not stop.is_set():
            published.append(f"u{len(published)}")
            cursor.execute("SELECT pg_notify(%s, %s)", (CHANNEL, '{"p":"%s"}' % published[-1]))
        connection.close()

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        workers = []
        for _ in range(20):
            worker = relay.worker()
            worker.wait_until(lambda: worker.changes, "the first change")
            workers.append(worker)
    finally:
        stop.set()
        thread.join()
    for worker in workers:
        worker.hears(published[-1])
        first = published.index(worker.pubkeys[0])
        assert worker.pubkeys == published[first:]
    # nothing between the OK and the first change: the others heard everything, and show no seq there
    seqs = {c.pubkey: c.seq for c in workers[0].changes}
    for worker in workers[1:]:
        missed = [p for p, seq in seqs.items() if worker.of(Ok)[0].seq < seq < worker.changes[0].seq]
        assert missed == []


def test_no_recovery_on_first_connect(start_relay, db, bouncer):
    """Changes from before a relay's first LISTEN are told to no worker, because none missed
    them."""
    db.sql("""
        CREATE SCHEMA pgherald;
        CREATE SEQUENCE pgherald.calls;
        CREATE FUNCTION pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)
        LANGUAGE plpgsql AS $$ BEGIN
            PERFORM nextval('pgherald.calls');
            RETURN QUERY SELECT 'data_sync_changes', 'long-ago';
        END $$""")
    relay = start_relay(db, bouncer, PGHERALD_RECONCILE="no")
    worker = relay.worker()
    worker.publish("alice")
    worker.hears("alice")
    worker.ping()
    assert worker.pubkeys == ["alice"]
    assert not worker.of(Gap)
    assert db.sql("SELECT last_value FROM pgherald.calls") == [(1,)], "the start only tries it, once"


def test_other_databases_and_channels_are_not_heard(relay, db, pg, cleanup):
    worker = relay.worker()
    cleanup.add(pg.database()).notify(CHANNEL, '{"p":"elsewhere"}')
    db.notify("another_channel", '{"p":"elsewhere"}')
    db.notify(CHANNEL, '{"p":"here"}')
    worker.hears("here")
    assert worker.pubkeys == ["here"]


def test_channels_with_odd_names(start_relay, db, bouncer, listen):
    """A channel's name is any identifier: capitals, quotes, 63 bytes."""
    names = ["Mixed-Case", 'quo"ted', "sp ace", "x" * 63]
    relay = start_relay(db, bouncer, PGHERALD_CHANNELS=",".join(names))
    plain = listen(db, *names)
    worker = relay.worker(*names)
    for i, name in enumerate(names):
        worker.publish(f"u{i}", channel=name)
        change = worker.hears(f"u{i}")
        assert change.channel == name
    assert [c for c, _ in plain.wait(len(names))] == names
    assert all(isinstance(c, Change) for c in worker.changes)
