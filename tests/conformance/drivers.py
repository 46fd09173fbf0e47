"""The drivers of this tree, as far as they can be run here."""

import os
import shutil
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(TOP, os.environ.get("PGHERALD_BUILD", "build"))


def of_c(directory):
    """Built by meson."""
    path = os.path.join(BUILD, "tests", "conformance", "driver")
    return [path] if os.path.exists(path) else f"there is no {path}: build first, or set PGHERALD_BUILD"


def of_python(directory):
    return [os.path.join(HERE, "drivers", "python")]


def of_asyncio(directory):
    return [os.path.join(HERE, "drivers", "python"), "asyncio"]


# By name: a function that gets a directory for what it has to build, and returns the command, or a text that says
# why there is none.
DRIVERS = {"libpgherald": of_c, "python": of_python, "asyncio": of_asyncio}


class Found:
    """A context, which keeps what was built until its end."""

    def __enter__(self):
        self.directory = tempfile.mkdtemp(prefix="drivers-")
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.directory)

    def all(self):
        """The commands of all that can be run. The others are named."""
        commands = []
        for name, of in DRIVERS.items():
            command = of(self.directory)
            if isinstance(command, str):
                print(f"left out: {name}: {command}")
            else:
                commands.append(command)
        return commands
