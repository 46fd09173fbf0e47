"""The system under test, with its writers, its workers and its faults, for one run."""

import os
import random
import threading
import time

import psycopg2

from database import OTHERS, Site
from ear import CALM, LAST, Ear
from excuses import GRACE, Excuses
from hosts import Hosts, chosen, roles_of
from members import Bare, Library
from model import Model
from plan import FAULTS, HARMLESS, steps
from harness.packages import CATS, Missing
from harness.procs import close_all, wait_until
from harness.relay import CAT, Relay
from harness.servers import make_template
from settle import settle
from watch import Watch
from harness.worker import CHANNEL
from writers import Driver, Writer

WRITERS = 10
USERS = 20000  # ids that a writer may reach, for workers that subscribe by pubkey
STARTS = 90    # seconds: until a relay is back
RECOVERS = 10  # seconds: for how long the next fault waits for the relays
FOLD_EVERY = 10
LATE = 0.1     # share of the notifications that come late, if a relay waits for them


def default_names(seed):
    """All faults, and the conditions that this seed has."""
    return sorted(FAULTS) + chosen(random.Random(f"{seed}-conditions"))


class System:
    """names: of faults and of conditions."""

    def __init__(self, run, seed, template=None, names=None, timestamps=False, silent=0.15, environment=None,
                 log=lambda thing: print(thing, flush=True)):
        self.run = run
        self.seed = seed
        self.log = log
        self.rng = random.Random(f"{seed}-system")
        self.names = set(names or default_names(seed))
        self.model = Model()
        self.excuses = Excuses()
        self.environment = {"PGHERALD_BACKLOG_SIZE": "128K", **(environment or {})}
        self.timestamps = timestamps
        self.silent = 0 if timestamps else silent
        self.members = []
        self._switched_at = float("-inf")
        self._things = []
        self._stop = threading.Event()
        self.watch = Watch()
        self._hurried = 0
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
        roles = roles_of(self.names)
        channels = (CHANNEL, *OTHERS) if "channels" in self.names else (CHANNEL,)
        self.site = self._add(Site(self.run, self._template, self.names, channels))
        self.site.install(roles, self.timestamps)
        self.site.lead_ways(roles)
        self.hosts = Hosts(self.run, self.site, self.rng, self.names, roles, self.environment)
        self.longest_interval = max(host.interval for host in self.hosts)
        for host in self.hosts:
            self._add(host).start()
            self.log(host)
            if not host.rights.tables:
                self.excuses.add("a role that may never read", [host], times=1000)
        self.ear = self._add(Ear(self.site)).start()
        self.driver = self._add(Driver(self.model, self.site))
        self._enlist_all()
        for member in self.members:
            member.start()
        wait_until(self._all_subscribed, "all subscriptions")
        self._start_watch()
        self.writers = [self._add(Writer(self.model, n, self.seed, self.site, self.hosts, self.silent,
                                    LATE if not all(host.reconciles for host in self.hosts) else 0)).start()
                        for n in range(WRITERS)]
        if self.timestamps:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def _enlist_all(self):
        hosts = self.hosts
        for n, host in enumerate(hosts.first):
            self._enlist(Bare(self.model, f"all-{n}", host))
            self._enlist(Bare(self.model, f"slow-{n}", host, slow=0.1))
            self._enlist(Bare(self.model, f"pubkeys-{n}", host, self._some_users(4000)))
            if os.path.exists(CAT):
                self._enlist(Library(self.model, self.run, f"library-{n}", host))
        for host in hosts.mortal[len(hosts.first):]:
            self._enlist(Bare(self.model, "all-" + host.name.split()[-1], host))
        if os.path.exists(CAT):
            self._enlist(Library(self.model, self.run, "library-pubkeys", hosts.first[0], self._some_users(500)))
        for n, (language, command) in enumerate(self._other_languages()):
            self._enlist(Library(self.model, self.run, language, hosts.first[n % len(hosts.first)], command=command))
        # what may be frozen and killed: not the members that measure latency and memory, nor those that read at their own pace
        self.victims = list(self.members)
        if "trickle" in self.names:
            self._enlist(Bare(self.model, "trickle", self.rng.choice(hosts.all), trickles=True))
        self._enlist(Bare(self.model, "witness", hosts.steady, witness=True))
        if os.path.exists(CAT):
            self._enlist(Library(self.model, self.run, "library-steady", hosts.steady))

    def _other_languages(self):
        for language, command in CATS.items():
            if language != "c":
                try:
                    yield language, command()
                except Missing as why:
                    self.log(f"no member in {language}: {why}")

    def _enlist(self, member):
        self.members.append(self._add(member))

    def _some_users(self, count):
        """Some of the ids that the writers will use first, and some with which everything is
        tried at the end."""
        some = {f"w{self.rng.randrange(WRITERS)}-{self.rng.randrange(1, max(count, 2000))}" for _ in range(count)}
        return some | {f"{what}-{kind}-{channel}-0" for what in (LAST, CALM) for kind in ("told", "silent")
                       for channel in self.site.channels}

    def _start_watch(self):
        for host in [host for host in self.hosts if host.rights.key]:  # the others end before the run does
            self.watch.add(host.name, lambda host=host: host.process.pid, host is self.hosts.steady)
        if os.path.exists(CAT):
            worker = self.members[-1]
            self.watch.add("worker, steady", lambda: worker.process.pid, True)
        self.watch.add("this driver", os.getpid)
        self._add(self.watch).start()

    def _all_subscribed(self):
        self.take()
        return all(member.subscribed_at for member in self.members)

    def take(self):
        """What the thread that lives as long as the run must do now and then."""
        for member in self.members:
            if isinstance(member, Library):
                member.take()
                member.come_back()

    def _tick(self):
        """Keep the application's clock of the last notification. It stands still while the
        upstream is away."""
        witness = self.members[0]
        while not self._stop.wait(0.05):
            if witness.last_live:
                try:
                    self.site.sql("UPDATE pgherald.clock SET at = to_timestamp(%s)", (witness.last_live,))
                except psycopg2.Error:
                    pass

    # What faults need

    def switched(self):
        """Another server has replaced the last one."""
        self._switched_at = time.monotonic()

    def start_relay(self, relay):
        """The relay may have to wait for PostgreSQL, and gives up after a while. Then it is
        started again, as systemd would do it."""
        if time.monotonic() < self._switched_at + GRACE:
            # what it knew of the old server is gone, and a worker may have a checkpoint that only that would explain
            self.excuses.add("a restart after a switch", [relay]).close()
        end = time.monotonic() + STARTS
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

    def all_listen(self):
        """Relays that wait long before they try again are made to try at once."""
        try:
            listening = self.site.listening()
        except psycopg2.Error:
            return False
        deaf = [host for host in self.hosts if host.role not in listening]
        if deaf and time.monotonic() > self._hurried + 3:
            self._hurried = time.monotonic()
            for host in deaf:
                host.asked("reconnect")
        return not deaf

    def await_relays(self):
        """Until all relays hear again, or for a while."""
        end = time.monotonic() + RECOVERS
        while time.monotonic() < end and not self.all_listen():
            self.take()
            time.sleep(0.05)

    def _workers_of(self, host):
        return [m for m in self.members if m.relay is host and isinstance(m, Bare)]

    def knows(self, host):
        """Whether it has passed checkpoints of the server as it runs now, since it was
        started. Then it has something to go back to if that server goes."""
        return any(member.n_checkpoints(self.site.runs, host.started_at) >= 2 for member in self._workers_of(host))

    def passed(self, host, moment, since):
        """Whether one of its workers has had a checkpoint since then that is after this
        moment."""
        return any(member.passed(moment, since) for member in self._workers_of(host))

    # The run

    def storm(self, seconds):
        """Faults, one after the other, sometimes two at once."""
        folded = time.monotonic()
        end = folded + seconds
        faults = [name for name in self.names if name in FAULTS]
        for step in steps(self.seed, faults):
            if time.monotonic() >= end:
                return
            self.take()
            if time.monotonic() > folded + FOLD_EVERY:
                folded = time.monotonic()
                self.ear.forget(self.model.fold(self.members))
            second = None
            if step.beside:
                second = threading.Thread(target=self._inflict, args=(step.beside, random.Random(step.seed + "-beside")))
                second.start()
            self._inflict(step.name, random.Random(step.seed))
            if second:
                second.join()
            if step.recovers:
                self.await_relays()
            self._stop.wait(step.pause)

    def _inflict(self, name, rng):
        began = time.monotonic()
        self.log(f"{time.strftime('%H:%M:%S')} {name}")
        try:
            FAULTS[name](self, rng)
        except Exception as e:
            self.model.error(f"{name}: {type(e).__name__}: {e}")
        self.model.fault(name, began, name not in HARMLESS)

    def details(self, verdict):
        """What helps to find the cause: what is known of what was lost, and the logs."""
        lost = set().union(*verdict.lost.values())
        rows = self.site.sql("SELECT user_id, to_jsonb(u) ->> 'changed_xid', (SELECT min(updated_at) FROM records r WHERE"
                             " r.user_id = u.user_id) FROM user_revisions u WHERE user_id = ANY(%s) ORDER BY 3", (list(lost),))
        ended = {c.user: c.ended for c in self.model.changes()}
        now, wall = time.monotonic(), time.time()
        lines = [f"{user} xid {xid} began {at:%H:%M:%S.%f} committed "
                 + time.strftime("%H:%M:%S", time.gmtime(wall - now + ended[user])) for user, xid, at in rows[:100]]
        for host in self.hosts:
            lines += [f"--- log of {host.name}", *host.log().splitlines()[-1000:]]
        for server in {self.site.postgres, *self.site.servers()[-2:]}:
            lines += [f"--- log of {server.directory}", *server.log().splitlines()[-60:]]
        return "\n".join(lines)

    def close(self):
        self._stop.set()
        close_all(self._things)


def one_run(run, seed, seconds, **options):
    """A whole run. Returns the verdict."""
    with System(run, seed, **options) as system:
        system.storm(seconds)
        verdict = settle(system)
        return verdict._replace(details=system.details(verdict))
