"""A case: its file, taken apart into a head and steps. README.md describes the form. It knows nothing of what
a step does."""

import glob
import json
import os

from values import OneOf

HERE = os.path.dirname(os.path.abspath(__file__))
VECTORS = os.path.join(HERE, "..", "..", "proto", "vectors")
HEAD = ("title", "needs", "environment", "repeat")
WORKER_TYPES = range(0, 7)  # of frames that only workers send


class Malformed(Exception):
    """A file that is not a case."""


class Step:
    """One line: a verb and its arguments. `block` holds the steps up to its `end`."""

    def __init__(self, line, number):
        self.line, self.number, self.block = line, number, []
        self.verb, *self.arguments = words(line)


def words(line):
    """The parts of a line: JSON values, and bare words as strings."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(line):
        if line[at].isspace():
            at += 1
            continue
        end = at
        while end < len(line) and not line[end].isspace():
            end += 1
        word = line[at:end]
        if line[at] in '[{"-0123456789' or word in ("null", "true", "false"):
            try:
                value, at = decoder.raw_decode(line, at)
            except ValueError as e:
                raise Malformed(f"not JSON: {line[at:]}: {e}") from None
            found.append(value)
        else:
            found.append(word)
            at = end
    return found


class Case:
    """`name`, `title`, `needs` and `environment`; `rounds`, which is a list of the variables of each
    repetition; `steps`."""

    def __init__(self, path):
        self.name = os.path.basename(path).removesuffix(".case")
        head, lines, last = {}, [], None
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.startswith("#") or not line.strip():
                    continue
                if line[0].isspace() and lines:
                    lines[-1] = (lines[-1][0] + " " + line.strip(), lines[-1][1])
                    continue
                if line[0].isspace() and last:
                    head[last] += " " + line.strip()
                    continue
                key, colon, value = line.partition(":")
                if colon and key in HEAD and not lines:
                    head[key], last = value.strip(), key
                else:
                    lines.append((line.strip(), number))
        if "title" not in head:
            raise Malformed(f"{path} has no title")
        self.title = head["title"]
        self.needs = head.get("needs", "").split()
        self.environment = dict(e.split("=", 1) for e in head.get("environment", "").split())
        self.rounds = list(rounds(head.get("repeat", "")))
        try:
            self.steps = blocks(iter([Step(*line) for line in lines]))
        except Malformed as e:
            raise Malformed(f"{path}: {e}") from None


def blocks(steps, inside=None):
    """The steps up to `end`, those of blocks inside their first step."""
    found = []
    for step in steps:
        if step.verb == "end":
            if not inside:
                raise Malformed(f"line {step.number}: there is no block to end")
            return found
        if step.verb == "halves" or (step.verb == "hear" and step.arguments[:1] == ["any"]):
            step.block = blocks(steps, step)
        found.append(step)
    if inside:
        raise Malformed(f"line {inside.number}: the block has no end")
    return found


def rounds(what):
    """The variables of each repetition."""
    kind, *others = what.split() or [""]
    if kind == "vectors":
        for prefix in others:
            yield from vectors(prefix)
    elif kind:
        yield from map(of_word, [kind] + others)
    else:
        yield {}


def of_word(word):
    """`$word`; `$spaced`, where _ stands for a space; of KEY=VALUE `$key` and `$value`, which may be several."""
    key, _, value = word.partition("=")
    return {"word": word, "spaced": word.replace("_", " "), "key": key, "value": OneOf(value.split("|"))}


def vectors(prefix):
    """Those that a relay may send, with their descriptions."""
    for path in sorted(glob.glob(os.path.join(VECTORS, prefix + "*.msgpack"))):
        with open(path, "rb") as data:
            content = data.read()
        with open(path.removesuffix("msgpack") + "json", encoding="utf-8") as description:
            described = json.load(description)
        # An array of up to 15 elements has its length in the first byte, and the type in the second.
        of_array = content[0] & 0xf0 == 0x90 and len(content) > 1
        frame_type = described["frame"][0] if "frame" in described else content[1] if of_array else None
        if frame_type not in WORKER_TYPES:
            yield {"word": os.path.basename(path).removesuffix(".msgpack"), "vector": content,
                   "frame": described.get("frame")}


def all_cases(pattern):
    paths = sorted(glob.glob(os.path.join(HERE, "cases", "*.case")))
    return [case for case in map(Case, paths) if pattern in case.name]
