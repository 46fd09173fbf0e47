"""How much of the machine other processes use."""

import os
import time

import cpu

TICKS = os.sysconf("SC_CLK_TCK")


class Load:
    """What other processes, and other virtual machines, took of the CPUs since this was made.

    What was idle is exact in the kernel, where the parts that were busy are sampled. So: all the
    time that passed, less what was idle, less what this bench and its processes used."""

    def __init__(self):
        self._start = self._now()

    @staticmethod
    def _now():
        with open("/proc/stat") as file:
            fields = [int(field) / TICKS for field in file.readline().split()[1:]]
        return time.monotonic(), fields[3] + fields[4], fields[7], cpu.ours()

    def taken(self):
        """Seconds that passed, CPU seconds that others used, and that were stolen."""
        passed, idle, stolen, ours = (now - then for now, then in zip(self._now(), self._start))
        return passed, max(passed * os.cpu_count() - idle - stolen - ours, 0), stolen
