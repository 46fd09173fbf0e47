"""Fixtures. A test names the hosts, servers and workers that it needs; they end with the
test."""

import os
import subprocess

import pytest

from harness.datasync import DataSync
from liar import Liar
from machine import INSTALLED
from harness.procs import Run, close_all, wait_until
from harness.relay import CAT, DAEMON, Cat, Relay
from harness.servers import PASSWORD, Bouncer, Postgres, make_template, pg_bin
from harness.syncd import SYNCD, Syncd


def pytest_report_header():
    try:
        return subprocess.run([pg_bin("postgres"), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    except FileNotFoundError as e:
        raise pytest.UsageError(str(e)) from None


class Cleanup:
    """Closes everything that a test made, last first, and then fails with the first failure."""

    def __init__(self):
        self._things = []

    def add(self, thing):
        self._things.append(thing)
        return thing

    def close(self):
        def show(thing):
            if hasattr(thing, "log"):  # shown when the test fails
                print(f"--- log of {thing.directory}", *thing.log().splitlines()[-50:], sep="\n")
        close_all(self._things, show)


@pytest.fixture(scope="session")
def run():
    if not os.path.exists(DAEMON):
        pytest.exit(f"build the daemon first, or set PGHERALD_BUILD: there is no {DAEMON}", 2)
    run = Run()
    yield run
    left = {}

    def all_ended():
        left.clear()
        left.update(run.leftovers())
        return not left
    try:
        wait_until(all_ended, "the end of all processes", 5)
    except AssertionError:
        raise AssertionError(f"the tests leave processes behind: {left}") from None
    finally:
        run.close()


@pytest.fixture
def without_sanitizers(monkeypatch):
    """The daemon as it is installed. The cost of a sanitizer would hide what the test
    measures, or exceed what it allows."""
    monkeypatch.setattr("harness.relay.DAEMON", os.path.join(INSTALLED, "relay", "pgherald"))


@pytest.fixture
def cleanup():
    cleanup = Cleanup()
    yield cleanup
    cleanup.close()


@pytest.fixture(scope="session")
def template(run):
    return make_template(run)


@pytest.fixture(scope="session")
def pg(run, template):
    """A server that no test stops or breaks. Each test takes a database of its own in it."""
    pg = Postgres(run, template).start()
    yield pg
    pg.close()


@pytest.fixture(scope="session")
def bouncer(run, pg):
    """pgbouncer in transaction mode in front of `pg`."""
    bouncer = Bouncer(run, pg).start()
    yield bouncer
    bouncer.close()


@pytest.fixture
def db(pg, cleanup):
    return cleanup.add(pg.database())


@pytest.fixture
def own_pg(run, template, cleanup):
    """A server that the test may stop, freeze or break."""
    return cleanup.add(Postgres(run, template)).start()


@pytest.fixture
def dump(run):
    """dump(server, name, *options): a database as SQL."""
    def dump(server, name, *options):
        newest = run.call(["pg_dump", "--version"]).split()[2]
        if server.version() >= (int(newest.split(".")[0]) + 1) * 10000:
            pytest.skip(f"pg_dump {newest} reads no server of version {server.version() // 10000}")
        return run.call(["pg_dump", "-h", server.directory, "-p", str(server.port), "-U", "postgres", *options, name])
    return dump


@pytest.fixture
def own_bouncer(run, own_pg, cleanup):
    return cleanup.add(Bouncer(run, own_pg)).start()


@pytest.fixture
def own_db(own_pg):
    return own_pg.database()


@pytest.fixture
def make_relay(run, cleanup):
    """Relays that are not started yet, configured by environment variables."""
    return lambda flags=(), **environment: cleanup.add(Relay(run, flags=flags, **environment))


@pytest.fixture
def start_relay(make_relay):
    """start_relay(database, bouncer) starts a relay that publishes through the pool. Without
    a bouncer it publishes directly."""
    def start(database, bouncer=None, **environment):
        url = bouncer.url(database) if bouncer else database.direct_url
        return make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=database.direct_url, **environment).start()
    return start


@pytest.fixture
def relay(start_relay, db, bouncer):
    """A host whose relay publishes through pgbouncer."""
    return start_relay(db, bouncer)


@pytest.fixture
def relays(start_relay, db, bouncer):
    """Two hosts on one database."""
    return start_relay(db, bouncer), start_relay(db, bouncer)


@pytest.fixture
def local_relay(make_relay):
    """A relay without a database."""
    return make_relay().start()


@pytest.fixture
def listen(cleanup):
    """A plain LISTEN connection, like that of a Go instance."""
    return lambda database, *channels: cleanup.add(database.listen(*channels))


@pytest.fixture
def cat(run, cleanup):
    if not os.path.exists(CAT):
        pytest.skip(f"there is no {CAT}")
    return lambda *arguments: cleanup.add(Cat(run, *arguments))


@pytest.fixture
def make_syncd(run, cleanup):
    """syncds that are not started yet: make_syncd(relay, *flags, **environment)."""
    if not os.path.exists(SYNCD):
        pytest.skip(f"there is no {SYNCD}")
    return lambda relay=None, *flags, **environment: cleanup.add(Syncd(run, relay, *flags, **environment))


@pytest.fixture
def liar(own_pg, cleanup):
    """A way to the server that can change its answers."""
    return cleanup.add(Liar(own_pg.port))


@pytest.fixture
def deceived(make_relay, own_db, liar):
    """A relay, not started yet, whose connections go through the liar."""
    url = f"postgresql://app:{PASSWORD}@127.0.0.1:{liar.port}/{own_db.name}?sslmode=disable&gssencmode=disable"
    return lambda **environment: make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **environment)


@pytest.fixture
def recoverable(run, own_db):
    """The data-sync tables with their migration, in a server of the test's own."""
    return DataSync(run, own_db).recoverable()
