#include "source.h"

#include <arpa/inet.h>
#ifdef HAVE_HIREDIS
#include <hiredis/hiredis.h>
#endif
#include <libpq-fe.h>
#ifdef HAVE_NATS
#include <nats/nats.h>
#endif
#include <stdlib.h>
#include <string.h>

#define TEXT_OID 25
#define TEXT_ARRAY_OID 1009

uint64_t some_user(struct source *s)
{
	return next_random(&s->random) % s->users;
}

/* PostgreSQL */

static void check(PGconn *conn, PGresult *result, ExecStatusType expected)
{
	if (PQresultStatus(result) != expected)
		die("%s", PQerrorMessage(conn));
	PQclear(result);
}

static void postgres_open(struct source *s)
{
	PGconn *conn = PQconnectdb(s->address);

	check(conn, PQprepare(conn, "one", "SELECT pg_notify('" BENCH_CHANNEL "', $1)", 1, (Oid[]){TEXT_OID}),
		PGRES_COMMAND_OK);
	check(conn,
		PQprepare(conn, "batch",
			"SELECT count(pg_notify('" BENCH_CHANNEL "', p)) FROM unnest($1) AS n (p)", 1,
			(Oid[]){TEXT_ARRAY_OID}),
		PGRES_COMMAND_OK);
	s->connection = conn;
}

static char *put_int32(char *out, uint32_t value)
{
	value = htonl(value);
	memcpy(out, &value, 4);
	return out + 4;
}

static void postgres_publish(struct source *s, unsigned n)
{
	static char array[20 + SOURCE_BATCH_MAX * (4 + PAYLOAD_LEN) + 1];
	char *p = put_int32(put_int32(put_int32(put_int32(put_int32(array, 1), 0), TEXT_OID), n), 1);
	uint64_t now = clock_ns();

	if (n == 1) {
		char payload[PAYLOAD_LEN + 1];
		make_payload(some_user(s), now, payload);
		check(s->connection,
			PQexecPrepared(s->connection, "one", 1, (const char *[]){payload}, NULL, NULL, 0),
			PGRES_TUPLES_OK);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		p = put_int32(p, PAYLOAD_LEN);
		make_payload(some_user(s), now, p);
		p += PAYLOAD_LEN;
	}
	check(s->connection,
		PQexecPrepared(s->connection, "batch", 1, (const char *[]){array}, (int[]){(int)(p - array)},
			(int[]){1}, 0),
		PGRES_TUPLES_OK);
}

const struct source_kind source_postgres = {postgres_open, postgres_publish};

/* Redis, pipelined */

#ifdef HAVE_HIREDIS
static void redis_open(struct source *s)
{
	redisContext *redis = redisConnectUnix(s->address);

	if (!redis || redis->err)
		die("redis: %s", redis ? redis->errstr : "out of memory");
	s->connection = redis;
}

static void redis_publish(struct source *s, unsigned n)
{
	uint64_t now = clock_ns();
	void *reply;

	for (unsigned i = 0; i < n; i++) {
		char payload[PAYLOAD_LEN + 1];
		const char *argv[] = {"PUBLISH", BENCH_CHANNEL, payload};
		make_payload(some_user(s), now, payload);
		redisAppendCommandArgv(
			s->connection, 3, argv, (size_t[]){7, strlen(BENCH_CHANNEL), PAYLOAD_LEN});
	}
	for (unsigned i = 0; i < n; i++) {
		if (redisGetReply(s->connection, &reply) != REDIS_OK)
			die("redis: %s", ((redisContext *)s->connection)->errstr);
		freeReplyObject(reply);
	}
}

const struct source_kind source_redis = {redis_open, redis_publish};
#else
const struct source_kind source_redis = {NULL, NULL};
#endif

/* NATS, whose library buffers and sends in a thread of its own */

#ifdef HAVE_NATS
static void nats_open(struct source *s)
{
	natsConnection *conn;
	natsStatus status = natsConnection_ConnectTo(&conn, s->address);

	if (status != NATS_OK)
		die("nats: %s", natsStatus_GetText(status));
	s->connection = conn;
}

static void nats_publish(struct source *s, unsigned n)
{
	uint64_t now = clock_ns();

	for (unsigned i = 0; i < n; i++) {
		char payload[PAYLOAD_LEN + 1];
		make_payload(some_user(s), now, payload);
		natsStatus status =
			natsConnection_Publish(s->connection, BENCH_CHANNEL, payload, PAYLOAD_LEN);
		if (status != NATS_OK)
			die("nats: %s", natsStatus_GetText(status));
	}
}

const struct source_kind source_nats = {nats_open, nats_publish};
#else
const struct source_kind source_nats = {NULL, NULL};
#endif
