"""Whether this process is the one that made a client, or a forked child that inherited it. Each call
asks, so it must cost nothing: a counter that Python moves in each child. os.getpid() is a system call."""

from __future__ import annotations

import os

__all__ = ["generation"]

_generation = 0


def _forked() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_forked)


def generation() -> int:
    """It is another one in each child."""
    return _generation
