/* Which sockets there are, whose they are and which may be missing: one for workers, one for operators, one
 * for metrics. Each is systemd's, when it hands it over, or else made on its configured path. Logs what
 * cannot be had. main calls it. */
#pragma once

#include "base/config.h"
#include "base/listener.h"

/* In the order in which they open: who can reach the last finds all of the relay there. */
enum listener_name { LISTENER_METRICS, LISTENER_OPS, LISTENER_WORKERS, LISTENERS_N };

struct listeners {
	struct listener all[LISTENERS_N];
};

struct listeners_taker {
	void (*accepted)(void *context, int fd);
	void *context;
};

/* Take the paths, and let nobody in yet. 0, or a negative errno after a line that says what to do. */
int listeners_claim(struct listeners *listeners, const struct config *config);
/* Let them in. The same. */
int listeners_open(struct listeners *listeners, struct ev_loop *loop, const struct config *config,
	const struct listeners_taker takers[LISTENERS_N]);
void listeners_close(struct listeners *listeners);
