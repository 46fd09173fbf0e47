"""A wall clock that jumps, for processes that are started with it."""

import os


def jumping_clock(run):
    """Build it. Returns the library."""
    library = os.path.join(run.subdirectory("clock"), "jumping_clock.so")
    run.call(["gcc", "-shared", "-fPIC", "-O1", "-o", library,
              os.path.join(os.path.dirname(os.path.abspath(__file__)), "jumping_clock.c")])
    return library


def with_jumping_clock(relay, library):
    """A relay that is not started yet."""
    relay.environment.update(
        LD_PRELOAD=library, JUMPING_CLOCK=os.path.join(relay.directory, "jump"),
        ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
    return relay


def jump(relay, seconds):
    """From now on its wall clock is off by so much."""
    with open(relay.environment["JUMPING_CLOCK"], "w") as file:
        file.write(str(seconds))
