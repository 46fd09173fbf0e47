#include "asked.h"

#include <string.h>

void asked_refuse(struct asked *a, unsigned status, const char *why)
{
	if (a->refused)
		return;
	a->refused = status;
	a->why = why;
}

struct identity {
	const char *user;
	unsigned n;
};

static enum MHD_Result take_identity(
	void *context, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct identity *identity = context;

	(void)kind;
	if (strcasecmp(name, "X-User") == 0) {
		identity->user = value ? value : "";
		identity->n++;
	}
	return MHD_YES;
}

/* A second X-User would be the client's own, beside the proxy's. */
static void check_identity(struct asked *a, struct MHD_Connection *connection)
{
	struct identity identity = {0};

	MHD_get_connection_values(connection, MHD_HEADER_KIND, take_identity, &identity);
	if (identity.n == 0 || !*identity.user)
		asked_refuse(a, MHD_HTTP_UNAUTHORIZED, "there is no X-User: the front proxy sets it");
	else if (identity.n > 1)
		asked_refuse(a, MHD_HTTP_BAD_REQUEST, "X-User stands there more than once");
	else if (strcmp(identity.user, a->route.user) != 0)
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

	if (why)
		asked_refuse(a, MHD_HTTP_BAD_REQUEST, why);
	else if (a->route.endpoint == ENDPOINT_NONE)
		asked_refuse(a, MHD_HTTP_NOT_FOUND, "there is nothing at this path");
	else if (!is_one_of(a->route.methods, method))
		asked_refuse(a, MHD_HTTP_METHOD_NOT_ALLOWED, "this path has no such method");
	if (a->refused || a->route.endpoint == ENDPOINT_PAGE || a->route.endpoint == ENDPOINT_HEALTH)
		return;
	check_identity(a, connection);
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
