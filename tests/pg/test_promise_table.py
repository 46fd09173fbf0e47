"""tests/README.md has a table of PROTOCOL.md's guarantees and limits: each sentence word for
word, and a test that exists."""

import os
import re

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HEADING = "What is guaranteed, and where it ends"


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def guarantees():
    """The section as one line."""
    section = re.search(rf"^## {HEADING}\n(.*?)(?=^## |\Z)", read("proto/PROTOCOL.md"), re.M | re.S)
    return " ".join(section.group(1).split())


ROWS = re.findall(r"^\| (.+?) \| (.+) \|$", read("tests/README.md").replace("| sentence | tests |\n", ""), re.M)
NAMED = sorted({name for _, tests in ROWS for name in re.findall(r"`([^`]+::[^`]+)`", tests)})
# What a test is called in the files of its kind.
DEFINITIONS = {".py": r"^def {}\(", ".c": r"^Test\(\w+, {}[,)]", "run": r"^(?:long )?(?:scenario|mutant) \"?{}\"? "}


def test_each_sentence_stands_in_the_table_once_and_as_it_is():
    rest = guarantees()
    for sentence, _ in ROWS:
        assert rest.count(sentence) == 1, sentence
        rest = rest.replace(sentence, "")
    assert rest.replace("-", "").split() == [], "these are not in the table"


@pytest.mark.parametrize("sentence, tests", ROWS, ids=range(len(ROWS)))
def test_each_has_a_test_or_a_reason(sentence, tests):
    reason = re.sub(r"`[^`]+::[^`]+`", "", tests).strip()
    assert "::" in tests or reason.endswith("."), sentence


@pytest.mark.parametrize("name", NAMED)
def test_each_test_exists(name):
    path, test = name.split("::")
    kind = os.path.splitext(path)[1] or os.path.basename(path)
    assert re.search(DEFINITIONS[kind].format(re.escape(test)), read(os.path.join("tests", path)), re.M), name


def test_each_mutant_of_the_model_must_be_caught_somewhere():
    used = set(re.findall(r"MUT\((\w+)\)", read("tests/model/herald.pml"))) - {"x"}
    assert used == set(re.findall(r"^(?:long )?mutant (\w+) ", read("tests/model/run"), re.M))
