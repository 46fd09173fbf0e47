"""What tests/demo shows. It uses the same operations as the tests, waits for what it
announces, and fails if that does not come."""

import contextlib
import os
import shlex
import signal
import sys

import psycopg2

from harness.datasync import SQL
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


class PlainListen:
    """A program with a LISTEN connection of its own, which it makes again when it is lost."""

    def __init__(self, url, channel):
        self._url, self._channel = url, channel
        self.connect()

    def connect(self):
        self._connection = psycopg2.connect(self._url, application_name="plain LISTEN")
        self._connection.autocommit = True
        self._connection.cursor().execute(f"LISTEN {self._channel}")

    def heard(self):
        """How many notifications came since the last time, over this connection."""
        self._connection.cursor().execute("SELECT")
        count = len(self._connection.notifies)
        self._connection.notifies.clear()
        return count

    def close(self):
        self._connection.close()


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
        self.channel = "documents"
        # Only the user's own database may need the user's PGPASSFILE, PGSSLMODE and the like.
        self.environment = {}
        self.start_database()
        self.hosts = {name: self.start_relay(name) for name in ("A", "B")}
        if not self.environment:
            self.start_syncd()
        self.workers = {name: self.start_worker(name) for name in WORKERS}
        self.shown = dict.fromkeys(WORKERS, 0)

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
        # A program that writes, and an operator: roles that an outage of the relays' role does not touch.
        self.other_url = pg.url(database.name, user="postgres")
        self.where = f"PostgreSQL  port {pg.port}, throwaway; pgbouncer before it, port {bouncer.port}, transaction mode"
        self.run.call(["psql", "-XAtq", "-d", self.direct_url, "-f", os.path.join(SQL, "pgherald.sql"), "-c",
                       "CREATE TABLE documents (owner text, title text); INSERT INTO documents VALUES ('alice'), ('dave')"])

    def start_syncd(self):
        """It makes its tables when it starts."""
        self.syncds = {name: self.add(Syncd(self.run, relay, DATABASE_URL=self.url)).start() for name, relay in self.hosts.items()}
        self.run.call(["psql", "-XAtq", "-d", self.direct_url, "-f", os.path.join(SQL, "recovery.sql")])

    def add(self, thing):
        self.things.append(thing)
        return thing

    def close(self):
        for thing in reversed(self.things):
            thing.close()

    def start_relay(self, name):
        # syncd has its own channel.
        relay = self.add(Relay(self.run, f"host-{name}-", DATABASE_URL=self.url, DATABASE_DIRECT_URL=self.direct_url,
                               PGHERALD_CHANNELS=f"{self.channel},{CHANNEL}" if not self.environment else self.channel,
                               **self.environment))
        return relay.start()

    def start_worker(self, name):
        cat = self.add(Cat(self.run, "--socket", self.hosts[name[0]].path, "--channel", self.channel))
        return cat.subscribed()

    def psql(self, sql, url=None):
        command('psql -c "' + sql.replace('"', '\\"') + '"')
        return self.run.call(["psql", "-XAtq", "-d", url or self.direct_url, "-c", sql],
                             env={**self.environment, "PGAPPNAME": "psql"}).strip()

    def all_hear(self, *pubkeys, who=WORKERS):
        """Wait until these workers have printed the changes, and show the changes and gaps that
        each has printed since the last time."""
        printed = {}
        for name in who:
            cat = self.workers[name]
            for pubkey in pubkeys:
                cat.wait_for(lambda o, pubkey=pubkey: o in cat.lines("change")[self.shown[name]:] and o["pubkey"] == pubkey,
                             f"a change of {pubkey!r}")
            assert not cat.lines("gap"), f"{name} was told of a gap"
            lines = [line for line in cat.raw_lines() if '"type":"change"' in line][self.shown[name]:]
            printed.setdefault(tuple(sorted({line.partition('"channel"')[2] for line in lines})), []).append(name)
            self.shown[name] += len(lines)
        for lines, names in printed.items():
            for line in lines:
                say(f"    {coloured('32', f'{chr(32).join(names):11}')} {{...\"channel\"{line}")

    def play(self):
        say(coloured("1", "pgherald: one LISTEN a host, heard by every worker; nothing is lost in silence"))
        say(f"  {self.where}")
        for name, relay in self.hosts.items():
            pair = ", ".join(f"{w} pid {self.workers[w].process.pid}" for w in WORKERS if w[0] == name)
            say(f"  host {name}      pgherald pid {relay.process.pid}; workers {pair}")
        if self.environment:
            self.play_notify()
        else:
            self.play_tables()
            self.play_outage()
            self.play_crash()
        self.play_publish()
        heading("An operator asks host A")
        command("echo status | socat - UNIX-CONNECT:A/ops.sock")
        for line in self.hosts["A"].ops("status").rstrip("\n").split("\n"):
            say(f"    {line}")
        self.play_syncd()

    def play_notify(self):
        heading("Anyone publishes with plain SQL; every worker of every host hears it")
        self.psql(f"""NOTIFY {self.channel}, '{{"p":"alice"}}'""")
        self.all_hear("alice")
        say("    Your database stays as it is. Without DATABASE_DIRECT_URL, the demo also tracks tables, and breaks things.")

    def play_tables(self):
        heading("A table is tracked. Who writes it need not know of pgherald: every worker of every host hears")
        self.psql("SELECT pgherald.track('documents', 'documents', 'owner', notify => true)")
        self.plain = self.add(PlainListen(self.direct_url, self.channel))
        self.psql("UPDATE documents SET title = 'new' WHERE owner = 'alice'", self.other_url)
        self.all_hear("alice")
        say(f"    {coloured('32', 'plain LISTEN')} heard {self.plain.heard()}: a program with a LISTEN connection of its own, for comparison")

    def play_outage(self):
        heading("PostgreSQL ends all LISTEN connections, and lets none in. Meanwhile a row is inserted, changed, deleted")
        self.psql("ALTER ROLE app CONNECTION LIMIT 0", self.other_url)
        self.psql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                  " WHERE application_name IN ('pgherald upstream', 'plain LISTEN')", self.other_url)
        for cat in self.workers.values():
            cat.sees("down")
        self.psql("INSERT INTO documents VALUES ('bob'); UPDATE documents SET owner = 'carol' WHERE owner = 'alice'; "
                  "DELETE FROM documents WHERE owner = 'dave'", self.other_url)
        self.psql("ALTER ROLE app CONNECTION LIMIT -1", self.other_url)
        self.all_hear("bob", "alice", "carol", "dave")
        with contextlib.suppress(psycopg2.Error):
            self.plain.heard()
        self.plain.connect()
        say(f"    {coloured('31', 'plain LISTEN')} connected again, and heard {self.plain.heard()} of them: they are gone")

    def play_crash(self):
        a = self.hosts["A"]
        heading("The relay of host A is killed, and started again a write later; its workers resume where they were")
        command(f"kill -9 {a.process.pid}")
        a.kill()
        self.psql("INSERT INTO documents VALUES ('erin')", self.other_url)
        a.start()
        self.all_hear("erin")
        say("    No worker was told of a gap: nothing is missing.")

    def play_publish(self):
        heading("A worker on host A publishes; its own host hears it too, with the client that made the change")
        arguments = ["--socket", self.hosts["A"].path, "--channel", self.channel, "--notify", "frank", "phone"]
        command("pgherald-cat --socket A/relay.sock --channel " + self.channel + " --notify frank phone")
        publisher = self.add(Cat(self.run, *arguments))
        assert publisher.wait_exit() == 0, publisher.errors()
        self.all_hear("frank")

    def play_syncd(self):
        heading("A sync server on it, client/examples/syncd: two workers on each host; a stream on A, a write on B")
        if self.environment:
            say("    Left out: it would make its tables in your database.")
            return
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
            command(f"psql {shlex.quote(self.direct_url)} -c \"INSERT INTO documents VALUES ('erin')\"")
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
