"""The machine: what kind it is, and how much of it other processes use."""

import os
import platform
import re
import subprocess
import time

import cpu

TICKS = os.sysconf("SC_CLK_TCK")


def _model():
    with open("/proc/cpuinfo") as file:
        found = re.search(r"^model name\s*: (.+)$", file.read(), re.M)
    return found[1] if found else platform.machine()


def kind():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30
    return f"{os.cpu_count()} CPUs ({_model()}), {memory:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}"


def program_version(path):
    """Like PostgreSQL 15.18."""
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return "PostgreSQL " + re.search(r"\d+\.\d+", text)[0]


def commit_of(directory):
    """Of the working tree, and whether it has other changes than the results themselves."""
    def git(*arguments):
        return subprocess.run(["git", "-C", directory, *arguments], capture_output=True, text=True).stdout.strip()
    commit = git("rev-parse", "--short=12", "HEAD")
    if not commit:
        return "unknown"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/bench/RESULTS.md", ":!tests/bench/results.svg")
    return commit + (" with changes" if changed else "")


class Load:
    """What other processes, and other virtual machines, took of the CPUs since this was made.

    What was idle is exact in the kernel, where the parts that were busy are sampled. So: all the
    time that passed, less what was idle, less what this bench and its processes used."""

    def __init__(self):
        self._start = self._now()

    @staticmethod
    def _now():
        with open("/proc/stat") as file:
            fields = [int(field) / TICKS for field in file.readline().split()[1:]]
        return time.monotonic(), fields[3] + fields[4], fields[7], cpu.ours()

    def taken(self):
        """Seconds that passed, CPU seconds that others used, and that were stolen."""
        passed, idle, stolen, ours = (now - then for now, then in zip(self._now(), self._start))
        return passed, max(passed * os.cpu_count() - idle - stolen - ours, 0), stolen
