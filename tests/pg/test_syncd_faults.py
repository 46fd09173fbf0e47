"""client/examples/syncd while what it depends on fails: its relay, PostgreSQL, its own
workers; and with very many streams."""

import http.client
import os
import re
import resource
import select
import signal
import subprocess
import time

import pytest

from harness.datasync import DataSync
from harness.procs import children, wait_until
from harness.relay import BUILD
from harness.syncd import GAP, START, SYNCD, changed

# A sanitizer's allocator never gives back what it has freed, and pads what it gives.
SANITIZED = "asan" in os.path.basename(BUILD)


def is_hint(event):
    """An event that tells a client to pull: recovered changes have no client id."""
    return event in (changed(), GAP)


@pytest.fixture
def pair(own_pg, own_db, own_bouncer, start_relay, make_syncd):
    """Two hosts on a server that may be stopped, with their relays and syncds."""
    relays = [start_relay(own_db, own_bouncer, PGHERALD_CHECKPOINT_INTERVAL="0.3") for _ in range(2)]
    syncds = [make_syncd(relay, DATABASE_URL=own_bouncer.url(own_db)).start() for relay in relays]
    return relays, syncds


def recover(run, database):
    """Install recovery.sql on the tables that syncd has made."""
    data = DataSync.__new__(DataSync)
    data.run, data.database = run, database
    data.migrate("recovery")


def writes_again(syncd, user, id, revision):
    """Write until it succeeds, as a client does that was told 503."""
    def written():
        answer = syncd.put(user, id, revision, client_id="again")
        assert answer.status in (200, 503), answer
        if answer.status == 503:
            assert answer.headers["Retry-After"] and answer.json()["error"]
            return None
        return answer
    return wait_until(written, lambda: f"a write succeeds again; {syncd.log()}", 30).json()["revision"]


# The relay

def test_streams_hear_after_the_relay_is_killed(pair, run, own_db):
    (relay, other), (a, b) = pair
    recover(run, own_db)
    for r in (relay, other):
        r.stop()
        r.start()  # it finds the function
    streams = {user: a.listen(user).started() for user in ("alice", "bob")}
    relay.kill()
    b.change("alice", "note", 0, client_id="missed")
    relay.start()
    streams["alice"].hears_of(is_hint, "what was changed while the relay was dead")
    heard = len(streams["alice"].events)
    b.change("alice", "note", 1, client_id="live")
    streams["alice"].hears_of(lambda e: e == changed("live"), "a change after it")
    assert GAP not in streams["alice"].events + streams["bob"].events, "it was recovered, exactly"
    assert streams["bob"].events == [START], "whose data did not change is not told"
    assert heard <= 3


def test_without_recovery_each_stream_is_told_of_a_gap_once(pair):
    (relay, _), (a, b) = pair
    streams = [a.listen(f"user{i % 3}").started() for i in range(6)]
    relay.kill()
    b.change("user1", "note", 0)
    relay.start()
    for stream in streams:
        stream.hears_of(lambda e: e == GAP, "a gap")
    b.change("user0", "note", 0, client_id="live")
    streams[0].hears_of(lambda e: e == changed("live"), "a change after it")
    assert [s.events.count(GAP) for s in streams] == [1] * 6


def test_local_streams_hear_after_the_relay_is_killed(make_syncd, local_relay):
    syncd = make_syncd(local_relay).start()
    stream = syncd.listen("alice").started()
    local_relay.kill()
    began = time.monotonic()
    syncd.change("alice", "note", 0, client_id="phone")
    assert time.monotonic() - began < 10, "a writer does not wait for the relay"
    local_relay.start()
    # If another worker announces it, its own event may come too early to be heard. Then the gap says so.
    stream.hears_of(lambda e: e == GAP, "that something may be missed")
    syncd.change("alice", "note", 1, client_id="live")
    stream.hears_of(lambda e: e == changed("live"), "a change after it")
    assert stream.events.count(GAP) == 1


def test_what_dies_between_the_commit_and_the_announcement_is_made_good(pair, run, own_db):
    (relay, other), (a, b) = pair
    recover(run, own_db)
    for r in (relay, other):
        r.stop()
        r.start()
    stream = b.listen("alice").started()
    relay.kill()
    a.change("alice", "note", 0, client_id="phone")
    for pid in [a.process.pid, *a.workers()]:
        os.kill(pid, signal.SIGKILL)
    a.process.wait()
    stream.hears_of(lambda e: e == changed(), "the change that nobody announced")


# PostgreSQL

def test_streams_hear_after_postgresql_is_restarted(pair, own_pg):
    _, (a, b) = pair
    stream = a.listen("alice").started()
    b.change("alice", "note", 0, client_id="before")
    stream.hears(START, changed("before"))
    own_pg.stop()
    answer = b.put("alice", "note", 1)
    assert answer.status == 503 and answer.headers["Retry-After"] and "away" in answer.json()["error"], answer
    assert b.ask("GET", "/v1/users/alice/changes", X_User="alice").status == 503
    own_pg.start()
    writes_again(b, "alice", "note", 1)
    # Until the relays hear again, they may miss announcements; they tell of that.
    stream.hears_of(lambda e: e in (changed("again"), changed(), GAP), "that there is something new", 40)
    count = len(stream.events)

    def hears_live():
        b.change("alice", f"live{time.monotonic_ns()}", 0, client_id="live")
        return changed("live") in stream.events[count:]
    wait_until(hears_live, "a change is heard live again", 40)
    assert a.ids("alice")[0] == ("note", 2)
    assert "Sesame" not in a.log() + b.log()


def test_a_killed_backend_costs_no_request(make_syncd, own_db, local_relay):
    syncd = make_syncd(local_relay, DATABASE_URL=own_db.direct_url, SYNCD_WORKERS="1", SYNCD_CONNECTIONS="1").start()
    revision = 0
    for _ in range(5):
        revision = syncd.change("alice", "note", revision)
        own_db.terminate("syncd")
    assert syncd.ids("alice") == [("note", 5)]


def test_the_pooler_is_restarted(pair, own_bouncer):
    _, (a, b) = pair
    a.change("alice", "note", 0)
    own_bouncer.restart()
    writes_again(a, "alice", "note", 1)
    assert b.ids("alice") == [("note", 2)]


def test_a_hung_server_is_given_up_and_streams_go_on(make_syncd, own_pg, own_db, local_relay):
    syncd = make_syncd(local_relay, DATABASE_URL=own_db.direct_url).start()
    stream = syncd.listen("alice").started()
    syncd.change("alice", "note", 0)
    stream.hears(START, changed())
    own_pg.freeze()
    try:
        client = syncd.client()
        client.request("GET", "/v1/users/alice/changes", headers={"X-User": "alice"})
        local_relay.worker().publish("alice", "phone")
        stream.hears(START, changed(), changed("phone"))
        response = client.getresponse()
        assert response.status == 503, response.read()
        client.close()
    finally:
        own_pg.thaw()
    assert writes_again(syncd, "alice", "note", 1) == 2


def test_a_database_that_is_away_at_the_start(make_syncd, own_pg, own_db, local_relay):
    own_pg.stop()
    syncd = make_syncd(local_relay, DATABASE_URL=own_db.direct_url).start()
    assert "does not answer" in syncd.log()
    assert syncd.put("alice", "note", 0).status == 503
    own_pg.start()
    assert writes_again(syncd, "alice", "note", 0) == 1


REFUSE = """
CREATE SEQUENCE tries;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('tries') <= {times} THEN
        RAISE EXCEPTION 'try again' USING ERRCODE = '{code}';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON records FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize("times, code, status", [(3, "40001", 200), (3, "40P01", 200), (10 ** 6, "40001", 503), (1, "23514", 500)])
def test_serialization_failures_are_tried_again_a_bounded_number_of_times(make_syncd, db, bouncer, local_relay, times, code, status):
    syncd = make_syncd(local_relay, DATABASE_URL=bouncer.url(db)).start()
    db.sql(REFUSE.format(times=times, code=code))
    answer = syncd.put("alice", "note", 0)
    assert answer.status == status, answer
    if status == 503:
        assert answer.headers["Retry-After"]
    assert db.sql("SELECT last_value FROM tries")[0][0] <= 50
    if status != 200:
        assert syncd.ids("alice") == []
        db.sql("DROP TRIGGER refuse ON records")
        assert syncd.change("alice", "note", 0) == 1, "no revision was spent"


# Workers

def test_a_killed_worker_is_replaced_and_the_others_serve(make_syncd, local_relay):
    syncd = make_syncd(local_relay).start()
    doomed = syncd.listen("alice").started()
    other = syncd.listen_at("alice", lambda pid: pid != doomed.worker).started()
    os.kill(doomed.worker, signal.SIGKILL)
    doomed.hears_end()
    syncd.change("alice", "note", 0, client_id="phone")
    other.hears(START, changed("phone"))
    wait_until(lambda: len(syncd.workers()) == 2, "another worker")
    assert f"worker {doomed.worker} was killed by signal 9" in syncd.log()
    again = syncd.listen_at("alice", lambda pid: pid != other.worker).started()
    syncd.change("alice", "note", 1, client_id="phone")
    again.hears(START, changed("phone"))


def test_a_killed_worker_loses_no_connection_that_another_could_take(make_syncd, local_relay):
    syncd = make_syncd(local_relay).start()
    workers = syncd.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    clients = [syncd.client() for _ in range(40)]
    for client in clients:
        client.request("GET", "/healthz")
    os.kill(workers[0], signal.SIGKILL)
    os.kill(workers[1], signal.SIGCONT)
    for client in clients:
        assert client.getresponse().status == 200
        client.close()
    # Otherwise it may be told to end before the worker is dead, and takes that for a failed end.
    wait_until(lambda: "was killed by signal 9" in syncd.log(), "syncd notices")


def test_workers_end_with_their_parent(make_syncd, local_relay):
    syncd = make_syncd(local_relay).start()
    workers = syncd.workers()
    stream = syncd.listen("alice").started()
    os.kill(syncd.process.pid, signal.SIGKILL)
    syncd.process.wait()
    stream.hears_end()
    assert stream.clean
    wait_until(lambda: not [pid for pid in workers if os.path.exists(f"/proc/{pid}")], "the workers end")


def test_an_end_while_a_worker_is_being_replaced(make_syncd):
    """The new worker is told to end before it is ready. That is not a failure."""
    syncd = make_syncd(SYNCD_WORKERS="1")
    for _ in range(10):
        worker, = syncd.start().workers()
        os.kill(worker, signal.SIGKILL)
        # As soon as it exists: searching all of /proc, or a pause, would take too long.
        born = f"/proc/{syncd.process.pid}/task/{syncd.process.pid}/children"
        while True:
            with open(born) as file:
                if set(file.read().split()) - {str(worker)}:
                    break
        syncd.stop()


def test_a_log_that_nobody_reads_any_more_stops_nothing(run, make_syncd):
    process = run.spawn([SYNCD], {"SYNCD_LISTEN": "0"}, stderr=subprocess.PIPE, cwd=run.subdirectory("syncd"))
    port = int(re.search(rb"READY.*listen=\S+:(\d+)", process.stderr.readline())[1])
    process.stderr.close()
    worker, = children(process.pid)
    os.kill(worker, signal.SIGKILL)  # which syncd would log
    wait_until(lambda: set(children(process.pid)) - {worker} or process.poll() is not None, "another worker")
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    client.request("GET", "/healthz")
    assert client.getresponse().status == 200
    client.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0


def test_a_request_that_is_under_way_is_finished(make_syncd, own_db, local_relay):
    """SIGTERM while the database holds up a write: it is committed and answered."""
    syncd = make_syncd(local_relay, DATABASE_URL=own_db.direct_url).start()
    syncd.change("alice", "note", 0)
    blocker = own_db.server.connect(own_db.name, "app")
    blocker.autocommit = False
    blocker.cursor().execute("LOCK TABLE records")
    client = syncd.client()
    client.request("PUT", "/v1/users/alice/records/note", '{"revision": 1, "schema_version": "1", "data": ""}',
                   {"X-User": "alice"})
    wait_until(lambda: own_db.sql("SELECT count(*) FROM pg_locks WHERE NOT granted", user="postgres") == [(1,)], "it waits")
    syncd.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in syncd.log(), "it stops")
    def refused():
        try:
            syncd.connect().close()
        except ConnectionRefusedError:
            return True
    wait_until(refused, "it takes no more connections")
    blocker.rollback()
    blocker.close()
    response = client.getresponse()
    assert response.status == 200 and response.headers["Connection"] == "close", response.read()
    client.close()
    assert syncd.process.wait(15) == 0


@pytest.mark.parametrize("connected", [False, True], ids=["new connection", "idle connection"])
def test_a_request_that_was_sent_before_the_end_is_answered(make_syncd, local_relay, connected):
    """The worker finds it together with its SIGTERM: on a connection that is not accepted
    yet, or on one that was idle."""
    for _ in range(5):  # the kernel decides which of the two it sees first
        syncd = make_syncd(local_relay, SYNCD_WORKERS="1").start()
        worker, = syncd.workers()
        client = syncd.client()
        if connected:
            assert syncd.ask("GET", "/healthz", client=client).status == 200
        os.kill(worker, signal.SIGSTOP)
        client.request("PUT", "/v1/users/alice/records/note", '{"revision": 0, "schema_version": "1", "data": ""}',
                       {"X-User": "alice"})
        syncd.process.send_signal(signal.SIGTERM)
        # As the parent does, which may not have been scheduled yet.
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGCONT)
        assert client.getresponse().status == 200
        client.close()
        assert syncd.process.wait(15) == 0


# Slow clients

def test_a_request_that_trickles_is_ended_and_a_stream_stays(make_syncd, local_relay):
    """A byte now and then keeps no request open: neither its head nor its body, of a first
    request or a later one."""
    syncd = make_syncd(local_relay, SYNCD_WORKERS="1").start()
    stream = syncd.listen("alice").started()
    head = b"PUT /v1/users/alice/records/note HTTP/1.1\r\nHost: x\r\nX-User: alice\r\nContent-Length: 1400000\r\n"
    whole = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    clients = {}
    for sent in (head, head + b"\r\n", whole + head + b"\r\n"):
        client = syncd.connect()
        client.sendall(sent)
        client.settimeout(0)
        clients[client] = b"x" if sent.endswith(b"\r\n\r\n") else b"X"

    def all_ended():
        for client, byte in list(clients.items()):
            try:
                client.sendall(byte)
                ended = not client.recv(4096)
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                ended = True
            if ended:
                del clients[client]
                client.close()
        return not clients

    wait_until(all_ended, lambda: f"the end of {len(clients)} requests that trickle", 90)
    assert not stream.poll().ended
    syncd.change("alice", "note", 0)
    stream.hears_of(lambda event: event == changed(), "the change")


# Very many streams

def memory(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_streams(syncd, users):
    streams = []
    for i, user in enumerate(users):
        streams.append(syncd.listen(user))
        if i % 200 == 199:
            wait_until(lambda: START in streams[-1].events, "the last of some streams has started")
    for stream in streams:
        wait_until(lambda: START in stream.events, "each has started")
    return streams


@pytest.mark.long
def test_ten_thousand_streams_on_one_worker(make_syncd, local_relay):
    """Each user hears its own change and no other's. A user with very many streams hears it
    too. The memory per stream is bounded."""
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000
    many = min(10_000, room, 2_000 if SANITIZED else 10_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    syncd = make_syncd(local_relay, SYNCD_WORKERS="1").start()
    worker, = syncd.workers()
    open_streams(syncd, ["first"])
    before = memory(worker)
    streams = open_streams(syncd, [f"user{i}" for i in range(many - 500)] + ["popular"] * 500)
    each = (memory(worker) - before) / many
    assert syncd.health() == {"worker": worker, "relay": "local", "streams": many + 1, "users": many - 500 + 2}
    if not SANITIZED:
        assert each < 24 << 10, f"{each} bytes a stream"
    print(f"{many} streams, {each:.0f} bytes each")
    chosen = [0, 1, many // 2, many - 501]
    for i in chosen:
        syncd.change(f"user{i}", "note", 0, client_id=f"client{i}")
    syncd.change("popular", "note", 0, client_id="phone")
    for i in chosen:
        streams[i].hears(START, changed(f"client{i}"))
    for stream in streams[-500:]:
        stream.hears(START, changed("phone"))
    poll = select.poll()
    for i, stream in enumerate(streams[:-500]):
        if i not in chosen:
            poll.register(stream.socket, select.POLLIN)
    told = [s for s in streams[:-500] if len(s.events) > 1]
    assert len(told) == len(chosen), "nobody is told of another's"
    for stream in streams:
        stream.close()
    wait_until(lambda: syncd.health()["streams"] == 1 and syncd.health()["users"] == 1, "all are gone")
