/* HTTP, by libmicrohttpd, on the worker's loop. What comes of a request is request.c's.
 *
 * libmicrohttpd's mode: no thread of its own and no socket to listen on. It waits on an epoll of its own,
 * whose descriptor the loop watches; http_run() is called when that is readable or its next timeout is due. A
 * connection that waits, for the database or for an event, is suspended: it costs nothing until it is
 * resumed. Connections come from worker.c, which accepts them.
 *
 * To the memory of one connection: CONNECTION_MEMORY of libmicrohttpd's for its headers and buffers, a struct
 * of its own, a struct stream. Bodies, in and out, count against HELD_MAX for the whole worker. */
#pragma once

#include "events.h"
#include "page.h"
#include "pool.h"

#include <microhttpd.h>

/* A connection on which nothing moves for so long, and which is not waiting for us, is closed. */
#define CONNECTION_SECONDS 30
/* Longer headers are refused with 431. */
#define CONNECTION_MEMORY (16 << 10)
/* Of requests that are no streams. */
#define REQUESTS_MAX 1024

struct http {
	struct ev_loop *loop;
	const struct settings *settings;
	struct events *events;
	struct pool *pool;
	struct MHD_Daemon *daemon;
	struct page page;
	ev_io readable;
	ev_prepare prepare;
	ev_timer timeout;
	unsigned n_connections;
	unsigned n_requests; /* begun and not ended, streams apart */
	size_t held;         /* by bodies; see HELD_MAX */
	char pid[16];
	bool stopping; /* every answer is the last of its connection */
};

/* 0 or a negative errno. */
int http_start(struct http *http, struct ev_loop *loop, const struct settings *settings,
	struct events *events, struct pool *pool);
bool http_has_room(const struct http *http);
/* Take over a connection that was accepted. */
void http_add(struct http *http, int fd, const struct sockaddr *address, socklen_t len);
/* Let a suspended connection go on, soon. */
void http_resume(struct http *http, struct MHD_Connection *connection);
/* Read, write, and call what is due. Never blocks. */
void http_run(struct http *http);
/* The headers that every response has. */
void http_add_headers(const struct http *http, struct MHD_Response *response);
/* Close all connections. No request may be with the database threads. */
void http_stop(struct http *http);
