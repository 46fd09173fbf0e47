/* HTTP/1.0 on a Unix socket, as much of it as Prometheus, curl --unix-socket and systemd-socket-proxyd need:
 * GET and HEAD of /metrics and /healthz, one request a connection. What the page says is the metrics'. main
 * opens its gate. */
#pragma once

#include "ops/places.h"

#include <ev.h>
#include <stdint.h>

struct parts;

#define METRICS_REQUEST_MAX 4096
#define METRICS_CONNECTIONS_MAX 64
/* Of them, for root and the daemon's user. */
#define METRICS_KEPT 16
/* Who has not asked by then, or takes nothing, makes room for others of the same user. */
#define METRICS_IDLE_SECONDS 2.
/* From the connect to the last byte. */
#define METRICS_SECONDS 10.

struct metrics_socket {
	struct parts *parts;
	struct places places;
	uint64_t n_requests, n_refused;
};

void metrics_socket_init(struct metrics_socket *socket, struct parts *parts);
/* A listener's accepted; context is the struct metrics_socket. */
void metrics_socket_accepted(void *context, int fd);
void metrics_socket_close(struct metrics_socket *socket);
