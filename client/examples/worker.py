#!/usr/bin/python3
"""A worker in Python that speaks the protocol itself; it needs python3-msgpack. It prints whose data changed, and publishes
a change of its own. Its cursor is in a file, from which the next run and each reconnect continue.

    worker.py CURSOR_FILE [PUBKEY_TO_PUBLISH]"""
import json, os, socket, sys, time
import msgpack

PATH = os.environ.get("PGHERALD_SOCKET", "/run/pgherald/relay.sock")
CHANNEL = "data_sync_changes"
HELLO, SUBSCRIBE, NOTIFY, BEGIN = 0, 1, 3, 6  # used as the ids of the requests, too
CURSOR_FILE, TO_PUBLISH = sys.argv[1], sys.argv[2:]


def converse(relay):
    send = lambda *frame: relay.sendall(msgpack.packb(frame))
    cursor = json.load(open(CURSOR_FILE)) if os.path.exists(CURSOR_FILE) else None  # [epoch, seq, checkpoint]
    live = BEGIN if cursor else SUBSCRIBE  # it is live from the OK to this
    send(HELLO, 1, "worker.py", cursor)
    send(SUBSCRIBE, SUBSCRIBE, CHANNEL, None)
    if cursor:
        send(BEGIN, BEGIN)
    unpacker = msgpack.Unpacker()
    while data := relay.recv(65536):
        unpacker.feed(data)
        for frame in unpacker:
            match frame:  # *_ is what later versions add
                case [16, _, epoch, seq, *_]:  # WELCOME
                    cursor = cursor or [epoch, seq, None]
                case [17, id, seq, *_] if id == live:  # OK
                    cursor[:2] = epoch, seq  # from here on it is of this run of the relay
                    print("live", flush=True)
                    if TO_PUBLISH:
                        send(NOTIFY, NOTIFY, CHANNEL, TO_PUBLISH[0], "worker.py")
                case [17, id, *_] if id == NOTIFY:
                    print("published", TO_PUBLISH.pop(), flush=True)
                case [18, _, code, text, *_] | [24, code, text, *_]:  # ERROR, BYE
                    print(f"{code}: {text}", file=sys.stderr)
                case [19, _, _, pubkey, client_id, *_]:  # CHANGE
                    print("changed", pubkey, client_id or "", flush=True)
                case [21, _, checkpoint, *_]:  # CHECKPOINT
                    cursor[2] = checkpoint
                case [22, _, _, text, *_]:  # GAP: read again what was read before
                    print("gap:", text, flush=True)
            if 19 <= frame[0] <= 23 and frame[1] is not None:
                cursor[1] = max(cursor[1], frame[1])
        with open(CURSOR_FILE + ".new", "w") as file:
            json.dump(cursor, file)
        os.rename(file.name, CURSOR_FILE)  # whole or not at all: this may be killed at any moment


while True:
    try:
        with socket.socket(socket.AF_UNIX) as relay:
            relay.connect(PATH)
            converse(relay)
    except OSError as e:
        print(e, file=sys.stderr)
    time.sleep(1)
