#include "fanout/router.h"

#include "fanout/siphash.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* The smallest table, and the first number of slots: 256 bytes each, so smaller ones would save
 * nothing. */
#define BUCKETS_MIN 64
_Static_assert((BUCKETS_MIN & (BUCKETS_MIN - 1)) == 0, "the mask of the first table reaches its buckets");

static uint32_t *bucket_at(const struct router *r, uint32_t i)
{
	return segments_element(&r->buckets, i, sizeof(uint32_t));
}

int router_open(struct router *r)
{
	*r = (struct router){.n_buckets = BUCKETS_MIN, .mask = BUCKETS_MIN - 1};
	if (getrandom(r->secret, sizeof r->secret, 0) != sizeof r->secret)
		return -errno;
	if (segments_reserve(&r->buckets, BUCKETS_MIN * sizeof(uint32_t)) < 0)
		return -ENOMEM;
	for (uint32_t i = 0; i < BUCKETS_MIN; i++)
		*bucket_at(r, i) = ROUTER_END;
	return 0;
}

void router_close(struct router *r)
{
	segments_free(&r->edges);
	segments_free(&r->buckets);
	free(r->firsts);
	*r = (struct router){0};
}

uint64_t router_key(const struct router *r, unsigned topic, struct wire_str pubkey)
{
	unsigned char key[sizeof r->secret];

	/* Each channel hashes with a secret of its own. The obvious way, to hash the channel
	 * and the pubkey, would copy both into one buffer. */
	memcpy(key, r->secret, sizeof key);
	key[0] ^= (unsigned char)topic;
	/* SipHash-1-3, as in the hash tables of Rust and Python. */
	uint64_t hash = siphash(key, pubkey.ptr, pubkey.len, 1, 3);
	return hash ? hash : 1;
}

/* Buckets */

/* For each edge of a key except its first. The factor is odd, so two slots never give one key
 * the same hash. */
static uint64_t pair_hash(uint64_t key, uint32_t slot)
{
	return key ^ (slot + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);
}

static uint64_t hash_of(const struct router_edge *edge)
{
	return edge->prev_of_key == ROUTER_END ? edge->key : pair_hash(edge->key, edge->slot);
}

static uint32_t *bucket_of(const struct router *r, uint64_t hash)
{
	uint32_t i = (uint32_t)hash & r->mask;

	return bucket_at(r, i < r->n_buckets ? i : i & r->mask >> 1);
}

/* The pointer to the edge in the chain of its bucket. */
static uint32_t *link_to(const struct router *r, uint32_t e)
{
	uint32_t *at = bucket_of(r, hash_of(router_edge(r, e)));

	while (*at != e)
		at = &router_edge(r, *at)->next_in_bucket;
	return at;
}

static void put_into_bucket(struct router *r, uint32_t e)
{
	struct router_edge *edge = router_edge(r, e);
	uint32_t *bucket = bucket_of(r, hash_of(edge));

	edge->next_in_bucket = *bucket;
	*bucket = e;
}

static void take_from_bucket(struct router *r, uint32_t e)
{
	*link_to(r, e) = router_edge(r, e)->next_in_bucket;
}

static void put_all_into_buckets(struct router *r, uint32_t chain)
{
	while (chain != ROUTER_END) {
		uint32_t next = router_edge(r, chain)->next_in_bucket;
		put_into_bucket(r, chain);
		chain = next;
	}
}

static uint32_t empty_bucket(struct router *r, uint32_t i)
{
	uint32_t *bucket = bucket_at(r, i), chain = *bucket;

	*bucket = ROUTER_END;
	return chain;
}

/* Keeps one bucket for each edge. If memory runs out, chains get longer, and nothing else
 * breaks. */
static void grow_table(struct router *r)
{
	uint32_t added = r->n_buckets;

	if (r->n_edges <= added ||
		segments_reserve(&r->buckets, (added + UINT64_C(1)) * sizeof(uint32_t)) < 0)
		return;
	if (added > r->mask)
		r->mask = r->mask << 1 | 1;
	r->n_buckets++;
	*bucket_at(r, added) = ROUTER_END;
	put_all_into_buckets(r, empty_bucket(r, added & r->mask >> 1));
}

static bool is_sparse(const struct router *r)
{
	/* Below three quarters, so that the table does not grow again at once. */
	return r->n_buckets > BUCKETS_MIN && r->n_edges < r->n_buckets / 4 * 3;
}

static void shrink_table(struct router *r)
{
	uint32_t chain = empty_bucket(r, --r->n_buckets);
	if (r->n_buckets == (r->mask >> 1) + 1)
		r->mask >>= 1;
	put_all_into_buckets(r, chain);
	segments_release(&r->buckets, r->n_buckets * sizeof(uint32_t));
}

/* Finding */

uint32_t router_find(const struct router *r, uint64_t key)
{
	uint32_t e = *bucket_of(r, key);

	while (e != ROUTER_END) {
		const struct router_edge *edge = router_edge(r, e);
		if (edge->key == key && edge->prev_of_key == ROUTER_END)
			break;
		e = edge->next_in_bucket;
	}
	return e;
}

/* first: the key's first edge, or ROUTER_END. */
static uint32_t find_pair(const struct router *r, uint32_t first, uint64_t key, uint32_t slot)
{
	if (first == ROUTER_END || router_edge(r, first)->slot == slot)
		return first;
	uint32_t e = *bucket_of(r, pair_hash(key, slot));
	while (e != ROUTER_END && (router_edge(r, e)->key != key || router_edge(r, e)->slot != slot))
		e = router_edge(r, e)->next_in_bucket;
	return e;
}

bool router_has(const struct router *r, uint64_t key, uint32_t slot)
{
	return find_pair(r, router_find(r, key), key, slot) != ROUTER_END;
}

/* Adding */

static int make_slot(struct router *r, uint32_t slot)
{
	if (slot < r->n_slots)
		return 0;
	uint32_t n = slot < BUCKETS_MIN ? BUCKETS_MIN : slot * 2;
	uint32_t *firsts = reallocarray(r->firsts, n, sizeof *firsts);
	if (!firsts)
		return -ENOMEM;
	memset(firsts + r->n_slots, 0xff, (n - r->n_slots) * sizeof *firsts);
	r->firsts = firsts;
	r->n_slots = n;
	return 0;
}

int router_add(struct router *r, uint64_t key, uint32_t slot)
{
	uint32_t first = router_find(r, key), e = r->n_edges;

	if (find_pair(r, first, key, slot) != ROUTER_END)
		return 0;
	if (e == ROUTER_END || make_slot(r, slot) < 0 ||
		segments_reserve(&r->edges, (e + UINT64_C(1)) * sizeof(struct router_edge)) < 0)
		return -ENOMEM;
	struct router_edge *edge = router_edge(r, e);
	*edge = (struct router_edge){.key = key,
		.slot = slot,
		.next_of_key = ROUTER_END,
		.prev_of_key = first,
		.next_of_worker = r->firsts[slot],
		.prev_of_worker = ROUTER_END};
	if (first != ROUTER_END) {
		struct router_edge *head = router_edge(r, first);
		edge->next_of_key = head->next_of_key;
		if (edge->next_of_key != ROUTER_END)
			router_edge(r, edge->next_of_key)->prev_of_key = e;
		head->next_of_key = e;
	}
	if (edge->next_of_worker != ROUTER_END)
		router_edge(r, edge->next_of_worker)->prev_of_worker = e;
	r->firsts[slot] = e;
	put_into_bucket(r, e);
	r->n_edges++;
	grow_table(r);
	return 1;
}

/* Removing */

static void leave_key(struct router *r, const struct router_edge *edge)
{
	uint32_t next = edge->next_of_key;

	if (edge->prev_of_key != ROUTER_END) {
		router_edge(r, edge->prev_of_key)->next_of_key = next;
		if (next != ROUTER_END)
			router_edge(r, next)->prev_of_key = edge->prev_of_key;
	} else if (next != ROUTER_END) {
		/* It becomes the key's first, and the first is in another bucket. */
		take_from_bucket(r, next);
		router_edge(r, next)->prev_of_key = ROUTER_END;
		put_into_bucket(r, next);
	}
}

static void leave_worker(struct router *r, const struct router_edge *edge)
{
	if (edge->next_of_worker != ROUTER_END)
		router_edge(r, edge->next_of_worker)->prev_of_worker = edge->prev_of_worker;
	if (edge->prev_of_worker != ROUTER_END)
		router_edge(r, edge->prev_of_worker)->next_of_worker = edge->next_of_worker;
	else
		r->firsts[edge->slot] = edge->next_of_worker;
}

static void move_edge(struct router *r, uint32_t from, uint32_t to)
{
	struct router_edge *edge = router_edge(r, to);

	*link_to(r, from) = to;
	*edge = *router_edge(r, from);
	if (edge->next_of_key != ROUTER_END)
		router_edge(r, edge->next_of_key)->prev_of_key = to;
	if (edge->prev_of_key != ROUTER_END)
		router_edge(r, edge->prev_of_key)->next_of_key = to;
	if (edge->next_of_worker != ROUTER_END)
		router_edge(r, edge->next_of_worker)->prev_of_worker = to;
	if (edge->prev_of_worker != ROUTER_END)
		router_edge(r, edge->prev_of_worker)->next_of_worker = to;
	else
		r->firsts[edge->slot] = to;
}

static void remove_edge(struct router *r, uint32_t e)
{
	const struct router_edge *edge = router_edge(r, e);

	take_from_bucket(r, e);
	leave_key(r, edge);
	leave_worker(r, edge);
	r->n_edges--;
	if (e != r->n_edges)
		move_edge(r, r->n_edges, e);
	segments_release(&r->edges, r->n_edges * sizeof(struct router_edge));
	/* Twice, because the table has four buckets for three edges: once would not keep up. */
	for (int i = 0; i < 2 && is_sparse(r); i++)
		shrink_table(r);
}

int router_remove(struct router *r, uint64_t key, uint32_t slot)
{
	uint32_t e = find_pair(r, router_find(r, key), key, slot);

	if (e == ROUTER_END)
		return 0;
	remove_edge(r, e);
	return 1;
}

uint32_t router_forget(struct router *r, uint32_t slot, uint32_t max)
{
	uint32_t n = 0;

	for (; n < max && slot < r->n_slots && r->firsts[slot] != ROUTER_END; n++)
		remove_edge(r, r->firsts[slot]);
	return n;
}
