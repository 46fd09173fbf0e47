/* The table of workers, by slot and by id. It owns none of them: connection.c adds, removes and
 * frees. The router names a worker by its slot, all others by its id. */
#pragma once

#include "fanout/worker.h"

TAILQ_HEAD(worker_list, worker);

struct workers {
	struct worker_list all; /* connected */
	/* Disconnected, and freed once they have no subscriptions left. */
	struct worker_list leaving;
	struct worker **slots; /* NULL: free, or the worker is leaving */
	uint32_t *free_slots;
	uint32_t n_slots, slots_max, n_free_slots;
	uint32_t n; /* connected */
	uint64_t next_id;
};

void workers_open(struct workers *workers);
/* Every worker must have gone through workers_bury(). */
void workers_close(struct workers *workers);

/* Gives the worker a slot and an id. 0 or -ENOMEM. */
int workers_add(struct workers *workers, struct worker *worker);
/* The worker is disconnected. Its slot is used again only after workers_bury(), because the
 * router names it until then. */
void workers_leave(struct workers *workers, struct worker *worker);
/* The worker has no subscriptions left. The caller frees it. */
void workers_bury(struct workers *workers, struct worker *worker);

/* NULL: that worker is disconnected. Otherwise valid until the loop's current event returns. */
struct worker *workers_find(const struct workers *workers, struct worker_ref ref);
struct worker *workers_find_id(const struct workers *workers, uint64_t id);
