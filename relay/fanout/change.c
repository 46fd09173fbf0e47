/* decode_canonical() reads the form that pgherald and the Go service write, with plain ASCII
 * strings, in half the time of json.c, which reads all others. */
#include "fanout/change.h"

#include "fanout/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool skip(const char **p, const char *end, const char *literal, size_t len)
{
	if ((size_t)(end - *p) < len || memcmp(*p, literal, len) != 0)
		return false;
	*p += len;
	return true;
}

static struct wire_str plain_run(const char **p, const char *end)
{
	const char *start = *p;

	json_skip_plain(p, end);
	return (struct wire_str){start, (uint32_t)(*p - start)};
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

/* Moves *out past the string. False: UTF-8 cannot say it. */
static bool decode_string(const struct json_value *string, char **out, struct wire_str *decoded)
{
	int len = json_decode(string, *out);

	if (len < 0)
		return false;
	*decoded = (struct wire_str){*out, (uint32_t)len};
	*out += len;
	return true;
}

static int decode_any(const char *payload, size_t len, struct change *out)
{
	struct json_value values[2], *p = &values[0], *c = &values[1];

	if (!json_read(payload, len, "pc", values) || p->kind != JSON_STRING || c->kind == JSON_OTHER)
		return -EBADMSG;
	out->pubkey = p->raw;
	out->client_id = c->raw;
	if (!p->escaped && !c->escaped)
		return 0;
	char *decoded = malloc((size_t)p->raw.len + c->raw.len);
	if (!decoded)
		return -ENOMEM;
	out->owner = decoded;
	if (decode_string(p, &decoded, &out->pubkey) &&
		(c->kind != JSON_STRING || decode_string(c, &decoded, &out->client_id)))
		return 0;
	change_release(out);
	return -EBADMSG;
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
	free(change->owner);
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
