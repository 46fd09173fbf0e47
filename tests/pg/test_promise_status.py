"""An operator sees who leads, and that reconciliation fails and why, in `status` and in the
metrics. When it is mended, they no longer say so."""

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from promise import passes_nothing_unheard, reconciliation, role_that_may_read, silent
from harness.subscriber import subscriber

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}


@pytest.fixture
def data(run, own_db):
    return DataSync(run, own_db).recoverable()


def metric(relay, name):
    line, = (line for line in relay.ops("metrics").splitlines() if line.startswith(name + " "))
    return float(line.split()[1])


def breaks_the_function(data):
    data.database.sql("ALTER FUNCTION pgherald.changes_since(pg_snapshot) RENAME TO really_since")
    data.function("BEGIN RAISE 'not now'; END")
    return "not now"


def mends_the_function(data):
    data.function("BEGIN RETURN QUERY SELECT * FROM pgherald.really_since(since); END")


def takes_the_right(data):
    # the owner has it by being the owner
    data.database.sql("REVOKE SELECT ON user_revisions FROM app")
    return "permission denied for table"


def gives_the_right(data):
    data.database.sql("GRANT SELECT ON user_revisions TO app")


def takes_the_connections(data):
    data.database.server.sql("ALTER ROLE app CONNECTION LIMIT 0")
    data.database.terminate("pgherald recovery")
    return "cannot be asked"


def gives_the_connections(data):
    data.database.server.sql("ALTER ROLE app CONNECTION LIMIT -1")


def hangs(data):
    data.database.sql("ALTER FUNCTION pgherald.changes_since(pg_snapshot) RENAME TO really_since")
    data.function("BEGIN PERFORM pg_sleep(1000); END")
    return "takes too long"


WAYS = {"function": (breaks_the_function, mends_the_function), "right": (takes_the_right, gives_the_right),
        "connections": (takes_the_connections, gives_the_connections), "hangs": (hangs, mends_the_function)}


@pytest.mark.parametrize("way", WAYS)
def test_it_shows_while_it_fails_and_no_longer(start_relay, data, own_db, way):
    breaks, mends = WAYS[way]
    relay = start_relay(own_db, PGHERALD_RECOVERY_TIMEOUT="60", **FAST)
    worker = subscriber(relay)
    silent(data, ["first"])
    worker.hears("first")
    worker.passes(data)
    state = reconciliation(relay)
    assert state["on"] is True and state["fails_for_seconds"] is None and state["why"] == "none", state
    assert metric(relay, "pgherald_reconcile_failing_seconds") == 0
    why = breaks(data)
    writer = own_db.server.connect(own_db.name, "postgres")
    writer.cursor().execute("INSERT INTO user_revisions VALUES ('silent', 1)")
    writer.close()
    wait_until(lambda: reconciliation(relay)["fails_for_seconds"], "status says that it fails", 20)
    state = reconciliation(relay)
    assert state["on"] is True and why in state["why"], state
    assert "fails for" in relay.ops("status") and why in relay.ops("status")
    assert metric(relay, "pgherald_reconcile_failing_seconds") > 0
    assert [line for line in relay.lines("WARNING") if why in line or "tried again" in line]
    mends(data)
    if way == "hangs":
        own_db.terminate("pgherald recovery")
    worker.wait_until(lambda: "silent" in worker.pubkeys, "the announcement", 40)
    worker.passes(data)
    wait_until(lambda: reconciliation(relay)["fails_for_seconds"] is None, "status says that all is well")
    assert reconciliation(relay)["why"] == "none"
    assert metric(relay, "pgherald_reconcile_failing_seconds") == 0
    passes_nothing_unheard(worker, data)


def test_who_leads_is_one_of_many(start_relay, data, own_db):
    relays = [start_relay(own_db, **FAST) for _ in range(3)]
    workers = [subscriber(relay) for relay in relays]

    def leaders():
        return [n for n, relay in enumerate(relays) if reconciliation(relay)["leads"]]

    def one_leads():
        data.change("tick")
        for worker in workers:
            worker.pump()
        return len(leaders()) == 1
    for worker in workers:
        worker.passes(data)
    wait_until(one_leads, "one leader", 30)
    n, = leaders()
    assert [metric(relay, "pgherald_reconcile_leading") for relay in relays].count(1) <= 1
    relays[n].kill()
    del relays[n], workers[n]
    wait_until(one_leads, "another leader", 30)


def test_a_relay_that_another_answers_for_does_not_fail_for_ever(start_relay, make_relay, data, own_db):
    """Its own questions fail, but its workers lack nothing: no alert."""
    url = role_that_may_read(own_db)
    own_db.sql("REVOKE SELECT ON user_revisions FROM lesser")
    lesser = make_relay(DATABASE_URL=url, DATABASE_DIRECT_URL=url, **FAST).start()
    worker = subscriber(lesser)
    silent(data, ["first"])
    wait_until(lambda: reconciliation(lesser)["fails_for_seconds"], "alone it fails", 20)
    start_relay(own_db, **FAST)
    silent(data, ["second"])
    for user in ("first", "second"):
        worker.wait_until(lambda: user in worker.pubkeys, f"{user} is announced", 30)
    worker.passes(data)

    def well():
        data.change("tick")
        worker.pump()
        return reconciliation(lesser)["fails_for_seconds"] is None
    wait_until(well, "the other answers for it", 30)


@pytest.mark.parametrize("settings, function", [({"PGHERALD_RECONCILE": "no"}, True), ({}, False)], ids=["off", "no-function"])
def test_where_nobody_reconciles_it_is_off_and_does_not_fail(start_relay, run, own_db, settings, function):
    data = DataSync(run, own_db)
    if function:
        data.recoverable()
    relay = start_relay(own_db, **FAST, **settings)
    worker = subscriber(relay)
    for n in range(4):
        worker.passes(data, notify=f"u{n}")
    state = reconciliation(relay)
    assert state["on"] is False and state["leads"] is False and state["fails_for_seconds"] is None, state
    assert metric(relay, "pgherald_reconcile_failing_seconds") == metric(relay, "pgherald_reconcile_leading") == 0


def test_an_idle_database_is_no_failure(start_relay, data, own_db):
    """No turn is due, so none is missed."""
    relay = start_relay(own_db, **FAST)
    worker = subscriber(relay)
    data.change("last")
    worker.hears("last")
    worker.passes(data)

    def probes():
        return int(relay.ops("status").split("probes ")[1].split(",")[0].split()[0])
    before = probes()
    wait_until(lambda: probes() > before + 12, "probes of three intervals and more", 30)
    assert reconciliation(relay)["fails_for_seconds"] is None
