/* The cost of reading a notification from the LISTEN connection: CPU time of this process, in
 * nanoseconds, for
 *
 *   bare     PQconsumeInput, PQnotifies, PQfreemem, without decoding
 *   relay    the same, and what the relay does: decode, encode into the backlog, look for subscribers
 *   jansson  the same as bare, and decoding with jansson
 *
 *   bench-drain CONNINFO
 *
 * For each line "NOTIFICATIONS" of its input it prints a line of JSON. */
#include "bench.h"

#include "fanout/decode.h"
#include "fanout/fanout.h"

#include <jansson.h>
#include <libpq-fe.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Notifications that a few transactions of a busy server bring at once. */
#define PORTION 2000

static struct fanout fanout;
static struct decode decode;

static void check(PGconn *conn, PGresult *result)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		die("%s", PQerrorMessage(conn));
	PQclear(result);
}

/* Publishes a portion each time it is asked. */
static void run_source(const char *conninfo, int requests)
{
	char sql[64 + PORTION * (PAYLOAD_LEN + 24)], payload[PAYLOAD_LEN + 1];
	PGconn *conn = PQconnectdb(conninfo);
	uint64_t user = 0;
	char byte;

	while (read(requests, &byte, 1) == 1) {
		char *p = sql + sprintf(sql, "SELECT count(pg_notify('" BENCH_CHANNEL "', p)) FROM (VALUES ");
		for (int i = 0; i < PORTION; i++) {
			make_payload(user++ % 10000, clock_ns(), payload);
			p += sprintf(p, "%s('%s')", i ? "," : "", payload);
		}
		sprintf(p, ") AS n (p)");
		check(conn, PQexec(conn, sql));
	}
}

static void take_bare(const PGnotify *notify)
{
	(void)notify;
}

static void take_relay(const PGnotify *notify)
{
	struct decoded decoded;

	if (decode_notification(&decode, notify->relname, wire_str(notify->extra), &decoded) < 0)
		die("this is not a change: %s", notify->extra);
	fanout_decoded(&fanout, &decoded, 0);
	decoded_release(&decoded);
}

static void take_jansson(const PGnotify *notify)
{
	json_t *root = json_loads(notify->extra, 0, NULL);

	if (!json_string_value(json_object_get(root, "p")) || !json_string_value(json_object_get(root, "c")))
		die("this is not a change: %s", notify->extra);
	json_decref(root);
}

static void drain_portion(PGconn *conn, void (*take)(const PGnotify *notify))
{
	PGnotify *notify;
	int heard = 0;

	while (heard < PORTION) {
		struct pollfd pfd = {.fd = PQsocket(conn), .events = POLLIN};
		if (poll(&pfd, 1, DEADLINE_SECONDS * 1000) != 1 || !PQconsumeInput(conn))
			die("no notification: %s", PQerrorMessage(conn));
		while ((notify = PQnotifies(conn))) {
			take(notify);
			PQfreemem(notify);
			heard++;
		}
	}
}

static void open_fanout(struct config *config)
{
	static const struct worker_requests requests;

	*config = (struct config){.mode = MODE_POSTGRES,
		.backlog_size = (size_t)16 << 20,
		.n_channels = 1,
		.channels = {{.name = BENCH_CHANNEL, .kind = CHANNEL_CHANGES}}};
	decode = (struct decode){.config = config};
	if (fanout_open(&fanout, ev_default_loop(EVFLAG_AUTO), config, &requests, NULL) < 0)
		die("no fan-out");
	/* In the first round the kernel must allocate the ring's pages. */
	struct decoded decoded = {.topic = 1,
		.channel = &config->channels[0],
		.change = {.pubkey = wire_str("pubkey"), .client_id = wire_str("client")}};
	while (fanout.backlog.first == 1)
		fanout_decoded(&fanout, &decoded, 0);
}

static const struct {
	const char *name;
	void (*take)(const PGnotify *notify);
} sides[] = {{"bare", take_bare}, {"relay", take_relay}, {"jansson", take_jansson}};
#define N_SIDES (sizeof sides / sizeof *sides)

struct drain {
	PGconn *conn;
	int requests;
};

/* The sides take turns, so that other load on the machine affects all of them. */
static void measure(void *context, const double *numbers, unsigned n)
{
	const struct drain *drain = context;
	int portions = (int)numbers[0] / PORTION;
	uint64_t cpu[N_SIDES] = {0};

	(void)n;
	for (int portion = 0; portion < portions; portion++)
		for (size_t i = 0; i < N_SIDES; i++) {
			if (write(drain->requests, "", 1) != 1)
				die("the source ended");
			uint64_t start = thread_cpu_ns();
			drain_portion(drain->conn, sides[i].take);
			cpu[i] += thread_cpu_ns() - start;
		}
	printf("{");
	for (size_t i = 0; i < N_SIDES; i++)
		printf("%s\"%s\": %.1f", i ? ", " : "", sides[i].name, (double)cpu[i] / portions / PORTION);
	puts("}");
}

int main(int argc, char **argv)
{
	struct config config;
	struct drain drain;
	int requests[2];

	if (argc != 2 || pipe(requests) < 0)
		die("usage: bench-drain CONNINFO");
	alarm(2 * DEADLINE_SECONDS);
	pid_t source = fork();
	if (source == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(requests[1]);
		run_source(argv[1], requests[0]);
		_exit(0);
	}
	drain = (struct drain){PQconnectdb(argv[1]), requests[1]};
	check(drain.conn, PQexec(drain.conn, "LISTEN " BENCH_CHANNEL));
	open_fanout(&config);
	serve_measurements(measure, &drain);
	return 0;
}
