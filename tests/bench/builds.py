"""A build of this project: its programs, its library, and the tree that it was made from."""

import json
import os
import subprocess
import sys

import provenance

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DIRECTORY = os.path.join(TOP, "build-bench")
# What tests/harness starts, where a bench does not say it.
os.environ.setdefault("PGHERALD_BUILD", "build-bench")


class Build:
    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        try:
            with open(os.path.join(self.directory, "meson-info", "meson-info.json")) as file:
                self.source = json.load(file)["directories"]["source"]
        except OSError as failure:
            sys.exit(f"{directory} is not a build directory of meson: {failure}")
        self.daemon = os.path.join(self.directory, "relay", "pgherald")
        if not os.path.exists(self.daemon):
            sys.exit(f"there is no {self.daemon}; run ninja -C {directory}")

    @property
    def commit(self):
        return provenance.commit_of(self.source)

    def migration(self, name):
        return os.path.join(self.source, "relay", "sql", name + ".sql")

    def generator(self, name):
        return os.path.join(self.directory, "tests", "bench", name)

    @property
    def environment(self):
        """With it, the generators of another build use the library of this one."""
        return {"LD_LIBRARY_PATH": os.path.join(self.directory, "client")}


def make():
    """A release build of this tree, with what profiling needs. It does not install Redis and
    NATS, because installing one starts a server."""
    steps = [[os.path.join(TOP, "tests", "deps")]]
    if not os.path.exists(os.path.join(DIRECTORY, "build.ninja")):
        steps.append(["meson", "setup", "--buildtype=debugoptimized", DIRECTORY, TOP])
    steps.append(["ninja", "-C", DIRECTORY])
    for step in steps:
        done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(done.stdout)
    return Build(DIRECTORY)
