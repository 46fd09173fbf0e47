"""The system under test, with its writers, its workers and what goes wrong, for one run."""

import os
import random
import threading
import time

import psycopg2

from clock import jumping_clock, with_jumping_clock
from datasync import WRITE, DataSync
from failover import Forward, Pair, lead
from faults import FAULTS, SEVERE, terminate_publisher
from members import Bare, Library, Writer
from model import Model, judge
from procs import wait_until
from report import report
from relay import CAT, Relay
from servers import PASSWORD, Bouncer, Postgres, make_template
from watch import Watch
from worker import CHANNEL

WRITERS = 10
USERS = 20000  # ids a writer may reach, for those who subscribe by pubkey
SETTLE_SECONDS = 90
FAILOVER_EVERY = (40, 90)     # seconds, among many kinds of faults; among few it comes as often as they
FEW = 4
FOLD_EVERY = 10
QUIET_SECONDS = 20            # for what is kept a while after the last fault


class System:
    def __init__(self, run, seed, template=None, faults=None, timestamps=False, silent=0.15, environment=None, log=lambda text: print(text, flush=True)):
        self.run = run
        self.seed = seed
        self.log = log
        self.rng = random.Random(f"{seed}-faults")
        self.names = sorted(faults or FAULTS)
        self.model = Model()
        self.environment = {"PGHERALD_CHECKPOINT_INTERVAL": "0.5", "PGHERALD_BACKLOG_SIZE": "128K", **(environment or {})}
        self.timestamps = timestamps
        self.silent = 0 if timestamps else silent
        self.pair = None
        self.failed_over = False
        self._things = []
        self._stop = threading.Event()
        self._watch = Watch()
        self._holders = []  # threads of long transactions
        self._stop_holding = threading.Event()
        self._hurried = 0
        self._bursts = 0
        self._template = template or make_template(run)

    # Building and taking apart

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_):
        self.close()

    def _add(self, thing):
        self._things.append(thing)
        return thing

    def start(self):
        self.postgres = self._add(Postgres(self.run, self._template)).start()
        self.database = self.postgres.database()
        data = DataSync(self.run, self.database)
        if self.timestamps:
            self._install_timestamps()
        else:
            data.recoverable()
        self.database.sql("CREATE TABLE burst (n int)")
        if "failover" in self.names:
            self.pair = self._add(Pair(self.run, self.postgres))
        self.bouncer = self._add(Bouncer(self.run, self.postgres)).start()
        self._start_relays()
        self.members = []
        for number, relay in enumerate(self.mortal):
            self._enlist(Bare(self.model, f"all-{number}", relay))
            self._enlist(Bare(self.model, f"slow-{number}", relay, slow=0.1))
            self._enlist(Bare(self.model, f"pubkeys-{number}", relay, self._some_users(4000)))
            if os.path.exists(CAT):
                self._enlist(Library(self.model, self.run, f"library-{number}", relay))
        if os.path.exists(CAT):
            self._enlist(Library(self.model, self.run, "library-pubkeys", self.relays[0], self._some_users(500)))
        # what may be frozen and killed; not those by which latency and memory are told
        self.victims = list(self.members)
        self._enlist(Bare(self.model, "witness", self.steady, witness=True))
        if os.path.exists(CAT):
            self._enlist(Library(self.model, self.run, "library-steady", self.steady))
        for member in self.members:
            member.start()
        wait_until(self._all_subscribed, "all subscriptions")
        self._start_watch()
        self.writers = [self._add(Writer(self.model, n, self.seed, self._connect, self.relays, self.silent)).start()
                        for n in range(WRITERS)]
        if self.timestamps:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def _start_relays(self):
        """Three hosts. Two are killed now and then: one publishes through the pool; the other directly, and its wall clock jumps. The
        third, which reaches PostgreSQL by a way that can swallow what is sent, lives as long as the run, so that it shows what
        grows."""
        direct = self.pair.url(self.database.name) if self.pair else self.database.direct_url
        pool = self.bouncer.url(self.database)
        self.way = self._add(Forward(self.run, self.postgres.port))
        way = f"postgresql://app:{PASSWORD}@127.0.0.1:{self.way.port}/{self.database.name}"
        self.relays = [self._add(Relay(self.run, DATABASE_URL=url, DATABASE_DIRECT_URL=direct, **self.environment))
                       for url, direct in ((pool, direct), (direct, direct), (pool, way))]
        *self.mortal, self.steady = self.relays
        self.jumper = self.relays[1]
        if "jump-clock" in self.names:
            with_jumping_clock(self.jumper, jumping_clock(self.run))
        for relay in self.relays:
            relay.start()

    def _start_watch(self):
        for number, relay in enumerate(self.relays):
            name = "relay, steady" if relay is self.steady else f"relay {number}"
            self._watch.add(name, lambda relay=relay: relay.process.pid, relay is self.steady)
        if os.path.exists(CAT):
            worker = self.members[-1]
            self._watch.add("worker, steady", lambda: worker.process.pid, True)
        self._watch.add("this driver", os.getpid)
        self._add(self._watch).start()

    def _enlist(self, member):
        self.members.append(self._add(member))

    def _some_users(self, count):
        """A part of the ids that the writers will use first."""
        return {f"w{self.rng.randrange(WRITERS)}-{self.rng.randrange(1, max(count, 2000))}" for _ in range(count)}

    def _all_subscribed(self):
        self._take()
        return all(member.subscribed_at for member in self.members)

    def _take(self):
        for member in self.members:
            if isinstance(member, Library):
                member.take()
                member.come_back()

    def _connect(self):
        server = self.postgres
        return psycopg2.connect(host=server.directory, port=server.port, dbname=self.database.name, user="app",
                                connect_timeout=3, application_name="writer", options="-c statement_timeout=20000")

    def _install_timestamps(self):
        """Recovery as the origin did it, the wrong way: what is newer than the application's clock was at the last notification,
        by updated_at, which is the clock of a transaction's start."""
        self.database.sql("""
            CREATE SCHEMA pgherald;
            CREATE TABLE pgherald.clock (at timestamptz);
            INSERT INTO pgherald.clock VALUES (now());
            CREATE INDEX ON records (updated_at);
            CREATE FUNCTION pgherald.changes_since(since pg_snapshot) RETURNS TABLE (channel text, value text)
            LANGUAGE sql STABLE AS $$
                SELECT 'data_sync_changes'::text, user_id::text FROM records
                WHERE updated_at > (SELECT at FROM pgherald.clock) $$""")

    def _tick(self):
        """Keep the application's clock of the last notification, which stands still while the upstream is away."""
        witness = self.members[0]
        while not self._stop.wait(0.05):
            if witness.last_live:
                try:
                    self.sql("UPDATE pgherald.clock SET at = to_timestamp(%s)", (witness.last_live,))
                except psycopg2.Error:
                    pass

    # What faults need

    def sql(self, query, params=None):
        connection = self._connect_as_superuser()
        try:
            with connection.cursor() as cursor:
                cursor.execute(query, params)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def _connect_as_superuser(self):
        connection = psycopg2.connect(host=self.postgres.directory, port=self.postgres.port, dbname=self.database.name,
                                      user="postgres", connect_timeout=3, options="-c statement_timeout=5000")
        connection.autocommit = True
        return connection

    def start_relay(self, relay):
        """It may have to wait for PostgreSQL, and gives up after a while: then it is started again, as systemd would."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            relay.launch()
            relay.settles()
            if relay.process.poll() is None:
                return
            assert time.monotonic() < end, f"the relay does not start: {relay.log()}"
            time.sleep(0.5)

    def twin(self, relay):
        twin = Relay(self.run, name="twin", **relay.environment)
        twin.path = relay.path
        twin.launch()
        return twin

    def burst(self, count, notify=False):
        self._bursts += 1
        users = [f"burst{self._bursts}-{n}" for n in range(count)]
        began = time.monotonic()
        try:
            connection = self._connect()
        except psycopg2.Error:
            return
        try:
            with connection.cursor() as cursor:
                for user in users:
                    cursor.execute(WRITE, {"user": user})
                began = time.monotonic()
                connection.commit()
                if notify:
                    cursor.execute("SELECT count(pg_notify(%s, json_build_object('p', user_id)::text))"
                                   " FROM unnest(%s) AS user_id", (CHANNEL, users))
                    connection.commit()
        except psycopg2.Error:
            pass
        finally:
            for user in users:
                self.model.committed(user, began, "in bursts")
            connection.close()

    def hold(self, seconds):
        """A transaction with a change that nobody notifies stays open so long, whatever else happens."""
        self._bursts += 1
        thread = threading.Thread(target=self._hold, args=(f"long{self._bursts}", seconds))
        thread.start()
        self._holders.append(thread)

    def _hold(self, user, seconds):
        try:
            connection = self._connect()
            try:
                connection.cursor().execute(WRITE, {"user": user})
                self._stop_holding.wait(seconds)
                began = time.monotonic()
                try:
                    connection.commit()
                finally:
                    self.model.committed(user, began, "held for long, silent")
            finally:
                connection.close()
        except psycopg2.Error:
            pass  # the server went away with it

    def failover(self, seconds):
        self.pair.in_step()
        self.pair.cut()
        time.sleep(seconds)  # the primary goes on alone
        self.postgres = self.pair.fail_over()
        self.failed_over = True
        lead(self.bouncer, self.postgres)
        self.way.lead_to(self.postgres.port)
        self.pair.renew()

    # The run

    def storm(self, seconds):
        """Faults, one after the other, sometimes two at once."""
        begin = fold = time.monotonic()
        end = begin + seconds
        names = [name for name in self.names if name != "failover"] or ["failover"]
        every = FAILOVER_EVERY if len(names) > FEW else (5, 15)
        # a short run has one, in the middle of it
        plan_failover = begin + min(seconds * self.rng.uniform(0.3, 0.6), self.rng.uniform(*every)) if self.pair else end
        second = None
        while time.monotonic() < end:
            self._take()
            if time.monotonic() > fold + FOLD_EVERY:
                fold = time.monotonic()
                self.model.fold(self.members)
            if time.monotonic() > plan_failover:
                plan_failover = time.monotonic() + self.rng.uniform(*every)
                name = "failover"
            else:
                name = self.rng.choice(names)
            # a second fault beside it, if one of the two leaves the other its footing
            if second is None and name not in SEVERE and self.rng.random() < 0.25:
                other = self.rng.choice([n for n in ("freeze-worker", "kill-worker", "terminate-upstream", "burst")
                                         if n in names] or [name])
                if other != name:
                    second = threading.Thread(target=self._inflict, args=(other, random.Random(self.rng.random())))
                    second.start()
            self._inflict(name, self.rng)
            if second:
                second.join()
                second = None
            # What is away for ever longer is hit by nothing more; what has only just come back, at its weakest.
            if name in SEVERE and self.rng.random() < 0.5:
                self._await_relays()
            self._stop.wait(self.rng.uniform(0.01, 1.2))

    def _await_relays(self):
        """Until all hear again, or for a while."""
        end = time.monotonic() + 10
        while time.monotonic() < end and not self._all_listen():
            self._take()
            time.sleep(0.05)

    def _all_listen(self):
        """Those that wait for long before they try again are made to: that the publisher is back makes the upstream try."""
        try:
            rows = self.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgherald upstream'")
        except psycopg2.Error:
            return False
        if rows[0][0] >= len(self.relays):
            return True
        if time.monotonic() > self._hurried + 3:
            self._hurried = time.monotonic()
            terminate_publisher(self, self.rng)
        return False

    def _inflict(self, name, rng):
        self.log(f"{time.strftime('%H:%M:%S')} {name}")
        try:
            FAULTS[name](self, rng)
            self.model.fault(name)
        except Exception as e:
            self.model.error(f"{name}: {type(e).__name__}: {e}")

    def settle(self):
        """No more faults, no more writes: wait until all that is owed is heard, and no longer than it may take."""
        self._stop_holding.set()
        for thread in self._holders:
            thread.join()
        for writer in self.writers:
            writer.close()
        for member in self.members:
            member.hurry()
        present = {row[0] for row in self.sql("SELECT user_id FROM user_revisions")}
        end = time.monotonic() + (10 if self.timestamps else SETTLE_SECONDS)

        def missing():
            self._take()
            return sum(1 for member in self.members for user in self.model.owed(member, present) if not member.heard[user])
        while missing() and time.monotonic() < end:
            self._all_listen()
            time.sleep(0.1)
        time.sleep(0.2)
        self._take()
        grown = self._watch.finish(QUIET_SECONDS)
        verdict = judge(self.model, self.members, present, self.failed_over)
        figures = {"seed": self.seed, **verdict.figures, "processes": self._watch.figures()}
        return verdict._replace(errors=[*verdict.errors, *grown], figures=figures, report=report(figures))

    def details(self, verdict):
        """What helps to find out why: what is known of what was lost, and the logs."""
        lost = set().union(*verdict.lost.values())
        rows = self.sql("SELECT user_id, to_jsonb(u) ->> 'changed_xid', (SELECT min(updated_at) FROM records r WHERE"
                        " r.user_id = u.user_id) FROM user_revisions u WHERE user_id = ANY(%s) ORDER BY 3", (list(lost),))
        ended = {c.user: c.ended for c in self.model.changes()}
        now, wall = time.monotonic(), time.time()
        lines = [f"{user} xid {xid} began {at:%H:%M:%S.%f} committed "
                 + time.strftime("%H:%M:%S", time.gmtime(wall - now + ended[user])) for user, xid, at in rows[:100]]
        for relay in self.relays:
            lines += [f"--- log of {relay.directory}", *relay.log().splitlines()[-1000:]]
        for server in {self.postgres, *([self.pair.primary, self.pair.standby] if self.pair else [])}:
            lines += [f"--- log of {server.directory}", *server.log().splitlines()[-60:]]
        return "\n".join(lines)

    def close(self):
        self._stop.set()
        self._stop_holding.set()
        failure = None
        for thing in reversed(self._things):
            try:
                thing.close()
            except Exception as e:
                failure = failure or e
        if failure:
            raise failure


def one_run(run, seed, seconds, **options):
    """The whole of it. Returns the verdict."""
    with System(run, seed, **options) as system:
        system.storm(seconds)
        verdict = system.settle()
        return verdict._replace(details=system.details(verdict))
