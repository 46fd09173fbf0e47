/* What one reader needs for all that changed since this program started.
 *
 *   bench-recover ours --listen SOCKET         a worker of libpgherald, which resumes
 *   bench-recover bare --database CONNINFO     libpq: the question that the relay asks, row by row
 *
 * For each line "CHANGES" of its input it reads as many from the start again, and prints a line of JSON. */
#include "bench.h"

#include "pgherald.h"

#include <getopt.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUESTION "SELECT channel, value FROM pgherald.changes_since($1::pg_snapshot)"
#define CHUNK 256

struct recover {
	const char *socket;
	char cursor[PGHERALD_CURSOR_SIZE];
	PGconn *conn;
	char *snapshot;
};

/* libpgherald */

struct heard {
	uint64_t changes, gaps;
	bool live;
};

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	struct heard *heard = data;

	(void)h;
	(void)change;
	heard->changes++;
}

static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	struct heard *heard = data;

	(void)h;
	(void)gap;
	heard->gaps++;
}

static void on_live(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct heard *heard = arg;

	(void)h;
	if (result->error)
		die("subscribe: %s", result->text);
	heard->live = true;
}

/* Subscribe, and read until it is live and has heard this many changes. */
static struct pgherald *hear(
	const struct recover *r, const char *cursor, struct heard *heard, uint64_t changes)
{
	struct pgherald_options options = {.size = sizeof options,
		.socket = r->socket,
		.cursor = cursor,
		.data = heard,
		.on_change = on_change,
		.on_gap = on_gap};
	struct pgherald *h;

	int error = pgherald_open(&options, &h);
	if (error == 0)
		error = pgherald_subscribe(h, BENCH_CHANNEL, NULL, on_live, heard);
	while (error >= 0 && heard->gaps == 0 && !(heard->live && heard->changes >= changes))
		error = pgherald_wait(h, -1);
	if (error < 0)
		die("libpgherald: %s", pgherald_strerror(error));
	return h;
}

static void keep_cursor(struct recover *r)
{
	struct heard heard = {0};
	struct pgherald *h = hear(r, NULL, &heard, 0);

	int error = pgherald_cursor(h, r->cursor, sizeof r->cursor);
	if (error < 0)
		die("no cursor: %s", pgherald_strerror(error));
	pgherald_close(h);
}

static uint64_t resume(const struct recover *r, uint64_t changes)
{
	struct heard heard = {0};

	pgherald_close(hear(r, r->cursor, &heard, changes));
	if (heard.gaps > 0)
		die("a gap, after %llu changes", (unsigned long long)heard.changes);
	return heard.changes;
}

/* libpq */

static void keep_snapshot(struct recover *r)
{
	PGresult *result = PQexec(r->conn, "SELECT pg_current_snapshot()");

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		die("%s", PQerrorMessage(r->conn));
	r->snapshot = strdup(PQgetvalue(result, 0, 0));
	PQclear(result);
}

static void ask_by_row(PGconn *conn)
{
#ifdef LIBPQ_HAS_CHUNK_MODE
	if (!PQsetChunkedRowsMode(conn, CHUNK))
#else
	if (!PQsetSingleRowMode(conn))
#endif
		die("%s", PQerrorMessage(conn));
}

static uint64_t read_rows(const struct recover *r)
{
	uint64_t rows = 0;
	PGresult *result;

	if (!PQsendQueryParams(r->conn, QUESTION, 1, NULL, (const char *[]){r->snapshot}, NULL, NULL, 0))
		die("%s", PQerrorMessage(r->conn));
	ask_by_row(r->conn);
	while ((result = PQgetResult(r->conn))) {
		if (PQresultStatus(result) == PGRES_FATAL_ERROR)
			die("%s", PQerrorMessage(r->conn));
		rows += (uint64_t)PQntuples(result);
		PQclear(result);
	}
	return rows;
}

static void measure(void *context, const double *numbers, unsigned n)
{
	const struct recover *r = context;
	uint64_t changes = (uint64_t)numbers[0], start = clock_ns();

	(void)n;
	uint64_t got = r->conn ? read_rows(r) : resume(r, changes);
	double seconds = (double)(clock_ns() - start) / NSEC_PER_SEC;
	if (got != changes)
		die("%llu changes came, and not %llu", (unsigned long long)got, (unsigned long long)changes);
	printf("{\"seconds\": %.6f, \"changes\": %llu}\n", seconds, (unsigned long long)got);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"listen", required_argument, NULL, 'l'},
		{"database", required_argument, NULL, 'd'},
		{0},
	};
	struct recover r = {0};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'l')
			r.socket = optarg;
		else if (option == 'd')
			r.conn = PQconnectdb(optarg);
		else
			return 2;
	}
	if (optind != argc - 1 || !r.socket == !r.conn)
		die("bench-recover: bad arguments");
	alarm(DEADLINE_SECONDS);
	if (r.conn)
		keep_snapshot(&r);
	else
		keep_cursor(&r);
	serve_measurements(measure, &r);
	return 0;
}
