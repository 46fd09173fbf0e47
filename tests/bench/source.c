#include "source.h"

#include "wire.h"

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
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TEXT_OID 25
#define TEXT_ARRAY_OID 1009

static uint64_t some_user(struct source *s)
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

/* The floor: the least that a relay of this kind could cost. It encodes nothing, routes nothing and reads
 * nothing. */

struct floor {
	int listener;
	unsigned n;
	int *fds;
	size_t frame_len; /* of every frame */
	char frames[SOURCE_BATCH_MAX * 256];
};

struct floor *floor_listen(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct floor *floor = calloc(1, sizeof *floor);

	if (!floor || strlen(path) >= sizeof address.sun_path)
		die("no room for %s", path);
	strcpy(address.sun_path, path);
	floor->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(floor->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
		listen(floor->listener, 4096) < 0)
		die("%s: %m", path);
	return floor;
}

/* Read one frame. What the client sends before it has an answer is small, and comes in whole frames. */
static enum wire_type next_frame(int fd, char *buf, size_t *len, size_t size, struct wire_frame *frame)
{
	static struct wire_decoder *decoder;
	struct wire_scanner scanner = {0};

	if (!decoder && wire_decoder_new(&decoder) < 0)
		die("out of memory");
	while (wire_scan(&scanner, buf, *len) < 0) {
		ssize_t n = recv(fd, buf + *len, size - *len, 0);
		if (n <= 0)
			die("a listener left");
		*len += (size_t)n;
	}
	if (wire_decode(decoder, buf, scanner.offset, frame) < 0)
		die("a listener sent no frame");
	*len -= scanner.offset;
	memmove(buf, buf + scanner.offset, *len);
	return frame->type;
}

static void answer(int fd, const struct wire_frame *frame)
{
	char buf[1024];
	int len = wire_encode(frame, buf, sizeof buf);

	if (len < 0 || send(fd, buf, (size_t)len, MSG_NOSIGNAL) != len)
		die("a listener takes no answer");
}

void floor_accept(struct floor *floor, unsigned n)
{
	floor->fds = reallocarray(NULL, n, sizeof *floor->fds);
	if (!floor->fds)
		die("out of memory");
	for (floor->n = 0; floor->n < n; floor->n++) {
		struct wire_frame frame;
		char buf[4096];
		size_t len = 0;
		int fd = accept(floor->listener, NULL, NULL);
		if (fd < 0)
			die("accept: %m");
		while (next_frame(fd, buf, &len, sizeof buf, &frame) != WIRE_SUBSCRIBE)
			;
		answer(fd, &(struct wire_frame){.type = WIRE_WELCOME,
				   .welcome = {WIRE_VERSION, wire_str("floor"), 0, wire_str("postgres"),
					   wire_str("live"), wire_str("0"), NULL, 0}});
		answer(fd, &(struct wire_frame){.type = WIRE_OK, .ok = {frame.subscribe.id, 0}});
		floor->fds[floor->n] = fd;
	}
}

static void floor_open(struct source *s)
{
	struct floor *floor = s->floor;
	char pubkey[PUBKEY_LEN + 1], client_id[CLIENT_ID_LEN + 1];

	for (unsigned i = 0; i < SOURCE_BATCH_MAX; i++) {
		user_pubkey(some_user(s), pubkey);
		stamped_client_id(clock_ns(), client_id);
		/* A seq as large as in a relay that has run for a while. */
		struct wire_frame frame = {.type = WIRE_CHANGE,
			.change = {.seq = 1000000 + i,
				.channel = wire_str(BENCH_CHANNEL),
				.pubkey = wire_str(pubkey),
				.client_id = wire_str(client_id)}};
		int len = wire_encode(&frame, floor->frames + i * floor->frame_len, 256);
		floor->frame_len = (size_t)len;
	}
}

/* n frames to each, in one send. */
static void floor_publish(struct source *s, unsigned n)
{
	struct floor *floor = s->floor;
	size_t len = n * floor->frame_len;

	for (unsigned i = 0; i < floor->n; i++)
		if (send(floor->fds[i], floor->frames, len, MSG_NOSIGNAL) != (ssize_t)len)
			die("a listener left");
}

const struct source_kind source_floor = {floor_open, floor_publish};

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
