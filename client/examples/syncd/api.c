#include "api.h"

#include "route.h"

#include <errno.h>
#include <jansson.h>
#include <sodium/utils.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BASE64 sodium_base64_VARIANT_ORIGINAL
/* base64 encodes three bytes at a time, so a body that is too large may decode to two more. */
#define DATA_TEXT_MAX (sodium_base64_ENCODED_LEN(DATA_MAX, BASE64) - 1)
#define DATA_ROOM (DATA_MAX + 2)

/* Takes the object over. */
static void reply_json(struct api_reply *reply, unsigned status, json_t *object)
{
	reply->status = status;
	reply->body = object ? json_dumps(object, JSON_COMPACT) : NULL;
	json_decref(object);
}

char *api_error(const char *why)
{
	struct api_reply reply = {0};

	reply_json(&reply, 0, json_pack("{s:s}", "error", why));
	return reply.body;
}

static void refuse(struct api_reply *reply, unsigned status, const char *why)
{
	reply_json(reply, status, json_pack("{s:s}", "error", why));
}

static void refuse_store(struct api_reply *reply, int error)
{
	switch (error) {
	case -EAGAIN:
		refuse(reply, 503, "others write this user's records all the time; try again");
		break;
	case -ENOTCONN:
		refuse(reply, 503, "the database is away; try again");
		break;
	case -EINPROGRESS:
		refuse(reply, 503,
			"the database went away during the commit: the change may be kept or not; ask for the "
			"changes before you try again");
		break;
	default:
		refuse(reply, 500, "the database refuses");
	}
}

/* Read the fields of the body; data is decoded into buf, which has DATA_ROOM bytes. Returns
 * NULL, or why it is not valid, with *status. Strings in record are borrowed from json. */
static const char *take_record(
	const json_t *json, struct record *record, unsigned char *buf, unsigned *status)
{
	const json_t *revision = json_object_get(json, "revision");
	const json_t *schema_version = json_object_get(json, "schema_version");
	const json_t *data = json_object_get(json, "data");

	if (!json_is_integer(revision) || json_integer_value(revision) < 0 ||
		json_integer_value(revision) > REVISION_MAX)
		return "\"revision\" is not an integer from 0 to 2^53 - 1";
	record->revision = json_integer_value(revision);
	record->schema_version = json_string_value(schema_version);
	if (!record->schema_version || !name_valid(record->schema_version, SCHEMA_VERSION_MAX))
		return "\"schema_version\" is not a string of 1 to 64 bytes without control characters";
	if (!json_is_string(data))
		return "\"data\" is not a string";
	const char *text = json_string_value(data), *end;
	size_t len = json_string_length(data);
	int r = len > DATA_TEXT_MAX
			? 0
			: sodium_base642bin(buf, DATA_ROOM, text, len, NULL, &record->size, &end, BASE64);
	if (len > DATA_TEXT_MAX || record->size > DATA_MAX) {
		*status = 413;
		return "\"data\" is more than 1 MiB";
	}
	if (r != 0 || end != text + len)
		return "\"data\" is not base64 with padding";
	record->data = buf;
	return NULL;
}

static void put_json(const struct store_kind *kind, struct store *store, struct record *record,
	const json_t *json, struct api_reply *reply)
{
	unsigned char *buf = malloc(DATA_ROOM);
	unsigned status = 400;
	int64_t revision;

	if (!buf)
		return;
	const char *why = take_record(json, record, buf, &status);
	int r = why ? 0 : kind->put(store, record, &revision);
	if (why)
		refuse(reply, status, why);
	else if (r == STORE_CONFLICT)
		reply_json(reply, 409,
			json_pack("{s:s, s:I}", "error", "the record has another revision", "revision",
				(json_int_t)revision));
	else if (r < 0)
		refuse_store(reply, r);
	else
		reply_json(reply, 200, json_pack("{s:I}", "revision", (json_int_t)revision));
	/* A change that may be committed is announced: a needless hint does no harm. */
	reply->changed = !why && (r == 0 || r == -EINPROGRESS);
	free(buf);
}

void api_put(const struct store_kind *kind, struct store *store, const char *user, const char *id,
	const char *body, size_t size, struct api_reply *reply)
{
	struct record record = {.user = user, .id = id};
	json_error_t error;
	char why[JSON_ERROR_TEXT_LENGTH + 64];

	*reply = (struct api_reply){.status = 500};
	json_t *json = json_loadb(body, size, JSON_REJECT_DUPLICATES, &error);
	if (!json) {
		snprintf(why, sizeof why, "the body is not JSON: line %d: %s", error.line, error.text);
		refuse(reply, 400, why);
	} else if (!json_is_object(json)) {
		refuse(reply, 400, "the body is not a JSON object");
	} else {
		put_json(kind, store, &record, json, reply);
	}
	json_decref(json);
}

struct listing {
	json_t *changes;
	int64_t last;
	bool short_of_memory;
};

static void add_change(void *context, const struct record *record)
{
	struct listing *listing = context;
	size_t size = sodium_base64_ENCODED_LEN(record->size, BASE64);
	char *data = malloc(size);

	if (data)
		sodium_bin2base64(data, size, record->data, record->size, BASE64);
	json_t *change = data ? json_pack("{s:s, s:I, s:s, s:s#}", "id", record->id, "revision",
					(json_int_t)record->revision, "schema_version",
					record->schema_version, "data", data, (int)size - 1)
			      : NULL;
	free(data);
	if (json_array_append_new(listing->changes, change) < 0)
		listing->short_of_memory = true;
	listing->last = record->revision;
}

void api_changes(const struct store_kind *kind, struct store *store, const char *user, int64_t since,
	struct api_reply *reply)
{
	struct listing listing = {.changes = json_array(), .last = since};
	bool more;

	*reply = (struct api_reply){.status = 500};
	int r = kind->changes(store, user, since, add_change, &listing, &more);
	if (r < 0)
		refuse_store(reply, r);
	else if (!listing.short_of_memory)
		reply_json(reply, 200,
			json_pack("{s:O, s:I, s:b}", "changes", listing.changes, "revision",
				(json_int_t)listing.last, "more", (int)more));
	json_decref(listing.changes);
}
