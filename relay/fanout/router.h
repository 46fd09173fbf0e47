/* The router: which workers subscribed to a pubkey of a channel. Subscriptions to a whole
 * channel are in each worker's mask. fanout.c and delivery.c look up; requests.c adds and
 * removes. */
#pragma once

#include "base/segments.h"
#include "wire.h"

#include <stdint.h>

/* The end of a list of edges. It also bounds their number: no edge has this index. */
#define ROUTER_END UINT32_MAX

/* One subscription: in its bucket, on the list of its key, and on the list of its worker. */
struct router_edge {
	uint64_t key;
	uint32_t slot; /* the worker's */
	uint32_t next_in_bucket;
	uint32_t next_of_key, prev_of_key; /* prev of the key's first is ROUTER_END */
	uint32_t next_of_worker, prev_of_worker;
};
_Static_assert(sizeof(struct router_edge) == 32, "segments_element() finds edges by shifts");

/* It stores a keyed 64-bit hash of the pubkey (SipHash, with a secret that is made at each
 * start), so a subscription takes about 40 bytes. If two pubkeys share a hash, a worker gets a
 * change too many, and never misses one.
 *
 * Each operation on one subscription costs the same, however many others there are of its key,
 * of its worker, or in all:
 *
 * - One table finds edges. The first edge of a key is in the key's bucket; every other is in
 *   the bucket of (key, slot). So neither a key nor one worker's edge of it needs a scan of the
 *   key's edges.
 * - The table grows and shrinks by one bucket at a time (linear hashing, Litwin 1980).
 * - Edges have no holes: the last one moves to the place of a removed one. So memory follows
 *   the number of subscriptions down as well as up. */
struct router {
	struct segments edges;   /* of struct router_edge */
	struct segments buckets; /* of uint32_t */
	uint32_t n_edges, n_buckets;
	uint32_t mask;    /* the smallest 2^n - 1 that reaches all buckets */
	uint32_t *firsts; /* by slot: the worker's first edge; owned */
	uint32_t n_slots;
	unsigned char secret[16];
};

/* 0 or negative errno. */
int router_open(struct router *router);
void router_close(struct router *router);

/* Never 0. */
uint64_t router_key(const struct router *router, unsigned topic, struct wire_str pubkey);

/* 1: added. 0: it was there already. -ENOMEM: nothing changed. */
int router_add(struct router *router, uint64_t key, uint32_t slot);
/* 1: removed. 0: it was not there. */
int router_remove(struct router *router, uint64_t key, uint32_t slot);
/* Removes up to max of the worker's subscriptions. Returns how many: fewer than max once none
 * is left. */
uint32_t router_forget(struct router *router, uint32_t slot, uint32_t max);
bool router_has(const struct router *router, uint64_t key, uint32_t slot);

/* Valid until the next call that adds or removes. */
static inline struct router_edge *router_edge(const struct router *router, uint32_t edge)
{
	return segments_element(&router->edges, edge, sizeof(struct router_edge));
}

/* Returns the key's first edge; next_of_key of each leads to the next, up to ROUTER_END. */
uint32_t router_find(const struct router *router, uint64_t key);
