"""What README.md and docs/ say is so: links lead somewhere, figures are those that were measured,
and the code in them runs."""

import json
import os
import re
import shutil
import subprocess

import pytest

from harness.datasync import DataSync, psql
from harness.ops import objects
from harness.procs import DEADLINE, wait_until
from harness.relay import BUILD, CAT, DAEMON, TOP, check_output

# What README.md writes for the database, and a test replaces by its own.
URL = "postgresql://app@db.example/app"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def read(*path):
    with open(os.path.join(TOP, *path), encoding="utf-8") as file:
        return file.read()


def blocks(path, language):
    return [text for kind, text in FENCE.findall(read(*path.split("/"))) if kind == language]


def block(path, language, what):
    """The block of code that has this in it."""
    found = [text for text in blocks(path, language) if what in text]
    assert len(found) == 1, f"{path} has {len(found)} blocks in {language} with {what!r}"
    return found[0]


# Links

def pages():
    """The tree's own, not what its builds and packages brought."""
    for directory, names, files in os.walk(TOP):
        names[:] = [n for n in names if n not in (".git", "node_modules") and not n.startswith("build")]
        yield from (os.path.relpath(os.path.join(directory, f), TOP) for f in files if f.endswith(".md"))


def anchors(page):
    """As GitHub makes them of headings."""
    text = FENCE.sub("", read(page))
    headings = re.findall(r"^#+ (.*?) *#*$", text, re.M)
    seen, found = {}, set()
    for heading in headings:
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


def links(page):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", read(page)))
    inline = re.findall(r"\]\(<?([^)\s>]+)", text)
    return [link for link in inline + re.findall(r"^\[[^]]+\]: *(\S+)", text, re.M) if not re.match(r"\w+:", link)]


def dead(page):
    """The links of the page that lead nowhere, with the reason."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        if target.startswith(".."):
            yield f"{page}: {link} leaves the tree"
        elif not os.path.exists(os.path.join(TOP, target)):
            yield f"{page}: {link}: there is no {target}"
        elif anchor and anchor not in anchors(target):
            yield f"{page}: {link}: {target} has no such heading"


def test_each_link_leads_to_a_file_and_a_heading_that_exist():
    known = sorted(pages())
    assert {"README.md", "docs/README.md", "proto/PROTOCOL.md"} <= set(known)
    assert [text for page in known for text in dead(page)] == []


def test_each_guide_is_listed_and_only_links_to_what_is_installed_with_it():
    guides = {name for name in os.listdir(os.path.join(TOP, "docs")) if name.endswith(".md")}
    assert guides - {"README.md"} <= set(links("docs/README.md"))
    installed = set(re.findall(r"'([\w/.-]+\.(?:md|svg))'", read("docs", "meson.build")))
    for guide in guides:
        for link in links(f"docs/{guide}"):
            path = link.partition("#")[0]
            if path:
                assert (path if path.startswith("../") else os.path.basename(path)) in installed, f"{guide}: {link}"
    assert guides <= installed


# Figures

def test_the_figures_are_those_of_the_results():
    """Each number in README's table, in its place."""
    results = read("tests", "bench", "RESULTS.md")

    def measured(kind, side, pattern):
        return re.search(rf"^{kind}: .*?^  {side} 256 +{pattern}", results, re.M | re.S)[1]
    rows = re.findall(r"^\| [^|]+ \| ([\d.,]+)(?: us)? \| ([\d.,]+)(?: us)? \|$", read("README.md"), re.M)
    patterns = ("transactions", r"([\d.,]+) /s"), ("transactions", r".*? ([\d.,]+) us CPU of all"), ("latency", r"([\d.,]+) us p50")
    assert rows == [tuple(measured(kind, side, pattern) for side in ("direct", "ours")) for kind, pattern in patterns]


@pytest.mark.parametrize("page", ["docs/decisions.md", "docs/operating.md"])
def test_each_figure_of_a_guide_stands_in_the_page_that_it_names(page):
    """A row of these tables names a page, and figures that stand there."""
    rows = re.findall(r"^\|(.*)\| \[([\w.]+)\]\((\.\./[^)#]+)[^)]*\) \|$", read(page), re.M)
    assert rows
    for text, _, source in rows:
        told = read(os.path.normpath(os.path.join("docs", source)))
        figures = re.findall(r"(?<![\w.,])\d[\d,.]*\d|(?<![\w.,])\d", text.rpartition("|")[2])
        assert figures, f"{page}: {text} has no figure"
        assert [f for f in figures if not re.search(rf"(?<![\d.,]){re.escape(f)}(?![\d]|[.,]\d)", told)] == [], f"{page}: {text}"


# What else the guides repeat

def test_each_alert_is_explained():
    alerts = re.findall(r"alert: (\w+)", read("systemd", "monitoring", "alerts.yml"))
    assert alerts == re.findall(r"^### (Pgherald\w+)$", read("docs", "operating.md"), re.M)


def test_each_refusal_that_a_guide_quotes_is_in_the_log():
    """The first column of the table under "The relay does not start", but for words of libpq's."""
    table = read("docs", "troubleshooting.md").partition("## The relay does not start")[2].partition("\n## ")[0]
    quoted = re.findall(r"^\| ([^|`-]+?) \|", table, re.M)[1:]
    page = read("man", "pgherald.8.scd")
    assert len(quoted) > 5
    assert [text for text in quoted if text not in page] == ["no password supplied"]


# Code

class Terminal:
    """A program in a terminal, and what it has printed."""

    def __init__(self, run, argv, environment, cwd):
        self._fd, tty = os.openpty()
        os.set_blocking(self._fd, False)
        self._text = b""
        self.process = run.spawn(argv, environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=tty, stderr=tty)
        os.close(tty)

    def text(self):
        try:
            while part := os.read(self._fd, 65536):
                self._text += part
        except OSError:  # nothing more now, or it has ended
            pass
        return self._text.decode(errors="replace").replace("\r\n", "\n")

    def prints(self, expected, deadline=DEADLINE):
        return wait_until(lambda: re.search(expected, self.text()), lambda: f"{expected!r}: {self.text()}", deadline)

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.wait(DEADLINE)
        check_output("the program", self.text())
        os.close(self._fd)


@pytest.fixture
def programs(run):
    """A directory with the programs by the names that they have when they are installed."""
    directory = run.subdirectory("bin")
    for path in (DAEMON, CAT):
        os.symlink(path, os.path.join(directory, os.path.basename(path)))
    return directory


def packages():
    return pytest.importorskip("harness.packages", reason="this tree has no packages of other languages")


def made(make):
    try:
        return make()
    except packages().Missing as why:
        pytest.skip(str(why))


def written(directory, name, text):
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def sanitizers():
    options = json.loads(read(BUILD, "meson-info", "intro-buildoptions.json"))
    value = {o["name"]: o["value"] for o in options}["b_sanitize"]
    return [] if value == "none" else [f"-fsanitize={value}"]


def compile_c(run, directory, text, *arguments):
    program = os.path.join(directory, "app")
    run.call(["gcc", "-std=gnu17", "-Wall", "-Werror", *sanitizers(), "-I", os.path.join(TOP, "client"), "-I", run.call(["pg_config", "--includedir"]).strip(),
              written(directory, "app.c", text), "-o", program, "-L", os.path.join(BUILD, "client"),
              "-Wl,-rpath," + os.path.join(BUILD, "client"), "-lpgherald", *arguments])
    return program


def c_program(run, directory, text):
    return [compile_c(run, directory, text)]


def go_module(directory):
    p = packages()
    made(lambda: p.go("mod", "init", "app", cwd=directory))
    p.go("mod", "edit", "-require=pgherald@v0.1.0", f"-replace=pgherald={p.GO}", cwd=directory)
    with open(os.path.join(p.GO, "debian.mod")) as file, open(os.path.join(directory, "go.mod"), "a") as module:
        module.write("\n".join(line for line in file.read().split("\n") if line.startswith(("require", "replace"))))


def go_program(_, directory, text):
    written(directory, "main.go", text)
    go_module(directory)
    packages().go("build", "-o", "app", ".", cwd=directory)
    return [os.path.join(directory, "app")]


def python_program(_, directory, text):
    return made(lambda: packages().python_program(written(directory, "app.py", text)))


def node_program(_, directory, text):
    return made(lambda: packages().node_program(written(directory, "app.mjs", text)))


LANGUAGES = {"c": c_program, "go": go_program, "python": python_program, "js": node_program}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_program_hears_a_change(language, run, cleanup, start_relay, db):
    text, = blocks("README.md", language)
    directory = run.subdirectory(language)
    argv = LANGUAGES[language](run, directory, text)
    relay = start_relay(db, PGHERALD_CHANNELS="documents")
    program = cleanup.add(Terminal(run, argv, {"PGHERALD_SOCKET": relay.path}, directory))
    wait_until(lambda: objects(relay.ops("channels json"))[0]["workers_for_all"] == 1, lambda: f"it subscribes: {program.text()}")
    db.notify("documents", '{"p":"alice","c":"phone"}')
    program.prints(r"(?m)^alice changed$")
    assert "read everything again" not in program.text()


def test_the_worker_before_and_after_hear_the_same(run, cleanup, start_relay, db):
    relay = start_relay(db, PGHERALD_CHANNELS="documents")
    directory = run.subdirectory("move")
    before, after = blocks("docs/from-listen-notify.md", "python")
    told = 'def read(pubkey):\n    print("read", pubkey, flush=True)\ndef everything():\n    print("read everything", flush=True)\n'
    programs = [["/usr/bin/python3", written(directory, "before.py", f"{before}{told}work({db.direct_url!r}, read, everything)\n")],
                python_program(run, directory, f"{after}{told}work(read, everything)\n")]
    terminals = [cleanup.add(Terminal(run, argv, {"PGHERALD_SOCKET": relay.path}, directory)) for argv in programs]
    for terminal in terminals:
        terminal.prints("(?m)^read everything$")
    db.notify("documents", '{"p":"alice","c":"phone"}')
    for terminal in terminals:
        terminal.prints("(?m)^read alice$")


# Publish: each function, called as its guide says

C_MAIN = """
#include <pgherald.h>
#include <libpq-fe.h>
#include <stdlib.h>
%s
static void done(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)h, (void)arg;
	exit(result->error != 0);
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		PGconn *conn = PQconnectdb(argv[1]);
		int r = publish_directly(conn);
		PQfinish(conn);
		return r != 0;
	}
	struct pgherald *h;
	int r = pgherald_open(NULL, &h);
	if (r == 0)
		r = publish(h, done);
	while (r >= 0)
		r = pgherald_wait(h, -1);
	return 1;
}
"""
GO_MAIN = """
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"log"
	"pgherald"
)
%s
func main() {
	_ = publishDirectly
	client, err := pgherald.Open(pgherald.Options{})
	if err == nil {
		go client.Run(context.Background())
		err = publish(context.Background(), client)
	}
	if err != nil {
		log.Fatal(err)
	}
}
"""
PYTHON_MAIN = "import sys\nimport psycopg2\n%s\npublish_directly(psycopg2.connect(sys.argv[1]))\n"
PYTHON_CLIENT = "import pgherald\n%s\nwith pgherald.Client() as client:\n    publish(client)\n"
NODE_MAIN = "%s\nawait publishDirectly({ query: async (text, values) => console.log(JSON.stringify([text, values])) });\n"
NODE_CLIENT = 'import { open } from "pgherald";\n%s\nconst client = open();\nawait publish(client);\nclient.close();\n'


def guide(language, which=None):
    found = blocks("docs/publish.md", language)
    assert len(found) == 2
    return "\n".join(found) if which is None else found[which]


@pytest.fixture
def published(run, start_relay, db, listen):
    """published(argv): what the program notifies."""
    relay = start_relay(db, PGHERALD_CHANNELS="documents")

    def published(argv):
        plain = listen(db, "documents")
        output = run.call(argv, env={**os.environ, "PGHERALD_SOCKET": relay.path})
        if output.startswith("["):  # the query of a driver that is not installed
            query, values = json.loads(output)
            db.sql(re.sub(r"\$\d", "%s", query), values)
        (channel, payload), = plain.wait(1)
        return channel, json.loads(payload)
    return published


PUBLISHED = ("documents", {"p": "alice", "c": "phone"})


def test_publish_in_c(run, published, db):
    directory = run.subdirectory("publish")
    program = compile_c(run, directory, C_MAIN % guide("c"), "-lpq")
    assert published([program, db.direct_url]) == PUBLISHED
    assert published([program]) == PUBLISHED


def test_publish_in_python(run, published, db):
    directory = run.subdirectory("publish")
    assert published(["/usr/bin/python3", written(directory, "direct.py", PYTHON_MAIN % guide("python", 1)), db.direct_url]) == PUBLISHED
    assert published(python_program(run, directory, PYTHON_CLIENT % guide("python", 0))) == PUBLISHED


def test_publish_in_node(run, published):
    if not shutil.which("node"):
        pytest.skip("there is no node")
    directory = run.subdirectory("publish")
    assert published(["node", written(directory, "direct.mjs", NODE_MAIN % guide("js", 1))]) == PUBLISHED
    assert published(node_program(run, directory, NODE_CLIENT % guide("js", 0))) == PUBLISHED


def test_publish_in_go(run, published):
    assert published(go_program(run, run.subdirectory("publish"), GO_MAIN % guide("go"))) == PUBLISHED


# SQL

GUIDES = [f"docs/{name}" for name in sorted(os.listdir(os.path.join(TOP, "docs"))) if name.endswith(".md")]


@pytest.mark.parametrize("page", [page for page in GUIDES if page != "docs/getting-started.md" and (blocks(page, "sql") or blocks(page, "sh"))])
def test_the_sql_and_the_commands_of_a_guide_run(page, run, cleanup, programs, start_relay, db):
    """In their order. test_debian.py runs those of getting-started.md."""
    relay = start_relay(db, PGHERALD_CHANNELS="documents,news:text")
    db.sql("CREATE TABLE documents (owner_id text); CREATE TABLE members (email text)")
    directory = run.subdirectory("guide")
    journal = written(directory, "journalctl", "#!/bin/sh\n# There is no journal.\n")
    os.chmod(journal, 0o755)
    environment = {**os.environ, "PATH": f"{directory}:{programs}:{os.environ['PATH']}", "PGHERALD_SOCKET": relay.path,
                   "PGHERALD_OPS_SOCKET": relay.ops_path, "DATABASE_DIRECT_URL": db.direct_url, "PSQLRC": "/dev/null"}
    installs = "pgherald.sql" in "".join(blocks(page, "sh"))
    if not installs:
        DataSync(run, db).migrate("pgherald")
    for number, (language, text) in enumerate(FENCE.findall(read(page))):
        if language == "sql":
            psql(run, db.server, db.name, written(directory, f"{number}.sql", text))
        elif language == "sh":
            # As it is installed, and with the one relay that is there.
            text = text.replace("/usr/share/pgherald/", "relay/sql/").replace(" --instance main", "")
            if "ctl tail" not in text:
                run.call(["bash", "-euc", text], env=environment, cwd=TOP)
                continue
            terminal = cleanup.add(Terminal(run, ["bash", "-euc", text], environment, TOP))
            wait_until(lambda: db.notify("documents", '{"p":"alice"}') or "alice" in terminal.text(), "tail shows what it hears")


# Commands

def test_the_commands_of_all_pages_are_of_the_shell():
    """The tests above and below run those of README.md and docs/, and test_debian.py those of getting-started.md."""
    for page in sorted(pages()):
        for text in blocks(page, "sh"):
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)


class Commands:
    """Blocks of commands, one after the other, in one shell."""

    def __init__(self, run, programs, db):
        self.directory = run.subdirectory("commands")
        self._db = db
        self._environment = {"PATH": programs + ":" + os.environ["PATH"], "PGHERALD_SOCKET": self.sock("relay"), "PSQLRC": "/dev/null",
                             "PGHERALD_OPS_SOCKET": self.sock("ops"), "PGHERALD_CHECKPOINT_INTERVAL": "0.5",
                             **{k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}}

    def sock(self, name):
        return os.path.join(self.directory, f"{name}.sock")

    def status(self):
        return subprocess.check_output([DAEMON, "ctl", "--socket", self.sock("ops")], text=True)

    def start(self, run, cleanup, *texts):
        text = "set -e\n" + "\n".join(texts) + "\nwait\n"
        for theirs, ours in ((URL, self._db.direct_url), ("/run/pgherald/", self.directory + "/"), ("/run/pgherald", self.directory)):
            text = text.replace(theirs, ours)
        return cleanup.add(Terminal(run, ["bash", "-c", text], self._environment, TOP))


# A script is faster than a hand: it waits here until the relay serves, and until the worker has subscribed.
SERVES = 'until echo status | socat - UNIX-CONNECT:/run/pgherald/ops.sock 2>/dev/null | grep -q "^upstream *live"; do sleep 0.1; done\n'
SUBSCRIBED = "until echo workers json | socat - UNIX-CONNECT:/run/pgherald/ops.sock | grep -q pgherald-cat; do sleep 0.1; done\n"


def by_hand(text):
    return re.sub(r"^.*\bpgherald(-cat.*)? &\n", lambda m: m[0] + (SUBSCRIBED if m[1] else SERVES), text, flags=re.M)


def skeleton(line):
    """Of a line of status, without what differs from relay to relay."""
    for what, name in ((" +", " "), ("[0-9a-f]{32}", "ID"), (r"\d[\d.]* (ms|s|min|h|days)\b", "TIME"), (r"\d[\d.]*", "N"),
                       (r"database \S+,", "database NAME,"), (r"N (table|row|change|frame)s?\b", r"N \1"), ("this relay|another relay", "RELAY")):
        line = re.sub(what, name, line)
    return line


def test_the_commands_of_quick_start_of_a_table_and_of_the_operator(run, cleanup, programs, db):
    start, table, status = (block("README.md", "sh", what) for what in ("--notify alice phone", "pgherald.track", "ctl status"))
    commands = Commands(run, programs, db)
    terminal = commands.start(run, cleanup, by_hand(start), table, status)
    terminal.prints("documents: alice changed, by phone")
    terminal.prints("documents: bob changed", 30)
    screen, outage = (text for text in blocks("README.md", "") if "PostgreSQL" in text and "mode" in text or "NOT WELL" in text)
    expected = list(map(skeleton, screen.splitlines()))
    wait_until(lambda: expected == list(map(skeleton, commands.status().splitlines()[:len(expected)])), commands.status)
    assert outage.startswith("NOT WELL     PostgreSQL has not been heard for 42.0 s; the next attempt is in 3.1 s\n")
