/* Server-sent events on one connection: what it must still be told, when that is written, and
 * when it ends.
 *
 * A stream with nothing to say is a suspended connection of libmicrohttpd. It keeps one hint,
 * not a queue: a hint that comes while another waits is folded into it. So a stream whose
 * client does not read costs the same bytes for ever, and delays no other. It is ended when its
 * full socket has taken nothing for CONNECTION_SECONDS (see http.h). A client that is gone is
 * noticed at once, because its socket is watched.
 *
 * request.c makes streams; events.c tells them. */
#pragma once

#include "route.h"

#include <ev.h>
#include <microhttpd.h>
#include <sys/queue.h>

struct http;

#define KEEPALIVE_SECONDS 15
/* Bytes that the kernel may hold for a stream that does not read. The kernel doubles this
 * for its own bookkeeping. */
#define STREAM_SEND_BUFFER (16 << 10)

/* Ordered: a hint that waits is replaced by a greater one. */
enum hint {
	HINT_NONE,
	HINT_CHANGED, /* client_id made the change; empty if unknown, or more than one did */
	HINT_GAP,     /* pull: changes may be missed */
	HINT_START,   /* pull: the subscription is live */
};

struct stream {
	struct streams *streams;
	struct MHD_Connection *connection;
	struct topic *topic; /* of its user; events.c's */
	LIST_ENTRY(stream) topic_link;
	TAILQ_ENTRY(stream) link;
	ev_io gone_watcher;
	ev_tstamp told;   /* when it was last sent something, or was due; seconds of ev_now() */
	uint64_t told_in; /* the run in which the hint came (see streams.turn) */
	enum hint hint;
	bool greeted, suspended, keepalive, ending, gone;
	char client_id[CLIENT_ID_MAX + 1];
};

struct streams {
	struct ev_loop *loop;
	struct http *http;
	TAILQ_HEAD(, stream) by_told; /* the one that is silent longest comes first */
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

/* Make a stream of this request and queue its response. The connection owns it. Returns NULL
 * if out of memory. */
struct stream *stream_open(struct streams *streams, struct MHD_Connection *connection);

/* Tell it, when its socket has room. client_id, for a change, may be NULL. */
void stream_tell(struct stream *stream, enum hint hint, const char *client_id);

/* It was told something since the last run of the HTTP server, so it has had no chance to
 * write it. */
static inline bool stream_is_about_to_write(const struct stream *stream)
{
	return stream->hint != HINT_NONE && stream->told_in == stream->streams->turn;
}

/* End it after it has been told what waits. */
void stream_end(struct stream *stream);
void streams_end_all(struct streams *streams);
