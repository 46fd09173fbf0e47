/* Who wants which pubkey. */
#include "fanout/router.h"

#include "fanout/siphash.h"

#include <criterion/criterion.h>
#include <sodium/crypto_shorthash.h>
#include <stdio.h>
#include <stdlib.h>

static struct router router;

static void start(void)
{
	cr_assert_eq(router_open(&router), 0);
}

static void end(void)
{
	router_close(&router);
}

TestSuite(router, .init = start, .fini = end, .timeout = 60);

static uint64_t key(unsigned topic, int n)
{
	char text[32];

	snprintf(text, sizeof text, "user%d", n);
	return router_key(&router, topic, wire_str(text));
}

static int count(uint64_t k)
{
	int n = 0;

	for (uint32_t e = router_find(&router, k); e != ROUTER_END; e = router_edge(&router, e)->next_of_key)
		n++;
	return n;
}

Test(router, finds_those_who_subscribed)
{
	cr_assert_eq(router_add(&router, key(1, 7), 0), 1);
	cr_assert_eq(router_add(&router, key(1, 7), 2), 1);
	cr_assert_eq(router_add(&router, key(1, 7), 0), 0, "twice is once");
	cr_assert_eq(count(key(1, 7)), 2);
	cr_assert_eq(count(key(2, 7)), 0, "another channel");
	cr_assert_eq(count(key(1, 8)), 0, "another user");
	cr_assert(router_has(&router, key(1, 7), 2));
	cr_assert_not(router_has(&router, key(1, 7), 1));
	cr_assert_eq(router_remove(&router, key(1, 7), 0), 1);
	cr_assert_eq(router_remove(&router, key(1, 7), 0), 0);
	cr_assert_eq(count(key(1, 7)), 1);
}

Test(router, forgets_a_worker_whole)
{
	for (int n = 0; n < 20000; n++)
		for (uint32_t slot = 0; slot < 3; slot++)
			if (n % (int)(slot + 1) == 0)
				cr_assert_eq(router_add(&router, key(1, n), slot), 1);
	cr_assert_eq(router_forget(&router, 1, 6000), 6000);
	cr_assert_eq(router_forget(&router, 1, 6000), 4000, "the rest");
	cr_assert_eq(router_forget(&router, 1, 6000), 0);
	for (int n = 0; n < 20000; n++) {
		cr_assert(router_has(&router, key(1, n), 0));
		cr_assert_not(router_has(&router, key(1, n), 1));
		cr_assert_eq(router_has(&router, key(1, n), 2), n % 3 == 0);
	}
	router_forget(&router, 0, UINT32_MAX);
	router_forget(&router, 2, UINT32_MAX);
	cr_assert_eq(router.n_edges, 0);
	cr_assert_eq(router_forget(&router, 1000, 1), 0, "it never subscribed");
}

#define KEYS 40
#define SLOTS 50

static void check_all(bool has[KEYS][SLOTS])
{
	for (int k = 0; k < KEYS; k++) {
		int n = 0;
		for (uint32_t slot = 0; slot < SLOTS; slot++) {
			n += has[k][slot];
			cr_assert_eq(router_has(&router, key(1, k), slot), has[k][slot]);
		}
		cr_assert_eq(count(key(1, k)), n);
	}
}

/* Subscribes and unsubscribes at random, next to a table that says what there must be. */
Test(router, is_what_a_plain_table_is)
{
	static bool has[KEYS][SLOTS];
	unsigned random = 1;

	for (int step = 0; step < 200000; step++) {
		int k = rand_r(&random) % KEYS;
		uint32_t slot = (uint32_t)rand_r(&random) % SLOTS;
		/* Now mostly those who come, now mostly those who go. */
		if (rand_r(&random) % 8 < (step / 20000 % 2 ? 2 : 6))
			cr_assert_eq(router_add(&router, key(1, k), slot), !has[k][slot]);
		else
			cr_assert_eq(router_remove(&router, key(1, k), slot), has[k][slot]);
		has[k][slot] = router_has(&router, key(1, k), slot);
		if (step % 5000 == 0)
			check_all(has);
		if (step % 50000 == 49999) {
			router_forget(&router, slot, UINT32_MAX);
			for (k = 0; k < KEYS; k++)
				has[k][slot] = false;
		}
	}
	check_all(has);
}

static size_t bytes_used(void)
{
	return (router.edges.n + (size_t)router.buckets.n) * SEGMENT_SIZE;
}

Test(router, keeps_a_subscription_small)
{
	for (int n = 0; n < 100000; n++)
		router_add(&router, key(1, n), 0);
	cr_assert_leq(bytes_used() / 100000, 40);
}

Test(router, gives_memory_back)
{
	size_t before = bytes_used();

	for (int n = 0; n < 1000000; n++)
		router_add(&router, key(1, n), (uint32_t)n % 3);
	size_t full = bytes_used();
	/* Every third of them goes, then another. */
	router_forget(&router, 1, UINT32_MAX);
	cr_assert_lt(bytes_used(), full * 3 / 4);
	router_forget(&router, 0, UINT32_MAX);
	cr_assert_lt(bytes_used(), full * 2 / 5);
	for (int n = 2; n < 1000000; n += 3)
		cr_assert(router_has(&router, key(1, n), 2));
	router_forget(&router, 2, UINT32_MAX);
	cr_assert_leq(bytes_used(), before + 2 * SEGMENT_SIZE);
	cr_assert_eq(router.n_buckets, 64);
}

static unsigned longest_chain(void)
{
	unsigned longest = 0;

	for (uint32_t i = 0; i < router.n_buckets; i++) {
		unsigned n = 0;
		uint32_t e = *(uint32_t *)segments_element(&router.buckets, i, sizeof e);
		for (; e != ROUTER_END; e = router_edge(&router, e)->next_in_bucket)
			n++;
		longest = n > longest ? n : longest;
	}
	return longest;
}

/* What an operation costs is the length of a chain, wherever the subscriptions hang. */
Test(router, has_short_chains_whatever_hangs_on_a_key)
{
	for (uint32_t slot = 0; slot < 4000; slot++)
		router_add(&router, key(1, 1), slot);
	cr_assert_leq(longest_chain(), 12, "many workers, one key");
	for (int n = 2; n < 60000; n++)
		router_add(&router, key(1, n), 7);
	cr_assert_leq(longest_chain(), 12, "and many keys of one of them");
	for (uint32_t slot = 0; slot < 4000; slot++)
		for (int n = 100; n < 140; n++)
			router_add(&router, key(1, n), slot);
	cr_assert_leq(longest_chain(), 12, "many of both");
	router_forget(&router, 7, 50000);
	cr_assert_leq(longest_chain(), 12, "and fewer again");
}

/* With the rounds that libsodium has. */
Test(router, hashes_as_siphash_does)
{
	unsigned char secret[crypto_shorthash_KEYBYTES], bytes[100] = {0};
	uint64_t expected;

	for (size_t i = 0; i < sizeof secret; i++)
		secret[i] = (unsigned char)(i * 37 + 200);
	for (size_t len = 0; len <= sizeof bytes; len++) {
		if (len > 0)
			bytes[len - 1] = (unsigned char)(len * 91);
		crypto_shorthash((unsigned char *)&expected, bytes, len, secret);
		cr_assert_eq(siphash(secret, bytes, len, 2, 4), le64toh(expected), "%zu bytes", len);
	}
}
