"""A listener of bench-fanout with the Python package: it hears all changes and counts them.

    listener.py [asyncio] SOCKET DESCRIPTOR OFFSET     of the memory and its struct slot in it"""

import asyncio
import mmap
import sys

import pgherald

READY = 16  # where it is in struct slot of bench.h, after count and faults


class Slot:
    def __init__(self, descriptor, offset):
        self.memory = memoryview(mmap.mmap(descriptor, 0))[offset:offset + READY + 1]
        self.numbers = self.memory[:READY].cast("Q")

    def ready(self, request):
        request.result()
        self.memory[READY] = 1

    def heard(self, event):
        if isinstance(event, pgherald.Change):
            self.numbers[0] += 1
        elif isinstance(event, pgherald.Gap):
            self.numbers[1] += 1


def block(socket, slot):
    with pgherald.Client(socket) as client:
        client.subscribe("data_sync_changes").add_done_callback(slot.ready)
        for event in client:
            slot.heard(event)


async def await_events(socket, slot):
    async with pgherald.AsyncClient(socket) as client:
        client.subscribe("data_sync_changes").add_done_callback(slot.ready)
        async for event in client:
            slot.heard(event)


def main():
    *kind, socket, descriptor, offset = sys.argv[1:]
    slot = Slot(int(descriptor), int(offset))
    if kind == ["asyncio"]:
        asyncio.run(await_events(socket, slot))
    else:
        block(socket, slot)


main()
