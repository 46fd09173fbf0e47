"""client/examples/syncd, as its clients see it. Records and streams, on both stores, and
hosts with a relay each."""

import base64
import contextlib
import json
import os
import signal
import socket
import sqlite3
import threading

import pytest

from harness.datasync import DataSync
from harness.procs import wait_until
from harness.servers import PASSWORD
from harness.syncd import GAP, START, SYNCD, changed
from harness.worker import CHANNEL


class Hosts:
    """Two syncds with two workers each, on one store. With PostgreSQL each has a relay of
    its own. A SQLite file belongs to one host, so there they share a relay in local mode."""

    def __init__(self, relays, syncds):
        self.relays, self.syncds = relays, syncds
        self.a, self.b = syncds


@pytest.fixture(params=["postgres", "sqlite"])
def store(request):
    return request.param


@pytest.fixture
def hosts(request, store, make_syncd, run):
    if store == "postgres":
        relays = request.getfixturevalue("relays")
        url = request.getfixturevalue("bouncer").url(request.getfixturevalue("db"))
        return Hosts(relays, [make_syncd(relay, DATABASE_URL=url).start() for relay in relays])
    relay = request.getfixturevalue("local_relay")
    path = os.path.join(run.subdirectory("sqlite"), "records")
    return Hosts([relay], [make_syncd(relay, SYNCD_SQLITE=path).start() for _ in range(2)])


@pytest.fixture
def syncd(hosts):
    return hosts.a


@pytest.fixture
def alone(make_syncd):
    """One worker, SQLite, no relay: what `syncd` is without settings."""
    return make_syncd(SYNCD_WORKERS=None).start()


# Records

def test_a_user_without_records_has_no_changes(syncd):
    assert syncd.changes("alice") == {"changes": [], "revision": 0, "more": False}


def test_the_first_insert(syncd):
    answer = syncd.put("alice", "note", 0, b"\x00\xffhello")
    assert (answer.status, answer.json()) == (200, {"revision": 1})
    assert syncd.changes("alice") == {"changes": [{"id": "note", "revision": 1, "schema_version": "1.0",
                                                   "data": base64.b64encode(b"\x00\xffhello").decode()}],
                                      "revision": 1, "more": False}
    assert syncd.ids("bob") == []


def test_an_update_and_the_changes_since(hosts):
    a, b = hosts.a, hosts.b
    assert a.change("alice", "one", 0) == 1
    assert b.change("alice", "two", 0) == 2
    assert a.change("alice", "one", 1) == 3
    assert b.change("bob", "one", 0) == 1, "each user has a counter"
    assert b.ids("alice") == [("two", 2), ("one", 3)]
    assert a.ids("alice", 2) == [("one", 3)]
    assert a.ids("alice", 3) == []
    assert a.changes("alice", 3)["revision"] == 3


@pytest.mark.parametrize("revision", [0, 2, 7])
def test_a_conflict_changes_nothing(hosts, revision):
    hosts.a.change("alice", "note", 0)
    hosts.b.change("alice", "other", 0)
    answer = hosts.b.put("alice", "note", revision, b"mine")
    assert answer.status == 409 and answer.json()["revision"] == 1 and answer.json()["error"], answer
    assert hosts.a.ids("alice") == [("note", 1), ("other", 2)]
    assert hosts.a.change("alice", "note", 1) == 3, "no revision was spent on it"


def test_a_record_that_is_not_there_has_revision_0(syncd):
    answer = syncd.put("alice", "note", 1)
    assert answer.status == 409 and answer.json()["revision"] == 0, answer


def test_writers_side_by_side_count_up_by_one(hosts):
    """12 clients on both hosts: each on a record of its own, and all on one record. Each
    write that succeeds has a number of its own, and the numbers have no hole."""
    got, lock = [], threading.Lock()

    def write(syncd, number):
        client, own, shared = syncd.client(), 0, 0
        for _ in range(6):
            for id, revision in ((f"own{number}", own), ("shared", shared)):
                while True:
                    answer = syncd.put("alice", id, revision, client=client)
                    if answer.status != 503:
                        break
                assert answer.status in (200, 409), answer
                with lock:
                    if answer.status == 200:
                        got.append(answer.json()["revision"])
                    elif id != "shared":
                        got.append("a conflict on a record of its own")
                if id == "shared":
                    shared = answer.json()["revision"]
                else:
                    own = answer.json()["revision"]
        client.close()
    threads = [threading.Thread(target=write, args=(hosts.syncds[i % 2], i)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(1, len(got) + 1))
    assert len(got) > 72, "those on records of their own, and some on the shared one"
    assert hosts.a.changes("alice")["revision"] == len(got)


def test_a_long_list_comes_in_pages(hosts):
    for i in range(3):
        assert hosts.a.put("alice", f"large{i}", 0, os.urandom(700_000)).status == 200
    first = hosts.b.changes("alice")
    assert [c["id"] for c in first["changes"]] == ["large0", "large1"] and first["more"] and first["revision"] == 2
    second = hosts.b.changes("alice", first["revision"])
    assert [c["id"] for c in second["changes"]] == ["large2"] and not second["more"]


def test_more_records_than_a_page_has(alone):
    with contextlib.closing(sqlite3.connect(os.path.join(alone.directory, "syncd.sqlite3"))) as file, file:
        file.executemany("INSERT INTO records (user_id, id, data, revision, schema_version) VALUES ('alice', ?, x'', ?, '1.0')",
                         [(f"r{i}", i) for i in range(1, 1002)])
    first = alone.changes("alice")
    assert len(first["changes"]) == 1000 and first["more"] and first["revision"] == 1000
    assert alone.changes("alice", 1000)["changes"][0]["id"] == "r1001" and not alone.changes("alice", 1000)["more"]


def test_a_page_costs_what_it_sends(alone):
    """However many records there are: otherwise one user's long list would cost all users
    time and memory."""
    with contextlib.closing(sqlite3.connect(os.path.join(alone.directory, "syncd.sqlite3"))) as file, file:
        file.executemany("INSERT INTO records (user_id, id, data, revision, schema_version)"
                         " VALUES ('alice', ?, randomblob(1 << 20), ?, '1.0')", [(f"r{i}", i) for i in range(1, 101)])
    worker, = alone.workers()

    def read():
        with open(f"/proc/{worker}/io") as file:
            return int(file.readline().removeprefix("rchar: "))
    before = read()
    assert [c["id"] for c in alone.changes("alice")["changes"]] == ["r1"]
    assert read() - before < 10 << 20, "of 100 MiB it sends one"


# Identity, and bad input

@pytest.mark.parametrize("path, headers, status", [
    ("/v1/users/alice/changes", {}, 401),
    ("/v1/users/alice/changes", {"X_User": ""}, 401),
    ("/v1/users/alice/changes", {"X_User": "bob"}, 403),
    ("/v1/users/alice/listen", {}, 401),
    ("/v1/users/alice/listen", {"X_User": "bob"}, 403),
    ("/v1/users/Zo%C3%AB/changes", {"X_User": "Zoë".encode()}, 200),
    ("/v1/users/a%2Fb/changes", {"X_User": "a/b"}, 200),
    ("/v1/users/a/b/changes", {"X_User": "a/b"}, 404),
    ("/v1/users/alice%00/changes", {"X_User": "alice"}, 400),
    ("/v1/users/%ff/changes", {"X_User": b"\xff"}, 400),
    ("/v1/users/a%0ab/changes", {"X_User": "a b"}, 400),
    ("/v1/users/a%zz/changes", {"X_User": "a"}, 400),
    ("/v1/users//changes", {"X_User": ""}, 400),
    ("/v1/users/" + "u" * 255 + "/changes", {"X_User": "u" * 255}, 200),
    ("/v1/users/" + "u" * 256 + "/changes", {"X_User": "u" * 256}, 400),
    ("/v1/users/alice/changes?since=-1", {"X_User": "alice"}, 400),
    ("/v1/users/alice/changes?since=", {"X_User": "alice"}, 400),
    ("/v1/users/alice/changes?since=1x", {"X_User": "alice"}, 400),
    ("/v1/users/alice/changes?since=9007199254740991", {"X_User": "alice"}, 200),
    ("/v1/users/alice/changes?since=9007199254740992", {"X_User": "alice"}, 400),
    ("/v1/users/alice/changes?since=99999999999999999999", {"X_User": "alice"}, 400),
    ("/v1/users/alice/nothing", {"X_User": "alice"}, 404),
    ("/v1/users/alice", {"X_User": "alice"}, 404),
    ("/nothing", {}, 404),
    ("/v1/users/alice/records/note", {"X_User": "alice"}, 405),
])
def test_who_may_ask_for_what(alone, path, headers, status):
    answer = alone.ask("GET", path, **headers)
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/json" and answer.headers["Cache-Control"] == "no-store"
    if status >= 400:
        assert answer.json()["error"], answer
    if status == 405:
        assert answer.headers["Allow"] == "PUT"


def test_an_identity_of_the_clients_beside_the_proxys_is_refused(alone):
    with alone.connect() as connection:
        connection.sendall(b"GET /v1/users/eve/changes HTTP/1.1\r\nHost: x\r\nX-User: eve\r\nX-User: alice\r\n\r\n")
        assert b" 400 " in connection.recv(4096).split(b"\r\n")[0]


@pytest.mark.parametrize("framing", [
    "Content-Length: 0\r\nContent-Length: {}", "Content-Length: 0\r\nContent-Length : {}", "Content-Length\t: {}",
    "Transfer-Encoding: chunked\r\nContent-Length: {}", "Transfer-Encoding: gzip, chunked"])
@pytest.mark.parametrize("path", ["/v1/users/eve/changes", "/", "/nothing"])
def test_nothing_is_hidden_in_a_body_that_ends_in_two_places(alone, framing, path):
    """What a proxy took for a body of eve's would be a request of alice's here."""
    hidden = "0\r\n\r\nGET /v1/users/alice/changes HTTP/1.1\r\nHost: x\r\nX-User: alice\r\n\r\n"
    if "chunked" not in framing:
        hidden = hidden[5:]
    with alone.connect() as connection:
        connection.sendall((f"GET {path} HTTP/1.1\r\nHost: x\r\nX-User: eve\r\n{framing.format(len(hidden))}\r\n\r\n{hidden}").encode())
        answers = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(4096):
                answers += data
    assert answers.startswith(b"HTTP/1.1 400 ") and answers.count(b"HTTP/1.1") == 1, answers


GOOD = {"revision": 0, "schema_version": "1.0", "data": "aGk="}


@pytest.mark.parametrize("body, status, why", [
    (json.dumps(GOOD), 200, None),
    (json.dumps({**GOOD, "data": ""}), 200, None),
    (json.dumps({**GOOD, "schema_version": "s" * 64}), 200, None),
    (json.dumps({**GOOD, "extra": [1]}), 200, None),
    ("", 400, "JSON"),
    ("{", 400, "JSON"),
    ("[1]", 400, "object"),
    ("\xff", 400, "JSON"),
    ('{"revision": 0, "revision": 1, "schema_version": "1", "data": ""}', 400, "JSON"),
    ('{"revision": 0, "schema_version": "1\\u0000", "data": ""}', 400, "JSON"),
    ("[" * 100000, 400, "JSON"),
    (json.dumps({**GOOD, "revision": None}), 400, "revision"),
    (json.dumps({**GOOD, "revision": "0"}), 400, "revision"),
    (json.dumps({**GOOD, "revision": 0.5}), 400, "revision"),
    (json.dumps({**GOOD, "revision": -1}), 400, "revision"),
    (json.dumps({**GOOD, "revision": 2 ** 53}), 400, "revision"),
    (json.dumps({**GOOD, "revision": 2 ** 70}), 400, ""),
    (json.dumps({**GOOD, "schema_version": ""}), 400, "schema_version"),
    (json.dumps({**GOOD, "schema_version": 1}), 400, "schema_version"),
    (json.dumps({**GOOD, "schema_version": "s" * 65}), 400, "schema_version"),
    (json.dumps({**GOOD, "schema_version": "a\nb"}), 400, "schema_version"),
    (json.dumps({"revision": 0, "schema_version": "1.0"}), 400, "data"),
    (json.dumps({**GOOD, "data": None}), 400, "data"),
    (json.dumps({**GOOD, "data": "aGk"}), 400, "base64"),
    (json.dumps({**GOOD, "data": "aGk=\n"}), 400, "base64"),
    (json.dumps({**GOOD, "data": "a-_k"}), 400, "base64"),
    (json.dumps({**GOOD, "data": "====" }), 400, "base64"),
    (json.dumps({**GOOD, "data": base64.b64encode(b"x" * 2 ** 20).decode()}), 200, None),
    (json.dumps({**GOOD, "data": base64.b64encode(b"x" * (2 ** 20 + 1)).decode()}), 413, "1 MiB"),
    (json.dumps({**GOOD, "data": "A" * 3_000_000}), 413, "large"),
])
def test_bodies(alone, body, status, why):
    answer = alone.ask("PUT", "/v1/users/alice/records/note", body.encode("latin-1"), X_User="alice")
    assert answer.status == status, answer
    if why is not None:
        assert why in answer.json()["error"], answer
        assert alone.ids("alice") == []
    assert alone.change("alice", "next", 0), "it serves on"


@pytest.mark.parametrize("client_id, status", [
    ("c" * 128, 200), ("Zoë's phone".encode(), 200), ("c" * 129, 400), (b"\xff", 400), ("", 400), ("a\tb", 400)])
def test_client_ids(alone, client_id, status):
    assert alone.ask("PUT", "/v1/users/alice/records/note", json.dumps(GOOD), X_User="alice",
                     X_Client_Id=client_id).status == status


@pytest.mark.parametrize("method, path, allowed", [
    ("POST", "/v1/users/alice/changes", "GET"), ("DELETE", "/v1/users/alice/records/x", "PUT"),
    ("PUT", "/v1/users/alice/listen", "GET"), ("GE", "/v1/users/alice/changes", "GET"), ("POST", "/", "GET, HEAD")])
def test_methods(alone, method, path, allowed):
    answer = alone.ask(method, path, "x" * 100000, X_User="alice")
    assert (answer.status, answer.headers["Allow"]) == (405, allowed), answer


def test_a_body_that_is_announced_is_refused_before_it_is_sent(alone):
    for length, expect in ((3_000_000_000, ""), (2_000_000, "Expect: 100-continue\r\n")):
        with alone.connect() as connection:
            connection.sendall(f"PUT /v1/users/alice/records/{'x' if not expect else '%ff'} HTTP/1.1\r\nHost: x\r\nX-User: alice\r\n"
                               f"{expect}Content-Length: {length}\r\n\r\n".encode())
            status = connection.recv(4096).split(b"\r\n")[0]
            assert (b" 413 " if not expect else b" 400 ") in status, status


def test_a_connection_serves_many_requests(alone):
    client = alone.client()
    revision = 0
    for _ in range(20):
        answer = alone.put("alice", "note", revision, client=client)
        assert answer.status == 200
        revision = answer.json()["revision"]
        assert alone.put("alice", "note", 0, client=client).status == 409
    client.close()


# Streams

def test_a_stream_starts_with_a_pull_and_hears_each_change_with_its_client(hosts):
    stream = hosts.a.listen("alice").started()
    assert stream.head["content-type"] == "text/event-stream" and stream.head["cache-control"] == "no-store"
    hosts.a.change("alice", "note", 0, client_id="phone")
    stream.hears(START, changed("phone"))
    hosts.a.change("alice", "note", 1)
    stream.hears(START, changed("phone"), changed())
    hosts.a.change("bob", "note", 0, client_id="phone")
    hosts.a.change("alice", "note", 2, client_id='"odd\\ \u00eb'.encode())
    stream.hears(START, changed("phone"), changed(), changed('"odd\\ \u00eb'))
    assert hosts.a.put("alice", "note", 1).status == 409
    hosts.a.change("alice", "note", 4 - 1, client_id="last")
    stream.hears(changed("last"), after=4)


def test_a_stream_hears_changes_made_through_another_worker_and_another_host(hosts):
    a, b = hosts.a, hosts.b
    first = a.listen("alice").started()
    second = a.listen_at("alice", lambda pid: pid != first.worker).started()
    other = b.listen("alice").started()
    assert len({first.worker, second.worker, other.worker}) == 3
    client = a.client()
    a.change("alice", "note", 0, client_id="phone")
    for stream in (first, second, other):
        stream.hears(START, changed("phone"))
    b.change("alice", "note", 1, client_id="laptop")
    for stream in (first, second, other):
        stream.hears(START, changed("phone"), changed("laptop"))
    client.close()


def test_changes_in_quick_succession_are_an_event_each_for_who_keeps_up(hosts):
    stream = hosts.a.listen("alice").started()
    client = hosts.b.client()  # of one worker, whose announcements keep their order; those of two do not
    for i in range(20):
        assert hosts.b.put("alice", "note", i, client_id=f"c{i}", client=client).status == 200
    stream.hears(START, *[changed(f"c{i}") for i in range(20)])
    client.close()


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_other_programs_changes_are_heard(hosts, db):
    stream = hosts.a.listen("alice").started()
    db.notify(CHANNEL, '{"p":"alice","c":"go-instance"}')
    db.notify(CHANNEL, '{"p":"alice"}')
    db.notify(CHANNEL, json.dumps({"p": "alice", "c": "x" * 200}))
    stream.hears(START, changed("go-instance"), changed(), changed())
    # Heard together, and told separately to streams that keep up.
    db.sql("SELECT pg_notify(%s, '{\"p\":\"alice\",\"c\":\"' || i || '\"}') FROM generate_series(1, 20) AS i", (CHANNEL,))
    stream.hears(*[changed(str(i)) for i in range(1, 21)], after=4)


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_it_publishes_what_other_programs_hear(hosts, db, listen):
    plain = listen(db, CHANNEL)
    hosts.a.change("alice", "note", 0, client_id="phone")
    assert plain.wait(1) == [(CHANNEL, '{"p":"alice","c":"phone"}')]
    hosts.b.change("alice", "note", 1)
    assert plain.wait(2)[1:] == [(CHANNEL, '{"p":"alice"}')]


def subscriptions(relay):
    workers = [json.loads(line) for line in relay.ops("workers json").splitlines() if line]
    return sorted(w["pubkeys"] for w in workers if w["name"] == "syncd")


def test_a_user_is_subscribed_once_and_only_while_somebody_listens(hosts):
    relay, before = hosts.relays[0], subscriptions(hosts.relays[0])
    assert set(before) == {0}
    streams = [hosts.a.listen("alice").started()]
    streams += [hosts.a.listen_at("alice", lambda pid: pid == streams[0].worker) for _ in range(3)]
    streams.append(hosts.a.listen_at("bob", lambda pid: pid == streams[0].worker).started())
    wait_until(lambda: subscriptions(relay)[-1] == 2 and sum(subscriptions(relay)) == 2, "two users at one worker")
    for stream in streams[:4]:
        stream.close()
    wait_until(lambda: sum(subscriptions(relay)) == 1, "alice is given up")
    streams[4].close()
    wait_until(lambda: sum(subscriptions(relay)) == 0, "bob too")


def test_a_later_stream_of_a_user_starts_at_once_even_while_the_relay_is_away(hosts):
    first = hosts.a.listen("alice").started()
    for relay in hosts.relays:
        relay.kill()
    second = hosts.a.listen_at("alice", lambda pid: pid == first.worker).started()
    waiting = hosts.a.listen_at("bob", lambda pid: pid == first.worker)
    assert waiting.head["status"] == 200 and waiting.events == []
    for relay in hosts.relays:
        relay.start()
    waiting.started()
    second.hears_of(lambda e: True, "an event")


def test_no_start_before_the_subscription_is_live(make_syncd, make_relay):
    relay = make_relay()
    syncd = make_syncd(relay).start()
    stream = syncd.listen("alice")
    assert stream.worker
    syncd.change("alice", "note", 0)
    assert stream.events == []
    relay.start()
    stream.hears_of(lambda e: e == START, "the start")
    assert stream.events[0] == START


@pytest.mark.parametrize("relayed", [False, True])
def test_a_stalled_stream_is_told_once_and_delays_nobody(make_syncd, local_relay, relayed):
    """It reads nothing while its user changes until its sockets are full. Another user's
    stream still gets an event. When it reads, it finds one event for everything that
    did not fit, without a client id, and after it the next event."""
    syncd = make_syncd(local_relay if relayed else None, SYNCD_WORKERS="1").start()
    stalled = syncd.listen("alice", receive_buffer=2048)
    prompt, other = syncd.listen("alice").started(), syncd.listen("bob").started()
    client, n = syncd.client(), 500
    for i in range(n):
        assert syncd.put("alice", "note", i, b"", client_id=f"{i:0128}", client=client).status == 200
        prompt.poll()
    prompt.hears_of(lambda e: e == changed(f"{n - 1:0128}"), "the last change")
    assert [e for e in prompt.events if e != START] == [changed(f"{i:0128}") for i in range(n)], "each, to who reads"
    syncd.change("bob", "note", 0, client_id="phone")
    other.hears(START, changed("phone"))
    stalled.hears_of(lambda e: e == changed(), "an event that stands for many")
    assert len(stalled.events) < n
    assert [e for e in stalled.events if e == changed()] == [changed()] and stalled.events[-1] == changed()
    syncd.change("alice", "note", n, client_id="after")
    stalled.hears_of(lambda e: e == changed("after"), "the next change")


@pytest.mark.parametrize("limits, status", [({"SYNCD_STREAMS_PER_USER_MAX": "3"}, 429), ({"SYNCD_STREAMS_MAX": "3"}, 503)])
def test_streams_have_a_limit(make_syncd, limits, status):
    syncd = make_syncd(SYNCD_WORKERS="1", **limits).start()
    streams = [syncd.listen("alice").started() for _ in range(3)]
    answer = syncd.ask("GET", "/v1/users/alice/listen", X_User="alice")
    assert answer.status == status and answer.headers["Retry-After"], answer
    if status == 429:
        syncd.listen("bob").started()
    streams[0].close()
    wait_until(lambda: syncd.health()["streams"] < len(streams) + (status == 429), "it has left")
    syncd.listen("alice").started()


def test_a_channel_that_the_relay_does_not_serve_ends_the_streams(make_syncd, local_relay):
    syncd = make_syncd(local_relay, SYNCD_CHANNEL="other").start()
    stream = syncd.listen("alice")
    stream.hears_end()
    assert stream.clean and stream.events == []
    assert "refuses a subscription" in syncd.log()


# Starting and ending

def test_alone_it_needs_nothing(alone):
    stream = alone.listen("alice").started()
    alone.change("alice", "note", 0, client_id="phone")
    stream.hears(START, changed("phone"))
    assert alone.health() == {"worker": alone.workers()[0], "relay": "in-process", "streams": 1, "users": 1}
    alone.stop()
    alone.start()
    assert alone.ids("alice") == [("note", 1)]


def test_a_unix_socket(make_syncd, run):
    path = os.path.join(run.subdirectory("listen"), "http.sock")
    syncd = make_syncd(SYNCD_WORKERS="1", SYNCD_LISTEN=path, SYNCD_SOCKET_MODE="0600").start()
    assert os.stat(path).st_mode & 0o777 == 0o600
    stream = syncd.listen("alice").started()
    syncd.change("alice", "note", 0, client_id="phone")
    stream.hears(START, changed("phone"))
    second = make_syncd(SYNCD_WORKERS="1", SYNCD_LISTEN=path)
    assert "in use" in second.fails()
    syncd.stop()
    assert not os.path.exists(path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    syncd.start()


@pytest.mark.parametrize("flags, environment, words", [
    ([], {"DATABASE_URL": f"postgresql://app:{PASSWORD}@127.0.0.1:1x/db"}, "DATABASE_URL"),
    ([], {"DATABASE_URL": f"postgresql://app:{PASSWORD}@x@host/db"}, "percent-encode"),
    ([], {"DATABASE_URL": f"mysql://app:{PASSWORD}@host/db"}, "DATABASE_URL"),
    ([], {"SYNCD_WORKERS": "2", "PGHERALD_SOCKET": ""}, "relay"),
    (["--workers", "0"], {}, "SYNCD_WORKERS"),
    (["--workers=65"], {}, "SYNCD_WORKERS"),
    ([], {"SYNCD_WORKERS": "many"}, "SYNCD_WORKERS"),
    (["--listen", "127.0.0.1"], {}, "SYNCD_LISTEN"),
    (["--listen", "127.0.0.1:65536"], {}, "SYNCD_LISTEN"),
    (["--listen", "::1:80"], {}, "SYNCD_LISTEN"),
    (["--listen", "/nowhere/there.sock"], {}, "SYNCD_LISTEN"),
    (["--listen", "/" + "x" * 108], {}, "107"),
    (["--sqlite", "/nowhere/there"], {}, "SYNCD_SQLITE"),
    (["--sqlite", ":memory:"], {}, "SYNCD_SQLITE"),
    ([], {"SYNCD_SOCKET_MODE": "rw"}, "SYNCD_SOCKET_MODE"),
    ([], {"SYNCD_CHANNEL": "c" * 64}, "SYNCD_CHANNEL"),
    ([], {"PGHERALD_SOCKET": "/" + "x" * 108}, "PGHERALD_SOCKET"),
    (["--connections", "0"], {}, "SYNCD_CONNECTIONS"),
    (["here"], {}, "here"),
])
def test_a_setting_that_cannot_work_is_refused_with_one_line(make_syncd, flags, environment, words):
    assert words in make_syncd(None, *flags, **{"SYNCD_WORKERS": "1", **environment}).fails()


def test_a_port_that_is_taken_is_refused(make_syncd, alone):
    assert "in use" in make_syncd(SYNCD_WORKERS="1", SYNCD_LISTEN=f"127.0.0.1:{alone.port}").fails()


def test_a_role_that_may_not_make_the_tables_is_refused(make_syncd, db, local_relay):
    db.sql("REVOKE CREATE ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO postgres", user="postgres")
    log = make_syncd(local_relay, DATABASE_URL=db.direct_url)
    log.launch().process.wait(15)
    assert log.process.returncode == 1 and "tables cannot be had" in log.log() and "permission denied" in log.log()


def test_the_file_is_its_users_alone(make_syncd, run):
    """And the files that SQLite makes next to it."""
    path = os.path.join(run.subdirectory("sqlite"), "records")
    syncd = make_syncd(SYNCD_SQLITE=path, SYNCD_WORKERS="1").start()
    syncd.put("alice", "note", 0, b"x")
    names = sorted(os.listdir(os.path.dirname(path)))
    assert names == ["records", "records-shm", "records-wal"]
    for name in names:
        assert os.stat(os.path.join(os.path.dirname(path), name)).st_mode & 0o777 == 0o600, name


def test_help(make_syncd, run):
    text = run.call([SYNCD, "--help"])
    for name in ("DATABASE_URL", "SYNCD_SQLITE", "--listen", "--workers", "PGHERALD_SOCKET", "127.0.0.1:8080"):
        assert name in text, text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_gracefully_with_open_streams(hosts, number):
    a = hosts.a
    streams = [a.listen(f"user{i}").started() for i in range(8)]
    stalled = a.listen("user0", receive_buffer=2048)
    assert stalled.worker
    a.change("user3", "note", 0, client_id="phone")
    streams[3].hears(START, changed("phone"))
    a.stop(number)
    for stream in streams:
        stream.hears_end()
        assert stream.clean, "the response ends as it should"
    assert streams[3].events == [START, changed("phone")]
    assert hosts.b.ids("user3") == [("note", 1)]


def test_tables_that_are_there_are_used(run, make_syncd, relay, db, bouncer):
    """data-sync's tables, with recovery.sql on them; and recovery.sql on syncd's own."""
    data = DataSync(run, db).recoverable()
    data.write("alice")
    syncd = make_syncd(relay, DATABASE_URL=bouncer.url(db)).start()
    assert syncd.ids("alice") == [("r1", 1)]
    assert syncd.change("alice", "r1", 1) == 2
    assert db.sql("SELECT changed_xid IS NOT NULL FROM user_revisions") == [(True,)]


@pytest.mark.parametrize("store", ["postgres"], indirect=True)
def test_nothing_of_a_session_is_left_in_the_pool(hosts, db):
    hosts.a.change("bob", "note", 0)
    assert db.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", user="postgres") == [(0,)]
    stream = hosts.a.listen("alice").started()
    hosts.b.change("alice", "note", 0)
    stream.hears(START, changed())
    assert GAP not in stream.events
