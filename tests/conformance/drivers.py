"""The drivers of this tree, as far as they can be run here."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
TOP = os.path.dirname(TESTS)
BUILD = os.path.join(TOP, os.environ.get("PGHERALD_BUILD", "build"))


def packages():
    """What builds and installs the packages. It is not imported at the top, because drivers of
    others do not need it."""
    if TESTS not in sys.path:
        sys.path.insert(0, TESTS)
    from harness import packages as found
    return found


def of_c():
    """Built by meson."""
    path = os.path.join(BUILD, "tests", "conformance", "driver")
    if not os.path.exists(path):
        raise packages().Missing(f"there is no {path}: build first, or set PGHERALD_BUILD")
    return [path]


def of_go():
    return [packages().go_program("./conformance/drivers/go", cwd=TESTS)]


def of_node():
    return packages().node_program(os.path.join(HERE, "drivers", "node.mjs"))


def of_iteration():
    return [*of_node(), "iteration"]


def of_python():
    return [os.path.join(HERE, "drivers", "python")]


def of_asyncio():
    return [*of_python(), "asyncio"]


# By name: a function that returns the command, or raises Missing.
DRIVERS = {"libpgherald": of_c, "go": of_go, "python": of_python, "asyncio": of_asyncio, "node": of_node,
           "iteration": of_iteration}


def all_drivers():
    """The commands of all that can be run. The others are named."""
    commands = []
    for name, of in DRIVERS.items():
        try:
            commands.append(of())
        except packages().Missing as why:
            print(f"left out: {name}: {why}")
    return commands
