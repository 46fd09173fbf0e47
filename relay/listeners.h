/* The relay's sockets: one for workers, one for operators, one for metrics. Each is inherited
 * from systemd, or else made on its configured path. Logs a socket that cannot be used, and
 * says whether the start may go on without it. main.c calls it. */
#pragma once

#include "base/config.h"
#include "base/listener.h"
#include "base/path_watch.h"

/* In the order in which they open: when workers can connect, everything else is there. */
enum listener_name { LISTENER_METRICS, LISTENER_OPS, LISTENER_WORKERS, LISTENERS_N };

struct listeners {
	struct listener all[LISTENERS_N];
	struct path_watch watch;
};

/* Who is handed the connections of a listener. accepted takes fd over; context must outlive the
 * listener. */
struct listeners_sink {
	void (*accepted)(void *context, int fd);
	void *context;
};

/* Take the paths, without listening on them. 0, or a negative errno after an ERROR line that
 * says what to do. */
int listeners_claim(struct listeners *listeners, const struct config *config);
/* Listen and accept connections. loop must outlive the listeners. Returns the same. */
int listeners_open(struct listeners *listeners, struct ev_loop *loop, const struct config *config,
	const struct listeners_sink sinks[LISTENERS_N]);
void listeners_close(struct listeners *listeners);
