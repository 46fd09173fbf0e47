/* The events manager: which users' streams are open here, and what the relay says of those users. One
 * subscription at the relay for each user that has streams, however many, and none for any other: a worker
 * without interest is not woken.
 *
 * A stream gets its first event when the subscription is live at the relay: what it reads then and what it
 * hears from then on have no hole between them. While there is no relay it waits, open. Later streams of the
 * user get theirs at once, even while the relay is away again: the library resumes, or tells of a gap. */
#pragma once

#include "log.h"
#include "settings.h"
#include "stream.h"

#include <pgherald.h>

struct events {
	struct ev_loop *loop;
	const struct settings *settings;
	struct pgherald *herald;
	ev_io readable;
	struct streams streams;
	void *topics; /* a tree of tsearch(3), by user */
	unsigned n_topics, n_publishing;
	char relay[16]; /* "postgres", "local", "in-process"; empty: away */
	struct http *http;
	struct log_limit refused_limit, publish_limit;
};

/* 0 or a negative errno of pgherald_open()'s. http need not be started yet; it is run when streams that keep
 * up would otherwise be told two changes as one. */
int events_open(
	struct events *events, struct ev_loop *loop, const struct settings *settings, struct http *http);
/* There may be no streams any more. */
void events_close(struct events *events);

/* -EBUSY: streams_max is reached; -EDQUOT: streams_per_user_max is. */
int events_may_join(const struct events *events, const char *user);
/* Let a new stream hear of user. A negative errno of pgherald_subscribe()'s. */
int events_join(struct events *events, struct stream *stream, const char *user);

/* Tell everyone that user's data changed, by client_id or NULL. Nobody waits for it, see request.c. */
void events_publish(struct events *events, const char *user, const char *client_id);
