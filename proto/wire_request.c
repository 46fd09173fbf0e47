#include "wire_request.h"

#include <errno.h>

/* The rest of a frame. wire_scan() has proved that each value is whole; the functions below
 * check the end nevertheless. Each takes a value off the front, and returns whether the
 * value is of its kind. */
struct packed {
	const unsigned char *next, *end;
};

static bool take_bytes(struct packed *p, size_t n, const unsigned char **out)
{
	if ((size_t)(p->end - p->next) < n)
		return false;
	*out = p->next;
	p->next += n;
	return true;
}

static bool take_big_endian(struct packed *p, unsigned n, uint64_t *out)
{
	const unsigned char *bytes;

	if (!take_bytes(p, n, &bytes))
		return false;
	*out = 0;
	while (n-- > 0)
		*out = *out << 8 | *bytes++;
	return true;
}

static bool take_nil(struct packed *p)
{
	if (p->next == p->end || *p->next != 0xc0)
		return false;
	p->next++;
	return true;
}

static bool take_uint(struct packed *p, uint64_t *out)
{
	const unsigned char *first;

	if (!take_bytes(p, 1, &first))
		return false;
	if (*first < 0x80) {
		*out = *first;
		return true;
	}
	/* uint 8 to 64, and int 8 to 64, which may hold a positive number too */
	if (*first < 0xcc || *first > 0xd3)
		return false;
	unsigned len = 1u << (*first & 3);
	if (!take_big_endian(p, len, out))
		return false;
	return *first < 0xd0 || *out >> (8 * len - 1) == 0;
}

/* A count that follows one of n first bytes. 1 << power bytes follow the lowest of them,
 * twice as many the next. */
static bool take_count(struct packed *p, unsigned char first, unsigned n, unsigned power, uint64_t *out)
{
	if (p->next == p->end || *p->next < first || *p->next >= first + n)
		return false;
	power += (unsigned)(*p->next++ - first);
	return take_big_endian(p, 1u << power, out);
}

static bool take_array(struct packed *p, uint64_t *n)
{
	if (p->next < p->end && (*p->next & 0xf0) == 0x90) {
		*n = *p->next++ & 0x0f;
		return true;
	}
	return take_count(p, 0xdc, 2, 1, n);
}

static bool take_str(struct packed *p, struct wire_str *out)
{
	const unsigned char *bytes;
	uint64_t len;

	if (p->next < p->end && (*p->next & 0xe0) == 0xa0)
		len = *p->next++ & 0x1f;
	else if (!take_count(p, 0xd9, 3, 0, &len) && !take_count(p, 0xc4, 3, 0, &len)) /* str, or bin */
		return false;
	if (!take_bytes(p, len, &bytes))
		return false;
	*out = (struct wire_str){len > 0 ? (const char *)bytes : "", (uint32_t)len};
	return true;
}

static bool take_str_or_nil(struct packed *p, struct wire_str *out)
{
	*out = (struct wire_str){0};
	return take_nil(p) || take_str(p, out);
}

static bool take_resume(struct packed *p, struct wire_hello *hello)
{
	uint64_t n;

	hello->resume = !take_nil(p);
	return !hello->resume || (take_array(p, &n) && n >= 3 && take_str(p, &hello->epoch) &&
					 take_uint(p, &hello->seq) && take_str_or_nil(p, &hello->checkpoint));
}

static bool take_pubkeys(struct packed *p, const unsigned char *frame, struct wire_strs *out)
{
	uint64_t n;

	*out = (struct wire_strs){0};
	if (take_nil(p))
		return true;
	if (!take_array(p, &n))
		return false;
	*out = (struct wire_strs){(uint32_t)(p->next - frame), (uint32_t)n};
	return true;
}

bool wire_strs_next(struct wire_strs *strs, const void *frame, size_t len, struct wire_str *out)
{
	const unsigned char *start = frame;
	struct packed p = {start + strs->offset, start + len};

	if (strs->left == 0 || !take_str(&p, out))
		return false;
	strs->offset = (uint32_t)(p.next - start);
	strs->left--;
	return true;
}

int wire_request_read(const void *frame, size_t len, struct wire_frame *out, struct wire_strs *pubkeys)
{
	struct packed body = {frame, (const unsigned char *)frame + len}, *p = &body;
	uint64_t n, type;
	bool good;

	if (!take_array(p, &n) || n == 0 || !take_uint(p, &type))
		return -EPROTO;
	if (type > WIRE_BYE || (type > WIRE_BEGIN && type < WIRE_WELCOME))
		return -ENOTSUP;
	*out = (struct wire_frame){.type = (enum wire_type)type};
	*pubkeys = (struct wire_strs){0};
	switch (out->type) {
	case WIRE_HELLO:
		good = n >= 4 && take_uint(p, &out->hello.version) && take_str_or_nil(p, &out->hello.name) &&
		       take_resume(p, &out->hello);
		break;
	case WIRE_SUBSCRIBE:
	case WIRE_UNSUBSCRIBE:
		good = n >= 4 && take_uint(p, &out->subscribe.id) && take_str(p, &out->subscribe.channel) &&
		       take_pubkeys(p, frame, pubkeys);
		break;
	case WIRE_NOTIFY:
		good = n >= 5 && take_uint(p, &out->notify.id) && take_str(p, &out->notify.channel) &&
		       take_str(p, &out->notify.pubkey) && take_str_or_nil(p, &out->notify.client_id);
		break;
	case WIRE_SEND:
		good = n >= 4 && take_uint(p, &out->send.id) && take_str(p, &out->send.channel) &&
		       take_str(p, &out->send.payload);
		break;
	case WIRE_PING:
	case WIRE_BEGIN:
		good = n >= 2 && take_uint(p, &out->request.id);
		break;
	default:
		good = true;
	}
	return good ? 0 : -EPROTO;
}
