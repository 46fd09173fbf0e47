/* Workers that missed changes: how long until each has heard all of them.
 *
 *   bench-restart ours  --listeners W --listen SOCKET
 *   bench-restart floor --listeners W --listen SOCKET --database CONNINFO
 *
 * For each line "CHANGES" of its input it prints a line of JSON when each of the W listeners has heard that
 * many more. Side ours prints an empty line before, when the relay may start. Side floor reads the rows from
 * the database by libpq, and sends their frames to the listeners. It asks for what changed since the snapshot
 * in the table bench_since. */
#include "floor.h"
#include "listen.h"
#include "wire.h"

#include <getopt.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MISSED "SELECT channel, value FROM pgherald.changes_since((SELECT since FROM bench_since))"

struct restart {
	struct listen listen;
	struct page *page;
	struct floor *floor; /* NULL: side ours */
	PGconn *conn;
};

static void run_listener(void *context, struct page *page, unsigned index)
{
	const struct restart *r = context;

	listen_ours(&r->listen, page, index);
}

static size_t encode(char *out, const char *channel, const char *pubkey)
{
	int len = wire_encode(&(struct wire_frame){.type = WIRE_CHANGE,
				      .change = {.seq = WIRE_SEQ_NIL,
					      .channel = wire_str(channel),
					      .pubkey = wire_str(pubkey),
					      .flags = WIRE_RECOVERED}},
		out, WIRE_FRAME_MAX);

	if (len < 0)
		die("no frame of %s", pubkey);
	return (size_t)len;
}

static void send_missed(const struct restart *r, uint64_t changes)
{
	PGresult *rows = PQexec(r->conn, MISSED);
	size_t len = 0;

	if (PQresultStatus(rows) != PGRES_TUPLES_OK)
		die("%s", PQerrorMessage(r->conn));
	if ((uint64_t)PQntuples(rows) != changes)
		die("%d rows changed, and not %llu", PQntuples(rows), (unsigned long long)changes);
	char *frames = malloc(changes * 256 + WIRE_FRAME_MAX);
	if (!frames)
		die("out of memory");
	for (int i = 0; i < PQntuples(rows); i++)
		len += encode(frames + len, PQgetvalue(rows, i, 0), PQgetvalue(rows, i, 1));
	floor_send(r->floor, frames, len);
	free(frames);
	PQclear(rows);
}

static void measure(void *context, const double *numbers, unsigned n)
{
	const struct restart *r = context;
	uint64_t changes = (uint64_t)numbers[0], base = least_count(r->page);

	(void)n;
	if (!r->floor) {
		puts("{}");
		fflush(stdout);
	}
	uint64_t start = clock_ns(), deadline = start + DEADLINE_SECONDS * NSEC_PER_SEC;
	if (r->floor)
		send_missed(r, changes);
	while (least_count(r->page) < base + changes) {
		if (clock_ns() > deadline)
			die("a worker heard %llu of %llu changes",
				(unsigned long long)(least_count(r->page) - base),
				(unsigned long long)changes);
		sleep_until(clock_ns() + NSEC_PER_SEC / 2000);
	}
	printf("{\"seconds\": %.6f, \"faults\": %llu}\n", (double)(clock_ns() - start) / NSEC_PER_SEC,
		(unsigned long long)total_faults(r->page));
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"listeners", required_argument, NULL, 'w'},
		{"listen", required_argument, NULL, 'l'},
		{"database", required_argument, NULL, 'd'},
		{0},
	};
	struct restart r = {0};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'w')
			r.listen.listeners = (unsigned)atoi(optarg);
		else if (option == 'l')
			r.listen.addresses = optarg;
		else if (option == 'd')
			r.conn = PQconnectdb(optarg);
		else
			return 2;
	}
	if (optind != argc - 1 || r.listen.listeners == 0 || !r.listen.addresses)
		die("bench-restart: bad arguments");
	alarm(3 * DEADLINE_SECONDS);
	if (strcmp(argv[optind], "floor") == 0)
		r.floor = floor_listen(r.listen.addresses);
	r.page = fork_processes(r.listen.listeners, run_listener, &r);
	if (r.floor)
		floor_accept(r.floor, r.listen.listeners);
	await_ready(r.page);
	serve_measurements(measure, &r);
	end_processes(r.page);
	return 0;
}
