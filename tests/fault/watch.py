"""Memory and descriptors of processes during a run, and whether they grow without bound."""

import os
import threading
import time

SLACK = 1 << 20         # bytes of growth that do not count: a few pages, a longer list
JUDGED_AFTER = 100      # samples


def rss(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def keeps_what_is_freed(pid):
    """A sanitizer and valgrind keep freed memory for a while, so memory says nothing under
    them."""
    with open(f"/proc/{pid}/maps") as maps:
        text = maps.read()
    return "libasan" in text or "vgpreload" in text


def growth(samples):
    """By how much memory grew for good. A heap grows to its high-water mark. A burst or a
    recovery raises it for a while or for ever, which is not a leak. So the lowest value of
    the last quarter is compared with the highest of the first half. A steady leak exceeds it
    by a quarter of all that it leaks. Memory that is bounded comes back below its own mark."""
    half, quarter = samples[:len(samples) // 2], samples[-(len(samples) // 4):]
    return max(0, min(quarter) - max(half))


class Watched:
    """One process, which may be started again. judged: it is never started again, so its
    growth says something."""

    def __init__(self, name, pid, judged):
        self.name = name
        self._pid = pid  # a function
        self.judged = judged
        self.samples = []
        self.fds = [fds(pid()), None]

    def sample(self):
        try:
            self.samples.append(rss(self._pid()))
        except OSError:
            pass  # it is being restarted

    def fds_now(self):
        return fds(self._pid())

    def finish(self):
        self.fds[1] = fds(self._pid())
        self.samples.append(rss(self._pid()))
        self.keeps = keeps_what_is_freed(self._pid())

    def errors(self):
        grown = growth(self.samples) if self.judged and not self.keeps and len(self.samples) >= JUDGED_AFTER else 0
        if grown > max(SLACK, max(self.samples[:len(self.samples) // 2]) // 10):
            yield f"the memory of {self.name} grew for good by {grown >> 10} KiB"
        if self.judged and self.fds[1] > self.fds[0]:
            yield f"{self.name} had {self.fds[0]} descriptors, and at the end, when all was quiet again, {self.fds[1]}"

    def figures(self):
        return {"process": self.name, "rss_start_kib": self.samples[0] >> 10, "rss_end_kib": self.samples[-1] >> 10,
                "rss_max_kib": max(self.samples) >> 10, "fds_start": self.fds[0], "fds_end": self.fds[1],
                "judged": "no" if not self.judged else "descriptors" if self.keeps or len(self.samples) < JUDGED_AFTER else "yes"}


class Watch:
    def __init__(self):
        self._all = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")

    def add(self, name, pid, judged=False):
        self._all.append(Watched(name, pid, judged))

    def start(self):
        self._thread.start()
        return self

    def _run(self):
        while not self._stop.is_set():
            for one in self._all:
                one.sample()
            self._stop.wait(1)

    def finish(self, deadline):
        """The system is quiet now. What is kept only for a while may go first. Returns the
        errors."""
        self.close()
        end = time.monotonic() + deadline
        while time.monotonic() < end and any(one.judged and one.fds_now() > one.fds[0] for one in self._all):
            time.sleep(0.1)
        for one in self._all:
            one.finish()
        return [error for one in self._all for error in one.errors()]

    def figures(self):
        return [one.figures() for one in self._all]

    def close(self):
        self._stop.set()
        if self._thread.ident:
            self._thread.join()
