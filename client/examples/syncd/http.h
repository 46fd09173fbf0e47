/* HTTP, by libmicrohttpd, on the worker's loop. What comes of a request is request.c's.
 *
 * libmicrohttpd's mode: no thread of its own and no socket to listen on. It waits on an epoll of its own,
 * whose descriptor the loop watches; http_run() is called when that is readable or its next timeout is due. A
 * connection that waits, for the database or for an event, is suspended: it costs nothing until it is
 * resumed. Connections come from worker.c, which accepts them.
 *
 * To the memory of one connection: CONNECTION_MEMORY of libmicrohttpd's for its headers and buffers, a struct
 * of its own, a struct client, a struct stream. Bodies, in and out, count against HELD_MAX for the whole
 * worker. A client that sends or reads a byte now and then is disconnected all the same: each request has to
 * be there, and each answer read, by a deadline. */
#pragma once

#include "events.h"
#include "page.h"
#include "pool.h"

#include <microhttpd.h>
#include <sys/queue.h>

/* A connection on which nothing moves for so long, and which is not waiting for us, is closed. */
#define CONNECTION_SECONDS 30
/* A request, from its connection or the end of the one before to its headers, and from there to the end of
 * its body: 1.4 MB at 47 kB a second. */
#define REQUEST_SECONDS 30
/* An answer has REQUEST_SECONDS, and a second more for each so many bytes. */
#define ANSWER_BYTES_PER_SECOND (32 << 10)
/* Longer headers are refused with 431. */
#define CONNECTION_MEMORY (16 << 10)
/* Of requests that are no streams. */
#define REQUESTS_MAX 1024

/* A connection, until libmicrohttpd has closed it. */
struct client {
	TAILQ_ENTRY(client) link;
	int fd;       /* libmicrohttpd's */
	ev_tstamp by; /* its deadline, of ev_now(); 0: it waits for us, or is a stream */
};

struct http {
	struct ev_loop *loop;
	const struct settings *settings;
	struct events *events;
	struct pool *pool;
	struct MHD_Daemon *daemon;
	struct page page;
	ev_io readable;
	ev_prepare prepare;
	ev_timer timeout, second;
	TAILQ_HEAD(, client) clients;
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
/* The client has so long for what it does now; 0: as long as it takes. */
void http_set_deadline(struct http *http, struct MHD_Connection *connection, double seconds);
/* Let a suspended connection go on, soon. */
void http_resume(struct http *http, struct MHD_Connection *connection);
/* Read, write, and call what is due. Never blocks. */
void http_run(struct http *http);
/* The headers that every response has. */
void http_add_headers(const struct http *http, struct MHD_Response *response);
/* Close all connections. No request may be with the database threads. */
void http_stop(struct http *http);
