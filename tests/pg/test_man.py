"""The manual pages say what the header, PROTOCOL.md and --help say, so that none of them
drifts."""

import os
import re
import subprocess

import pytest

from harness.relay import CAT, DAEMON, TOP


def read(*path):
    with open(os.path.join(TOP, *path)) as file:
        return file.read()


def header():
    """(with comments, code only)"""
    text = read("client", "pgherald.h")
    return text, re.sub(r"/\*.*?\*/", "", text, flags=re.S)


def section(page, title):
    return page.partition(f"\n# {title}\n")[2].partition("\n# ")[0]


def entries(text):
    """The words in bold that begin an entry."""
    return {word for line in re.findall(r"^(\*.*)\n\t", text, re.M) for word in re.findall(r"\*([^*]+)\*", line)}


def fields(code, struct):
    body = re.search(r"struct " + struct + r" \{(.*?)\n\};", code, re.S)[1]
    return set(re.findall(r"(?:\(\*)?\b(\w+)\)?(?:\([^;]*\))?[;,]", re.sub(r"\((?!\*)[^)]*\)", "", body)))


def test_each_function_is_in_the_page_with_its_signature():
    code, page = header()[1], read("man", "pgherald.3.scd")

    def prototypes(text):
        found = re.findall(r"^((?:int|void|const char \*) ?\*?pgherald_\w+\([^;]*\));", text, re.M)
        return {re.sub(r"\s+", " ", p).replace("( ", "(") for p in found}
    declared = prototypes(code)
    assert len(declared) == 11, "the test finds the functions no more"
    assert prototypes(page) == declared
    names = {re.search(r"(pgherald_\w+)\(", p)[1] for p in declared}
    assert entries(section(page, "FUNCTIONS")) == names


def test_each_option_and_callback_is_in_the_page():
    code, page = header()[1], read("man", "pgherald.3.scd")
    options = fields(code, "pgherald_options")
    assert {"size", "socket", "data", "on_change", "on_state"} <= options, "the test finds the fields no more"
    assert entries(section(page, "OPTIONS")) == options


def test_each_field_that_callbacks_get_is_in_the_page():
    code, page = header()[1], read("man", "pgherald.3.scd")
    text = section(page, "OPTIONS")
    for name in ("change", "message", "gap", "state", "result"):
        described = re.search(rf"_struct pgherald_{name}_: (.*?)(?:\n\n|\Z)", text, re.S)[1]
        words = set(re.findall(r"\*([a-z_]+)\*", described))
        assert words == fields(code, f"pgherald_{name}"), name
    events = set(re.findall(r"\b(PGHERALD_\w+) = \d", code))
    assert len(events) == 4
    for name in events | {"PGHERALD_CURSOR_SIZE"}:
        assert f"*{name}*" in page, name


def test_each_errno_is_in_the_page():
    page = read("man", "pgherald.3.scd")
    told = set(re.findall(r"-(E[A-Z0-9]{3,})\b", header()[0]))
    assert len(told) > 15
    assert entries(section(page, "ERRORS")) == told


def test_the_recipe_is_the_headers():
    recipe = re.findall(r"^ \*\t(.*)$", header()[0].partition("*/")[0], re.M)
    page = [line.replace("\\\\", "\\") for line in read("man", "pgherald.3.scd").splitlines()]
    assert len(recipe) > 10
    assert "\n".join(recipe) in "\n".join(line for line in page if line or line in recipe)


def test_each_cause_of_a_gap_is_in_the_page():
    told = re.search(r"struct pgherald_gap \{\s*/\*(.*?)\*/", header()[0], re.S)[1]
    page = re.search(r"_struct pgherald_gap_:(.*?)\n\n", read("man", "pgherald.3.scd"), re.S)[1]
    causes = set(re.findall(r'"(\w+)":', told))
    assert len(causes) > 3
    assert causes == set(re.findall(r'"(\w+)"', page))


def test_each_frame_is_in_the_page():
    documented = set(re.findall(r"^\| `(\[\d+, .*\])` ([A-Z]+) \|", read("proto", "PROTOCOL.md"), re.M))
    assert len(documented) == 16, "the test finds the frames no more"
    assert set(re.findall(r"^\*(\[\d+, .*\])\* ([A-Z]+)\n\t\S", read("man", "pgherald-protocol.7.scd"), re.M)) == documented


@pytest.mark.parametrize("head, title", [("ERROR code", "CODES OF ERROR"), ("BYE code", "CODES OF BYE"),
                                         ("GAP cause", "CAUSES OF GAP")])
def test_each_code_is_in_the_page(head, title):
    table = read("proto", "PROTOCOL.md").partition(f"| {head} |")[2].partition("\n\n")[0]
    codes = set(re.findall(r"^\| `([\w-]+)` \|", table, re.M))
    assert len(codes) >= 4
    assert entries(section(read("man", "pgherald-protocol.7.scd"), title)) == codes


def test_each_option_of_the_relay_is_in_its_page(run):
    text = section(read("man", "pgherald.8.scd"), "OPTIONS")
    told = dict(re.findall(r"^  (--[\w-]+) .*(?:\n +environment (\w+))?", run.call([DAEMON, "--help"]), re.M))
    defaults = re.findall(r"^ +environment (\w+), default (\S+)$", run.call([DAEMON, "--help"]), re.M)
    assert len(told) > 15 and len(defaults) > 10
    page = dict(re.findall(r"^\*(--[\w-]+)\*(?: \[\*(\w+)\*\])?\n\t\S", text, re.M))
    assert page == told
    for name, default in defaults:
        assert f"Default: {default}." in described(text, name), name


def described(options, name):
    """What the page says of the option with this environment variable."""
    return re.search(rf"\[\*{name}\*\]\n(.*?)\n(?:\n|$)", options, re.S)[1]


def number(text):
    return float(text.rstrip("KMG")) * {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1], 1)


def test_the_settings_file_that_is_shipped_has_each_setting_with_its_default_and_says_why(run, make_relay):
    told = dict(re.findall(r"^ +environment (\w+)(?:, default (\S*))?$", run.call([DAEMON, "--help"]), re.M))
    text = read("systemd", "main.conf")
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert [block for block in blocks if any(re.match(r"#?[A-Z_]+=", line) for line in block) and not block[0].startswith("# ")] == []
    shipped = dict(re.findall(r"^#([A-Z_]+)=(.*)$", text, re.M))
    assert re.findall(r"^[^#\n].*", text, re.M) == ["DATABASE_DIRECT_URL=postgresql://app@primary.example:5432/app"], \
        "with nothing but comments it would start in local mode"
    # The unit sets the last one.
    assert shipped == {name: default for name, default in told.items() if name not in ("DATABASE_DIRECT_URL", "PGHERALD_ENVIRONMENT_FILE")}
    path = os.path.join(run.subdirectory("settings"), "main.conf")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line[1:] + "\n" for line in text.splitlines() if re.match(r"#[A-Z_]+=", line) and "SOCKET=" not in line)
    relay = make_relay(PGHERALD_ENVIRONMENT_FILE=path).start()
    assert not relay.lines("WARNING")
    values = dict(re.findall(r"^(\w+)=(.*) \((?:file|default)\)$", relay.ops("config"), re.M))
    assert {name: values[name] for name in values if name in shipped} == {name: shipped[name] for name in values if name in shipped}


def test_the_range_of_each_option_is_in_its_page():
    """The page gives the same range as the relay does when it refuses a number."""
    text = section(read("man", "pgherald.8.scd"), "OPTIONS")
    told = {}
    for flag, name in re.findall(r"^\*(--[\w-]+)\* \[\*(\w+)\*\]$", text, re.M):
        # The level is checked last, so no relay starts with what is not a number.
        refused = subprocess.run([DAEMON, f"{flag}=-1", "--log-level=none"], capture_output=True, text=True, env={})
        if range_told := re.search(rf"{name} .* not (?:auto or )?a number from (\S+) to (\S+)$", refused.stderr, re.M):
            told[name] = tuple(float(n) for n in range_told.groups())
    assert len(told) > 15, "the test finds the ranges no more"
    page = {name: re.search(r"From (\S+) to (\S+)\. Default:", described(text, name)) for name in told}
    assert {name: m and tuple(number(n) for n in m.groups()) for name, m in page.items()} == told


def test_each_option_of_cat_is_in_its_page(run):
    text = section(read("man", "pgherald-cat.1.scd"), "OPTIONS")
    told = re.findall(r"^ +(?:(-\w), )?(--[\w-]+)", run.call([CAT, "--help"]), re.M)
    assert len(told) > 8
    assert re.findall(r"^(?:\*(-\w)\*, )?\*(--[\w-]+)\*.*\n\t\S", text, re.M) == told


@pytest.mark.parametrize("page", ["pgherald-cat.1", "pgherald.3", "pgherald-protocol.7", "pgherald.8"])
def test_each_page_can_be_made(page):
    with open(os.path.join(TOP, "man", page + ".scd")) as source:
        made = subprocess.run(["scdoc"], stdin=source, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("\n.SH ") >= 3
