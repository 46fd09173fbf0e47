/* SipHash (Aumasson and Bernstein, 2012), a keyed 64-bit hash: a peer that lacks the key cannot
 * choose strings that share a hash. router.c calls it, for every notification, so it is inline
 * and its callers pass the numbers of rounds as constants. */
#pragma once

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t siphash_load(const unsigned char *p)
{
	uint64_t word;

	memcpy(&word, p, sizeof word);
	return le64toh(word);
}

static inline void siphash_rounds(uint64_t v[4], int n)
{
	while (n-- > 0) {
		v[0] += v[1];
		v[2] += v[3];
		v[1] = (v[1] << 13 | v[1] >> 51) ^ v[0];
		v[3] = (v[3] << 16 | v[3] >> 48) ^ v[2];
		v[0] = v[0] << 32 | v[0] >> 32;
		v[2] += v[1];
		v[0] += v[3];
		v[1] = (v[1] << 17 | v[1] >> 47) ^ v[2];
		v[3] = (v[3] << 21 | v[3] >> 43) ^ v[0];
		v[2] = v[2] << 32 | v[2] >> 32;
	}
}

static inline void siphash_word(uint64_t v[4], uint64_t word, int rounds)
{
	v[3] ^= word;
	siphash_rounds(v, rounds);
	v[0] ^= word;
}

/* SipHash-rounds-last_rounds, of len bytes. */
static inline uint64_t siphash(
	const unsigned char key[16], const void *bytes, size_t len, int rounds, int last_rounds)
{
	const unsigned char *p = bytes;
	uint64_t k0 = siphash_load(key), k1 = siphash_load(key + 8);
	uint64_t v[4] = {k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261,
		k1 ^ 0x7465646279746573};
	unsigned char last[8] = {[7] = (unsigned char)len};

	for (size_t left = len / 8; left > 0; left--, p += 8)
		siphash_word(v, siphash_load(p), rounds);
	for (size_t i = 0; i < len % 8; i++)
		last[i] = p[i];
	siphash_word(v, siphash_load(last), rounds);
	v[2] ^= 0xff;
	siphash_rounds(v, last_rounds);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
