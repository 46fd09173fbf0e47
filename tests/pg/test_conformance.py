"""The conformance suite: every client of this tree passes it, and a client with a fault does not."""

import os
import subprocess
import sys

import pytest

from harness.packages import Missing
from harness.relay import TOP

KIT = os.path.join(TOP, "tests", "conformance")
sys.path.insert(0, KIT)
from drivers import DRIVERS  # noqa: E402

# A driver of the Python client, whose client has one fault.
FAULTY = """#!/usr/bin/python3 -B
import runpy, sys
sys.path.insert(0, {client!r})
from pgherald import core, cursor, frames
{fault}
sys.argv = [{driver!r}]
runpy.run_path({driver!r}, run_name="__main__")
"""

FAULTS = {
    "a cursor that moves in a catch-up": ("cursor.Cursor.passed = lambda self, seq: setattr(self, 'seq', max(self.seq, seq or 0))",
                                          "resume-seqs-of-another-epoch"),
    "a cursor that is ahead of the app": ("core.Core.cursor = lambda self: self._arrived.text()", "resume-cursor-while-it-is-handled"),
    "requests that are not sent again": ("core.Core.disconnected = (lambda real: lambda self, why: (self._sent.clear(), real(self, why)))"
                                         "(core.Core.disconnected)", "publish-again-after-a-drop"),
    "a deadline that never ends": ("core.Core.tick = lambda self: None", "publish-deadline-without-a-relay"),
    "a flag that is not read": ("frames.RECOVERED = 0", "hear-flags"),
    "bytes that are trusted": ("frames.FRAME_MAX = 1 << 32", "frames-too-large"),
}


def kit(*arguments):
    """Runs the suite. Returns its exit status and what it printed."""
    done = subprocess.run([os.path.join(KIT, "run"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", DRIVERS)
def test_it_conforms(name):
    try:
        command = DRIVERS[name]()
    except Missing as why:
        pytest.skip(str(why))
    status, table = kit("--patience", "30", " ".join(command))
    assert status == 0 and ", 0 failed, " in table, table


@pytest.fixture
def driver(run):
    def make(text):
        path = os.path.join(run.subdirectory("driver"), "driver")
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o755)
        return path
    return make


@pytest.mark.parametrize("name", FAULTS)
def test_a_client_with_a_fault_fails(driver, name):
    fault, case = FAULTS[name]
    text = FAULTY.format(client=os.path.join(TOP, "client", "python"), driver=os.path.join(KIT, "drivers", "python"), fault=fault)
    # What is expected and does not come need not be waited for long.
    status, table = kit("--patience", "1", "-k", case, driver(text))
    assert status == 1 and f"{case} " in table and "FAILED" in table, table


def test_what_a_driver_lacks_is_shown_and_does_not_fail(driver):
    status, table = kit("-k", "fork", driver("""#!/bin/sh
echo '{"event": "driver", "name": "of somebody else", "abilities": []}'
cat >/dev/null
"""))
    assert status == 0 and "of somebody else" in table and " -\n" in table, table


def test_a_driver_that_ends_fails(driver):
    status, table = kit("-k", "handshake-hello", driver("""#!/bin/sh
echo '{"event": "driver", "name": "short", "abilities": []}'
echo "out of luck" >&2
exit 1
"""))
    assert status == 1 and "out of luck" in table, table


def test_what_is_not_a_driver_is_told(driver):
    status, said = kit(driver("#!/bin/sh\necho hello\n"))
    assert status == 2 and "first line" in said, said
