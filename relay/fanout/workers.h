/* The table of workers: who is connected, by slot and by id. connection.c keeps it; the router names a worker
 * by its slot, everybody else by its id. */
#pragma once

#include "fanout/worker.h"

TAILQ_HEAD(worker_list, worker);

struct workers {
	struct worker_list all; /* that are connected */
	struct worker_list
		leaving;       /* that are not, and still have subscriptions; freed when they have none */
	struct worker **slots; /* NULL where there is none, or one that is leaving */
	uint32_t *free_slots;
	uint32_t n_slots, slots_max, n_free_slots;
	uint32_t n;       /* connected */
	uint64_t next_id; /* never used again */
};

void workers_open(struct workers *workers);
/* No worker may be left. */
void workers_close(struct workers *workers);

/* Give the worker a slot and an id. 0 or -ENOMEM. */
int workers_add(struct workers *workers, struct worker *worker);
/* It is not connected any more. Its slot is used again only after workers_bury(), since the router names it
 * until then. */
void workers_leave(struct workers *workers, struct worker *worker);
/* It has no subscriptions left. */
void workers_bury(struct workers *workers, struct worker *worker);

/* NULL when that worker is gone. */
struct worker *workers_find(const struct workers *workers, struct worker_ref ref);
struct worker *workers_find_id(const struct workers *workers, uint64_t id);
