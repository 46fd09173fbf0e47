"""The bytes on the channel: ours as the Go service writes them, and payloads that others
write."""

import json
import re

from harness.worker import CHANNEL, Error, Ok

# pubkey, client id, and the payload byte for byte as Go's encoding/json writes it
WRITTEN = [
    ("alice", "phone", '{"p":"alice","c":"phone"}'),
    ("alice", None, '{"p":"alice"}'),
    ("alice", "", '{"p":"alice","c":""}'),
    ("", None, '{"p":""}'),
    ('quote " back \\ slash /', None, '{"p":"quote \\" back \\\\ slash /"}'),
    ("line\nreturn\rtab\t", "x", '{"p":"line\\nreturn\\rtab\\t","c":"x"}'),
    ("bell\x07 escape\x1b", None, '{"p":"bell\\u0007 escape\\u001b"}'),
    ("<b>&amp;</b>", None, '{"p":"\\u003cb\\u003e\\u0026amp;\\u003c/b\\u003e"}'),
    ("Zoë 日本語 😀", "ключ", '{"p":"Zoë 日本語 😀","c":"ключ"}'),
    ("line\u2028paragraph\u2029", None, '{"p":"line\\u2028paragraph\\u2029"}'),
    ("02a1" * 16 + "bc", "0190b5f8-6f0e-7c3a-9d55-0242ac120002",
     '{"p":"' + "02a1" * 16 + 'bc","c":"0190b5f8-6f0e-7c3a-9d55-0242ac120002"}'),
    ("' OR 1=1; --", "%s", '{"p":"\' OR 1=1; --","c":"%s"}'),
]

# payload, pubkey, client id: foreign, but valid
READ = [
    ('  { "p" : "space" ,\n\t"c" : "d" }  ', "space", "d"),
    ('{"c":"first","p":"order"}', "order", "first"),
    ('{"p":"null","c":null}', "null", None),
    ('{"p":"more","other":[1,{"p":"x"},null,true],"c":"d"}', "more", "d"),
    ('{"v":2,"p":"number before"}', "number before", None),
    ('{"p":"big","n":123456789012345678901234567890}', "big", None),
    ('{"p":"float","n":-1.5e300}', "float", None),
    ('{"p":"\\u0061\\u00e9\\ud83d\\ude00"}', "aé😀", None),
    ('{"p":"sol\\/idus"}', "sol/idus", None),
    ('{"\\u0070":"escaped name"}', "escaped name", None),
    ('{"p":"first of two","p":"last of two"}', "last of two", None),
    ('{"p":"upper \\u003C","c":"\\u003c"}', "upper <", "<"),
]

MALFORMED = [
    "", "garbage", "{", "[]", "null", '"p"', "{}", '{"p":1}', '{"p":null}', '{"p":["x"]}', '{"P":"x"}', '{"p":"x","c":1}',
    '{"p":"x","c":{}}', '{"p":"x"', '{"p":"x"}}', '{"p":"x"} trailing', "{'p':'x'}", '{"p":"x",}', '{"p":"\x01"}',
    '{"p":"\\x"}', "[" * 5000, '{"p":' * 1000, '[{"p":"x"}]', "nul", "\ufeff{\"p\":\"x\"}",
]


def malformed_count(relay):
    found = re.search(r"malformed\W*(\d+)", relay.ops("status"))
    assert found, f"status counts no malformed payloads: {relay.ops('status')}"
    return int(found[1])


def test_payloads_are_written_as_the_go_service_writes_them(relay, db, listen):
    plain = listen(db, CHANNEL)
    worker = relay.worker()
    for pubkey, client_id, _ in WRITTEN:
        worker.publish(pubkey, client_id)
    assert plain.wait(len(WRITTEN)) == [(CHANNEL, payload) for _, _, payload in WRITTEN]


def test_what_is_published_comes_back_the_same_on_every_host(relays):
    a, b = relays
    workers = [a.worker(), b.worker()]
    for pubkey, client_id, _ in WRITTEN:
        workers[0].publish(pubkey, client_id)
    for worker in workers:
        worker.wait_until(lambda: len(worker.changes) == len(WRITTEN), "all of them")
        assert [(c.pubkey, c.client_id) for c in worker.changes] == [(p, c) for p, c, _ in WRITTEN]


def test_a_go_instance_and_a_worker_understand_each_other(relay, db, listen):
    plain = listen(db, CHANNEL)
    worker = relay.worker()
    for pubkey, client_id, _ in WRITTEN:
        payload = {"p": pubkey} if client_id is None else {"p": pubkey, "c": client_id}
        db.notify(CHANNEL, json.dumps(payload))
        worker.wait_until(lambda: (pubkey, client_id) in [(c.pubkey, c.client_id) for c in worker.changes], payload)
    assert len(plain.wait(len(WRITTEN))) == len(worker.changes)


def test_any_valid_json_is_understood(relay, db):
    worker = relay.worker()
    for payload, pubkey, client_id in READ:
        db.notify(CHANNEL, payload)
        worker.hears(pubkey, client_id)
    assert len(worker.changes) == len(READ)
    assert malformed_count(relay) == 0


def test_malformed_payloads_between_good_ones_harm_nothing(relay, db):
    workers = [relay.worker(), relay.worker(pubkeys=["x"] + [f"u{i}" for i in range(len(MALFORMED))])]
    for i, payload in enumerate(MALFORMED):
        db.notify(CHANNEL, payload)
        db.notify(CHANNEL, '{"p":"u%d"}' % i)
    for worker in workers:
        worker.hears(f"u{len(MALFORMED) - 1}")
        assert worker.pubkeys == [f"u{i}" for i in range(len(MALFORMED))]
    assert malformed_count(relay) == len(MALFORMED)


def test_malformed_payloads_are_logged_by_channel_and_length_and_seldom(relay, db):
    worker = relay.worker()
    before = len(relay.lines())
    payload = "not-for-the-log " * 20
    db.notify(CHANNEL, payload)
    db.sql("SELECT pg_notify(%s, %s || g) FROM generate_series(1, 1000) g", (CHANNEL, payload))
    db.notify(CHANNEL, '{"p":"good"}')
    worker.hears("good")
    assert malformed_count(relay) == 1001

    lines = relay.lines()[before:]
    about = [line for line in lines if CHANNEL in line and str(len(payload)) in line]
    assert about, f"no line says the channel and the length: {lines}"
    assert len(lines) < 50, "a line for each of them would fill the log"
    assert "not-for-the-log" not in relay.log()
    assert "not-for-the-log" not in relay.ops("status")


def test_text_channels_pass_through_undecoded(start_relay, db, bouncer, listen):
    relay = start_relay(db, bouncer, PGHERALD_CHANNELS=f"{CHANNEL},events:text")
    plain = listen(db, "events")
    worker = relay.worker("events")
    payloads = ["plain", "", '{"p":"alice"}', "{broken", "Zoë 😀\n\t\x01", "x" * 7999]
    for payload in payloads:
        db.notify("events", payload)
    for payload in payloads:
        assert isinstance(worker.send("events", payload), Ok)
    worker.wait_until(lambda: len(worker.payloads) == 2 * len(payloads), "all messages")
    assert worker.payloads == payloads + payloads
    assert [p for _, p in plain.wait(2 * len(payloads))] == worker.payloads
    assert malformed_count(relay) == 0


def test_a_text_payload_that_is_no_utf8_comes_as_bytes(start_relay, pg, cleanup):
    """A SQL_ASCII database accepts any byte."""
    database = cleanup.add(pg.database("SQL_ASCII"))
    relay = start_relay(database, PGHERALD_CHANNELS=f"{CHANNEL},events:text")
    worker = relay.worker("events", CHANNEL)
    database.sql(r"SELECT pg_notify('events', E'caf\xe9')")
    database.sql(r"""SELECT pg_notify('data_sync_changes', E'{"p":"caf\xe9"}')""")
    database.notify("events", "plain")
    worker.hears_message("plain")
    assert worker.payloads == [b"caf\xe9", "plain"]
    assert worker.changes == []
    assert malformed_count(relay) == 1


def test_each_kind_of_channel_takes_its_own_requests(start_relay, db, bouncer):
    relay = start_relay(db, bouncer, PGHERALD_CHANNELS=f"{CHANNEL},events:text")
    worker = relay.worker(CHANNEL, "events")
    refused = [
        worker.notify("alice", channel="events"),
        worker.send(CHANNEL, '{"p":"alice"}'),
        worker.notify("alice", channel="elsewhere"),
        worker.send("elsewhere", "text"),
        worker.subscribe("elsewhere"),
        worker.subscribe("events", ["alice"]),
        worker.subscribe("pgherald_canary"),
        worker.send("pgherald_canary", "text"),
    ]
    assert [getattr(a, "code", a) for a in refused] == ["channel"] * len(refused)
    # the connection goes on
    worker.publish("bob")
    worker.hears("bob")
    assert isinstance(worker.send("events", "hello"), Ok)
    worker.hears_message("hello")
    assert worker.pubkeys == ["bob"] and worker.payloads == ["hello"]
    assert all(isinstance(a, Error) for a in refused)
