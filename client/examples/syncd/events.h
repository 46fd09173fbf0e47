/* Which users have streams here, and what the relay tells of those users. Each user with
 * streams has one subscription at the relay, however many streams; other users have none. So
 * the worker is not woken for users that it does not serve.
 *
 * A stream gets its first event when the subscription is live at the relay. So there is no
 * hole between what the client reads then and what it hears from then on. Without a relay
 * the stream waits, open. Later streams of the user get their first event at once, even if
 * the relay is away again: the library resumes, or tells of a gap. */
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
	char relay[16]; /* "postgres", "local", "in-process"; empty while the relay is away */
	struct http *http;
	struct log_limit refused_limit, publish_limit;
};

/* Returns 0 or an error of pgherald_open(). http need not be started yet. events runs it
 * when streams that keep up would otherwise be told two changes as one. */
int events_open(
	struct events *events, struct ev_loop *loop, const struct settings *settings, struct http *http);
/* All streams must have ended. */
void events_close(struct events *events);

/* Returns 0, -EBUSY if streams_max is reached, or -EDQUOT if streams_per_user_max is. */
int events_may_join(const struct events *events, const char *user);
/* Let a new stream hear of user. Returns 0 or an error of pgherald_subscribe(). */
int events_join(struct events *events, struct stream *stream, const char *user);

/* Tell all hosts that user's data changed. client_id may be NULL. The writer does not wait
 * for it; request.c says why. */
void events_publish(struct events *events, const char *user, const char *client_id);
