/* The vectors of proto/vectors: what wire.c makes of each file is what its .json says. */
#include "wire.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct wire_decoder *decoder;

static void start(void)
{
	cr_assert_eq(wire_decoder_new(&decoder), 0);
}

static void end(void)
{
	wire_decoder_free(decoder);
}

TestSuite(vectors, .init = start, .fini = end);

struct vector {
	const char *name;
	unsigned char *bytes; /* of their own size, so that the sanitizer sees a byte too many */
	size_t len;
	json_t *description;
};

static void read_vector(const char *path, struct vector *v)
{
	static unsigned char bytes[2 * WIRE_FRAME_MAX];
	char beside[4096];
	FILE *file = fopen(path, "rbe");

	cr_assert(file, "%s", path);
	v->name = strrchr(path, '/') + 1;
	v->len = fread(bytes, 1, sizeof bytes, file);
	fclose(file);
	v->bytes = malloc(v->len);
	memcpy(v->bytes, bytes, v->len);
	snprintf(beside, sizeof beside, "%.*s.json", (int)(strlen(path) - strlen(".msgpack")), path);
	v->description = json_load_file(beside, 0, NULL);
	cr_assert(v->description, "%s", beside);
}

static void for_each(const char *prefix, size_t least, void check(const struct vector *v))
{
	char pattern[4096];
	glob_t found;

	snprintf(pattern, sizeof pattern, "%s/%s_*.msgpack", getenv("VECTORS"), prefix);
	cr_assert_eq(glob(pattern, 0, NULL, &found), 0, "%s", pattern);
	cr_assert_geq(found.gl_pathc, least);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		struct vector v;
		read_vector(found.gl_pathv[i], &v);
		check(&v);
		json_decref(v.description);
		free(v.bytes);
	}
	globfree(&found);
}

/* What wire_scan() and wire_decode() make of it */
static int take(const struct vector *v, struct wire_frame *out)
{
	struct wire_scanner scanner = {0};
	int r = wire_scan(&scanner, v->bytes, v->len);

	if (r < 0)
		return r;
	cr_assert_eq(scanner.offset, v->len, "%s ends elsewhere", v->name);
	return wire_decode(decoder, v->bytes, v->len, out);
}

/* A decoded frame, as the descriptions have it */

static json_t *of_uint(uint64_t n)
{
	char text[32];

	if (n <= UINT64_C(1) << 53)
		return json_integer((json_int_t)n);
	snprintf(text, sizeof text, "%" PRIu64, n);
	return json_pack("{ss}", "uint", text);
}

static json_t *of_seq(uint64_t seq)
{
	return seq == WIRE_SEQ_NIL ? json_null() : of_uint(seq);
}

static json_t *of_str(struct wire_str s)
{
	return s.ptr ? json_stringn(s.ptr, s.len) : json_null();
}

static json_t *of_bin(struct wire_str s)
{
	char hex[512];

	cr_assert_lt(2 * (size_t)s.len, sizeof hex);
	for (uint32_t i = 0; i < s.len; i++)
		sprintf(hex + 2 * i, "%02x", (unsigned char)s.ptr[i]);
	return json_pack("{ss#}", "bin", hex, (int)(2 * s.len));
}

static json_t *of_strs(const struct wire_str *strs, uint32_t n)
{
	if (!strs)
		return json_null();
	json_t *array = json_array();
	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(array, of_str(strs[i]));
	return array;
}

static json_t *of_frame(const struct wire_frame *f)
{
	json_t *info;
	int type = (int)f->type;

	switch (f->type) {
	case WIRE_HELLO:
		return json_pack("[iooo]", type, of_uint(f->hello.version), of_str(f->hello.name),
			f->hello.resume ? json_pack("[ooo]", of_str(f->hello.epoch), of_uint(f->hello.seq),
						  of_str(f->hello.checkpoint))
					: json_null());
	case WIRE_SUBSCRIBE:
	case WIRE_UNSUBSCRIBE:
		return json_pack("[iooo]", type, of_uint(f->subscribe.id), of_str(f->subscribe.channel),
			of_strs(f->subscribe.pubkeys, f->subscribe.n_pubkeys));
	case WIRE_NOTIFY:
		return json_pack("[ioooo]", type, of_uint(f->notify.id), of_str(f->notify.channel),
			of_str(f->notify.pubkey), of_str(f->notify.client_id));
	case WIRE_SEND:
		return json_pack("[iooo]", type, of_uint(f->send.id), of_str(f->send.channel),
			of_str(f->send.payload));
	case WIRE_PING:
	case WIRE_BEGIN:
		return json_pack("[io]", type, of_uint(f->request.id));
	case WIRE_WELCOME:
		info = json_pack("{sosososo}", "mode", of_str(f->welcome.mode), "upstream",
			of_str(f->welcome.upstream), "channels",
			of_strs(f->welcome.channels, f->welcome.n_channels), "version",
			of_str(f->welcome.relay_version));
		return json_pack("[ioooo]", type, of_uint(f->welcome.version), of_str(f->welcome.epoch),
			of_uint(f->welcome.seq), info);
	case WIRE_OK:
		return json_pack("[ioo]", type, of_uint(f->ok.id), of_uint(f->ok.seq));
	case WIRE_ERROR:
		return json_pack("[iooo]", type, f->error.has_id ? of_uint(f->error.id) : json_null(),
			of_str(f->error.code), of_str(f->error.text));
	case WIRE_CHANGE:
		return json_pack("[iooooo]", type, of_seq(f->change.seq), of_str(f->change.channel),
			of_str(f->change.pubkey), of_str(f->change.client_id), of_uint(f->change.flags));
	case WIRE_MESSAGE:
		return json_pack("[ioooo]", type, of_seq(f->message.seq), of_str(f->message.channel),
			f->message.binary ? of_bin(f->message.payload) : of_str(f->message.payload),
			of_uint(f->message.flags));
	case WIRE_CHECKPOINT:
		return json_pack("[ioo]", type, of_seq(f->checkpoint.seq), of_str(f->checkpoint.checkpoint));
	case WIRE_GAP:
		return json_pack(
			"[iooo]", type, of_seq(f->gap.seq), of_str(f->gap.cause), of_str(f->gap.text));
	case WIRE_UPSTREAM:
		return json_pack("[iooo]", type, of_seq(f->upstream.seq), of_str(f->upstream.state),
			of_str(f->upstream.text));
	case WIRE_BYE:
		return json_pack("[ioo]", type, of_str(f->bye.code), of_str(f->bye.text));
	}
	return NULL;
}

/* Bin where a string is expected is read as that string, but for a message's payload. */
static void bins_to_strings(json_t *frame)
{
	size_t i;
	json_t *element;

	json_array_foreach(frame, i, element)
	{
		const char *hex = json_string_value(json_object_get(element, "bin"));
		char text[256];
		size_t n = 0;
		if (!hex)
			continue;
		for (; sscanf(hex + 2 * n, "%2hhx", (unsigned char *)&text[n]) == 1; n++)
			;
		json_array_set_new(frame, i, json_stringn(text, n));
	}
}

static void check_good(const struct vector *v)
{
	static unsigned char again[WIRE_FRAME_MAX];
	json_t *expected = json_object_get(v->description, "frame");
	struct wire_scanner scanner = {0};
	struct wire_frame frame;

	for (size_t part = 0; part < v->len; part++)
		cr_assert_eq(wire_scan(&scanner, v->bytes, part), -EAGAIN, "%s, its first %zu bytes", v->name,
			part);
	cr_assert_eq(take(v, &frame), 0, "%s", v->name);
	json_t *found = of_frame(&frame);
	if (frame.type != WIRE_MESSAGE)
		bins_to_strings(expected);
	char *text = json_dumps(found, 0);
	cr_assert(json_equal(found, expected), "%s is read as %s", v->name, text);
	free(text);
	json_decref(found);
	if (json_is_true(json_object_get(v->description, "canonical"))) {
		cr_assert_eq(wire_encode(&frame, again, sizeof again), (int)v->len, "%s", v->name);
		cr_assert_arr_eq(again, v->bytes, v->len, "%s", v->name);
	}
}

Test(vectors, good_frames_are_read_and_written)
{
	for_each("y", 40, check_good);
}

static void check_bad(const struct vector *v)
{
	struct wire_frame frame;
	int r = take(v, &frame);

	cr_assert(r == -EBADMSG || r == -EMSGSIZE || r == -EPROTO, "%s: %d", v->name, r);
}

Test(vectors, bad_frames_are_refused)
{
	for_each("n", 30, check_bad);
}

static void check_unknown(const struct vector *v)
{
	struct wire_frame frame;

	cr_assert_eq(take(v, &frame), -ENOTSUP, "%s", v->name);
}

Test(vectors, unknown_types_are_told_apart)
{
	for_each("u", 3, check_unknown);
}
