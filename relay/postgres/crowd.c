#include "postgres/crowd.h"

#include <stdbool.h>

double crowd_wait(struct crowd *c, double now)
{
	double passed = now - c->began;
	unsigned n_workers = (unsigned)__builtin_popcountll(c->slots);

	if (passed < CROWD_WINDOW)
		return c->wait;
	/* A window that became long had a pause in it. */
	bool is_crowd = n_workers >= CROWD_WORKERS && c->n_requests <= CROWD_EACH_MAX * n_workers &&
			passed < 2 * CROWD_WINDOW;
	c->wait = is_crowd ? CROWD_WAIT : 0;
	c->began = now;
	c->slots = 0;
	c->n_requests = 0;
	return c->wait;
}
