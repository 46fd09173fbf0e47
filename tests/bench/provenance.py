"""On what the figures were measured."""

import os
import platform
import re
import subprocess


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
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".",
                  ":!tests/bench/RESULTS.md", ":!tests/bench/results.svg")
    return commit + (" with changes" if changed else "")
