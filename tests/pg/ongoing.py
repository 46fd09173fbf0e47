"""Changes that go on while a relay is restarted, and the check that none of them was missed."""

import threading

from harness.procs import wait_until
from harness.worker import CHANNEL


class Load:
    """Commits and notifies changes of users, one after the other, until it is stopped."""

    def __init__(self, data):
        self.data = data
        self.users = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self):
        while not self._stop.is_set():
            user = f"user{len(self.users)}"
            self.data.write(user)
            self.data.database.notify(CHANNEL, '{"p":"%s"}' % user)
            self.users.append(user)

    def goes_on(self, count=20):
        target = len(self.users) + count
        wait_until(lambda: len(self.users) >= target, "the load goes on")

    def stop(self):
        self._stop.set()
        self._thread.join()
        return self.users


def assert_no_hole(cats, users):
    for cat in cats:
        wait_until(lambda: {o["pubkey"] for o in cat.lines("change")} >= set(users),
                   lambda: f"all users: {set(users) - {o['pubkey'] for o in cat.lines('change')}} are missing", 30)
        assert not cat.lines("gap"), cat.lines("gap")
