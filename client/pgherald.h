/* libpgherald: hear the changes that a host's pgherald relay hears from PostgreSQL, and publish some.
 *
 * Open a handle, subscribe, poll its one descriptor, and call pgherald_dispatch() when that is readable:
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
 * - Nothing is sent and no callback runs except inside pgherald_dispatch(), pgherald_wait() and, for
 *   completions, pgherald_close(). Other calls only queue, and make the descriptor readable so that the
 *   loop comes to dispatch.
 * - In a callback any call on the handle is allowed, pgherald_close() too, except dispatch and wait.
 * - The library connects, reconnects and resumes by itself, inside dispatch. It starts no thread, takes no
 *   signal, prints nothing and has no global state; every descriptor it opens is close-on-exec.
 * - Delivery is at least once: every change committed while a subscription is live reaches on_change, or
 *   on_gap tells that it may not have. A change may come twice after a reconnect.
 * - A handle serves one thread at a time; several handles are independent of each other.
 * - After a fork the handle belongs to the parent. In the child every call fails with -ECHILD;
 *   pgherald_close() there frees the child's copy, runs no completion and leaves the parent's connection as
 *   it is. A prefork server opens after the fork.
 * - Functions that return int return a negative errno on failure; pgherald_strerror() puts it in words. Any
 *   call on a handle may return -ECHILD (see above) or, in a completion that pgherald_close() runs,
 *   -ESHUTDOWN.
 * - Strings are UTF-8. Those given to a callback, and the structs they stand in, are the library's and
 *   valid until the callback returns. Those an app passes in are copied. */
#ifndef PGHERALD_H
#define PGHERALD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct pgherald;

/* The structs that callbacks get may grow at their end in later versions. */

/* Somebody's data changed: a notification of a change channel. */
struct pgherald_change {
	const char *channel;
	const char *pubkey; /* whose */
	size_t pubkey_len;
	const char *client_id; /* who made the change, to know one's own echo; NULL: not said */
	size_t client_id_len;
	uint64_t seq;  /* its place in the relay's order; 0: recovered for this handle alone, no place */
	int recovered; /* 1: found in the database after an outage, not heard live; client_id is NULL then */
};

/* A notification of a text channel, as it was published. */
struct pgherald_message {
	const char *channel;
	const char *payload; /* a NUL follows it; no UTF-8 where the database's encoding is none */
	size_t payload_len;
	uint64_t seq;
	int recovered;
};

/* Changes may have been lost before this moment: an app reads anew what it needs, as it does when it
 * starts. */
struct pgherald_gap {
	/* "overrun": this process was slower than the relay's backlog is large, and than the relay can keep
	 * what it missed; "restart": the cursor is of a relay run that is gone; "upstream": the relay was
	 * without PostgreSQL; "recovery": the database could not tell what was missed; "refused": a
	 * subscription is refused, or live again after that (see pgherald_subscribe). Others may be added. */
	const char *cause;
	const char *text; /* for people */
	uint64_t seq;     /* 0: none */
};

enum pgherald_event {
	PGHERALD_CONNECTED = 1,     /* text: the mode, "postgres", "local", or "in-process" without a relay */
	PGHERALD_DISCONNECTED = 2,  /* text: why. It is tried again by itself. */
	PGHERALD_UPSTREAM_LIVE = 3, /* the relay hears PostgreSQL */
	PGHERALD_UPSTREAM_DOWN = 4, /* it does not, for now: changes come late, NOTIFY may time out */
};

struct pgherald_state {
	enum pgherald_event event;
	const char *text; /* for people; never NULL */
};

/* How a request ended. */
struct pgherald_result {
	int error;        /* 0, or a negative errno: each call that takes a completion lists its own */
	uint64_t seq;     /* on success: the request took effect at this place in the relay's order */
	const char *text; /* on failure: the relay's own words, or pgherald_strerror()'s; never NULL */
};

/* A completion runs exactly once for each request that was accepted (whose call returned 0), never inside
 * that call. */
typedef void pgherald_done(struct pgherald *h, const struct pgherald_result *result, void *arg);

/* Zero it, set size, then what differs from the defaults. Everything is copied at open. */
struct pgherald_options {
	size_t size; /* sizeof(struct pgherald_options): so the library knows what the app was built with */

	/* The relay's socket. NULL: the environment's PGHERALD_SOCKET, or /run/pgherald/relay.sock if that
	 * is unset. Empty, here or there: the local notifier. It needs no relay: what this handle publishes
	 * comes back to this handle, on whatever channel, and nothing else does. For a single process, and
	 * for tests. */
	const char *socket;

	/* What the operator sees this connection called. NULL: the program's name. */
	const char *name;

	/* Where to resume: what pgherald_cursor() gave an earlier handle, perhaps in an earlier process.
	 * NULL: from now on. What was missed since is delivered to the subscriptions that stand before the
	 * first dispatch; a later subscription hears from its own start only. The local notifier ignores
	 * it. */
	const char *cursor;

	/* How many bytes of requests to publish may wait for their completion, some 100 more than its
	 * strings for each. 0: 1 MiB; at least 64 KiB. */
	size_t queue_size;

	/* How long a request to publish may take, in milliseconds, reconnects included. 0: 10 seconds. */
	unsigned int deadline_ms;

	/* Any of these may be NULL. data is handed to each. */
	void *data;
	void (*on_change)(struct pgherald *h, const struct pgherald_change *change, void *data);
	void (*on_message)(struct pgherald *h, const struct pgherald_message *message, void *data);
	void (*on_gap)(struct pgherald *h, const struct pgherald_gap *gap, void *data);

	/* Each connection made and lost, also a first one that fails (again only when the reason changes);
	 * on each connection how the upstream is, then when that changes. */
	void (*on_state)(struct pgherald *h, const struct pgherald_state *state, void *data);
};

/* Make a handle. No relay need be there yet: connecting begins with the first dispatch. NULL options: all
 * defaults. On success *out is the caller's, to be given to pgherald_close(); on failure it is left alone.
 * No callback runs.
 *
 * -EINVAL        options->size is none, queue_size is too small, or name has more than 255 bytes
 * -E2BIG         an option is set that this version of the library does not know
 * -ENAMETOOLONG  the socket path exceeds what a socket address can hold
 * -EILSEQ        name is no UTF-8
 * -EBADMSG       cursor is none
 * -ENOMEM, -EMFILE, -ENFILE
 * -ENOSPC        the user's limit of epoll watches is reached */
int pgherald_open(const struct pgherald_options *options, struct pgherald **out);

/* End it. Completions that are due run, with their result or else -ECANCELED (what was sent already may be
 * published all the same); no callback runs after this returned. Calls on the handle from those completions
 * fail with -ESHUTDOWN. In a callback it may be called too: the handle is gone at once for the app, and the
 * dispatch or wait that is under way returns -ESHUTDOWN. NULL is allowed. */
void pgherald_close(struct pgherald *h);

/* The descriptor to poll for input, level- or edge-triggered. It is the same from open to close, across
 * reconnects, and remains the library's: only poll it. When it is readable, dispatch. -ECHILD */
int pgherald_fd(const struct pgherald *h);

/* Send what is queued, receive what has come, run the callbacks for it. Never blocks; one call handles a
 * bounded amount, and leaves the descriptor readable if there is more. Every callback may run.
 * Returns how many ran.
 *
 * -EDEADLK    called in a callback
 * -ESHUTDOWN  a callback closed the handle: do not use it again */
int pgherald_dispatch(struct pgherald *h);

/* For a program without an event loop: dispatch, and poll, until a callback has run or timeout_ms
 * milliseconds have passed (negative: no limit). Returns how many ran; 0 when the time is over.
 *
 * -EINTR      a signal handler ran
 * -EDEADLK, -ESHUTDOWN as in pgherald_dispatch() */
int pgherald_wait(struct pgherald *h, int timeout_ms);

/* Hear the changes of pubkey on channel, or all of a channel when pubkey is NULL (on a text channel the
 * only way). Subscriptions count: each call is undone by one pgherald_unsubscribe() of the same, and the
 * relay knows only whether there are any. They stand across reconnects. One for all and those by pubkey are
 * independent.
 *
 * done, if not NULL, runs when the subscription is live: from result->seq on nothing is missed. That is the
 * race-free moment to read the present state from the database. It has no deadline: while there is no relay
 * it waits. result->error can be:
 *
 * -ENXIO      the relay does not serve this channel, or it is a text channel and pubkey was given
 * -EACCES     the relay's operator does not allow it on this channel
 * -EDQUOT     the relay's limit of subscriptions is reached; those asked for at the same time fail together
 * -EPROTO     the relay refused it for another reason
 * -ECANCELED  unsubscribed before it was live, or closed
 *
 * A refused subscription stands all the same until it is unsubscribed, and is asked for again on each new
 * connection and by each further pgherald_subscribe(). When it becomes live after all, on_gap is told with
 * cause "refused"; and so it is when a subscription is refused that somebody holds without a done, or whose
 * done ran on an earlier connection.
 *
 * Returns 0, or:
 * -EINVAL    channel is NULL, empty or has more than 63 bytes
 * -EMSGSIZE  pubkey has more than 7999 bytes
 * -EILSEQ    a string is no UTF-8
 * -ENOMEM */
int pgherald_subscribe(
	struct pgherald *h, const char *channel, const char *pubkey, pgherald_done *done, void *arg);

/* Undo one pgherald_subscribe() of the same. After the last, completions that still wait get -ECANCELED in
 * the next dispatch, and changes that were already on their way may still be delivered.
 * Returns 0, or -ENOENT when there is no such subscription. */
int pgherald_unsubscribe(struct pgherald *h, const char *channel, const char *pubkey);

/* Publish that pubkey's data changed, once the change is committed. client_id may be NULL. Every worker of
 * every host that subscribes hears it, this one too.
 *
 * done, if not NULL, runs when PostgreSQL has committed the notification, or with result->error:
 *
 * -ENXIO      the relay does not serve this channel, or it is a text channel
 * -EACCES     the relay's operator does not allow it on this channel
 * -EMSGSIZE   the payload would have 8000 bytes or more, which PostgreSQL refuses
 * -EBUSY      the relay's queue is full; not published
 * -EREMOTEIO  PostgreSQL refused it; not published; result->text says why
 * -EILSEQ, -EPROTO the relay refused it; not published
 * -ETIMEDOUT  not known to be committed in time; it may be published all the same
 * -ENOMEM     with the local notifier; not published
 * -ECANCELED  closed; it may be published all the same
 *
 * Without a relay it waits for one, until its deadline; one whose connection broke before the answer is
 * sent again, so it may be heard twice.
 *
 * Returns 0 when it is queued, or:
 * -ENOBUFS   options.queue_size is full: wait for completions
 * -EINVAL    channel is NULL, empty or has more than 63 bytes, or pubkey is NULL
 * -EMSGSIZE  a string has more than 7999 bytes
 * -EILSEQ    a string is no UTF-8
 * -ENOMEM */
int pgherald_notify(struct pgherald *h, const char *channel, const char *pubkey, const char *client_id,
	pgherald_done *done, void *arg);

/* Publish payload, len bytes, on a text channel. In all else like pgherald_notify(); -EILSEQ also when
 * payload holds a NUL. */
int pgherald_send(struct pgherald *h, const char *channel, const char *payload, size_t len,
	pgherald_done *done, void *arg);

/* A buffer of this size holds any cursor. */
#define PGHERALD_CURSOR_SIZE 8192

/* Write the cursor into buf, as one line of printable ASCII and a NUL: the place up to which everything has
 * been handed to a callback that has returned. An app that acts on changes later must store it later, too.
 * With it a later handle goes on from there (options.cursor).
 * Returns its length without the NUL, or:
 * -ENODATA  there is none yet, before the first connection; or ever, with the local notifier
 * -ENOSPC   size is too small */
int pgherald_cursor(const struct pgherald *h, char *buf, size_t size);

/* What an error of this library means, in words: of a negative return value or of pgherald_result's error.
 * A constant string, never NULL. */
const char *pgherald_strerror(int error);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
