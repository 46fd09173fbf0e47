/* The JSON payload. The fast path agrees with the slow one, which alone reads a payload that begins
 * with a blank; the blank does not change its meaning. Both agree with jansson on all that jansson
 * reads. What is encoded decodes to the same. Any
 * notification or recovered row that PostgreSQL can send makes a frame for which the backlog
 * has room. */
#include "input.h"

#include "base/diag.h"
#include "fanout/backlog.h"
#include "fanout/change.h"
#include "fanout/decode.h"
#include "fanout/fanout.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

/* r and change: what change_decode() made of it. */
static void compare_with_jansson(const char *payload, size_t len, int r, const struct change *change)
{
	json_t *root = json_loadb(payload, len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, NULL);
	const json_t *p = json_object_get(root, "p"), *c = json_object_get(root, "c");

	/* It refuses numbers that no double holds, halves of surrogate pairs, and a NUL in a name; and
	 * it does not see a NUL after a number. */
	if (!root || memchr(payload, '\0', len)) {
		json_decref(root);
		return;
	}
	must((r == 0) == (json_is_string(p) && (!c || json_is_null(c) || json_is_string(c))));
	if (r == 0) {
		struct wire_str pubkey = {json_string_value(p), (uint32_t)json_string_length(p)};
		struct wire_str client_id = {json_string_value(c), (uint32_t)json_string_length(c)};
		must(wire_str_eq(change->pubkey, pubkey) && wire_str_eq(change->client_id, client_id));
	}
	json_decref(root);
}

static void decode_both_ways(const char *payload, size_t len)
{
	char *blank = malloc(len + 1);
	struct change fast, slow;

	must(blank);
	blank[0] = ' ';
	memcpy(blank + 1, payload, len);
	int r = change_decode(payload, len, &fast);
	must(r == 0 || r == -EBADMSG);
	must(change_decode(blank, len + 1, &slow) == r);
	compare_with_jansson(payload, len, r, &fast);
	if (r == 0) {
		must(fast.pubkey.ptr && wire_str_eq(fast.pubkey, slow.pubkey));
		must(wire_str_eq(fast.client_id, slow.client_id));
		must(wire_utf8_valid(fast.pubkey.ptr, fast.pubkey.len));
		must(!fast.client_id.ptr || wire_utf8_valid(fast.client_id.ptr, fast.client_id.len));
		change_release(&fast);
		change_release(&slow);
	}
	free(blank);
}

static bool jansson_takes(struct wire_str s)
{
	json_t *string = s.ptr ? json_stringn(s.ptr, s.len) : json_null();

	json_decref(string);
	return string != NULL;
}

static void encode(struct wire_str pubkey, struct wire_str client_id, size_t size)
{
	/* Encoded, a byte becomes at most six. */
	size_t most = 32 + 6 * ((size_t)pubkey.len + client_id.len);
	char *buf = malloc(most), *exact;
	struct change change;
	int len = change_encode(pubkey, client_id, buf, most);

	must((len == -EILSEQ) == !(jansson_takes(pubkey) && jansson_takes(client_id)));
	if (len >= 0) {
		exact = malloc((size_t)len);
		must(exact && change_encode(pubkey, client_id, exact, (size_t)len) == len);
		must(memcmp(exact, buf, (size_t)len) == 0);
		must(change_encode(pubkey, client_id, exact, (size_t)len - 1) == -EMSGSIZE);
		must(size >= (size_t)len || change_encode(pubkey, client_id, exact, size) == -EMSGSIZE);
		must(change_decode(exact, (size_t)len, &change) == 0);
		must(wire_str_eq(change.pubkey, pubkey) && wire_str_eq(change.client_id, client_id));
		change_release(&change);
		decode_both_ways(exact, (size_t)len);
		free(exact);
	} else {
		must(len == -EILSEQ);
	}
	free(buf);
}

static void make_frame(const struct decoded *d)
{
	static unsigned char buf[BACKLOG_FRAME_MAX];
	struct wire_frame frame;

	decoded_frame(d, WIRE_SEQ_NIL - 1, WIRE_RECOVERED, &frame);
	must(wire_encode(&frame, buf, sizeof buf) > 0);
}

static void bring(const char *payload, size_t len)
{
	static struct config config = {
		.n_channels = 2, .channels = {{.kind = CHANNEL_CHANGES}, {.kind = CHANNEL_TEXT}}};
	static struct decode decode = {.config = &config};
	struct wire_str value = {payload, (uint32_t)len};
	struct decoded d;

	for (unsigned i = 0; i < config.n_channels; i++) {
		char *channel = config.channels[i].name;
		memset(channel, i ? 't' : 'c', CHANNEL_NAME_MAX);
		if (len <= CHANGE_PAYLOAD_MAX && decode_notification(&decode, channel, value, &d) == 0) {
			make_frame(&d);
			decoded_release(&d);
		}
		if (decode_recovered(&decode, channel, value, value.len, &d) == 0) {
			make_frame(&d);
			decoded_release(&d);
		}
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	diag_set_level(DIAG_ERROR);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	/* Bit 0: the input is two strings to encode, the second as long as the rest, or nil
	 * with bit 1. Otherwise it is a payload. */
	unsigned kind = input_byte(&in);

	if (kind & 1) {
		size_t first = input_u16(&in), room = input_u16(&in);
		struct span p = input_span(&in, first), c = input_span(&in, SIZE_MAX);
		char *pubkey = span_text(p), *client_id = span_text(c);
		encode((struct wire_str){pubkey, (uint32_t)p.len},
			kind & 2 ? (struct wire_str){0} : (struct wire_str){client_id, (uint32_t)c.len},
			room);
		free(pubkey);
		free(client_id);
		return 0;
	}
	struct span rest = input_span(&in, SIZE_MAX);
	/* A copy without a NUL, which libpq has: the sanitizer sees a read past the end. */
	char *payload = malloc(rest.len + !rest.len);
	must(payload);
	if (rest.len > 0)
		memcpy(payload, rest.bytes, rest.len);
	decode_both_ways(payload, rest.len);
	bring(payload, rest.len);
	free(payload);
	return 0;
}
