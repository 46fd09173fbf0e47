/* Server-sent events on one connection: what it is still to be told, when it is written, and when it ends.
 *
 * A stream that has nothing to say is a suspended connection of libmicrohttpd's. What it is to be told is one
 * hint, not a queue: a hint that comes while another waits is folded into it, so a stream whose client does
 * not read costs the same bytes for ever, and nobody waits for it. It is ended when its full socket has taken
 * nothing for CONNECTION_SECONDS (see http.h); a client that is gone is noticed at once, since its socket is
 * watched.
 *
 * Made by request.c; told by events.c. */
#pragma once

#include "route.h"

#include <ev.h>
#include <microhttpd.h>
#include <sys/queue.h>

struct http;

#define KEEPALIVE_SECONDS 15
/* What the kernel may hold for one that does not read; it doubles this for its own bookkeeping. */
#define STREAM_SEND_BUFFER (16 << 10)

/* One that waits is replaced by what says more. */
enum hint {
	HINT_NONE,
	HINT_CHANGED, /* client_id made the change; empty: nobody, or more than one */
	HINT_GAP,     /* pull: changes may be missed */
	HINT_START,   /* pull: the subscription is live */
};

struct stream {
	struct streams *streams;
	struct MHD_Connection *connection;
	struct topic *topic; /* whose it is; events.c's */
	LIST_ENTRY(stream) topic_link;
	TAILQ_ENTRY(stream) link;
	ev_io gone_watcher;
	ev_tstamp told;   /* when it was last sent something, or was due */
	uint64_t told_in; /* in which turn the hint came (see streams.turn) */
	enum hint hint;
	bool greeted, suspended, keepalive, ending, gone;
	char client_id[CLIENT_ID_MAX + 1];
};

struct streams {
	struct ev_loop *loop;
	struct http *http;
	TAILQ_HEAD(, stream) by_told; /* the longest silent first */
	unsigned n;
	uint64_t turn; /* counts the runs of the HTTP server, in which streams write */
	ev_timer second;
	void (*left)(void *context,
		struct stream *stream); /* its client is gone; the stream is freed after this */
	void *context;
};

void streams_start(struct streams *streams, struct ev_loop *loop, struct http *http,
	void (*left)(void *context, struct stream *stream), void *context);
void streams_stop(struct streams *streams);

/* Make a stream of this request and queue its response. NULL: memory is short. The connection owns it. */
struct stream *stream_open(struct streams *streams, struct MHD_Connection *connection);

/* Tell it, when its socket takes it. client_id, of a change, may be NULL. */
void stream_tell(struct stream *stream, enum hint hint, const char *client_id);

/* It was told something in this turn that it has had no chance to write yet. */
static inline bool stream_is_about_to_write(const struct stream *stream)
{
	return stream->hint != HINT_NONE && stream->told_in == stream->streams->turn;
}

/* End it, after what it is still to be told. */
void stream_end(struct stream *stream);
void streams_end_all(struct streams *streams);
