"""The counters as Prometheus reads them, and the socket it reads them from."""

import json
import os
import re
import shutil
import socket
import subprocess

import pytest

from harness.ops import metric
from harness.procs import DEADLINE, wait_until
from harness.worker import CHANNEL, Error

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture
def metered(make_relay):
    relay = make_relay()
    relay.metrics_path = os.path.join(relay.directory, "metrics.sock")
    relay.environment["PGHERALD_METRICS_SOCKET"] = relay.metrics_path
    return relay.start()


def exchange(relay, request, shut=False):
    """What the socket answers to these bytes, to the end."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(DEADLINE)
        s.connect(relay.metrics_path)
        s.sendall(request)
        if shut:
            s.shutdown(socket.SHUT_WR)
        answer = b""
        while True:
            data = s.recv(65536)
            if not data:
                return answer.decode()
            answer += data


def curl(run, relay, path):
    return run.call(["curl", "-sS", "-i", "--unix-socket", relay.metrics_path, "http://localhost" + path])


def test_promtool_has_no_complaint(relay, run):
    worker = relay.worker()
    worker.publish("alice")
    if not shutil.which("promtool"):
        pytest.skip("there is no promtool")
    text = relay.ops("metrics")
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert check.returncode == 0 and not check.stdout + check.stderr, check.stdout + check.stderr


def test_names_follow_the_conventions(relay):
    text = relay.ops("metrics")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    assert len(types) >= 40 and set(types.values()) == {"counter", "gauge", "histogram"}
    for name, kind in types.items():
        assert (kind == "counter") == name.endswith("_total"), name
        assert name.startswith(("pgherald_", "process_")), name
    assert len(re.findall(r"^# HELP ", text, re.M)) == len(types)


def test_each_event_is_counted_once(relay):
    names = ["pgherald_published_total", "pgherald_publish_to_commit_seconds_count", "pgherald_delivered_frames_total"]
    worker, other = relay.worker(), relay.connect()
    worker.ping()
    before = {n: metric(relay, n) for n in names}
    heard = metric(relay, "pgherald_notifications_total", channel=CHANNEL)
    for i in range(10):
        other.publish(f"u{i}")
    worker.hears("u9")
    worker.ping()
    for name in names[:2]:
        assert metric(relay, name) == before[name] + 10, name
    # checkpoints may have been delivered in between
    assert 10 <= metric(relay, names[2]) - before[names[2]] <= 30
    assert metric(relay, "pgherald_notifications_total", channel=CHANNEL) == heard + 10
    assert metric(relay, "pgherald_workers") == 2


def test_errors_are_counted_by_code(relay):
    worker = relay.worker()
    assert isinstance(worker.notify("x", channel="nowhere"), Error)
    assert metric(relay, "pgherald_errors_total", code="channel") == 1
    assert metric(relay, "pgherald_errors_total", code="busy") == 0

    def left():
        return metric(relay, "pgherald_workers_closed_total", code="left")
    wait_until(lambda: metric(relay, "pgherald_workers") == 1, "whoever looked whether it serves is gone")
    before = left()
    worker.close()
    wait_until(lambda: left() == before + 1, "the worker counts as gone")


@pytest.mark.parametrize("name", ["pgherald_canary_round_trip_seconds", "pgherald_publish_to_commit_seconds"])
def test_histograms_add_up(relay, name):
    relay.worker().publish("alice")
    wait_until(lambda: metric(relay, name + "_count") > 0, "an observation")
    text = relay.ops("metrics")
    buckets = [float(v) for v in re.findall(rf'^{name}_bucket{{le="[^"]+"}} (\S+)$', text, re.M)]
    count = float(re.search(rf"^{name}_count (\S+)$", text, re.M)[1])
    total = float(re.search(rf"^{name}_sum (\S+)$", text, re.M)[1])
    assert buckets == sorted(buckets) and buckets[-1] == count
    assert 0 < total < count * 5


def test_alerts_and_dashboard_name_what_there_is(relay):
    text = relay.ops("metrics")
    for file in ("alerts.yml", "grafana.json"):
        with open(os.path.join(TOP, "systemd", "monitoring", file)) as f:
            used = set(re.findall(r"(?:pgherald|process)_[a-z_]+", f.read()))
        for name in used:
            assert re.search(rf"^{name}[{{ ]", text, re.M), f"{file} names {name}, which there is not"


def test_promtool_takes_the_alerts():
    if not shutil.which("promtool"):
        pytest.skip("there is no promtool")
    check = subprocess.run(["promtool", "check", "rules", os.path.join(TOP, "systemd", "monitoring", "alerts.yml")],
                           capture_output=True, text=True)
    assert check.returncode == 0 and "6 rules found" in check.stdout, check.stdout + check.stderr


def test_the_dashboard_is_one():
    with open(os.path.join(TOP, "systemd", "monitoring", "grafana.json")) as file:
        dashboard = json.load(file)
    assert dashboard["title"] == "pgherald" and len(dashboard["panels"]) >= 10
    assert all(p["targets"] and p["gridPos"] for p in dashboard["panels"])


# The socket

def test_curl_reads_the_metrics(metered, run):
    answer = curl(run, metered, "/metrics")
    head, _, body = answer.partition("\n\n")
    assert head.startswith("HTTP/1.0 200 OK") and "Content-Type: text/plain; version=0.0.4" in head
    assert re.search(r"^pgherald_uptime_seconds \S+$", body, re.M)
    assert int(re.search(r"Content-Length: (\d+)", head)[1]) == len(body.encode())


def test_healthz(metered, run):
    answer = curl(run, metered, "/healthz")
    assert answer.startswith("HTTP/1.0 200 OK") and answer.endswith("\n\nok, local mode\n")


def test_healthz_tells_of_an_outage(make_relay, own_pg, own_db, run):
    relay = make_relay(DATABASE_DIRECT_URL=own_db.direct_url)
    relay.metrics_path = relay.environment["PGHERALD_METRICS_SOCKET"] = os.path.join(relay.directory, "metrics.sock")
    worker = relay.start().worker()
    assert curl(run, relay, "/healthz").startswith("HTTP/1.0 200 ")
    own_pg.stop("immediate")
    worker.sees("down")
    assert curl(run, relay, "/healthz").startswith("HTTP/1.0 503 ")
    own_pg.start()
    worker.sees("live")
    wait_until(lambda: curl(run, relay, "/healthz").startswith("HTTP/1.0 200 "), "health again")


@pytest.mark.parametrize("request_, status", [
    (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200"),
    (b"GET /metrics?x=1 HTTP/1.0\n\n", "200"),
    (b"HEAD /metrics HTTP/1.0\r\n\r\n", "200"),
    (b"GET / HTTP/1.0\r\n\r\n", "404"),
    (b"GET /metricsx HTTP/1.0\r\n\r\n", "404"),
    (b"POST /metrics HTTP/1.0\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000, "405"),
    (b"\0\0\r\n\r\n", "400"),
    (b"GET /metrics\r\n\r\n", "400"),
    (b"GET/metrics HTTP/1.0\r\n\r\n", "400"),
    (b"GET " + b"/" * 60000, "431"),
])
def test_requests_good_and_bad(metered, request_, status):
    answer = exchange(metered, request_)
    assert answer.startswith(f"HTTP/1.0 {status} "), answer[:200]
    if request_.startswith(b"HEAD"):
        assert answer.endswith("\r\n\r\n") and answer.count("\r\n\r\n") == 1


def test_requests_that_dribble_in(metered):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(DEADLINE)
        s.connect(metered.metrics_path)
        for byte in b"GET /healthz HTTP/1.0\r\n\r\n":
            s.send(bytes([byte]))
        assert s.recv(4096).startswith(b"HTTP/1.0 200 ")


def test_half_a_request_holds_up_nobody(metered):
    """Such a request is ended, and there is a limit on their number."""
    halves = []
    for _ in range(64):
        s = socket.socket(socket.AF_UNIX)
        s.connect(metered.metrics_path)
        s.send(b"GET /met")
        halves.append(s)
    worker = metered.worker()
    worker.publish("alice")
    worker.hears("alice")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(DEADLINE)
        s.connect(metered.metrics_path)
        assert s.recv(1) == b"", "the 65th is refused"
    halves[0].settimeout(DEADLINE)
    assert halves[0].recv(1) == b"", "half a request has an end"
    for s in halves:
        s.close()
    wait_until(lambda: exchange(metered, b"GET /healthz HTTP/1.0\r\n\r\n").startswith("HTTP/1.0 200"), "room again")
