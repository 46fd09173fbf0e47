"""The app of gunicorn_conf.py: it caches what it has read, until that changes.

    GET  /PUBKEY    the data, from the cache
    POST /PUBKEY    write it, and tell all workers of all hosts"""

import itertools

import pgherald

CHANNEL = "data_sync_changes"

publisher = None  # set in post_fork
reads = itertools.count(1)
cache = {}


def read(pubkey):
    """This stands for a query."""
    return f"{pubkey}, read {next(reads)}"


def forget(pubkey):
    cache.pop(pubkey, None)


def forget_all():
    cache.clear()


def app(environ, start_response):
    pubkey = environ["PATH_INFO"].strip("/")
    if environ["REQUEST_METHOD"] == "POST":
        # Here the app writes, and commits. Then:
        try:
            publisher.notify(CHANNEL, pubkey).wait()
        except pgherald.Error as e:
            # The change is committed. A relay finds and announces it if the notification is lost.
            start_response("202 Accepted", [("Content-Type", "text/plain")])
            return [f"written; not known to be published: {e.strerror}\n".encode()]
        forget(pubkey)
        start_response("204 No Content", [])
        return []
    if pubkey not in cache:
        cache[pubkey] = read(pubkey)
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{cache[pubkey]}\n".encode()]
