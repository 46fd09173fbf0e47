#!/usr/bin/python3
"""What pgherald-cat does, in Python: print what a relay sends, as JSON lines; or publish one change.

    cat.py [--socket PATH] [--channel NAME]... [--pubkey PUBKEY]... [--cursor FILE]
    cat.py [--socket PATH] [--channel NAME] --notify PUBKEY"""

import argparse
import json
import os
import signal
import sys

import pgherald


def print_line(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)


def print_event(event):
    if not isinstance(event, pgherald.State):
        fields = event._asdict()
        if isinstance(fields.get("payload"), bytes):
            fields["payload"] = fields["payload"].decode(errors="replace")
        print_line(type(event).__name__.lower(), **dict(fields, seq=event.seq or None))
    elif event.event in (pgherald.CONNECTED, pgherald.DISCONNECTED):
        print_line(event.event, text=event.text)
    else:
        print_line("upstream", state=event.event.replace("upstream-", ""), text=event.text)


class Kept:
    """The file of the cursor."""

    def __init__(self, path):
        self.path, self.cursor = path, None
        if path and os.path.exists(path):
            with open(path, encoding="ascii") as file:
                self.cursor = file.read().rstrip("\n")

    def keep(self, cursor):
        """Written to another file and renamed: this may be killed at any moment."""
        if not self.path or cursor in (None, self.cursor):
            return
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.write(cursor + "\n")
        os.rename(self.path + ".new", self.path)
        self.cursor = cursor


def listen(client, kept, channels, pubkeys):
    requests = [client.subscribe(channel, pubkey) for channel in channels for pubkey in pubkeys or [None]]

    def subscribed(request):
        if request.error:
            sys.exit(f"cat.py: subscribe: {request.error.strerror}")
        if all(request.done() for request in requests):
            print_line("subscribed", seq=request.result())

    for request in requests:
        request.add_done_callback(subscribed)
    while True:
        event = client.wait(0)
        if event is None:
            # All that has come is printed.
            kept.keep(client.cursor())
            event = client.wait(0.1)
        if event is not None:
            print_event(event)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket")
    parser.add_argument("--channel", action="append")
    parser.add_argument("--pubkey", action="append")
    parser.add_argument("--cursor", metavar="FILE")
    parser.add_argument("--notify", metavar="PUBKEY")
    arguments = parser.parse_args()
    channels = arguments.channel or ["data_sync_changes"]
    kept = Kept(arguments.cursor)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    with pgherald.Client(arguments.socket, name="cat.py", cursor=kept.cursor) as client:
        if arguments.notify is not None:
            client.notify(channels[0], arguments.notify).wait()
            return
        try:
            listen(client, kept, channels, arguments.pubkey)
        finally:
            kept.keep(client.cursor())


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as e:
        sys.exit(f"cat.py: {e}")
