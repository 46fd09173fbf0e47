/* The relay's sockets: one for workers, one for operators, one for metrics. Each is inherited
 * from systemd, or else made on its configured path. Logs a socket that cannot be used, and
 * says whether the start may go on without it. main.c calls it. */
#pragma once

#include "base/config.h"
#include "base/listener.h"

/* In the order in which they open: when workers can connect, everything else is there. */
enum listener_name { LISTENER_METRICS, LISTENER_OPS, LISTENER_WORKERS, LISTENERS_N };

struct listeners {
	struct listener all[LISTENERS_N];
	/* Looks whether the paths are still those of the sockets: when the loop wakes for something
	 * else, and otherwise by itself. */
	struct ev_loop *loop; /* NULL: not open */
	struct ev_prepare iteration;
	struct ev_timer look;
	double looked; /* by ev_now() */
	bool wakes;    /* the loop may sleep for long */
	bool good;     /* all was well then */
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
/* Listen and accept connections. From now on the paths are kept. loop must outlive the listeners. Returns the
 * same. */
int listeners_open(struct listeners *listeners, struct ev_loop *loop, const struct config *config,
	const struct listeners_sink sinks[LISTENERS_N]);
void listeners_close(struct listeners *listeners);
