"""Databases in other encodings than UTF8: workers hear and publish UTF-8, and no payload ends
the LISTEN connection."""

import glob
import json
import os
import re

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.subscriber import resumed, subscriber
from harness.worker import CHANNEL, NOTIFY, SEND, Gap, Ok

FAST = {"PGHERALD_CHECKPOINT_INTERVAL": "0.25"}
TEXT = {"PGHERALD_CHANNELS": f"{CHANNEL},events:text"}

# By encoding: letters that it has; bytes that it accepts, without a character for them; a character that it lacks.
KINDS = {
    "WIN1251": ("привет, €", b"\x98", "日"),
    "KOI8R": ("привет ░", None, "日"),
    "LATIN1": ("Zoë ÿ \x85", None, "ж"),
    "WIN1252": ("Zoë €", b"\x81\x8d\x8f\x90\x9d", "ж"),
    "EUC_JP": ("日本語 ｱ ① ～", b"\xa9\xa1", "😀"),
    "UTF8": ("Zoë 日本語 😀", None, None),
}
HAS_UNDEFINED = [name for name, (_, bad, _) in KINDS.items() if bad]
LACKS = [name for name, (_, _, lacks) in KINDS.items() if lacks]
SERVER_ENCODINGS = [
    "EUC_CN", "EUC_JIS_2004", "EUC_JP", "EUC_KR", "EUC_TW", *(f"ISO_8859_{n}" for n in range(5, 9)), "KOI8R", "KOI8U",
    *(f"LATIN{n}" for n in range(1, 11)), "WIN866", "WIN874", *(f"WIN{n}" for n in range(1250, 1259))]


@pytest.fixture
def database(pg, cleanup):
    return lambda encoding: cleanup.add(pg.database(encoding))


def notify_bytes(db, channel, payload):
    """Publish any bytes, by a session whose server converts nothing."""
    connection = db.server.connect(db.name, "app")
    try:
        connection.set_client_encoding("SQL_ASCII")
        quoted = b"E'" + b"".join(b"\\x%02x" % byte for byte in payload) + b"'"
        connection.cursor().execute(b"SELECT pg_notify('" + channel.encode() + b"', " + quoted + b")")
    finally:
        connection.close()


def upstream_pid(db):
    pid, = db.backends("pgherald upstream")
    return pid


@pytest.mark.parametrize("encoding", KINDS)
def test_changes_are_heard_and_published_in_utf8(start_relay, database, bouncer, encoding):
    letters, _, _ = KINDS[encoding]
    db = database(encoding)
    relay = start_relay(db, bouncer)
    everyone, one = relay.worker(), relay.worker(pubkeys=[letters])
    db.notify(CHANNEL, json.dumps({"p": letters, "c": letters}, ensure_ascii=False))
    for worker in (everyone, one):
        worker.hears(letters, letters)
    one.publish(letters, "c " + letters)
    for worker in (everyone, one):
        worker.hears(letters, "c " + letters)
        assert len(worker.changes) == 2


@pytest.mark.parametrize("encoding", KINDS)
def test_messages_are_heard_and_published_in_utf8(start_relay, database, listen, encoding):
    letters, _, _ = KINDS[encoding]
    db = database(encoding)
    relay = start_relay(db, **TEXT)
    plain, worker = listen(db, "events"), relay.worker("events")
    payloads = [letters, "", "plain", "x" * 7999]
    for payload in payloads:
        db.notify("events", payload)
        assert isinstance(worker.send("events", payload), Ok)
    worker.wait_until(lambda: len(worker.payloads) == 2 * len(payloads), "all messages")
    assert worker.payloads == [p for p in payloads for _ in range(2)]
    assert [p for _, p in plain.wait(2 * len(payloads))] == worker.payloads


@pytest.mark.parametrize("encoding", HAS_UNDEFINED)
def test_what_means_no_character_comes_as_bytes_and_the_connection_stays(start_relay, database, encoding):
    letters, bad, _ = KINDS[encoding]
    db = database(encoding)
    relay = start_relay(db, **TEXT)
    worker = relay.worker("events", CHANNEL)
    pid = upstream_pid(db)
    notify_bytes(db, "events", bad)
    notify_bytes(db, "events", b"x" + bad)
    notify_bytes(db, CHANNEL, b'{"p":"' + bad + b'"}')
    db.notify("events", letters)
    worker.hears_message(letters)
    assert worker.payloads == [bad, b"x" + bad, letters]
    assert worker.changes == [] and not worker.of(Gap)
    assert re.search(r"malformed\W*1\b", relay.ops("status")), relay.ops("status")
    assert upstream_pid(db) == pid and not relay.lines("ERROR")


def test_the_longest_payloads(start_relay, database):
    """Three times as long in UTF-8 as in the database."""
    db = database("WIN1252")
    relay = start_relay(db, PGHERALD_BACKLOG_SIZE="64K", **TEXT)
    worker = relay.worker("events", CHANNEL)
    pubkey = "€" * (7999 - len('{"p":""}'))
    for n in range(20):
        db.notify("events", "€" * 7998 + "abcdefghijklmnopqrst"[n])
        worker.hears_message("€" * 7998 + "abcdefghijklmnopqrst"[n])
    db.notify(CHANNEL, '{"p":"%s"}' % pubkey)
    worker.hears(pubkey)
    assert not worker.of(Gap)


@pytest.mark.parametrize("encoding", KINDS)
def test_channels_whose_names_have_letters_of_the_database(start_relay, database, encoding):
    letters, _, _ = KINDS[encoding]
    name = "".join(c for c in letters if c.isalpha())
    quoted = 'a"\\' + name
    db = database(encoding)
    relay = start_relay(db, PGHERALD_CHANNELS=f"{name},{quoted}:text")
    worker = relay.worker(name, quoted)
    db.notify(name, '{"p":"alice"}')
    db.notify(quoted, letters)
    worker.hears("alice")
    worker.hears_message(letters)
    assert isinstance(worker.notify("bob", channel=name), Ok)
    assert isinstance(worker.send(quoted, "sent"), Ok)
    worker.hears("bob")
    worker.hears_message("sent")


@pytest.mark.parametrize("encoding", LACKS)
def test_a_channel_that_the_database_cannot_name_is_refused_at_start(make_relay, database, encoding):
    _, _, lacks = KINDS[encoding]
    db = database(encoding)
    line = make_relay(DATABASE_DIRECT_URL=db.direct_url, PGHERALD_CHANNELS="events" + lacks).launch().fails()
    assert "LISTEN" in line and encoding in line


def test_an_encoding_that_postgresql_does_not_convert_is_refused_at_start(make_relay, database):
    db = database("MULE_INTERNAL")
    assert "MULE_INTERNAL" in make_relay(DATABASE_DIRECT_URL=db.direct_url).launch().fails()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts an empty directory over the C library's modules")
def test_without_iconvs_modules_the_server_converts(make_relay, database):
    """A small container may lack them."""
    letters, _, _ = KINDS["WIN1251"]
    db = database("WIN1251")
    relay = make_relay(DATABASE_DIRECT_URL=db.direct_url)
    modules, = glob.glob("/usr/lib/*/gconv")
    relay.launcher = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none {modules} && exec \"$@\"", "sh"]
    relay.start()
    worker = relay.worker(pubkeys=[letters])
    worker.publish(letters)
    worker.hears(letters)
    assert [line for line in relay.lines("WARNING") if "encoding=WIN1251" in line and "iconv" in line]


@pytest.mark.parametrize("encoding", LACKS)
def test_what_the_database_cannot_hold_is_an_error_to_its_worker_alone(start_relay, database, encoding):
    letters, _, lacks = KINDS[encoding]
    db = database(encoding)
    relay = start_relay(db, **TEXT)
    worker, other = relay.worker(CHANNEL, "events"), relay.worker()
    asked = [worker.ask(NOTIFY, CHANNEL, lacks, None), worker.ask(SEND, "events", lacks), other.ask(NOTIFY, CHANNEL, letters, None)]
    for refused in asked[:2]:
        answer = worker.answer(refused)
        assert answer.code == "rejected" and encoding in answer.text, answer
    assert isinstance(other.answer(asked[2]), Ok)
    worker.hears(letters)
    assert worker.pubkeys == [letters] and worker.payloads == []


@pytest.mark.parametrize("encoding", KINDS)
def test_rows_are_recovered_and_announced_in_utf8(start_relay, run, database, encoding):
    letters, _, _ = KINDS[encoding]
    db = database(encoding)
    data = DataSync(run, db).recoverable()
    relay = start_relay(db, **FAST)
    worker = subscriber(relay)
    worker.passes(data)
    cursor = worker.cursor
    data.write(letters)
    worker.hears(letters)
    worker.passes(data)
    relay.stop()
    relay.start()
    again = resumed(relay, ("another-epoch", *cursor[1:]))
    again.hears(letters)
    seen = len(again.frames)
    db.terminate("pgherald upstream")
    again.sees("down", seen)
    data.write("2 " + letters)
    again.sees("live", seen)
    again.hears("2 " + letters)
    assert not worker.gaps and not again.gaps


@pytest.mark.parametrize("encoding", HAS_UNDEFINED)
def test_a_row_that_is_not_text_ends_neither_recovery_nor_reconciliation(start_relay, run, database, encoding):
    """One in a row of each kind of channel, and long ones next to them."""
    letters, bad, _ = KINDS[encoding]
    db = database(encoding)
    data = DataSync(run, db).recoverable()
    escaped = "".join(f"\\x{byte:02x}" for byte in bad)
    long = letters[-1] * 3999  # longer than 8000 bytes in UTF-8
    data.function("SELECT CASE WHEN user_id LIKE 'text%' THEN 'events' ELSE 'data_sync_changes' END,"
                  f" CASE WHEN user_id LIKE '%bad' THEN E'{escaped}' WHEN user_id = 'text long' THEN '{long}'"
                  " ELSE user_id::text END FROM user_revisions"
                  " WHERE changed_xid >= pg_snapshot_xmin(since) AND NOT pg_visible_in_snapshot(changed_xid, since)", "sql")
    relay = start_relay(db, **FAST, **TEXT)
    worker = subscriber(relay)
    assert isinstance(worker.subscribe("events"), Ok)
    worker.passes(data)
    cursor = worker.cursor
    for user in ("bad", "text bad", "text long", "good"):
        data.write(user)
    worker.hears("good")
    worker.hears_message(long)
    worker.passes(data)
    assert bad not in worker.payloads  # the relay cannot announce it
    for _ in range(2):
        seen = len(worker.frames)
        relay.freeze()  # so that it is not back before the rows, which it would then announce
        db.terminate("pgherald upstream")
        data.write("bad", "text bad", "text long", "missed")
        relay.thaw()
        worker.sees("down", seen)
        worker.sees("live", seen)
        worker.hears("missed")
        worker.passes(data)
    assert bad in worker.payloads and set(worker.pubkeys) == {"good", "missed"}
    cursor = ("another-epoch", *cursor[1:])
    again, messages = resumed(relay, cursor), resumed(relay, cursor, channel="events")
    assert {"good", "missed"} <= set(again.pubkeys)
    assert set(messages.payloads) == {bad, long}
    assert not worker.gaps and not again.gaps and not messages.gaps
    assert any("a recovered row is skipped" in line for line in relay.lines("WARNING"))


def test_a_database_without_an_encoding_comes_as_it_is(start_relay, database):
    """SQL_ASCII: what is UTF-8 is text, all else is bytes."""
    db = database("SQL_ASCII")
    relay = start_relay(db, **TEXT)
    worker = relay.worker("events", CHANNEL)
    for payload in (b"caf\xe9", "café".encode()):
        notify_bytes(db, "events", payload)
    worker.hears_message("café")
    assert worker.payloads == [b"caf\xe9", "café"]
    worker.publish("Zoë")
    worker.hears("Zoë")


def test_the_servers_words_are_readable_in_the_log(start_relay, own_pg, cleanup):
    """What a function says is in the database's encoding."""
    db = cleanup.add(own_pg.database("WIN1251"))
    db.sql("CREATE SCHEMA pgherald; CREATE FUNCTION pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)"
           " LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'не сегодня'; END $$")
    relay = start_relay(db, **FAST)
    worker = relay.worker()
    db.terminate("pgherald upstream")
    worker.wait_until(lambda: worker.of(Gap), "GAP")
    assert "не сегодня" in worker.of(Gap)[0].text
    wait_until(lambda: any("не сегодня" in line for line in relay.lines("ERROR")), "an ERROR with the reason")


CHARACTERS = """
CREATE FUNCTION text_of(code bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN RETURN convert_from(code, getdatabaseencoding()); EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$;
CREATE FUNCTION utf8_of(code bytea) RETURNS bytea LANGUAGE plpgsql AS $$
BEGIN RETURN convert_to(convert_from(code, getdatabaseencoding()), 'UTF8'); EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$
"""


def codes(encoding):
    """Each string of bytes that may be a character of this encoding."""
    if not encoding.startswith("EUC"):
        return [bytes([a]) for a in range(0x80, 0x100)]
    graphic = range(0xa1, 0xff)
    two = [bytes([a, b]) for a in graphic for b in graphic]
    more = {"EUC_JP": [b"\x8f" + t for t in two] + [bytes([0x8e, b]) for b in graphic],
            "EUC_TW": [bytes([0x8e, plane]) + t for plane in range(0xa1, 0xb0) for t in two]}
    return two + more.get("EUC_JP" if encoding == "EUC_JIS_2004" else encoding, [])


@pytest.mark.long
@pytest.mark.parametrize("encoding", SERVER_ENCODINGS)
def test_every_character_is_heard_as_postgresql_converts_it(start_relay, database, encoding):
    """Otherwise a worker would not hear of a pubkey under the name that its program wrote."""
    db = database(encoding)
    db.sql(CHARACTERS)
    relay = start_relay(db, **TEXT)
    worker = relay.worker("events")
    utf8 = [bytes(row[0]) for row in db.sql(
        "SELECT utf8_of(decode(code, 'hex')) AS u FROM unnest(%s::text[]) WITH ORDINALITY AS c (code, n)"
        " WHERE utf8_of(decode(code, 'hex')) IS NOT NULL ORDER BY n", ([code.hex() for code in codes(encoding)],))]
    assert len(utf8) > 80
    texts = [b"".join(utf8[i:i + 500]).decode() for i in range(0, len(utf8), 500)]
    for text in texts:
        db.notify("events", text)
    worker.wait_until(lambda: len(worker.payloads) == len(texts), "all characters")
    assert worker.payloads == texts
