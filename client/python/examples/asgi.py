"""An ASGI app, for uvicorn, hypercorn or any other server: streams of changes to browsers, one client for
the whole process.

    uvicorn asgi:app

    GET  /PUBKEY    a stream of server-sent events: `change` when the data changed, `reload` after a gap
    POST /PUBKEY    write, and tell all workers of all hosts"""

import asyncio
import collections

import pgherald

CHANNEL = "data_sync_changes"
STREAM_EVENTS = 16  # that may wait for a browser; one that is slower reloads

streams = collections.defaultdict(set)  # by pubkey: the queues of the streams
client = None


async def hear():
    """In a task of its own, as long as the app runs."""
    async for event in client:
        if isinstance(event, pgherald.Change):
            for queue in streams.get(event.pubkey, ()):
                put(queue, "change")
        elif isinstance(event, pgherald.Gap) or (isinstance(event, pgherald.State) and event.event == pgherald.CONNECTED):
            for queues in streams.values():
                for queue in queues:
                    put(queue, "reload")


def put(queue, what):
    if queue.full():
        while not queue.empty():
            queue.get_nowait()
        what = "reload"
    queue.put_nowait(what)


async def lifespan(receive, send):
    global client
    await receive()
    async with pgherald.AsyncClient() as client:
        client.subscribe(CHANNEL)
        hearing = asyncio.ensure_future(hear())
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await hearing
    await send({"type": "lifespan.shutdown.complete"})


async def stream(pubkey, receive, send):
    queue = asyncio.Queue(STREAM_EVENTS)
    streams[pubkey].add(queue)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        while True:
            event = asyncio.ensure_future(queue.get())
            await asyncio.wait([event, gone], return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                event.cancel()
                return
            await send({"type": "http.response.body", "body": f"event: {event.result()}\ndata:\n\n".encode(), "more_body": True})
    finally:
        gone.cancel()
        streams[pubkey].discard(queue)
        if not streams[pubkey]:
            del streams[pubkey]


async def until_gone(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def write(pubkey, send):
    # Here the app writes, and commits. Then:
    status = 204
    try:
        await client.notify(CHANNEL, pubkey)
    except pgherald.Error:
        status = 202  # the change is committed; a relay announces it if the notification is lost
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["method"] == "POST":
        await write(scope["path"].strip("/"), send)
    else:
        await stream(scope["path"].strip("/"), receive, send)
