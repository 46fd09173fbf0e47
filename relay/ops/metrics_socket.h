/* HTTP on a Unix socket, as much of it as Prometheus, curl --unix-socket, proxies and probes need:
 * GET and HEAD of /metrics and /healthz. A connection is closed after its answer, unless the client
 * asks to keep it. metrics.c makes the page. relay.c opens it; main.c hands it connections. */
#pragma once

#include "ops/connection.h"

/* Bytes of a request with its header fields. */
#define METRICS_REQUEST_MAX 8192
#define METRICS_CONNECTIONS_MAX 64

struct metrics_socket {
	struct ops_connections connections;
	uint64_t n_requests;
};

/* parts must outlive it. */
void metrics_socket_init(struct metrics_socket *socket, struct parts *parts);
void metrics_socket_close(struct metrics_socket *socket);
