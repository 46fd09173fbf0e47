#include "asked.h"

#include <string.h>

void asked_refuse(struct asked *a, unsigned status, const char *why)
{
	if (a->refused)
		return;
	a->refused = status;
	a->why = why;
}

struct headers {
	const char *user;
	unsigned n_users, n_lengths;
	bool malformed;
};

static enum MHD_Result take_header(
	void *context, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct headers *h = context;

	(void)kind;
	if (strcasecmp(name, "X-User") == 0) {
		h->user = value ? value : "";
		h->n_users++;
	} else if (strcasecmp(name, MHD_HTTP_HEADER_CONTENT_LENGTH) == 0) {
		h->n_lengths++;
	} else if (strcasecmp(name, MHD_HTTP_HEADER_TRANSFER_ENCODING) == 0) {
		h->n_lengths++;
		h->malformed |= !value || strcasecmp(value, "chunked") != 0;
	}
	h->malformed |= strpbrk(name, " \t") != NULL;
	return MHD_YES;
}

/* The headers must say exactly once where the body ends (request smuggling). Otherwise a
 * proxy could take bytes for part of this request that we take for the next request, with an
 * X-User of its own. */
static void check_framing(struct asked *a, const struct headers *headers)
{
	if (headers->n_lengths <= 1 && !headers->malformed)
		return;
	a->last = true;
	asked_refuse(a, MHD_HTTP_BAD_REQUEST, "the headers leave it open where the body ends");
}

/* A second X-User would be the client's own, next to the proxy's. */
static void check_identity(struct asked *a, const struct headers *headers)
{
	if (headers->n_users == 0 || !*headers->user)
		asked_refuse(a, MHD_HTTP_UNAUTHORIZED, "there is no X-User: the front proxy sets it");
	else if (headers->n_users > 1)
		asked_refuse(a, MHD_HTTP_BAD_REQUEST, "X-User stands there more than once");
	else if (strcmp(headers->user, a->route.user) != 0)
		asked_refuse(a, MHD_HTTP_FORBIDDEN, "the path is another user's");
}

static bool is_one_of(const char *methods, const char *method)
{
	const char *found = strstr(methods, method);
	size_t len = strlen(method);

	return found && (found == methods || found[-1] == ' ') && (found[len] == ',' || !found[len]);
}

void asked_check(struct asked *a, struct MHD_Connection *connection, const char *path, const char *method)
{
	const char *why = route_parse(&a->route, path);
	const char *client_id = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "X-Client-Id");
	const char *since = MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "since");
	struct headers headers = {0};

	MHD_get_connection_values(connection, MHD_HEADER_KIND, take_header, &headers);
	check_framing(a, &headers);
	if (why)
		asked_refuse(a, MHD_HTTP_BAD_REQUEST, why);
	else if (a->route.endpoint == ENDPOINT_NONE)
		asked_refuse(a, MHD_HTTP_NOT_FOUND, "there is nothing at this path");
	else if (!is_one_of(a->route.methods, method))
		asked_refuse(a, MHD_HTTP_METHOD_NOT_ALLOWED, "this path has no such method");
	if (a->refused || a->route.endpoint == ENDPOINT_PAGE || a->route.endpoint == ENDPOINT_HEALTH)
		return;
	check_identity(a, &headers);
	if (a->route.endpoint == ENDPOINT_CHANGES && since && !revision_parse(since, &a->since))
		asked_refuse(a, MHD_HTTP_BAD_REQUEST, "since is not an integer from 0 to 2^53 - 1");
	if (a->route.endpoint == ENDPOINT_RECORD && client_id) {
		if (name_valid(client_id, CLIENT_ID_MAX))
			strcpy(a->client_id, client_id);
		else
			asked_refuse(a, MHD_HTTP_BAD_REQUEST,
				"X-Client-Id is not 1 to 128 bytes of UTF-8 without control characters");
	}
}
