"""TLS on the way to PostgreSQL: by PostgreSQL itself, and by a proxy whose records are larger
than libpq's buffer has room for.

The tests that are imported run over both ways: in this file, the fixtures pg, bouncer and db
stand in for those of conftest.py."""

from random import Random

import pytest

from harness import tls
from harness.servers import Postgres
from harness.worker import CHANNEL, NOTIFY, Gap, Ok
from test_catch_up import start, test_more_than_the_memory_holds_comes_at_the_pace_of_who_reads
from test_delivery import (test_a_change_reaches_every_worker_of_every_host_and_its_publisher,
                           test_every_worker_hears_the_same_order_which_is_that_of_the_commits)
from test_overrun import (data, test_it_happens_again_and_again, test_it_overruns_while_it_is_caught_up,
                          test_what_comes_at_once_pushes_nobody_out)
from test_recovery import test_the_rate_is_kept, test_what_was_committed_while_away_is_recovered

SECRET = "Correct4Horse"
# Nothing but the notifications themselves wakes the relay.
SELDOM = {"PGHERALD_CHECKPOINT_INTERVAL": "3600", "PGHERALD_CHANNELS": f"{CHANNEL},events:text"}
# By user, how it proves who it is. The proxy connects without TLS.
RULES = """
hostssl all app 127.0.0.1/32 cert
hostssl all scram 127.0.0.1/32 scram-sha-256
hostnossl all app 127.0.0.1/32 trust
"""


@pytest.fixture(scope="module")
def authority(run):
    return tls.Authority(run)


@pytest.fixture(scope="module")
def stranger(run):
    """An authority that the server and the relays do not trust."""
    return tls.Authority(run, "stranger")


@pytest.fixture(scope="module")
def identity(authority):
    """What the role app shows of itself, as options of a URL."""
    certificate, key = authority.sign("app")
    return {"sslcert": certificate, "sslkey": key}


@pytest.fixture(scope="module")
def pg(run, template, authority):
    server = Postgres(run, template).start()
    tls.serve(server, authority, RULES)
    server.sql(f"CREATE ROLE scram LOGIN PASSWORD '{SECRET}'")
    yield server
    server.close()


@pytest.fixture
def bouncer():
    """Publish directly, over TLS."""


@pytest.fixture(scope="module")
def stunnel(run, pg, authority):
    stunnel = tls.Stunnel(run, pg, authority).start()
    yield stunnel
    stunnel.close()


@pytest.fixture
def plain_db(pg, cleanup):
    return cleanup.add(pg.database())


@pytest.fixture
def tls_url(pg, plain_db, authority, identity):
    """The URL that is right, with some of its options changed."""
    def make(**options):
        return tls.url(pg.port, plain_db, **{"sslrootcert": authority.root, **identity, **options})
    return make


@pytest.fixture
def proxied_db(plain_db, stunnel, authority):
    plain_db.direct_url = tls.url(stunnel.port, plain_db, sslrootcert=authority.root)
    return plain_db


@pytest.fixture(params=["direct", "proxied"])
def db(request, plain_db, tls_url):
    if request.param == "proxied":
        return request.getfixturevalue("proxied_db")
    plain_db.direct_url = tls_url()
    return plain_db


# Bursts

def test_a_burst_is_heard_to_its_end(start_relay, proxied_db):
    """No packet follows it that could wake the relay for what is left. Whether something is
    left depends on where records and messages end: of these bursts, for one in ten."""
    relay = start_relay(proxied_db, **SELDOM)
    worker = relay.worker("events")
    random = Random(5)
    notified = 0
    for burst in range(150):
        sizes = [random.randint(100, 7800) for _ in range(random.randint(1, 12))]
        if burst % 2:
            sizes = sizes[:1] * len(sizes)
        proxied_db.sql("SELECT count(pg_notify('events', rpad(%s || i, size, 'x')))"
                       " FROM unnest(%s) WITH ORDINALITY AS u (size, i)", (f"burst {burst}: ", sizes))
        notified += len(sizes)
        worker.wait_until(lambda: len(worker.payloads) == notified, f"burst {burst} of {sizes}")
        assert [len(p) for p in worker.payloads[-len(sizes):]] == sizes


def test_a_burst_that_takes_many_iterations_is_heard_to_its_end(start_relay, proxied_db):
    relay = start_relay(proxied_db, PGHERALD_BACKLOG_SIZE="64K", **SELDOM)
    worker, other = relay.worker("events"), relay.worker()
    for burst in range(20):
        proxied_db.sql("SELECT count(pg_notify('events', rpad(%s || i, 100 + 37 * i %% 300, 'x')))"
                       " FROM generate_series(1, 400) AS i", (f"burst {burst}: ",))
        proxied_db.notify(CHANNEL, '{"p":"end %d"}' % burst)
        other.hears(f"end {burst}")
        worker.pump()


def test_many_publishes_are_answered_at_once(start_relay, proxied_db):
    """Batches of some hundred KiB, and the answers to them."""
    relay = start_relay(proxied_db, **SELDOM)
    worker = relay.worker()
    for burst in range(3):
        asked = [worker.ask(NOTIFY, CHANNEL, f"{burst} {n} " + "x" * 3000, None) for n in range(300)]
        for request in asked:
            assert isinstance(worker.answer(request), Ok)
    worker.wait_until(lambda: len(worker.changes) == 900, "all changes")


def test_a_recovery_ends_with_its_last_row(start_relay, db, data):
    """Rows so large that what is left of a record often holds the last of them."""
    relay = start_relay(db, PGHERALD_RECONCILE="no", PGHERALD_RECOVERY_TIMEOUT="60", **SELDOM)
    worker = relay.worker()
    random = Random(5)
    for outage in range(40):
        sizes = [random.randint(100, 7800) for _ in range(random.randint(1, 40))]
        db.sql("INSERT INTO user_revisions SELECT rpad(%s || i || ' ', size, 'x'), 1"
                       " FROM unnest(%s) WITH ORDINALITY AS u (size, i)", (f"{outage}: ", sizes))
        seen = len(worker.frames)
        db.terminate("pgherald upstream")
        worker.sees("down", seen)
        relay.ops("reconnect")
        worker.sees("live", seen)
        assert len([c for c in worker.changes if c.pubkey.startswith(f"{outage}: ")]) == len(sizes)
    assert not worker.of(Gap)


# Who is who

def test_certificates_on_both_sides(make_relay, tls_url, plain_db):
    relay = make_relay(DATABASE_DIRECT_URL=tls_url()).start()
    worker = relay.worker()
    worker.publish("alice")
    worker.hears("alice")
    used = plain_db.sql("SELECT ssl, client_dn FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                        " WHERE application_name IN ('pgherald upstream', 'pgherald publisher')", user="postgres")
    assert used == [(True, "/CN=app")] * 2


def test_scram_with_channel_binding(make_relay, tls_url):
    url = tls_url(sslcert=None, sslkey=None, channel_binding="require", password=SECRET, user="scram")
    relay = make_relay(DATABASE_DIRECT_URL=url)
    relay.secrets.append(SECRET)
    relay.start().worker().publish("alice")


# What is changed of the right URL, and a word of the line that refuses it
WRONG = {
    "another name in the certificate": ({"host": "elsewhere.example"}, "elsewhere.example"),
    "no certificate to trust": ({"sslrootcert": "/nonexistent/root.crt"}, "/nonexistent/root.crt"),
    "no client certificate": ({"sslcert": None, "sslkey": None}, "certificate"),
    "no key": ({"sslkey": "/nonexistent/app.key"}, "/nonexistent/app.key"),
    "another user": ({"user": "postgres"}, "pg_hba.conf"),
    "no TLS": ({"sslmode": "disable", "sslcert": None, "sslkey": None, "channel_binding": "require"}, "channel binding"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_refused_in_one_line_that_says_why(make_relay, tls_url, wrong):
    options, word = WRONG[wrong]
    line = make_relay(DATABASE_DIRECT_URL=tls_url(**options)).launch().fails()
    assert "DATABASE_DIRECT_URL" in line and word in line, line


def test_a_server_that_a_stranger_certified_is_refused(make_relay, tls_url, stranger):
    line = make_relay(DATABASE_DIRECT_URL=tls_url(sslrootcert=stranger.root)).launch().fails()
    assert "certificate verify failed" in line


def test_a_client_certificate_of_a_stranger_is_refused(make_relay, tls_url, stranger):
    certificate, key = stranger.sign("app")
    line = make_relay(DATABASE_DIRECT_URL=tls_url(sslcert=certificate, sslkey=key)).launch().fails()
    assert "unknown ca" in line


def test_a_server_without_tls_is_refused(make_relay, own_pg, own_db, authority):
    url = tls.url(own_pg.port, own_db, sslrootcert=authority.root)
    assert "does not support SSL" in make_relay(DATABASE_DIRECT_URL=url).launch().fails()
