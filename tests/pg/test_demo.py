"""tests/demo: what it shows is true, it ends, and no process that it starts survives it."""

import os
import re
import signal
import subprocess

import pytest

from harness.procs import leftovers, wait_until
from harness.relay import BUILD, TOP
from harness.servers import PASSWORD


@pytest.fixture
def demo(run, cleanup):
    """Start the demo with its output in a pipe, without building."""
    def start(*arguments, **environment):
        process = run.spawn([os.path.join(TOP, "tests", "demo"), *arguments], {"PGHERALD_BUILD": BUILD, **environment},
                            cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
        process.close = process.kill
        return cleanup.add(process)
    return start


def test_it_shows_what_it_promises(demo):
    process = demo()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for pubkey, recovered in (("alice", "false"), *((key, "true") for key in ("alice", "bob", "carol", "dave")), ("frank", "false")):
        heard = re.findall(rf'^ +([AB12 ]+?) +{{.*"pubkey":"{pubkey}",.*"recovered":{recovered}', output, re.M)
        assert sorted(" ".join(heard).split()) == ["A1", "A2", "B1", "B2"], output
    assert re.search(r'A1 A2 +{.*"erin".*"recovered":true', output) and re.search(r'B1 B2 +{.*"erin".*"recovered":false', output), output
    assert "plain LISTEN heard 1:" in output and "heard 0 of them" in output
    assert '"client_id":"phone"' in output and '"gap"' not in output
    assert re.search(r"^ +upstream +live", output, re.M), "status"
    assert '{"revision":1}' in output and 'A hears  event: changed; data: {"client_id":"laptop"}' in output
    assert len(output.splitlines()) < 70, "one screen"


@pytest.mark.parametrize("number", [
    signal.SIGINT, *(pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGTERM, signal.SIGKILL))])
def test_kept_it_can_be_played_with_and_ends_with_all_it_started(demo, run, number):
    process = demo("--keep")
    output = ""
    for line in process.stdout:
        output += line
        if "Ctrl-C" in line:
            break
    notify = re.search(r"\$ (\S+pgherald-cat --socket (/\S+?/pgherald-[^/]+)/\S+ .*--notify.*)", output)
    assert notify, output
    run.call(["sh", "-c", notify[1]], cwd=TOP)
    directory = notify[2]
    assert len(leftovers(directory)) > 10

    process.send_signal(number)
    process.wait(15)
    wait_until(lambda: not leftovers(directory), f"the end of {leftovers(directory)}")
    wait_until(lambda: not os.path.exists(directory), f"the end of {directory}")


def test_a_database_of_the_users_own(demo, db, bouncer):
    process = demo(DATABASE_URL=bouncer.url(db), DATABASE_DIRECT_URL=db.direct_url)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "throwaway" not in output and PASSWORD not in output


def test_it_says_what_failed(demo):
    process = demo(DATABASE_URL="postgresql://127.0.0.1:1/x", DATABASE_DIRECT_URL="postgresql://127.0.0.1:1/x")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "FAILED" in output, output
