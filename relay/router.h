/* (channel, pubkey) -> the workers that subscribed to it. A pubkey is known here by a keyed 64-bit hash alone
 * (SipHash with a key of this run), which keeps a subscription at some 30 bytes: should two pubkeys ever
 * share a hash, a worker gets a change too many, never one too few. Subscriptions for all are the workers'
 * own masks. The fan-out asks; workers add and remove. */
#pragma once

#include "wire.h"

#include <stdint.h>

#define ROUTER_END UINT32_MAX

/* One subscription: on the chain of its bucket, and on the list of its worker. */
struct router_edge {
	uint64_t key;
	uint32_t slot; /* the worker's */
	uint32_t next_in_bucket;
	uint32_t next_of_worker, prev_of_worker;
};

struct router {
	struct router_edge *edges;
	uint32_t *buckets;
	uint32_t n_buckets;  /* a power of two */
	uint32_t n_edges;    /* in use */
	uint32_t edges_max;  /* allocated */
	uint32_t edges_used; /* those beyond were never in use */
	uint32_t free_edges; /* linked by next_in_bucket */
	unsigned char secret[16];
};

/* 0 or negative errno. */
int router_open(struct router *router);
void router_close(struct router *router);

/* Never 0. */
uint64_t router_key(const struct router *router, unsigned topic, struct wire_str pubkey);

/* *first is the head of the worker's list, ROUTER_END when it is empty.
 * 1: added. 0: it was there. -ENOMEM: nothing happened. */
int router_add(struct router *router, uint64_t key, uint32_t slot, uint32_t *first);
/* 1: removed. 0: it was not there. */
int router_remove(struct router *router, uint64_t key, uint32_t slot, uint32_t *first);
void router_remove_all(struct router *router, uint32_t *first);
bool router_has(const struct router *router, uint64_t key, uint32_t slot);

/* The edges of a key: for (e = router_find(r, key); e != ROUTER_END; e = router_find_next(r, e))
 * r->edges[e].slot */
uint32_t router_find(const struct router *router, uint64_t key);
uint32_t router_find_next(const struct router *router, uint32_t edge);
