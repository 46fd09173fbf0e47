"""What a process has open, and whether it still needs it. A test that leaves a descriptor
open in a relay fails here, at its end."""

import os
import re
import subprocess
from collections import Counter

from harness.procs import wait_until

# What a relay has open in addition to its sockets: libev's, the timer of its pace, and the lock of each path that it claimed.
OF_A_RELAY = {"[eventpoll]": 1, "[eventfd]": 1, "[timerfd]": 1, ".lock": 3}
# To PostgreSQL: the upstream, the publisher, a recovery for all and three for some.
SESSIONS = 6
# The library's, and the program's own signalfd.
OF_A_CAT = {"[eventpoll]": 1, "[timerfd]": 1, "[eventfd]": 1, "socket": 1, "[signalfd]": 1}


def _open_files(pid):
    """Each descriptor except the standard three, as its target: a path, socket:[INODE],
    anon_inode:[eventpoll], ..."""
    found = []
    try:
        for fd in map(int, os.listdir(f"/proc/{pid}/fd")):
            if fd > 2:
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    except OSError:
        pass  # the descriptor was closed meanwhile, or the process ended
    return found


def _kind(target):
    if target.startswith("anon_inode:"):
        return target.removeprefix("anon_inode:")
    if target.startswith("socket:"):
        return "socket"
    return ".lock" if target.endswith(".lock") else target


def _beyond(have, may):
    return dict(Counter(have) - Counter(may))


def _unix_sockets():
    """{inode: (state, path, inode of its peer, or 0 if the peer is gone)}"""
    shown = subprocess.run(["ss", "-xaH"], capture_output=True, text=True, check=True).stdout
    return {int(m[3]): (m[1], m[2], int(m[4]))
            for m in re.finditer(r"^\S+ +(\S+) +\d+ +\d+ +(\S+) +(\d+) +\* +(\d+) *$", shown, re.M)}


def _left_by_relay(relay):
    """{what: how many, or which} of open descriptors that the relay does not need: a
    connection whose worker is gone, a surplus session, anything else."""
    targets = _open_files(relay.process.pid)
    kinds = [k for k in map(_kind, targets) if k != "socket"]
    left = _beyond(kinds, OF_A_RELAY)
    if "[eventfd]" not in kinds:  # libev uses a pipe instead, which has two ends
        left = {kind: n for kind, n in left.items() if not (kind.startswith("pipe:") and n == 2)}
    inodes = [int(t[8:-1]) for t in targets if _kind(t) == "socket"]
    own = {relay.directory, os.path.dirname(relay.path)}
    sessions = 0
    unix = _unix_sockets() if inodes else {}
    for inode in inodes:
        state, path, peer = unix.get(inode, (None, "", 0))
        if os.path.dirname(path) not in own:
            sessions += (state, path) != ("UNCONN", "*")  # the socket that notifies systemd
        elif state == "ESTAB" and not peer:
            left[f"a connection to {os.path.basename(path)} whose peer is gone"] = inode
    if sessions > SESSIONS:
        left["connections to PostgreSQL"] = sessions
    return left


def _wait_for_none(left, who):
    wait_until(lambda: not left(), lambda: f"{who} has nothing open that it does not need; it has {left()}")


def none_left_by_relay(relay):
    _wait_for_none(lambda: _left_by_relay(relay), relay.directory)


def none_left_by_cat(cat):
    _wait_for_none(lambda: _beyond(map(_kind, _open_files(cat.process.pid)), OF_A_CAT), "pgherald-cat")
