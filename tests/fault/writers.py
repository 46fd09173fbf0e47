"""The writers: programs that commit and then notify, or die before; many changes at once;
transactions that stay open."""

import contextlib
import itertools
import json
import random
import threading
import time
import traceback
from collections import deque

import psycopg2

from database import write
from harness.worker import CHANNEL, NOTIFY, Ok, Worker

CROWD = 110  # writers at once
CROWD_PACE = 0.02


def payload(user, client="driver"):
    """A payload with a client id, which tells it from an announcement by a relay."""
    return json.dumps({"p": user, "c": client})


class Writer:
    """Commits changes, a third of them slowly, and then notifies them, or dies before."""

    def __init__(self, model, number, seed, site, hosts, silent, late, pace=0.01):
        self.model = model
        self.name = f"w{number}"
        self.random = random.Random(f"{seed}-writer-{number}")
        self.site = site
        self.hosts = list(hosts)
        self.silent = silent  # the share that never notifies
        self.late = late      # the share that notifies only a while after the commit
        self.pace = pace
        self._connection = None
        self._publisher = self._host = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name)
        self.n = 0

    def start(self):
        self._thread.start()
        return self

    def _run(self):
        try:
            while not self._stop.is_set():
                try:
                    self._write()
                except psycopg2.Error:
                    self._drop()
                    self._stop.wait(0.1)
                self._stop.wait(self.random.random() * 2 * self.pace)
        except Exception:
            self.model.error(f"{self.name}: {traceback.format_exc()}")
        finally:
            self._drop()
            if self._publisher:
                self._publisher.close()

    def _drop(self):
        if self._connection:
            try:
                self._connection.close()
            except psycopg2.Error:
                pass
        self._connection = None

    def _write(self):
        if self._connection is None:
            self._connection = self.site.connect()
        self.n += 1
        user = f"{self.name}-{self.n}"
        channel = CHANNEL if self.random.random() < 0.5 else self.random.choice(self.site.channels)
        way = self.random.random()
        held = self.random.random() < 0.3
        hold = self.random.choice((0.05, 0.1, 0.3, 0.6, 1.5))
        late = self.random.uniform(0.2, 2) if self.random.random() < self.late else 0
        cursor = self._connection.cursor()
        write(self.site, cursor, channel, [user])
        if held:
            self._stop.wait(hold)
        began = time.monotonic()
        kind = "silent" if way < self.silent else "by the relay" if way < 0.6 else "by pg_notify"
        kind += ", late" if late and kind != "silent" else ""
        try:
            self._connection.commit()
        finally:
            self.model.committed(user, channel, began, ("held, " if held else "") + kind, kind != "silent" and not late)
        if kind != "silent":
            self._stop.wait(late)
        if kind.startswith("by the relay"):
            self._tell(user, channel)
        elif kind.startswith("by pg_notify"):
            cursor.execute("SELECT pg_notify(%s, %s)", (channel, payload(user, self.name)))
            self._connection.commit()
            self.model.notified(user)
        elif self.random.random() < 0.2:
            self._drop()  # it died between the commit and the notification
            self.model.fault("kill-writer", began, False)

    def _publisher_for(self, channel):
        """A connection to a host that has the channel."""
        if self._publisher and channel not in self._host.channels:
            self._publisher.close()
            self._publisher = None
        if self._publisher is None:
            self._host = self.random.choice([host for host in self.hosts if channel in host.channels])
            self._publisher = Worker(self._host.path, self.name)
            self._publisher.socket.settimeout(3)
        return self._publisher

    def _tell(self, user, channel):
        try:
            publisher = self._publisher_for(channel)
            id = publisher.ask(NOTIFY, channel, user, self.name)
            end = time.monotonic() + 6
            while not publisher.answered(id) and not publisher.closed and time.monotonic() < end \
                    and not self._stop.is_set():
                publisher.pump(0.1)
            if not publisher.answered(id):
                raise OSError("no answer")
            if isinstance(publisher.answer(id), Ok):
                self.model.notified(user)
            del publisher.frames[1:]
        except OSError:
            if self._publisher:
                self._publisher.close()
            self._publisher = None

    def close(self):
        self._stop.set()
        if self._thread.ident:
            self._thread.join(20)


class Driver:
    """What the driver itself writes. Each of its users is new."""

    def __init__(self, model, site):
        self.model = model
        self.site = site
        self._numbers = itertools.count(1)
        self._stop_holding = threading.Event()
        self._holders = []

    def _name(self, what):
        return f"{what}{next(self._numbers)}"

    def commit(self, users, channel, kind, notify=False):
        """One transaction with a change of each user, and perhaps the NOTIFYs after it.
        Raises what PostgreSQL raises."""
        connection = self.site.connect()
        began = time.monotonic()
        try:
            with connection.cursor() as cursor:
                write(self.site, cursor, channel, users)
                began = time.monotonic()
                try:
                    connection.commit()
                finally:
                    for user in users:
                        self.model.committed(user, channel, began, kind)
                if notify:
                    cursor.execute("SELECT count(pg_notify(%s, p)) FROM unnest(%s) AS p",
                                   (channel, [payload(user) for user in users]))
                    connection.commit()
                    for user in users:
                        self.model.notified(user)
        finally:
            connection.close()

    def few(self, count, rng):
        """This many transactions, every other one with a NOTIFY."""
        name, connection = self._name("few"), self.site.connect()
        try:
            for n in range(count):
                channel, user = rng.choice(self.site.channels), f"{name}-{n}"
                write(self.site, connection.cursor(), channel, [user])
                if n % 2:
                    self._commit_and_tell(connection, channel, user, "before relays are back")
                else:
                    self._commit(connection, channel, user, "before relays are back, silent")
        finally:
            connection.close()

    def _commit(self, connection, channel, user, kind):
        began = time.monotonic()
        try:
            connection.commit()
        finally:
            self.model.committed(user, channel, began, kind)

    def _commit_and_tell(self, connection, channel, user, kind):
        self._commit(connection, channel, user, kind)
        connection.cursor().execute("SELECT pg_notify(%s, %s)", (channel, payload(user)))
        connection.commit()
        self.model.notified(user)

    def one_each(self, what, kind, notify):
        """One change of each channel."""
        for channel in self.site.channels:
            self.commit([self._name(what)], channel, kind, notify)

    @contextlib.contextmanager
    def table_locked(self):
        """Lock the table like a session that alters it. Writers wait, and so does recovery."""
        connection = self.site.connect()
        try:
            connection.cursor().execute("SET lock_timeout = '3s'; LOCK TABLE "
                                        f"{self.site.locked_table} IN ACCESS EXCLUSIVE MODE")
            yield
        finally:
            connection.close()

    def burst(self, count, rng, notify=False):
        name = self._name("burst")
        try:
            self.commit([f"{name}-{n}" for n in range(count)], rng.choice(self.site.channels), "in bursts", notify)
        except psycopg2.Error:
            pass  # another fault is active

    def hold(self, seconds, rng):
        """A transaction with a change that is never notified stays open this long, whatever
        else happens."""
        thread = threading.Thread(target=self._hold, args=(self._name("long"), rng.choice(self.site.channels), seconds))
        thread.start()
        self._holders.append(thread)

    def _hold(self, user, channel, seconds):
        try:
            connection = self.site.connect()
            try:
                write(self.site, connection.cursor(), channel, [user])
                self._stop_holding.wait(seconds)
                began = time.monotonic()
                try:
                    connection.commit()
                finally:
                    self.model.committed(user, channel, began, "held for long, silent")
            finally:
                connection.close()
        except psycopg2.Error:
            pass  # the server went away with it

    def crowd(self, seconds, rng):
        """This many writers at once, with an older transaction that stays open, so that the
        text of a snapshot is longer than a checkpoint may carry. Each notifies its change
        once."""
        name, channel, numbers = self._name("crowd"), rng.choice(self.site.channels), itertools.count()
        connections, waiting = [], deque()

        def begin(connection):
            user = f"{name}-{next(numbers)}"
            write(self.site, connection.cursor(), channel, [user])
            waiting.append((connection, user))

        def end_oldest():
            connection, user = waiting.popleft()
            self._commit_and_tell(connection, channel, user, "in a crowd")
            return connection
        try:
            for _ in range(CROWD):
                connections.append(self.site.connect())
                begin(connections[-1])
            waiting.rotate(-1)
            old = waiting.pop()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(CROWD_PACE)
                begin(end_oldest())
            waiting.append(old)
            while waiting:
                end_oldest()
        except psycopg2.Error:
            pass  # the server went away; so did all transactions that were open
        finally:
            for connection in connections:
                connection.close()

    def let_go(self):
        self._stop_holding.set()
        for thread in self._holders:
            thread.join()
        self._holders = []
        self._stop_holding.clear()

    def close(self):
        self._stop_holding.set()
        for thread in self._holders:
            thread.join()
