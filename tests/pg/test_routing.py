"""A worker is sent what it subscribed to, once, and nothing else."""

import select

from harness.worker import CHANNEL, Ok


def settle(publisher, *workers):
    """Wait until these workers have everything that was published before."""
    publisher.publish("settled")
    publisher.hears("settled")
    for worker in workers:
        worker.ping()


def test_a_worker_with_pubkeys_hears_those_alone(relay, db):
    everything, alice = relay.worker(), relay.worker(pubkeys=["alice"])
    both = relay.worker(pubkeys=["alice", "bob"])
    nobody = relay.worker(pubkeys=[])
    for pubkey in ("alice", "bob", "carol", "alice2", "Alice", "alice"):
        everything.publish(pubkey)
    settle(everything, alice, both, nobody)
    assert alice.pubkeys == ["alice", "alice"]
    assert both.pubkeys == ["alice", "bob", "alice"]
    assert nobody.pubkeys == []
    assert everything.pubkeys == ["alice", "bob", "carol", "alice2", "Alice", "alice", "settled"]


def test_a_worker_is_not_woken_for_what_it_did_not_ask_for(start_relay, db, bouncer):
    # no checkpoint within the test: those are for everyone
    relay = start_relay(db, bouncer, PGHERALD_CHECKPOINT_INTERVAL="3600")
    everything, alice = relay.worker(), relay.worker(pubkeys=["alice"])
    alice.ping()
    for i in range(200):
        everything.ask(3, CHANNEL, f"u{i}", None)
    everything.wait_until(lambda: len(everything.changes) == 200, "all 200")
    assert not select.select([alice.socket], [], [], 0)[0], "not a byte came"
    everything.publish("alice")
    alice.hears("alice")


def test_pubkeys_add_up(relay):
    publisher, worker = relay.worker(), relay.worker(pubkeys=["alice"])
    worker.subscribe(pubkeys=["bob"])
    worker.subscribe(pubkeys=["alice"])  # repeated: nothing new
    for pubkey in ("alice", "bob", "carol"):
        publisher.publish(pubkey)
    settle(publisher, worker)
    assert worker.pubkeys == ["alice", "bob"]


def test_unsubscribe(relay):
    publisher, worker = relay.worker(), relay.worker(pubkeys=["alice", "bob"])
    assert isinstance(worker.unsubscribe(pubkeys=["alice", "never-there"]), Ok)
    for pubkey in ("alice", "bob"):
        publisher.publish(pubkey)
    settle(publisher, worker)
    assert worker.pubkeys == ["bob"]
    assert isinstance(worker.unsubscribe(pubkeys=["alice"]), Ok), "what is not there is OK"
    # and back again
    worker.subscribe(pubkeys=["alice"])
    publisher.publish("alice")
    worker.hears("alice")


def test_unsubscribe_from_all_ends_only_that_one(relay):
    publisher, worker = relay.worker(), relay.worker(pubkeys=["alice"])
    assert isinstance(worker.unsubscribe(pubkeys=None), Ok), "what is not there is OK"
    worker.subscribe(pubkeys=None)
    publisher.publish("carol")
    worker.hears("carol")
    worker.unsubscribe(pubkeys=None)
    for pubkey in ("carol", "alice"):
        publisher.publish(pubkey)
    settle(publisher, worker)
    assert worker.pubkeys == ["carol", "alice"]


def test_unsubscribe_from_a_pubkey_leaves_the_one_for_all(relay):
    publisher, worker = relay.worker(), relay.worker(pubkeys=["alice"])
    worker.subscribe(pubkeys=None)
    worker.unsubscribe(pubkeys=["alice"])
    publisher.publish("alice")
    worker.hears("alice")


def test_a_change_that_matches_several_subscriptions_is_sent_once(relay):
    publisher, worker = relay.worker(), relay.worker()
    worker.subscribe(pubkeys=["alice", "alice"])
    worker.subscribe(pubkeys=["alice", "bob"])
    worker.subscribe(pubkeys=None)
    for pubkey in ("alice", "bob", "carol"):
        publisher.publish(pubkey)
    settle(publisher, worker)
    assert worker.pubkeys == ["alice", "bob", "carol", "settled"]


def test_subscriptions_of_different_channels_stand_apart(start_relay, db, bouncer):
    relay = start_relay(db, bouncer, PGHERALD_CHANNELS="one,two,news:text")
    publisher, worker = relay.worker("one", "two"), relay.connect()
    worker.subscribe("one", ["alice"])
    worker.subscribe("two")
    worker.subscribe("news")
    worker.unsubscribe("two")
    for channel in ("one", "two"):
        for pubkey in ("alice", "bob"):
            publisher.publish(pubkey, channel=channel)
    assert isinstance(worker.send("news", "hello"), Ok)
    worker.hears_message("hello")
    assert [(c.channel, c.pubkey) for c in worker.changes] == [("one", "alice")]


def test_many_pubkeys(relay):
    publisher, worker = relay.worker(), relay.connect()
    for start in range(0, 5000, 1000):
        assert isinstance(worker.subscribe(pubkeys=[f"user-{i:032}" for i in range(start, start + 1000)]), Ok)
    for i in (0, 999, 1000, 4999, 5000):
        publisher.publish(f"user-{i:032}")
    settle(publisher, worker)
    assert [int(p[5:]) for p in worker.pubkeys] == [0, 999, 1000, 4999]


def test_routing_is_the_same_across_hosts(relays):
    a, b = relays
    publisher, alice, bob = a.worker(), b.worker(pubkeys=["alice"]), b.worker(pubkeys=["bob"])
    for pubkey in ("alice", "bob", "alice", "end"):
        publisher.publish(pubkey)
    everything = b.worker()
    publisher.publish("settled")
    everything.hears("settled")
    alice.ping(), bob.ping()
    assert alice.pubkeys == ["alice", "alice"] and bob.pubkeys == ["bob"]


def test_routing_in_local_mode(local_relay):
    publisher, alice = local_relay.worker(), local_relay.worker(pubkeys=["alice"])
    for pubkey in ("alice", "bob"):
        publisher.publish(pubkey)
    settle(publisher, alice)
    assert alice.pubkeys == ["alice"]
