#include "listen.h"

#include "pgherald.h"

#include <errno.h>
#ifdef HAVE_HIREDIS
#include <hiredis/hiredis.h>
#endif
#include <jansson.h>
#include <libpq-fe.h>
#ifdef HAVE_NATS
#include <nats/nats.h>
#endif
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void wait_readable(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
		die("poll: %m");
}

/* PostgreSQL */

typedef void heard_fn(const struct page *page, struct slot *slot, const PGnotify *notify);

static void heard_decoded(const struct page *page, struct slot *slot, const PGnotify *notify)
{
	json_t *root = json_loads(notify->extra, 0, NULL);
	const char *pubkey = json_string_value(json_object_get(root, "p"));
	const char *client_id = json_string_value(json_object_get(root, "c"));

	if (!pubkey || !client_id)
		die("this is not a change: %s", notify->extra);
	count_heard(page, slot, client_id);
	json_decref(root);
}

static void heard_raw(const struct page *page, struct slot *slot, const PGnotify *notify)
{
	count_heard(page, slot, notify->extra + 13 + PUBKEY_LEN);
}

static void listen_postgres(const struct listen *l, struct page *page, unsigned index, heard_fn *heard)
{
	struct slot *slot = &page->slots[index];
	char *address = nth_of(l->addresses, index);
	PGconn *conn = PQconnectdb(address);
	PGnotify *notify;

	PQclear(PQexec(conn, "LISTEN " BENCH_CHANNEL));
	if (PQstatus(conn) != CONNECTION_OK)
		die("%s", PQerrorMessage(conn));
	slot->ready = true;
	while (!page->end) {
		wait_readable(PQsocket(conn));
		if (!PQconsumeInput(conn))
			die("%s", PQerrorMessage(conn));
		while ((notify = PQnotifies(conn))) {
			heard(page, slot, notify);
			PQfreemem(notify);
		}
	}
	PQfinish(conn);
	free(address);
}

void listen_direct(const struct listen *l, struct page *page, unsigned index)
{
	listen_postgres(l, page, index, heard_decoded);
}

void listen_bare(const struct listen *l, struct page *page, unsigned index)
{
	listen_postgres(l, page, index, heard_raw);
}

/* libpgherald */

struct ours {
	struct page *page;
	struct slot *slot;
};

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	struct ours *ours = data;

	(void)h;
	count_heard(ours->page, ours->slot, change->client_id);
}

static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	struct ours *ours = data;

	(void)h;
	(void)gap;
	ours->slot->faults++;
}

static void on_live(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct ours *ours = arg;

	(void)h;
	if (result->error)
		die("subscribe: %s", result->text);
	ours->slot->ready = true;
}

/* Work for 20 ms, then read what comes within 5. Not at the same time as the neighbours. The work takes no
 * CPU time, like waiting for a database: this is about when a worker reads. */
static int read_now_and_then(struct pgherald *h, unsigned index)
{
	const uint64_t period = 25 * NSEC_PER_SEC / 1000, reading = 5 * NSEC_PER_SEC / 1000;
	uint64_t shift = index * (period / 16), now = clock_ns() + shift, begin = now - now % period;

	if (now - begin >= reading) {
		sleep_until(begin + period - shift);
		return 0;
	}
	return pgherald_wait(h, (int)((begin + reading - now) / (NSEC_PER_SEC / 1000)) + 1);
}

void listen_ours(const struct listen *l, struct page *page, unsigned index)
{
	struct ours ours = {page, &page->slots[index]};
	struct pgherald_options options = {
		.size = sizeof options, .data = &ours, .on_change = on_change, .on_gap = on_gap};
	char pubkey[PUBKEY_LEN + 1];
	struct pgherald *h;

	char *address = nth_of(l->addresses, index);
	options.socket = address;
	int r = pgherald_open(&options, &h);
	if (r == 0 && !l->own)
		r = pgherald_subscribe(h, BENCH_CHANNEL, NULL, on_live, &ours);
	/* Subscriptions become live in order, so the last one says that all are live. */
	for (unsigned user = index; l->own && r == 0 && user < l->users; user += l->listeners) {
		user_pubkey(user, pubkey);
		bool last = user + l->listeners >= l->users;
		r = pgherald_subscribe(h, BENCH_CHANNEL, pubkey, last ? on_live : NULL, &ours);
	}
	bool busy = index >= l->listeners - l->busy;
	while (r >= 0 && !page->end)
		r = busy ? read_now_and_then(h, index) : pgherald_wait(h, -1);
	if (r < 0)
		die("libpgherald: %s", pgherald_strerror(r));
	pgherald_close(h);
	free(address);
}

/* Redis */

#ifdef HAVE_HIREDIS
void listen_redis(const struct listen *l, struct page *page, unsigned index)
{
	struct slot *slot = &page->slots[index];
	redisContext *redis = redisConnectUnix(l->addresses);
	void *reply;

	if (!redis || redis->err)
		die("redis: %s", redis ? redis->errstr : "out of memory");
	freeReplyObject(redisCommand(redis, "SUBSCRIBE " BENCH_CHANNEL));
	slot->ready = true;
	while (!page->end && redisGetReply(redis, &reply) == REDIS_OK) {
		const redisReply *r = reply;
		if (r->type != REDIS_REPLY_ARRAY || r->elements != 3)
			die("redis: no message");
		count_heard(page, slot, r->element[2]->str + 13 + PUBKEY_LEN);
		freeReplyObject(reply);
	}
	if (!page->end)
		die("redis: %s", redis->errstr);
	redisFree(redis);
}
#else
void listen_redis(const struct listen *l, struct page *page, unsigned index)
{
	(void)l;
	(void)page;
	(void)index;
	die("built without hiredis");
}
#endif

/* NATS */

#ifdef HAVE_NATS
static void on_nats(natsConnection *conn, natsSubscription *sub, natsMsg *msg, void *data)
{
	struct ours *ours = data;

	(void)conn;
	(void)sub;
	count_heard(ours->page, ours->slot, natsMsg_GetData(msg) + 13 + PUBKEY_LEN);
	natsMsg_Destroy(msg);
}

void listen_nats(const struct listen *l, struct page *page, unsigned index)
{
	struct ours ours = {page, &page->slots[index]};
	natsConnection *conn;
	natsSubscription *sub;

	natsStatus s = natsConnection_ConnectTo(&conn, l->addresses);
	if (s == NATS_OK)
		s = natsConnection_Subscribe(&sub, conn, BENCH_CHANNEL, on_nats, &ours);
	if (s == NATS_OK)
		s = natsSubscription_SetPendingLimits(sub, -1, -1);
	if (s == NATS_OK)
		s = natsConnection_Flush(conn);
	if (s != NATS_OK)
		die("nats: %s", natsStatus_GetText(s));
	ours.slot->ready = true;
	/* The callback runs in a thread of the library. */
	while (!page->end)
		pause();
}
#else
void listen_nats(const struct listen *l, struct page *page, unsigned index)
{
	(void)l;
	(void)page;
	(void)index;
	die("built without libnats");
}
#endif

/* Another program */

#define WORDS_MAX 16

void listen_command(const struct listen *l, struct page *page, unsigned index)
{
	char *words[WORDS_MAX + 4], *command = strdup(l->command), *next = NULL, file[16], offset[32];
	unsigned n = 0;

	for (char *word = strtok_r(command, " ", &next); word && n < WORDS_MAX;
		word = strtok_r(NULL, " ", &next))
		words[n++] = word;
	snprintf(file, sizeof file, "%d", page->file);
	snprintf(offset, sizeof offset, "%td", (char *)&page->slots[index] - (char *)page);
	words[n++] = nth_of(l->addresses, index);
	words[n++] = file;
	words[n++] = offset;
	words[n] = NULL;
	execvp(words[0], words);
	die("%s: %m", words[0]);
}
