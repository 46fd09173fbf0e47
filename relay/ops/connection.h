/* One connection of an operator or of Prometheus, and the table of those that a socket has: its
 * place, its user's share of the schedule, its watchers and its queue of replies. What is asked
 * and answered on it is the owner's: the ops socket's and the metrics socket's, which embed
 * struct ops_connection as their first member. */
#pragma once

#include "base/outbox.h"
#include "fanout/users.h"
#include "ops/places.h"

#include <ev.h>
#include <stdint.h>

struct parts;
struct ops_connection;
struct ops_connections;

/* What a socket decides about its connections. */
struct ops_connection_kind {
	size_t size;         /* bytes of the owner's struct */
	unsigned n_max;      /* connections */
	unsigned n_kept;     /* of them, for root and the daemon's user */
	double idle_seconds; /* after which it may be dropped for another one of its user */

	/* It has its place; the rest of the owner's struct is zero. May be NULL. */
	void (*opened)(struct ops_connection *connection);
	/* Its user's share of the iteration: one slice. May close it. */
	void (*serve)(struct ops_connection *connection);
	/* Release what the owner's struct holds. */
	void (*closed)(struct ops_connection *connection);
	/* It is about to be closed by ops_connection_drop(). May be NULL. */
	void (*dropped)(const struct ops_connection *connection, const char *why);
	/* There is no place, or no memory. fd is closed when this returns. */
	void (*refused)(const struct ops_connections *connections, int fd);
};

struct ops_connections {
	const struct ops_connection_kind *kind;
	struct parts *parts;
	struct places places;
	uint64_t n_accepted, n_turned_away; /* refused or dropped */
};

struct ops_connection {
	struct ops_connections *all;
	struct place place;
	struct user *user; /* a reference of its own */
	struct ready ready;
	struct ev_io reader, writer;
	int fd;
	struct outbox outbox;
};

/* kind and parts must outlive it. */
void ops_connections_open(
	struct ops_connections *connections, const struct ops_connection_kind *kind, struct parts *parts);
void ops_connections_close(struct ops_connections *connections);
/* A listener's accepted; context is the struct ops_connections. */
void ops_connections_accepted(void *context, int fd);
/* In the order in which they came; NULL at the end. */
struct ops_connection *ops_connections_first(const struct ops_connections *connections);
struct ops_connection *ops_connections_next(const struct ops_connection *connection);

/* Frees it. */
void ops_connection_close(struct ops_connection *connection);
/* The same, after it is counted and dropped() is called. */
void ops_connection_drop(struct ops_connection *connection, const char *why);
/* Have serve() called when its user is served next. */
void ops_connection_schedule(struct ops_connection *connection);
/* Send what the socket takes. 0: all is sent; -EAGAIN: the rest waits; another negative errno:
 * the peer is gone. */
int ops_connection_send(struct ops_connection *connection);
/* Schedule it when the socket takes more, if any bytes wait. If reads, also when it has
 * input. */
void ops_connection_watch(struct ops_connection *connection, bool reads);
