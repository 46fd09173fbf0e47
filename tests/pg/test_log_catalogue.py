"""The catalogue of log lines in pgherald(8), and the code: each has what the other has."""

import glob
import os
import re

from harness.relay import TOP

STRING = r'"(?:[^"\\]|\\.)*"'


def read(path):
    with open(path) as file:
        return file.read()


def sources():
    """{path below relay/: text}"""
    top = os.path.join(TOP, "relay")
    return {os.path.relpath(p, top): read(p) for p in glob.glob(os.path.join(top, "**", "*.c"), recursive=True)}


def joined(literals):
    """The text of C string literals next to each other; a macro between them is a word."""
    text = ""
    for part in re.findall(STRING + r"|[A-Z_]+", literals):
        text += part[1:-1].replace('\\"', '"') if part.startswith('"') else "WORD"
    return text


def logged():
    """(level or None, format) of each call of diag() and diag_limited(), without the fields after the sentence."""
    found = []
    call = re.compile(r"\bdiag(?:_limited)?\(\s*(?:&[\w>.-]+,\s+)?(DIAG_\w+|level),\s*((?:" + STRING + r"|[A-Z_]+|\s)+)[,)]")
    for name, text in sources().items():
        for level, literals in call.findall(text):
            level = level.removeprefix("DIAG_") if level != "level" else None
            found.append((name, level, re.sub(r"(?: \w+=(?:%\w+|\"%\w+\"|WORD))+ ?$", "", joined(literals))))
    return found


def reasons():
    """What stands in for "%s" in the lines about connections."""
    text = sources()
    group = STRING + r"(?:\s+" + STRING + ")*"
    rest = r"(?:" + STRING + r"|[^;\"])*;"  # of the statement
    found = re.findall(r"upstream_drop\([^;]*?(" + group + r")\);", "".join(text.values()))
    for file in ("postgres/upstream.c", "postgres/publisher.c", "relay.c"):
        for statement in re.findall(r"(?:snprintf\((?:text|why|p->last_error),|failf\(u, \w+,|\*why =\s+different)" + rest, text[file]):
            found += re.findall(group, statement)
    return {t for t in map(joined, found) if len(t) > 10}


def catalogue():
    """The lines of the man page's LOG section that are in bold and stand alone."""
    page = read(os.path.join(TOP, "man", "pgherald.8.scd"))
    section = page.partition("\n# LOG\n")[2].partition("\n# ")[0]
    return [line.strip("*") for line in re.findall(r"^\*.*\*$", section, re.M)]


def pattern(text):
    """What a catalogue's line looks like that stands for this format: words in capitals where the format has %."""
    parts = re.split(r"%(?:\.\*|\.\d)?(?:ll|z)?[a-z]|WORD", text)
    return r"[A-Z][A-Z-]*".join(re.escape(p) for p in parts)


def test_each_line_is_in_the_catalogue():
    lines = catalogue()
    found = logged()
    assert len(found) > 40, "the test finds the calls no more"
    for file, level, text in found:
        if text == "%s; next attempt in %.1f s":
            wanted = re.compile(r"WARNING: REASON; next attempt in SECONDS s")
        else:
            wanted = re.compile((level + ": " if level else "") + pattern(text))
        assert any(wanted.fullmatch(line) for line in lines), f"{file}: pgherald(8) does not have: {level}: {text}"


def test_each_reason_is_in_the_catalogue():
    found = reasons()
    assert len(found) >= 10, f"the test finds the reasons no more: {found}"
    lines = catalogue()
    for text in found:
        assert any(re.fullmatch(pattern(text), line) for line in lines), f"pgherald(8) does not have: {text}"


def test_each_line_of_the_catalogue_is_in_the_code():
    code = [re.compile((level + ": " if level else "") + pattern(text)) for _, level, text in logged()]
    code += [re.compile(pattern(text)) for text in reasons()]
    everything = "".join(re.sub(r'"\s*\n\s*"', "", text) for text in sources().values())
    for line in catalogue():
        assert any(c.fullmatch(line) for c in code) or f'"{line}"' in everything, f"no code logs: {line}"


def test_each_has_a_meaning():
    page = read(os.path.join(TOP, "man", "pgherald.8.scd"))
    for line in catalogue():
        assert f"*{line}*\n\t" in page, line
    assert len(set(catalogue())) == len(catalogue())


def test_what_a_peer_can_cause_has_a_limit():
    """A line in a file that handles peers is limited, or is one that no peer can cause."""
    allowed = {"a worker left", "an operator set the log level", "start refused", "the payload that is not a change",
               "there is no ops socket"}
    files = {f: text for f, text in sources().items() if f.startswith(("fanout/", "ops/", "base/listener", "listeners"))}
    assert len(files) > 10, "the test finds the files no more"
    for file, text in files.items():
        for sentence in re.findall(r"\bdiag\(DIAG_\w+,\s*\"([^\"]*)", text):
            assert any(sentence.startswith(a) for a in allowed), f"{file}: {sentence}"
