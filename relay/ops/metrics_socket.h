/* HTTP/1.0 on a Unix socket, as much of it as Prometheus, curl --unix-socket and
 * systemd-socket-proxyd need: GET and HEAD of /metrics and /healthz, one request a connection.
 * metrics.c makes the page. relay.c opens it; main.c hands it connections. */
#pragma once

#include "ops/connection.h"

/* Bytes of a request with its header fields. */
#define METRICS_REQUEST_MAX 4096
#define METRICS_CONNECTIONS_MAX 64

struct metrics_socket {
	struct ops_connections connections;
	uint64_t n_requests;
};

/* parts must outlive it. */
void metrics_socket_init(struct metrics_socket *socket, struct parts *parts);
void metrics_socket_close(struct metrics_socket *socket);
