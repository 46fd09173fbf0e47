/* (channel, pubkey) -> the workers that subscribed to it. The router knows a pubkey by a keyed 64-bit hash
 * alone (SipHash with a key of this run), which keeps a subscription at some 40 bytes: should two pubkeys
 * ever share a hash, a worker gets a change too many, never one too few. Subscriptions for all are the
 * workers' own masks. The fan-out asks; workers add and remove.
 *
 * Each operation on one subscription costs the same, however many others there are, of its key, of its
 * worker, or in all:
 *
 * - Edges are found by one table. The first edge of a key stands in the bucket of the key, every other in the
 *   bucket of (key, slot). So to find a key, or one worker's edge of it, takes no walk along the key's edges.
 * - The table grows and shrinks by one bucket at a time (linear hashing, Litwin 1980).
 * - Edges lie without holes: the last one moves to the place of one that goes. So memory follows the number
 *   of subscriptions down as well as up. */
#pragma once

#include "base/segments.h"
#include "wire.h"

#include <stdint.h>

#define ROUTER_END UINT32_MAX

/* One subscription: in its bucket, on the list of its key, and on the list of its worker. */
struct router_edge {
	uint64_t key;
	uint32_t slot; /* the worker's */
	uint32_t next_in_bucket;
	uint32_t next_of_key, prev_of_key; /* the key's first has ROUTER_END before it */
	uint32_t next_of_worker, prev_of_worker;
};

struct router {
	struct segments edges;   /* of struct router_edge */
	struct segments buckets; /* of uint32_t */
	uint32_t n_edges, n_buckets;
	uint32_t mask; /* the least 2^n - 1 that reaches all buckets */
	/* By slot: the worker's first edge. */
	uint32_t *firsts;
	uint32_t n_slots;
	unsigned char secret[16];
};

/* 0 or negative errno. */
int router_open(struct router *router);
void router_close(struct router *router);

/* Never 0. */
uint64_t router_key(const struct router *router, unsigned topic, struct wire_str pubkey);

/* 1: added. 0: it was there. -ENOMEM: nothing happened. */
int router_add(struct router *router, uint64_t key, uint32_t slot);
/* 1: removed. 0: it was not there. */
int router_remove(struct router *router, uint64_t key, uint32_t slot);
/* Remove up to max of the worker's subscriptions. Returns how many those were: fewer than max when none is
 * left. */
uint32_t router_forget(struct router *router, uint32_t slot, uint32_t max);
bool router_has(const struct router *router, uint64_t key, uint32_t slot);

static inline struct router_edge *router_edge(const struct router *router, uint32_t edge)
{
	return segments_element(&router->edges, edge, sizeof(struct router_edge));
}

/* The edges of a key: for (e = router_find(r, key); e != ROUTER_END; e = router_edge(r, e)->next_of_key) */
uint32_t router_find(const struct router *router, uint64_t key);
