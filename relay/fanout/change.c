/* jansson takes about 4 us for a payload, ten times as long as the rest of a notification. So
 * decode_canonical() reads the form that pgherald and the Go service write, with plain ASCII
 * strings. Everything else goes to jansson, which decides what is JSON. */
#include "fanout/change.h"

#include "fanout/json.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Printable ASCII except the quote and the backslash: it stands for itself in a JSON string. */
static bool is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

/* As wide as the vector registers that every current processor has. */
typedef unsigned char sixteen __attribute__((vector_size(16)));

/* How many of the sixteen bytes at p are plain, up to the first that is not. */
static unsigned plain_of_sixteen(const char *p)
{
	sixteen v;
	uint64_t odd[2];

	memcpy(&v, p, sizeof v);
	sixteen is_odd = (sixteen)((v - 0x20 >= 0x7f - 0x20) | (v == '"') | (v == '\\'));
	memcpy(odd, &is_odd, sizeof odd);
	if (odd[0])
		return (unsigned)__builtin_ctzll(le64toh(odd[0])) / 8;
	return odd[1] ? 8 + (unsigned)__builtin_ctzll(le64toh(odd[1])) / 8 : 16;
}

static bool skip(const char **p, const char *end, const char *literal, size_t len)
{
	if ((size_t)(end - *p) < len || memcmp(*p, literal, len) != 0)
		return false;
	*p += len;
	return true;
}

static struct wire_str plain_run(const char **p, const char *end)
{
	const char *start = *p, *at = start;
	unsigned n = 16;

	while (n == 16 && end - at >= 16) {
		n = plain_of_sixteen(at);
		at += n;
	}
	while (n == 16 && at < end && is_plain((unsigned char)*at))
		at++;
	*p = at;
	return (struct wire_str){start, (uint32_t)(at - start)};
}

static bool decode_canonical(const char *p, const char *end, struct change *out)
{
	if (!skip(&p, end, "{\"p\":\"", 6))
		return false;
	out->pubkey = plain_run(&p, end);
	out->client_id = (struct wire_str){0};
	if (skip(&p, end, "\",\"c\":\"", 7))
		out->client_id = plain_run(&p, end);
	return skip(&p, end, "\"}", 2) && p == end;
}

static struct wire_str string_of(const json_t *value)
{
	return (struct wire_str){json_string_value(value), (uint32_t)json_string_length(value)};
}

/* jansson does not report that it is out of memory: it calls the JSON malformed, or leaves
 * bytes out of a string. */
static bool out_of_memory;

static void *allocate(size_t size)
{
	void *p = malloc(size);

	out_of_memory |= !p;
	return p;
}

static bool is_text(const json_t *value, bool changed)
{
	return json_is_string(value) && !(changed && json_is_broken(value));
}

static int decode_any(const char *payload, size_t len, struct change *out)
{
	bool changed;

	json_set_alloc_funcs(allocate, free);
	out_of_memory = false;
	json_t *root = json_read(payload, len, &changed);
	json_t *p = json_object_get(root, "p"), *c = json_object_get(root, "c");

	if (out_of_memory || !is_text(p, changed) || (c && !json_is_null(c) && !is_text(c, changed))) {
		json_decref(root);
		return out_of_memory ? -ENOMEM : -EBADMSG;
	}
	out->pubkey = string_of(p);
	out->client_id = json_is_string(c) ? string_of(c) : (struct wire_str){0};
	out->owner = root;
	return 0;
}

int change_decode(const char *payload, size_t len, struct change *out)
{
	out->owner = NULL;
	if (decode_canonical(payload, payload + len, out))
		return 0;
	return decode_any(payload, len, out);
}

void change_release(struct change *change)
{
	json_decref(change->owner);
	change->owner = NULL;
}

/* How Go's encoding/json writes the byte at p, and how many bytes of the input it replaces.
 * NULL: as it is. The result is static or in buf. */
static const char *escape_of(const unsigned char *p, const unsigned char *end, char buf[7], int *taken)
{
	static const char hex[] = "0123456789abcdef";

	*taken = 1;
	switch (*p) {
	case '"':
		return "\\\"";
	case '\\':
		return "\\\\";
	case '\n':
		return "\\n";
	case '\r':
		return "\\r";
	case '\t':
		return "\\t";
	default:
		break;
	}
	if (*p < 0x20 || *p == '<' || *p == '>' || *p == '&') {
		memcpy(buf, "\\u00", 4);
		buf[4] = hex[*p >> 4];
		buf[5] = hex[*p & 0xf];
		buf[6] = '\0';
		return buf;
	}
	/* U+2028 and U+2029 end a line in JavaScript. */
	if (end - p >= 3 && p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9)) {
		*taken = 3;
		return p[2] == 0xa8 ? "\\u2028" : "\\u2029";
	}
	return NULL;
}

struct room {
	char *next, *end;
	bool full;
};

static void put(struct room *room, const char *bytes, size_t len)
{
	if (room->full || (size_t)(room->end - room->next) < len) {
		room->full = true;
		return;
	}
	memcpy(room->next, bytes, len);
	room->next += len;
}

static void put_string(struct room *room, struct wire_str s)
{
	/* ASCII that escape_of() returns NULL for. */
	static const bool stands_for_itself[256] = {[' ' ... '"' - 1] = true,
		['"' + 1 ... '&' - 1] = true,
		['&' + 1 ... '<' - 1] = true,
		['<' + 1 ... '>' - 1] = true,
		['>' + 1 ... '\\' - 1] = true,
		['\\' + 1 ... 0x7f] = true};
	const unsigned char *p = (const unsigned char *)s.ptr, *end = p + s.len;
	int taken;

	for (; p < end; p += taken) {
		const unsigned char *run = p;
		char buf[7];
		while (p < end && stands_for_itself[*p])
			p++;
		put(room, (const char *)run, (size_t)(p - run));
		if (p == end)
			break;
		const char *escape = escape_of(p, end, buf, &taken);
		if (escape)
			put(room, escape, strlen(escape));
		else
			put(room, (const char *)p, 1);
	}
}

int change_encode(struct wire_str pubkey, struct wire_str client_id, char *buf, size_t size)
{
	struct room room = {buf, buf + size, false};

	if (!wire_utf8_valid(pubkey.ptr, pubkey.len) ||
		(client_id.ptr && !wire_utf8_valid(client_id.ptr, client_id.len)))
		return -EILSEQ;
	put(&room, "{\"p\":\"", 6);
	put_string(&room, pubkey);
	if (client_id.ptr) {
		put(&room, "\",\"c\":\"", 7);
		put_string(&room, client_id);
	}
	put(&room, "\"}", 2);
	return room.full ? -EMSGSIZE : (int)(room.next - buf);
}
