"""SECURITY.md names a test for each claim, and each of these tests exists."""

import os
import re
import subprocess

import pytest

from harness.relay import TOP

with open(os.path.join(TOP, "SECURITY.md")) as file:
    PAGE = file.read()
NAMED = sorted(set(re.findall(r"`(tests/[\w/.]+)::([\w-]+)`", PAGE)))


def names(path):
    """The tests in a file."""
    if path.startswith("tests/hostile/"):
        listed = subprocess.run([os.path.join(TOP, "tests", "hostile", "run"), "--list"], capture_output=True, text=True, check=True)
        return listed.stdout.split()
    with open(os.path.join(TOP, path)) as source:
        text = source.read()
    if path.endswith(".c"):
        return re.findall(r"^Test\(\w+, (\w+)", text, re.M)
    return re.findall(r"^def (test_\w+)\(", text, re.M)


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_each_test_that_is_named_is_there(path):
    known = names(path)
    assert [name for where, name in NAMED if where == path and name not in known] == []


def test_each_attack_is_named():
    """Except those that differ only in numbers, and variants of attacks that are named."""
    assert {name for path, name in NAMED if path.startswith("tests/hostile/")} >= {
        "one-key", "unread-answers", "pings-1000", "notifies", "publish-queue", "recoveries", "subscriptions", "connects", "half-frames",
        "tails", "scrapes", "operators", "forged-canaries", "repeated-canaries", "mixed"}


def test_nothing_that_looks_like_a_test_is_overlooked():
    assert PAGE.count("::") == len(re.findall(r"`tests/[\w/.]+::[\w-]+`", PAGE))
