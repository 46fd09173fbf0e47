/* Who wants which pubkey. */
#include "router.h"

#include "siphash.h"

#include <criterion/criterion.h>
#include <sodium/crypto_shorthash.h>
#include <stdio.h>

static struct router router;
static uint32_t first[3];

static void start(void)
{
	cr_assert_eq(router_open(&router), 0);
	for (int i = 0; i < 3; i++)
		first[i] = ROUTER_END;
}

static void end(void)
{
	router_close(&router);
}

TestSuite(router, .init = start, .fini = end);

static uint64_t key(unsigned topic, int n)
{
	char text[32];

	snprintf(text, sizeof text, "user%d", n);
	return router_key(&router, topic, wire_str(text));
}

static int count(uint64_t k)
{
	int n = 0;

	for (uint32_t e = router_find(&router, k); e != ROUTER_END; e = router_find_next(&router, e))
		n++;
	return n;
}

Test(router, finds_those_who_subscribed)
{
	cr_assert_eq(router_add(&router, key(1, 7), 0, &first[0]), 1);
	cr_assert_eq(router_add(&router, key(1, 7), 2, &first[2]), 1);
	cr_assert_eq(router_add(&router, key(1, 7), 0, &first[0]), 0, "twice is once");
	cr_assert_eq(count(key(1, 7)), 2);
	cr_assert_eq(count(key(2, 7)), 0, "another channel");
	cr_assert_eq(count(key(1, 8)), 0, "another user");
	cr_assert(router_has(&router, key(1, 7), 2));
	cr_assert_not(router_has(&router, key(1, 7), 1));
	cr_assert_eq(router_remove(&router, key(1, 7), 0, &first[0]), 1);
	cr_assert_eq(router_remove(&router, key(1, 7), 0, &first[0]), 0);
	cr_assert_eq(count(key(1, 7)), 1);
}

Test(router, forgets_a_worker_whole)
{
	for (int n = 0; n < 20000; n++)
		for (uint32_t slot = 0; slot < 3; slot++)
			if (n % (int)(slot + 1) == 0)
				cr_assert_eq(router_add(&router, key(1, n), slot, &first[slot]), 1);
	router_remove_all(&router, &first[1]);
	cr_assert_eq(first[1], ROUTER_END);
	for (int n = 0; n < 20000; n++) {
		cr_assert(router_has(&router, key(1, n), 0));
		cr_assert_not(router_has(&router, key(1, n), 1));
		cr_assert_eq(router_has(&router, key(1, n), 2), n % 3 == 0);
	}
	router_remove_all(&router, &first[0]);
	router_remove_all(&router, &first[2]);
	cr_assert_eq(router.n_edges, 0);
	/* What was freed is used again. */
	uint32_t used = router.edges_used;
	for (int n = 0; n < 20000; n++)
		router_add(&router, key(1, n), 1, &first[1]);
	cr_assert_eq(router.edges_used, used);
}

Test(router, keeps_a_subscription_small)
{
	for (int n = 0; n < 100000; n++)
		router_add(&router, key(1, n), 0, &first[0]);
	size_t bytes = router.edges_used * sizeof *router.edges + router.n_buckets * sizeof *router.buckets;
	cr_assert_leq(bytes / 100000, 40);
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
