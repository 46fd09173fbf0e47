"""What tests/demo shows. It uses the same operations as the tests, waits for what it
announces, and fails if that does not come."""

import os
import shlex
import signal
import sys

from harness.procs import Run, wait_until
from harness.relay import CAT, Cat, Relay
from harness.servers import Bouncer, Postgres, make_template
from harness.syncd import Syncd
from harness.worker import CHANNEL

WORKERS = ("A1", "A2", "B1", "B2")
COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def coloured(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURED else text


def say(text=""):
    print(text, flush=True)


def heading(text):
    say("\n" + coloured("1", text))


def command(text):
    say("  " + coloured("36", "$ " + text))


class Curl:
    """A curl that listens to a stream."""

    def __init__(self, process):
        self.process = process

    def close(self):
        self.process.kill()
        self.process.wait()


class Demo:
    def __init__(self, run):
        self.run = run
        self.things = []
        self.channel = CHANNEL
        # Only the user's own database may need the user's PGPASSFILE, PGSSLMODE and the like.
        self.environment = {}
        self.start_database()
        self.hosts = {name: self.start_relay(name) for name in ("A", "B")}
        self.workers = {name: self.start_worker(name) for name in WORKERS}
        self.shown = {name: len(self.workers[name].lines()) for name in WORKERS}

    def start_database(self):
        self.direct_url = os.environ.get("DATABASE_DIRECT_URL")
        self.url = os.environ.get("DATABASE_URL") or self.direct_url
        if self.url and not self.direct_url:
            sys.exit("DATABASE_URL alone will not do: set DATABASE_DIRECT_URL too, past the pooler; or neither")
        if self.direct_url:
            self.channel = "pgherald_demo"  # no one else's
            self.environment = {k: v for k, v in os.environ.items() if k.startswith("PG") or k == "HOME"}
            self.where = "PostgreSQL  as DATABASE_DIRECT_URL says, publishing through DATABASE_URL"
            return
        pg = self.add(Postgres(self.run, make_template(self.run))).start()
        bouncer = self.add(Bouncer(self.run, pg)).start()
        database = pg.database()
        self.url, self.direct_url = bouncer.url(database), pg.url(database.name)
        self.where = f"PostgreSQL  port {pg.port}, throwaway; pgbouncer before it, port {bouncer.port}, transaction mode"

    def add(self, thing):
        self.things.append(thing)
        return thing

    def close(self):
        for thing in reversed(self.things):
            thing.close()

    def start_relay(self, name):
        relay = self.add(Relay(self.run, f"host-{name}-", DATABASE_URL=self.url, DATABASE_DIRECT_URL=self.direct_url,
                               PGHERALD_CHANNELS=self.channel, **self.environment))
        return relay.start()

    def start_worker(self, name):
        cat = self.add(Cat(self.run, "--socket", self.hosts[name[0]].path, "--channel", self.channel))
        return cat.subscribed()

    def psql(self, sql):
        command('psql -c "' + sql.replace('"', '\\"') + '"')
        return self.run.call(["psql", "-XAtq", "-d", self.direct_url, "-c", sql],
                             env={**self.environment, "PGAPPNAME": "psql"}).strip()

    def all_hear(self, pubkey):
        """Wait until every worker has printed the change, and show what each has printed
        since the last time."""
        printed = {}
        for name, cat in self.workers.items():
            cat.hears(pubkey)
            lines = cat.raw_lines()
            printed.setdefault(tuple(lines[self.shown[name]:]), []).append(name)
            self.shown[name] = len(lines)
        for lines, names in printed.items():
            for line in lines:
                say(f"    {coloured('32', ' '.join(names))}  {line}")

    def play(self):
        say(coloured("1", "pgherald: one LISTEN a host, heard by every worker"))
        say(f"  {self.where}")
        for name, relay in self.hosts.items():
            pair = ", ".join(f"{w} pid {self.workers[w].process.pid}" for w in WORKERS if w[0] == name)
            say(f"  host {name}      pgherald pid {relay.process.pid}; workers {pair}")

        heading("1. Anyone publishes with plain SQL; every worker of every host hears it")
        self.psql(f"""NOTIFY {self.channel}, '{{"p":"alice"}}'""")
        self.all_hear("alice")

        heading("2. A worker on host A publishes; its own host hears it too, with the client that made the change")
        arguments = ["--socket", self.hosts["A"].path, "--channel", self.channel, "--notify", "bob", "phone"]
        command("pgherald-cat --socket A/relay.sock --notify bob phone")
        publisher = self.add(Cat(self.run, *arguments))
        assert publisher.wait_exit() == 0, publisher.errors()
        self.all_hear("bob")

        heading("3. PostgreSQL's LISTEN backends are killed; the workers stay connected, and hear again")
        killed = self.psql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                           " WHERE application_name = 'pgherald upstream' AND datname = current_database()")
        say(f"    {killed} killed: one a host, whatever the number of workers")
        for name, cat in self.workers.items():
            cat.sees("down", after=self.shown[name])
            cat.sees("live", after=self.shown[name])
        self.psql(f"""NOTIFY {self.channel}, '{{"p":"carol"}}'""")
        self.all_hear("carol")
        if any(cat.lines("gap") for cat in self.workers.values()):
            say("    A gap says that something may be missing: this database has no function that could tell what.")

        heading("4. An operator asks host A")
        command("echo status | socat - UNIX-CONNECT:A/ops.sock")
        for line in self.hosts["A"].ops("status").rstrip("\n").split("\n"):
            say(f"    {line}")

        self.play_syncd()

    def play_syncd(self):
        heading("5. A sync server on it, client/examples/syncd: two workers on each host; a stream on A, a write on B")
        if self.environment:
            say("    Left out: it would make its tables in your database.")
            return
        self.syncds = {name: self.add(Syncd(self.run, relay, DATABASE_URL=self.url)).start() for name, relay in self.hosts.items()}
        a, b = (f"http://127.0.0.1:{syncd.port}/v1/users/frank" for syncd in self.syncds.values())
        heard = os.path.join(self.syncds["A"].directory, "heard")
        command(f"curl -N -H 'X-User: frank' {a}/listen")
        with open(heard, "wb") as out:
            self.add(Curl(self.run.spawn(["curl", "-sN", "-H", "X-User: frank", a + "/listen"], stdout=out)))

        def events():
            with open(heard) as file:
                return [block for block in file.read().split("\n\n") if block.startswith("event: ")]
        wait_until(events, "the stream's first event: it is subscribed")
        body = '{"revision":0,"schema_version":"1","data":"aGVsbG8="}'
        command(f"curl -X PUT -H 'X-User: frank' -H 'X-Client-Id: laptop' -d '{body}' {b}/records/note")
        say("    " + self.run.call(["curl", "-sS", "-X", "PUT", "-H", "X-User: frank", "-H", "X-Client-Id: laptop", "-d", body,
                                    b + "/records/note"]))
        wait_until(lambda: len(events()) > 1, "the change on the stream")
        for event in events():
            say(f"    {coloured('32', 'A hears')}  " + "; ".join(event.split("\n")))

    def invite(self):
        a, b = self.hosts["A"], self.hosts["B"]
        cat = os.path.relpath(CAT)
        heading("It stays up. In another terminal:")
        for text in (f"{cat} --socket {b.path} --channel {self.channel}",
                     f"{cat} --socket {a.path} --channel {self.channel} --notify dave laptop",
                     f"echo status | socat - UNIX-CONNECT:{a.ops_path}",
                     f"kill -9 {a.process.pid}"):
            command(text)
        if not self.environment:
            command(f"psql {shlex.quote(self.direct_url)} -c \"NOTIFY {self.channel}, '{{\\\"p\\\":\\\"erin\\\"}}'\"")
        if not self.environment:
            say("Two windows, on two hosts; what is typed in one is in the other:")
            for syncd in self.syncds.values():
                say("  " + coloured("36", f"http://127.0.0.1:{syncd.port}/#alice"))
        say("Ctrl-C ends it.")
        while True:
            signal.pause()


def main():
    def end(number, _):
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(0 if number == signal.SIGINT else 128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    keep = "--keep" in sys.argv[1:]
    run = Run()
    try:
        demo = Demo(run)
        demo.play()
        if keep:
            demo.invite()
        demo.close()
        say("\n" + coloured("32", "all of it heard; all of it ended"))
    except AssertionError as failure:
        say(coloured("31", f"\nFAILED: {failure}"))
        return 1
    finally:
        run.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
