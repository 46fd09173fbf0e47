"""A prefork server: each worker of gunicorn opens its clients after the fork.

    gunicorn --config gunicorn_conf.py gunicorn_app:app

A client is used by one thread. So each worker has two: one is iterated in a thread of its own and
drops from the app's cache what has changed; the other publishes in the thread that handles requests
(of the sync worker, which has one)."""

import threading

import pgherald

CHANNEL = "data_sync_changes"

workers = 2


def post_fork(server, worker):
    """In the worker, before it loads the app."""
    import gunicorn_app  # its path is not known before

    gunicorn_app.publisher = pgherald.Client(name=f"gunicorn {worker.age}, publishes")
    threading.Thread(target=listen, args=(worker.age, server.log, gunicorn_app), daemon=True).start()


def listen(age, log, app):
    with pgherald.Client(name=f"gunicorn {age}") as client:
        client.subscribe(CHANNEL)
        for event in client:
            if isinstance(event, pgherald.Change):
                app.forget(event.pubkey)
            elif isinstance(event, pgherald.Gap):
                app.forget_all()
            elif isinstance(event, pgherald.State):
                log.info("pgherald is %s %s", event.event, event.text)
                if event.event == pgherald.CONNECTED:
                    # What changed before this process subscribed.
                    app.forget_all()
