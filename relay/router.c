#include "router.h"

#include "siphash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS_MIN 64

int router_open(struct router *r)
{
	*r = (struct router){.n_buckets = BUCKETS_MIN, .free_edges = ROUTER_END};
	if (getrandom(r->secret, sizeof r->secret, 0) != sizeof r->secret)
		return -errno;
	r->buckets = malloc(BUCKETS_MIN * sizeof *r->buckets);
	if (!r->buckets)
		return -ENOMEM;
	memset(r->buckets, 0xff, BUCKETS_MIN * sizeof *r->buckets);
	return 0;
}

void router_close(struct router *r)
{
	free(r->edges);
	free(r->buckets);
	*r = (struct router){0};
}

uint64_t router_key(const struct router *r, unsigned topic, struct wire_str pubkey)
{
	unsigned char key[sizeof r->secret];

	/* Each channel has a key of its own, so the pubkey need not be copied behind the channel to be
	 * hashed. */
	memcpy(key, r->secret, sizeof key);
	key[0] ^= (unsigned char)topic;
	/* SipHash-1-3, as hash tables of language runtimes have it. */
	uint64_t hash = siphash(key, pubkey.ptr, pubkey.len, 1, 3);
	return hash ? hash : 1;
}

static uint32_t *bucket_of(const struct router *r, uint64_t key)
{
	return &r->buckets[key & (r->n_buckets - 1)];
}

static int grow_buckets(struct router *r)
{
	uint32_t n = r->n_buckets * 2;
	uint32_t *buckets = malloc(n * sizeof *buckets);

	if (!buckets)
		return -ENOMEM;
	memset(buckets, 0xff, n * sizeof *buckets);
	for (uint32_t i = 0; i < r->n_buckets; i++) {
		uint32_t e = r->buckets[i];
		while (e != ROUTER_END) {
			uint32_t next = r->edges[e].next_in_bucket;
			uint32_t *bucket = &buckets[r->edges[e].key & (n - 1)];
			r->edges[e].next_in_bucket = *bucket;
			*bucket = e;
			e = next;
		}
	}
	free(r->buckets);
	r->buckets = buckets;
	r->n_buckets = n;
	return 0;
}

static int take_edge(struct router *r, uint32_t *out)
{
	if (r->free_edges != ROUTER_END) {
		*out = r->free_edges;
		r->free_edges = r->edges[*out].next_in_bucket;
		return 0;
	}
	if (r->edges_used == r->edges_max) {
		uint32_t n = r->edges_max ? r->edges_max * 2 : BUCKETS_MIN;
		struct router_edge *edges =
			n > r->edges_max ? reallocarray(r->edges, n, sizeof *edges) : NULL;
		if (!edges)
			return -ENOMEM;
		r->edges = edges;
		r->edges_max = n;
	}
	*out = r->edges_used++;
	return 0;
}

int router_add(struct router *r, uint64_t key, uint32_t slot, uint32_t *first)
{
	uint32_t e;

	if (router_has(r, key, slot))
		return 0;
	/* A failure to grow costs longer chains, nothing else. */
	if (r->n_edges >= r->n_buckets && r->n_buckets < UINT32_C(1) << 31)
		(void)grow_buckets(r);
	if (take_edge(r, &e) < 0)
		return -ENOMEM;
	uint32_t *bucket = bucket_of(r, key);
	r->edges[e] = (struct router_edge){.key = key,
		.slot = slot,
		.next_in_bucket = *bucket,
		.next_of_worker = *first,
		.prev_of_worker = ROUTER_END};
	if (*first != ROUTER_END)
		r->edges[*first].prev_of_worker = e;
	*first = e;
	*bucket = e;
	r->n_edges++;
	return 1;
}

/* at: what points to the edge on its bucket's chain */
static void remove_edge(struct router *r, uint32_t *at, uint32_t *first)
{
	uint32_t e = *at;
	struct router_edge *edge = &r->edges[e];

	*at = edge->next_in_bucket;
	if (edge->next_of_worker != ROUTER_END)
		r->edges[edge->next_of_worker].prev_of_worker = edge->prev_of_worker;
	if (edge->prev_of_worker != ROUTER_END)
		r->edges[edge->prev_of_worker].next_of_worker = edge->next_of_worker;
	else
		*first = edge->next_of_worker;
	edge->next_in_bucket = r->free_edges;
	r->free_edges = e;
	r->n_edges--;
}

int router_remove(struct router *r, uint64_t key, uint32_t slot, uint32_t *first)
{
	for (uint32_t *at = bucket_of(r, key); *at != ROUTER_END; at = &r->edges[*at].next_in_bucket) {
		if (r->edges[*at].key == key && r->edges[*at].slot == slot) {
			remove_edge(r, at, first);
			return 1;
		}
	}
	return 0;
}

void router_remove_all(struct router *r, uint32_t *first)
{
	while (*first != ROUTER_END) {
		uint32_t *at = bucket_of(r, r->edges[*first].key);
		while (*at != *first)
			at = &r->edges[*at].next_in_bucket;
		remove_edge(r, at, first);
	}
}

static uint32_t first_with(const struct router *r, uint32_t e, uint64_t key)
{
	while (e != ROUTER_END && r->edges[e].key != key)
		e = r->edges[e].next_in_bucket;
	return e;
}

uint32_t router_find(const struct router *r, uint64_t key)
{
	return first_with(r, *bucket_of(r, key), key);
}

uint32_t router_find_next(const struct router *r, uint32_t edge)
{
	return first_with(r, r->edges[edge].next_in_bucket, r->edges[edge].key);
}

bool router_has(const struct router *r, uint64_t key, uint32_t slot)
{
	for (uint32_t e = router_find(r, key); e != ROUTER_END; e = router_find_next(r, e))
		if (r->edges[e].slot == slot)
			return true;
	return false;
}
