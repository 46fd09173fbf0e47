/* One measurement of publishing: N processes, each publishing over and over.
 *
 *   bench-publish SIDE --publishers N [--database CONNINFO] [--relay SOCKET] [--outstanding K] [--insert]
 * [--seconds S]
 *
 * SIDE own: each on a connection of its own, one round trip a change; relay: through libpgherald, K requests
 * outstanding. With --insert each change is also a row: written and notified in one statement on side own;
 * written and committed, then published, on side relay; written, without a notification, on side none. Prints
 * one line of JSON. */
#include "bench.h"

#include "pgherald.h"

#include <errno.h>
#include <getopt.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_OID 25
#define USERS 10000

enum side { OWN, RELAY, NONE, SIDES };

struct publish {
	enum side side;
	bool insert;
	const char *database, *relay;
	unsigned outstanding;
};

struct publisher {
	const struct publish *publish;
	struct page *page;
	struct slot *slot;
	uint64_t random;
	PGconn *conn;
	unsigned in_flight;
};

static void published(struct publisher *p)
{
	uint64_t count = atomic_load_explicit(&p->slot->count, memory_order_relaxed);

	atomic_store_explicit(&p->slot->count, count + 1, memory_order_relaxed);
	p->slot->ready = true;
}

static void connect_database(struct publisher *p, const char *sql, int n_params)
{
	p->conn = PQconnectdb(p->publish->database);
	PGresult *result = PQprepare(p->conn, "", sql, n_params, (Oid[]){TEXT_OID, TEXT_OID});
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die("%s", PQerrorMessage(p->conn));
	PQclear(result);
}

static void execute(struct publisher *p, int n_params, const char *first, const char *second)
{
	PGresult *result =
		PQexecPrepared(p->conn, "", n_params, (const char *[]){first, second}, NULL, NULL, 0);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		die("%s", PQerrorMessage(p->conn));
	PQclear(result);
}

static void connect_to_insert(struct publisher *p)
{
	connect_database(p, "INSERT INTO bench_records (pubkey) VALUES ($1)", 1);
}

static void run_own(struct publisher *p)
{
	char pubkey[PUBKEY_LEN + 1], payload[PAYLOAD_LEN + 1];

	if (p->publish->insert)
		connect_database(p,
			"WITH w AS (INSERT INTO bench_records (pubkey) VALUES ($2))"
			" SELECT pg_notify('" BENCH_CHANNEL "', $1)",
			2);
	else
		connect_database(p, "SELECT pg_notify('" BENCH_CHANNEL "', $1)", 1);
	while (!p->page->end) {
		uint64_t user = next_random(&p->random) % USERS;
		user_pubkey(user, pubkey);
		make_payload(user, clock_ns(), payload);
		execute(p, p->publish->insert ? 2 : 1, payload, pubkey);
		published(p);
	}
}

static void on_done(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct publisher *p = arg;

	(void)h;
	if (result->error)
		die("publish: %s", result->text);
	p->in_flight--;
	published(p);
}

static void run_relay(struct publisher *p)
{
	struct pgherald_options options = {.size = sizeof options, .socket = p->publish->relay};
	char pubkey[PUBKEY_LEN + 1], client_id[CLIENT_ID_LEN + 1];
	struct pgherald *h;

	if (p->publish->insert)
		connect_to_insert(p);
	int r = pgherald_open(&options, &h);
	while (r >= 0 && !p->page->end) {
		while (r >= 0 && p->in_flight < p->publish->outstanding) {
			user_pubkey(next_random(&p->random) % USERS, pubkey);
			stamped_client_id(clock_ns(), client_id);
			if (p->publish->insert)
				execute(p, 1, pubkey, NULL);
			p->in_flight++;
			r = pgherald_notify(h, BENCH_CHANNEL, pubkey, client_id, on_done, p);
		}
		if (r >= 0)
			r = pgherald_wait(h, -1);
	}
	if (r < 0)
		die("libpgherald: %s", pgherald_strerror(r));
}

static void run_none(struct publisher *p)
{
	char pubkey[PUBKEY_LEN + 1];

	connect_to_insert(p);
	while (!p->page->end) {
		user_pubkey(next_random(&p->random) % USERS, pubkey);
		execute(p, 1, pubkey, NULL);
		published(p);
	}
}

static const struct {
	const char *name;
	void (*run)(struct publisher *p);
} sides[SIDES] = {
	[OWN] = {"own", run_own},
	[RELAY] = {"relay", run_relay},
	[NONE] = {"none", run_none},
};

static void run(void *context, struct page *page, unsigned index)
{
	const struct publish *publish = context;
	struct publisher p = {publish, page, &page->slots[index], index + 1, NULL, 0};

	sides[publish->side].run(&p);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"publishers", required_argument, NULL, 'p'},
		{"database", required_argument, NULL, 'd'},
		{"relay", required_argument, NULL, 'r'},
		{"outstanding", required_argument, NULL, 'o'},
		{"insert", no_argument, NULL, 'i'},
		{"seconds", required_argument, NULL, 's'},
		{0},
	};
	struct publish publish = {.outstanding = 1};
	unsigned publishers = 1;
	double seconds = 1;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'p':
			publishers = (unsigned)atoi(optarg);
			break;
		case 'd':
			publish.database = optarg;
			break;
		case 'r':
			publish.relay = optarg;
			break;
		case 'o':
			publish.outstanding = (unsigned)atoi(optarg);
			break;
		case 'i':
			publish.insert = true;
			break;
		case 's':
			seconds = atof(optarg);
			break;
		default:
			return 2;
		}
	}
	while (optind < argc && publish.side < SIDES && strcmp(sides[publish.side].name, argv[optind]) != 0)
		publish.side++;
	if (optind != argc - 1 || publish.side == SIDES || publishers == 0 ||
		(publish.side == NONE && !publish.insert))
		die("bench-publish: bad arguments");
	alarm((unsigned)seconds + 2 * DEADLINE_SECONDS);
	struct page *page = fork_processes(publishers, run, &publish);
	print_rate(page, seconds);
	end_processes(page);
	return 0;
}
