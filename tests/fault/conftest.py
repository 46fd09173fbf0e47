import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))

from harness.procs import Run, wait_until
from harness.relay import DAEMON
from harness.servers import make_template


def pytest_addoption(parser):
    parser.addoption("--seed", default="1", help="of the faults")
    parser.addoption("--seconds", type=float, default=15, help="how long faults go on in each run")


@pytest.fixture(scope="session")
def run():
    if not os.path.exists(DAEMON):
        pytest.exit(f"build the daemon first, or set PGHERALD_BUILD: there is no {DAEMON}", 2)
    run = Run()
    yield run
    try:
        wait_until(lambda: not run.leftovers(), "the end of all processes", 5)
    except AssertionError:
        raise AssertionError(f"the tests leave processes behind: {run.leftovers()}") from None
    finally:
        run.close()


@pytest.fixture(scope="session")
def template(run):
    return make_template(run)
