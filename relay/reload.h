/* SIGHUP: the environment file is read again, all of it or nothing. First everything is parsed, then
 * PostgreSQL is asked to LISTEN to what is new, and only then anything changes. main.c calls it. */
#pragma once

#include "relay.h"

struct reload {
	struct relay *relay;
	struct config *config; /* in force */
	struct config fresh;
	unsigned n_descriptors; /* that others than workers need */
	bool running;
	bool asked; /* again, while it was running */
	struct ev_timer again;
};

/* relay and config must outlive it. n_descriptors: as config_fit_descriptors() has it. */
void reload_init(struct reload *reload, struct relay *relay, struct config *config, unsigned n_descriptors);
void reload_start(struct reload *reload);
/* Nothing changes any more. */
void reload_stop(struct reload *reload);
