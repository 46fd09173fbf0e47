"""Where the guarantee ends: each limit that PROTOCOL.md names is exactly as it says."""

import pytest

from harness.datasync import DataSync
from promise import silent
from harness.subscriber import resumed, subscriber
from harness.worker import CHANNEL

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}


@pytest.fixture
def data(run, own_db):
    return DataSync(run, own_db).recoverable()


def back_after(relay, worker, meanwhile):
    """The worker leaves, the relay restarts, and the worker resumes: only the database can
    tell what it missed."""
    cursor = worker.cursor
    worker.close()
    relay.kill()
    meanwhile()
    relay.start()
    again = resumed(relay, cursor)
    assert not again.gaps
    return again


def test_a_deleted_row_is_not_found_and_a_tombstone_is(start_relay, own_db, data):
    relay = start_relay(own_db, **FAST)
    worker = subscriber(relay)
    for user in ("deleted", "tombstone"):
        data.change(user)
        worker.hears(user)
    worker.passes(data)
    worker.passes(data)
    worker.passes(data)

    def meanwhile():
        own_db.sql("DELETE FROM user_revisions WHERE user_id = 'deleted'")
        own_db.sql("UPDATE user_revisions SET revision = -1 WHERE user_id = 'tombstone'")
    again = back_after(relay, worker, meanwhile)
    assert "tombstone" in again.recovered and "deleted" not in again.recovered


def test_a_notification_without_a_row_is_heard_live_or_not_at_all(start_relay, own_db, data):
    relay = start_relay(own_db, **FAST)
    worker = subscriber(relay)
    data.notify("live")
    worker.hears("live")
    worker.passes(data)

    def meanwhile():
        data.notify("no-row")
        data.write("row")
    again = back_after(relay, worker, meanwhile)
    assert "row" in again.recovered and "no-row" not in again.pubkeys


def test_recovered_and_announced_changes_have_no_client_id(start_relay, own_db, data):
    relay = start_relay(own_db, **FAST)
    worker = subscriber(relay)
    worker.passes(data)
    silent(data, ["announced"])
    worker.hears("announced")

    def meanwhile():
        data.write("recovered")
        own_db.notify(CHANNEL, '{"p":"recovered","c":"originator"}')
    again = back_after(relay, worker, meanwhile)
    assert [c.client_id for c in worker.changes if c.pubkey == "announced"] == [None]
    assert {c.client_id for c in again.changes if c.pubkey == "recovered"} == {None}


OWN_FUNCTION = """
SELECT 'data_sync_changes', user_id::text FROM public.user_revisions WHERE NOT pg_visible_in_snapshot(changed_xid, since)
UNION ALL SELECT 'notes', user_id || ' changed' FROM public.user_revisions WHERE NOT pg_visible_in_snapshot(changed_xid, since)
"""


@pytest.mark.parametrize("function, texts", [(None, set()), (OWN_FUNCTION, {"recovered changed"})], ids=["of-the-tables", "own"])
def test_a_text_channel_is_recovered_as_far_as_the_function_returns_it(start_relay, own_db, data, function, texts):
    if function:
        data.function(function, "sql")
    relay = start_relay(own_db, PGHERALD_CHANNELS=f"{CHANNEL},notes:text", PGHERALD_RECONCILE="no", **FAST)
    worker = subscriber(relay, channel="notes")
    cursor = worker.cursor
    worker.passes(data, notify="tick")
    cursor = worker.cursor
    worker.close()
    relay.kill()
    data.write("recovered")
    own_db.notify("notes", "recovered changed")
    relay.start()
    again = resumed(relay, cursor, channel="notes")
    assert not again.gaps
    assert {text for text in again.payloads if text.startswith("recovered")} == texts
