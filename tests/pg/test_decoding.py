"""What other programs see of the relay that follow the database by logical decoding."""

import json

import pytest

from harness.datasync import DataSync
from harness.subscriber import subscriber

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}


@pytest.fixture
def data(run, own_pg, own_db):
    own_pg.sql("ALTER SYSTEM SET wal_level = logical")
    # Newer minor versions load no output plugin that this does not name.
    if own_pg.sql("SELECT FROM pg_settings WHERE name = 'output_plugin_libraries'"):
        own_pg.sql("ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, wal2json")
    own_pg.restart()
    return DataSync(run, own_db)


class Slot:
    """A logical replication slot, as another program has it."""

    def __init__(self, database, plugin, **options):
        self._database = database
        self._name = f"{plugin}_{len(options)}"
        self._options = [text for pair in options.items() for text in pair]
        self._binary = plugin == "pgoutput"
        database.sql("SELECT pg_create_logical_replication_slot(%s, %s)", (self._name, plugin), user="postgres")

    def changes(self):
        function = "pg_logical_slot_get_binary_changes" if self._binary else "pg_logical_slot_get_changes"
        rows = self._database.sql(f"SELECT data FROM {function}(%s, NULL, NULL, VARIADIC %s::text[])",
                                  (self._name, self._options), user="postgres")
        return [bytes(data) if self._binary else data for data, in rows]


def checkpoints(relay, data, notify=None):
    """Changes, and checkpoints that cover them."""
    worker = subscriber(relay)
    for n in range(3):
        data.change(f"u{n}")
        worker.hears(f"u{n}")
        worker.passes(data, notify=notify)


def messages(slot):
    return [line for line in slot.changes() if line.startswith("message:")]


def test_it_writes_messages_that_each_tool_can_leave_out(start_relay, own_db, data):
    data.function("BEGIN RETURN QUERY SELECT 'data_sync_changes'::text, user_revisions.user_id::text FROM user_revisions; END")
    own_db.sql("CREATE PUBLICATION everything FOR ALL TABLES", user="postgres")
    plain, output = Slot(own_db, "test_decoding"), Slot(own_db, "pgoutput", proto_version="1", publication_names="everything")
    checkpoints(start_relay(own_db, **FAST), data)
    seen = messages(plain)
    assert seen and all(line.startswith("message: transactional: 1 prefix: pgherald, sz: 0") for line in seen), seen
    kinds = {change[:1] for change in output.changes()}
    assert b"I" in kinds and b"M" not in kinds, kinds


def test_wal2json_leaves_them_out_by_their_prefix(start_relay, own_db, own_pg, data):
    if not own_pg.sql("SELECT 1 FROM pg_config WHERE name = 'PKGLIBDIR' AND (pg_stat_file(setting || '/wal2json.so', true)).size > 0"):
        pytest.skip("this server has no wal2json")
    if own_pg.sql("SELECT 1 FROM pg_settings WHERE name = 'output_plugin_libraries'"):
        own_pg.sql("ALTER SYSTEM SET output_plugin_libraries = 'wal2json'")
        own_pg.restart()
    data.function("BEGIN RETURN QUERY SELECT 'data_sync_changes'::text, user_revisions.user_id::text FROM user_revisions; END")
    all_of_it, filtered = (Slot(own_db, "wal2json", **options) for options in (
        {"format-version": "2"}, {"format-version": "2", "filter-msg-prefixes": "pgherald"}))
    checkpoints(start_relay(own_db, **FAST), data)
    assert "M" in [json.loads(line)["action"] for line in all_of_it.changes()]
    actions = [json.loads(line)["action"] for line in filtered.changes()]
    assert "I" in actions and "M" not in actions


def test_they_can_be_turned_off_and_then_what_is_missed_is_a_gap(start_relay, own_db, data):
    data.function("BEGIN RETURN QUERY SELECT 'data_sync_changes'::text, user_revisions.user_id::text FROM user_revisions; END")
    slot = Slot(own_db, "test_decoding")
    relay = start_relay(own_db, PGHERALD_LOGICAL_MESSAGE="no", **FAST)
    worker = subscriber(relay)
    checkpoints(relay, data, notify="n")
    assert not messages(slot)
    assert any("PGHERALD_LOGICAL_MESSAGE=no" in line for line in relay.lines("WARNING"))
    seen = len(worker.frames)
    own_db.terminate("pgherald upstream")
    worker.sees("live", seen)
    assert worker.gaps


def test_with_the_migration_there_is_a_row_and_no_message(start_relay, own_db, data):
    data.recoverable()
    slot = Slot(own_db, "test_decoding")
    own_db.sql("CREATE PUBLICATION of_the_application FOR TABLE records, user_revisions", user="postgres")
    output = Slot(own_db, "pgoutput", proto_version="1", publication_names="of_the_application")
    checkpoints(start_relay(own_db, **FAST), data)
    lines = slot.changes()
    assert not [line for line in lines if line.startswith("message:")]
    assert {line.split(":")[0] for line in lines if line.startswith("table pgherald.")} == {"table pgherald.server_run"}
    assert not [change for change in output.changes() if b"server_run" in change]
