/* Which sockets there are, whose they are and which may be missing: one for workers, one for operators, one
 * for metrics. Each is systemd's, when it hands it over, or else made on its configured path. Logs what
 * cannot be had. main calls it. */
#pragma once

#include "base/config.h"
#include "base/listener.h"

/* In the order in which they open: who can reach the last finds all of the relay there. */
enum gate_name { GATE_METRICS, GATE_OPS, GATE_WORKERS, GATES_N };

struct gates {
	struct gate gates[GATES_N];
};

struct gate_taker {
	void (*accepted)(void *context, int fd);
	void *context;
};

/* Take the paths, and let nobody in yet. 0, or a negative errno after a line that says what to do. */
int gates_claim(struct gates *gates, const struct config *config);
/* Let them in. The same. */
int gates_open(struct gates *gates, struct ev_loop *loop, const struct config *config,
	const struct gate_taker takers[GATES_N]);
void gates_close(struct gates *gates);
