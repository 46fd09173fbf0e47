#include "bench.h"

#include <string.h>

static char *put_hex(char *out, uint64_t value, unsigned digits)
{
	static const char hex[] = "0123456789abcdef";

	for (unsigned i = digits; i-- > 0;)
		*out++ = hex[value >> (4 * i) & 15];
	return out;
}

/* splitmix64 */
uint64_t next_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

void user_pubkey(uint64_t user, char *out)
{
	uint64_t state = user * 4;

	*out++ = '0';
	*out++ = '2';
	for (int i = 0; i < 4; i++)
		out = put_hex(out, next_random(&state), 16);
	*out = '\0';
}

void stamped_client_id(uint64_t now, char *out)
{
	static uint64_t serial;

	out = put_hex(out, now, 16);
	memcpy(out, "-4000-8000-", 11);
	out = put_hex(out + 11, serial++, 9);
	*out = '\0';
}

void make_payload(uint64_t user, uint64_t now, char *out)
{
	memcpy(out, "{\"p\":\"", 6);
	user_pubkey(user, out + 6);
	memcpy(out + 6 + PUBKEY_LEN, "\",\"c\":\"", 7);
	stamped_client_id(now, out + 13 + PUBKEY_LEN);
	memcpy(out + 13 + PUBKEY_LEN + CLIENT_ID_LEN, "\"}", 3);
}
