/* libpgherald: hear the changes that a host's pgherald relay hears from PostgreSQL, and publish
 * some.
 *
 * Open a handle, subscribe, poll its one descriptor, and call pgherald_dispatch() when the
 * descriptor is readable:
 *
 *	static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
 *	{
 *		printf("%s changed\n", change->pubkey);
 *	}
 *
 *	struct pgherald_options options = {.size = sizeof options, .on_change = on_change};
 *	struct pgherald *h;
 *	int r = pgherald_open(&options, &h);
 *	if (r == 0)
 *		r = pgherald_subscribe(h, "data_sync_changes", NULL, NULL, NULL);
 *	while (r >= 0) {
 *		struct pollfd pfd = {.fd = pgherald_fd(h), .events = POLLIN};
 *		r = poll(&pfd, 1, -1) < 0 ? -errno : pgherald_dispatch(h);
 *	}
 *
 * What holds for all of it:
 *
 * - The library runs callbacks only inside pgherald_dispatch() and pgherald_wait();
 *   pgherald_close() runs completions. Other calls queue, and make the descriptor readable so
 *   that the app's loop comes to dispatch. A request to publish is sent at once if the app polls
 *   and no other request waits for its answer.
 * - A callback may call every function on the handle except dispatch and wait, pgherald_close()
 *   included.
 * - The library connects, reconnects and resumes by itself, inside dispatch. It starts no
 *   thread, handles no signal, prints nothing and has no global state. Every descriptor that it
 *   opens is close-on-exec.
 * - Delivery is at least once: every change committed while a subscription is live reaches
 *   on_change, or on_gap tells that it may not have. A change may come twice after a reconnect.
 * - Only one thread at a time may use a handle. Different handles are independent of each
 *   other.
 * - After a fork the handle belongs to the parent. In the child every call fails with -ECHILD,
 *   except pgherald_close(). There it frees the child's copy, runs no completion, and leaves
 *   the parent's connection as it is. A prefork server opens its handles after the fork.
 * - Functions that return int return a negative errno on failure; pgherald_strerror() puts it
 *   in words. Any call on a handle may return -ECHILD (see above) or, in a completion that
 *   pgherald_close() runs, -ESHUTDOWN.
 * - Strings are UTF-8. The library copies the strings that an app passes in. Strings that a
 *   callback gets belong to the library and are valid until the callback returns. */
#ifndef PGHERALD_H
#define PGHERALD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct pgherald;

/* The library adds fields only at the end of the structs that callbacks get. All strings in
 * them are NUL-terminated, belong to the library, and are valid until the callback returns. */

/* A notification of a change channel: the data of one user changed. */
struct pgherald_change {
	const char *channel;
	const char *pubkey; /* whose data changed */
	size_t pubkey_len;  /* bytes, without the NUL */
	/* Who made the change, so that an app can recognise its own echo. NULL if the
	 * publisher gave none. */
	const char *client_id;
	size_t client_id_len; /* bytes, without the NUL */
	uint64_t seq;         /* place in the relay's order; 0 if recovered for this handle alone */
	/* 1 if the relay found the change in the database and did not hear it live.
	 * client_id is then NULL. */
	int recovered;
};

/* A notification of a text channel, as it was published. */
struct pgherald_message {
	const char *channel;
	/* UTF-8, unless the database has an encoding that does not guarantee it (SQL_ASCII). */
	const char *payload;
	size_t payload_len; /* bytes, without the NUL */
	uint64_t seq;       /* as in pgherald_change */
	int recovered;      /* 1 if the recovery function returned it */
};

/* Changes may have been lost before this moment. The app reads again what it needs, as it
 * does at start. */
struct pgherald_gap {
	/* "overrun": this process read more slowly than the relay could keep what it missed.
	 * "restart": the cursor is from a relay run that is gone, and the database could not
	 * tell what was missed.
	 * "upstream": the relay had lost PostgreSQL, and could not recover what was missed.
	 * "recovery": the database gave a wrong answer when the relay asked what was missed.
	 * "refused": a subscription was refused, or is live again after that (see
	 * pgherald_subscribe()).
	 * Later versions may add causes. */
	const char *cause;
	const char *text; /* for people; never NULL */
	uint64_t seq;     /* place in the relay's order; 0 if it has none */
};

enum pgherald_event {
	/* text is the mode: "postgres", "local", or "in-process" for the local notifier. */
	PGHERALD_CONNECTED = 1,
	/* text says why. The library connects again by itself. */
	PGHERALD_DISCONNECTED = 2,
	/* The relay hears PostgreSQL. */
	PGHERALD_UPSTREAM_LIVE = 3,
	/* The relay does not hear PostgreSQL. Changes come late, and pgherald_notify() may
	 * time out. */
	PGHERALD_UPSTREAM_DOWN = 4,
};

struct pgherald_state {
	enum pgherald_event event;
	const char *text; /* for people; never NULL */
};

/* How a request ended. */
struct pgherald_result {
	int error;        /* 0, or a negative errno: each call that takes a completion lists its own */
	uint64_t seq;     /* on success: the place in the relay's order where the request took effect */
	const char *text; /* on failure: the relay's own words, or pgherald_strerror()'s; never NULL */
};

/* A completion. It runs exactly once for each call that took it and returned 0, never inside
 * that call. result is valid until it returns. arg is the pointer given to the call. The
 * library neither reads nor frees it. */
typedef void pgherald_done(struct pgherald *h, const struct pgherald_result *result, void *arg);

/* Zero it, set size, then set what differs from the defaults. pgherald_open() copies it and
 * its strings, so it need not outlive that call. */
struct pgherald_options {
	/* sizeof(struct pgherald_options). It tells the library which version the app was
	 * built with. */
	size_t size;

	/* Path of the relay's socket. NULL: the environment variable PGHERALD_SOCKET, or
	 * /run/pgherald/relay.sock if that is unset. An empty string, here or in the
	 * variable, selects the local notifier. It needs no relay: it delivers what this
	 * handle publishes, on any channel, to this handle alone. Use it in a single
	 * process, and in tests. */
	const char *socket;

	/* The name of this connection on the operator's screen. NULL: the program's name. */
	const char *name;

	/* Where to resume: the text that pgherald_cursor() wrote for an earlier handle,
	 * perhaps in an earlier process. NULL: start from now. The handle receives what was
	 * missed since for the subscriptions made before the first dispatch. A later
	 * subscription starts when it becomes live. The local notifier ignores the cursor. */
	const char *cursor;

	/* Most bytes of requests to publish that may wait for their completion. A request
	 * counts as its strings and about 100 bytes more. 0: 1 MiB. Least: 64 KiB. */
	size_t queue_size;

	/* Milliseconds (CLOCK_MONOTONIC) after which a request to publish fails with
	 * -ETIMEDOUT, time without a connection included. 0: 10 seconds. */
	unsigned int deadline_ms;

	/* Passed to each callback below. The library neither reads nor frees it. It must
	 * stay valid until pgherald_close() has returned. */
	void *data;

	/* Each of these may be NULL. */
	void (*on_change)(struct pgherald *h, const struct pgherald_change *change, void *data);
	void (*on_message)(struct pgherald *h, const struct pgherald_message *message, void *data);
	void (*on_gap)(struct pgherald *h, const struct pgherald_gap *gap, void *data);

	/* Runs for each connection that is made or lost, and for a first one that fails.
	 * Repeated failures are reported only when the reason changes. After each connect it
	 * also reports the state of the upstream, and then each change of that state. */
	void (*on_state)(struct pgherald *h, const struct pgherald_state *state, void *data);
};

/* Make a handle. The relay need not run yet: the first dispatch begins to connect. options may
 * be NULL for all defaults. On success *out is the caller's, who gives it to pgherald_close().
 * On failure *out is unchanged. No callback runs.
 *
 * Returns 0, or:
 * -EINVAL        options->size is not valid, queue_size is too small, or name has more than 255
 *                bytes
 * -E2BIG         an option is set that this version of the library does not know
 * -ENAMETOOLONG  the socket path is longer than a socket address can hold
 * -EILSEQ        name is not valid UTF-8
 * -EBADMSG       cursor is malformed
 * -ENOMEM, -EMFILE, -ENFILE
 * -ENOSPC        the user's limit of epoll watches is reached */
int pgherald_open(const struct pgherald_options *options, struct pgherald **out);

/* Close the connection and free the handle. All completions that are due run first: with their
 * result if it is known, else with -ECANCELED. A request that was already sent may still be
 * published. Calls on the handle from these completions fail with -ESHUTDOWN. No callback
 * runs after this function returned.
 *
 * A callback may call it. Then the handle must not be used any more, and the dispatch or
 * wait that is running returns -ESHUTDOWN. h may be NULL. */
void pgherald_close(struct pgherald *h);

/* The descriptor to poll for input, level- or edge-triggered. When it is readable, call
 * pgherald_dispatch(). It stays the same until pgherald_close(), across reconnects. It belongs
 * to the library: only poll it. No callback runs.
 *
 * Returns the descriptor, or -ECHILD or -ESHUTDOWN. */
int pgherald_fd(struct pgherald *h);

/* Send what is queued, receive what has arrived, and run the callbacks for it. It never blocks.
 * One call handles a bounded amount; if there is more, the descriptor stays readable. Every
 * callback may run.
 *
 * Returns how many callbacks ran, or:
 * -EDEADLK    called in a callback
 * -ESHUTDOWN  a callback closed the handle: do not use it again */
int pgherald_dispatch(struct pgherald *h);

/* For a program without an event loop: poll and dispatch until a callback has run, or until
 * timeout_ms milliseconds (CLOCK_MONOTONIC) have passed. A negative timeout_ms means no limit.
 * Every callback may run.
 *
 * Returns how many callbacks ran, 0 if the time has passed, or:
 * -EINTR      a signal handler ran
 * -EDEADLK, -ESHUTDOWN as in pgherald_dispatch() */
int pgherald_wait(struct pgherald *h, int timeout_ms);

/* Subscribe to the changes of pubkey on channel, or to the whole channel if pubkey is NULL. A
 * text channel is only subscribed to as a whole. Subscriptions are counted: each call needs one
 * pgherald_unsubscribe() of the same, and the relay knows only whether there are any. They stay
 * across reconnects. A subscription to all and subscriptions by pubkey are independent. No
 * callback runs inside this call.
 *
 * done may be NULL. It runs when the subscription is live: from result->seq on, nothing is
 * missed. That is the moment without a race to read the present state from the database. done
 * has no deadline: without a relay it waits. result->error is 0, or:
 *
 * -ENXIO      the relay does not serve this channel, or pubkey was given for a text channel
 * -EACCES     the relay's operator does not allow it on this channel
 * -EDQUOT     the relay's limit of subscriptions is reached; subscriptions that were asked for
 *             at the same time fail together
 * -EPROTO     the relay refused it for another reason
 * -ECANCELED  it was unsubscribed before it was live, or the handle was closed
 *
 * A refused subscription stays until it is unsubscribed. The library asks for it again on each
 * new connection, and at each further pgherald_subscribe() of it. on_gap runs with cause
 * "refused" when it becomes live after all. on_gap runs with the same cause when a subscription
 * is refused whose holders did not all have a done that waited: they gave none, or it ran on an
 * earlier connection.
 *
 * Returns 0, or:
 * -EINVAL    channel is NULL, empty or has more than 63 bytes
 * -EMSGSIZE  pubkey has more than 7999 bytes
 * -EILSEQ    a string is not valid UTF-8
 * -ENOMEM */
int pgherald_subscribe(
	struct pgherald *h, const char *channel, const char *pubkey, pgherald_done *done, void *arg);

/* Undo one pgherald_subscribe() of the same. After the last one, completions that still wait
 * run with -ECANCELED in the next dispatch. Changes that were already on their way may still be
 * delivered. No callback runs inside this call.
 *
 * Returns 0, or:
 * -ENOENT  there is no such subscription
 * -EINVAL, -EMSGSIZE, -EILSEQ as in pgherald_subscribe() */
int pgherald_unsubscribe(struct pgherald *h, const char *channel, const char *pubkey);

/* Publish that the data of pubkey changed. Call it after the change is committed. client_id may
 * be NULL. All subscribed workers of all hosts hear it, this one included. No callback runs
 * inside this call.
 *
 * done may be NULL. It runs when PostgreSQL has committed the notification (result->error is
 * 0), or with:
 *
 * -ENXIO      the relay does not serve this channel, or it is a text channel
 * -EACCES     the relay's operator does not allow it on this channel
 * -EMSGSIZE   the payload would have 8000 bytes or more, which PostgreSQL refuses
 * -EBUSY      the relay's queue is full; not published
 * -EREMOTEIO  PostgreSQL refused it; not published; result->text says why
 * -EILSEQ, -EPROTO the relay refused it; not published
 * -ETIMEDOUT  not known to be committed in time; it may still be published
 * -ENOMEM     with the local notifier only; not published
 * -ECANCELED  the handle was closed; it may still be published
 *
 * Without a connection the request waits for one, until its deadline. If the connection breaks
 * before the answer, the library sends the request again, so it may be heard twice.
 *
 * Returns 0 when the request is queued, or:
 * -ENOBUFS   options.queue_size bytes wait already: wait for completions
 * -EINVAL    channel is NULL, empty or has more than 63 bytes, or pubkey is NULL
 * -EMSGSIZE  a string has more than 7999 bytes
 * -EILSEQ    a string is not valid UTF-8
 * -ENOMEM */
int pgherald_notify(struct pgherald *h, const char *channel, const char *pubkey, const char *client_id,
	pgherald_done *done, void *arg);

/* Publish payload, len bytes, on a text channel. payload need not end with a NUL. Everything
 * else is as in pgherald_notify(): completion -ENXIO means that the channel is a change
 * channel, -EINVAL also that payload is NULL, -EILSEQ also that payload contains a NUL. */
int pgherald_send(struct pgherald *h, const char *channel, const char *payload, size_t len,
	pgherald_done *done, void *arg);

/* A buffer of this many bytes holds any cursor. */
#define PGHERALD_CURSOR_SIZE 8192

/* Write the cursor into buf, as one line of printable ASCII and a NUL. The cursor is the place
 * up to which the library has handed everything to callbacks that have returned. An app that
 * acts on changes later must store it later, too. A later handle resumes from it
 * (options.cursor). No callback runs.
 *
 * Returns the length without the NUL, or:
 * -ENODATA  there is no cursor yet, before the first connection; the local notifier never has
 *           one
 * -ENOSPC   size is too small */
int pgherald_cursor(const struct pgherald *h, char *buf, size_t size);

/* The meaning of an error of this library in words. error is a negative return value, or the
 * error of a pgherald_result. Returns a constant string that is valid for ever, never NULL. */
const char *pgherald_strerror(int error);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
