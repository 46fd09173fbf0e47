"""A wall clock that jumps, for processes that are started with it."""

import os


def jumping_clock(run):
    """Build the library that makes the clock jump, and return its path."""
    library = os.path.join(run.subdirectory("clock"), "jumping_clock.so")
    run.call(["gcc", "-shared", "-fPIC", "-O1", "-o", library,
              os.path.join(os.path.dirname(os.path.abspath(__file__)), "jumping_clock.c")])
    return library


def with_jumping_clock(relay, library):
    """A relay with a jumping clock, not started yet."""
    relay.environment.update(
        LD_PRELOAD=library, JUMPING_CLOCK=os.path.join(relay.directory, "jump"),
        ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
    return relay


def jump(relay, seconds):
    """From now on the relay's wall clock is off by this many seconds."""
    with open(relay.environment["JUMPING_CLOCK"], "w") as file:
        file.write(str(seconds))
