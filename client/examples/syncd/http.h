/* HTTP by libmicrohttpd, on the worker's loop. request.c decides what a request does.
 *
 * libmicrohttpd runs without a thread and without a listening socket. It has its own epoll,
 * whose descriptor the loop watches. http_run() is called when that is readable or when
 * libmicrohttpd's next timeout is due. A connection that waits for the database or for an event
 * is suspended, and costs nothing until it is resumed. worker.c accepts connections and hands
 * them over.
 *
 * Memory of one connection: CONNECTION_MEMORY of libmicrohttpd for headers and buffers,
 * libmicrohttpd's own struct, a struct client, a struct stream. Bodies of requests and
 * answers count against HELD_MAX for the whole worker. A client that sends or reads a byte
 * now and then is still disconnected: each request must have arrived, and each answer
 * must be read, by a deadline. */
#pragma once

#include "events.h"
#include "page.h"
#include "pool.h"

#include <microhttpd.h>
#include <sys/queue.h>

/* Seconds without a byte after which a connection is closed, unless it waits for us. */
#define CONNECTION_SECONDS 30
/* Seconds from connecting, or from the end of the previous request, to the end of the
 * headers; and as many from there to the end of the body. The largest body, 1.4 MB, then
 * needs 47 kB a second. */
#define REQUEST_SECONDS 30
/* An answer must be read within REQUEST_SECONDS, plus a second for each
 * ANSWER_BYTES_PER_SECOND. */
#define ANSWER_BYTES_PER_SECOND (32 << 10)
/* Bytes. Longer headers are refused with 431. */
#define CONNECTION_MEMORY (16 << 10)
/* Requests at a time, streams not counted. */
#define REQUESTS_MAX 1024

/* A connection, from accept until libmicrohttpd has closed it. */
struct client {
	TAILQ_ENTRY(client) link;
	int fd;       /* borrowed from libmicrohttpd */
	ev_tstamp by; /* deadline in seconds of ev_now(); 0 if it waits for us, or is a stream */
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
	unsigned n_requests; /* begun and not ended, streams not counted */
	size_t held;         /* bytes of bodies; see HELD_MAX */
	char pid[16];
	bool stopping; /* close each connection after its answer */
};

/* Returns 0 or a negative errno. All pointers must outlive http. */
int http_start(struct http *http, struct ev_loop *loop, const struct settings *settings,
	struct events *events, struct pool *pool);
bool http_has_room(const struct http *http);
/* Take over fd, a connection that was accepted. */
void http_add(struct http *http, int fd, const struct sockaddr *address, socklen_t len);
/* The client has this many seconds for what it does now; 0 for no limit. */
void http_set_deadline(struct http *http, struct MHD_Connection *connection, double seconds);
/* Resume a suspended connection in the next http_run(). */
void http_resume(struct http *http, struct MHD_Connection *connection);
/* Read and write, and call the callbacks of request.c. Never blocks. */
void http_run(struct http *http);
/* Add the headers that every response has. */
void http_add_headers(const struct http *http, struct MHD_Response *response);
/* Close all connections. No request may be with the database threads. */
void http_stop(struct http *http);
