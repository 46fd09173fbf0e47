#include "events.h"

#include "http.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Milliseconds. Long enough to announce what is committed while the relay restarts. */
#define PUBLISH_DEADLINE_MS 60000
/* If a user has more streams, changes that are heard together are told together: to write to
 * each stream between any two changes would hold up all other users. */
#define FLUSH_STREAMS_MAX 100

struct topic {
	struct events *events;
	LIST_HEAD(, stream) streams;
	unsigned n;
	bool live;    /* its subscription is live, or the library resumes it */
	bool settled; /* the subscription's completion has run, so the library has no pointer to this */
	char user[];
};

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct topic *)a)->user, ((const struct topic *)b)->user);
}

/* tsearch() compares whole topics, so looking for a user needs a topic. */
static struct topic *find(const struct events *e, const char *user)
{
	union {
		struct topic topic;
		char bytes[sizeof(struct topic) + USER_MAX + 1];
	} key;

	if (strlen(user) > USER_MAX)
		return NULL;
	strcpy(key.bytes + offsetof(struct topic, user), user);
	void *found = tfind(&key.topic, &e->topics, compare);
	return found ? *(struct topic **)found : NULL;
}

/* The library may still have it as the argument of a completion. */
static void release(struct topic *t)
{
	if (t->settled && t->n == 0)
		free(t);
}

static void forget(struct topic *t)
{
	struct events *e = t->events;

	tdelete(t, &e->topics, compare);
	e->n_topics--;
	pgherald_unsubscribe(e->herald, e->settings->channel, t->user);
}

static void on_subscribed(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct topic *t = arg;
	struct stream *s;

	(void)h;
	t->settled = true;
	if (result->error == 0) {
		t->live = true;
		LIST_FOREACH(s, &t->streams, topic_link)
		stream_tell(s, HINT_START, NULL);
	} else if (t->n > 0) {
		/* A client that stayed would believe that it hears. It reconnects, and is
		 * told to pull. */
		log_limited(&t->events->refused_limit, LOG_LEVEL_ERROR,
			"the relay refuses a subscription: %s; its streams are ended channel=%s",
			result->text, t->events->settings->channel);
		LIST_FOREACH(s, &t->streams, topic_link)
		stream_end(s);
	}
	release(t);
}

static void leave(void *context, struct stream *stream)
{
	struct topic *t = stream->topic;

	(void)context;
	if (!t)
		return;
	LIST_REMOVE(stream, topic_link);
	if (--t->n > 0)
		return;
	forget(t);
	release(t);
}

static struct topic *open_topic(struct events *e, const char *user)
{
	size_t size = strlen(user) + 1;
	struct topic *t = calloc(1, sizeof *t + size);

	if (!t)
		return NULL;
	t->events = e;
	LIST_INIT(&t->streams);
	memcpy(t->user, user, size);
	if (!tsearch(t, &e->topics, compare)) {
		free(t);
		return NULL;
	}
	e->n_topics++;
	return t;
}

int events_may_join(const struct events *e, const char *user)
{
	const struct topic *t = find(e, user);

	if (t && t->n >= e->settings->streams_per_user_max)
		return -EDQUOT;
	return e->streams.n >= e->settings->streams_max ? -EBUSY : 0;
}

int events_join(struct events *e, struct stream *stream, const char *user)
{
	struct topic *t = find(e, user);

	if (!t) {
		t = open_topic(e, user);
		int r = t ? pgherald_subscribe(e->herald, e->settings->channel, user, on_subscribed, t)
			  : -ENOMEM;
		if (r < 0) {
			if (t) {
				tdelete(t, &e->topics, compare);
				e->n_topics--;
				free(t);
			}
			return r;
		}
	}
	stream->topic = t;
	LIST_INSERT_HEAD(&t->streams, stream, topic_link);
	t->n++;
	if (t->live)
		stream_tell(stream, HINT_START, NULL);
	else if (t->settled)
		stream_end(stream);
	return 0;
}

static bool about_to_write(const struct topic *t)
{
	const struct stream *s;

	LIST_FOREACH(s, &t->streams, topic_link)
	if (stream_is_about_to_write(s))
		return true;
	return false;
}

/* Changes that are heard together become one event only for a stream that cannot write. The
 * others get the chance to write in between. */
static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	struct events *e = data;
	struct topic *t = find(e, change->pubkey);
	struct stream *s;

	(void)h;
	if (t && t->n <= FLUSH_STREAMS_MAX && about_to_write(t)) {
		/* Twice: a connection that was in the middle of the last event first ends
		 * it. */
		http_run(e->http);
		http_run(e->http);
		t = find(e, change->pubkey); /* its streams may have ended meanwhile */
	}
	/* Before it is live, its streams still wait for their first event, which says the
	 * same. */
	if (t && t->live)
		LIST_FOREACH(s, &t->streams, topic_link)
	stream_tell(s, HINT_CHANGED, change->client_id);
}

static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	struct events *e = data;
	struct stream *s;

	(void)h;
	log_line(LOG_LEVEL_NOTICE, "changes may be missed (%s): %u streams are told to pull", gap->cause,
		e->streams.n);
	TAILQ_FOREACH (s, &e->streams.by_told, link)
		if (s->topic && s->topic->live)
			stream_tell(s, HINT_GAP, NULL);
}

static void on_state(struct pgherald *h, const struct pgherald_state *state, void *data)
{
	struct events *e = data;

	(void)h;
	if (state->event == PGHERALD_CONNECTED) {
		snprintf(e->relay, sizeof e->relay, "%s", state->text);
		if (e->settings->database_url && strcmp(state->text, "local") == 0)
			log_line(LOG_LEVEL_WARNING,
				"the relay is in local mode: changes on other hosts are not heard; set its "
				"DATABASE_URL and DATABASE_DIRECT_URL");
	} else if (state->event == PGHERALD_DISCONNECTED) {
		*e->relay = '\0';
		log_line(LOG_LEVEL_WARNING, "the relay is away: %s; streams wait until it is back socket=%s",
			state->text, e->settings->relay);
	}
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct events *e = watcher->data;

	(void)events;
	int r = pgherald_dispatch(e->herald);
	if (r < 0) {
		log_line(LOG_LEVEL_ERROR, "pgherald: %s; this worker ends", pgherald_strerror(r));
		ev_break(loop, EVBREAK_ALL);
	}
}

int events_open(struct events *e, struct ev_loop *loop, const struct settings *settings, struct http *http)
{
	const struct pgherald_options options = {
		.size = sizeof options,
		.socket = settings->relay,
		.name = "syncd",
		.deadline_ms = PUBLISH_DEADLINE_MS,
		.data = e,
		.on_change = on_change,
		.on_gap = on_gap,
		.on_state = on_state,
	};

	*e = (struct events){.loop = loop, .settings = settings, .http = http};
	int r = pgherald_open(&options, &e->herald);
	if (r < 0)
		return r;
	streams_start(&e->streams, loop, http, leave, e);
	ev_io_init(&e->readable, on_readable, pgherald_fd(e->herald), EV_READ);
	e->readable.data = e;
	ev_io_start(loop, &e->readable);
	return 0;
}

void events_close(struct events *e)
{
	ev_io_stop(e->loop, &e->readable);
	streams_stop(&e->streams);
	pgherald_close(e->herald);
}

static void not_announced(struct events *e, const char *why)
{
	log_limited(&e->publish_limit, LOG_LEVEL_WARNING,
		"a change is committed and was not announced: %s; the relay's reconciliation makes it good where recovery.sql "
		"is installed",
		why);
}

static void on_published(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct events *e = arg;

	(void)h;
	e->n_publishing--;
	if (result->error < 0)
		not_announced(e, result->text);
}

void events_publish(struct events *e, const char *user, const char *client_id)
{
	int r = pgherald_notify(e->herald, e->settings->channel, user, client_id, on_published, e);

	if (r == 0)
		e->n_publishing++;
	else
		not_announced(e, pgherald_strerror(r));
}
