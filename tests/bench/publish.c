/* Publishing: N processes, each publishing over and over in bursts.
 *
 *   bench-publish SIDE --publishers N [--database CONNINFO] [--relay SOCKET] [--outstanding K] [--insert]
 *
 * SIDE own: each on a connection of its own, one round trip a change; relay: through libpgherald, K requests
 * outstanding. With --insert each change is also a row: written and notified in one statement on side own;
 * written and committed, then published without waiting for the answer, on side relay; written, without a
 * notification, on side none. For each line "SECONDS" of its input it prints a line of JSON. */
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
	uint64_t began; /* clock_ns() when the request began that was made last */
};

static void published(struct publisher *p)
{
	uint64_t count = atomic_load_explicit(&p->slot->count, memory_order_relaxed);

	atomic_store_explicit(&p->slot->count, count + 1, memory_order_relaxed);
	/* With several outstanding it is not known which began when, nor of interest. */
	if (p->publish->outstanding == 1)
		record_latency(p->page, p->slot, p->began, clock_ns());
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
	for (await_go(p->slot);; await_go(p->slot))
		while (p->page->running) {
			uint64_t user = next_random(&p->random) % USERS;
			user_pubkey(user, pubkey);
			p->began = clock_ns();
			make_payload(user, p->began, payload);
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

/* Request one more, after its row is committed. */
static int request(struct publisher *p, struct pgherald *h)
{
	char pubkey[PUBKEY_LEN + 1], client_id[CLIENT_ID_LEN + 1];

	user_pubkey(next_random(&p->random) % USERS, pubkey);
	p->began = clock_ns();
	stamped_client_id(p->began, client_id);
	if (p->publish->insert)
		execute(p, 1, pubkey, NULL);
	p->in_flight++;
	int r = pgherald_notify(h, BENCH_CHANNEL, pubkey, client_id, on_done, p);
	/* While the next row is written, nothing else would send it. */
	return r < 0 || !p->publish->insert ? r : pgherald_dispatch(h);
}

static void run_relay(struct publisher *p)
{
	struct pgherald_options options = {.size = sizeof options, .socket = p->publish->relay};
	struct pgherald *h;

	if (p->publish->insert)
		connect_to_insert(p);
	int r = pgherald_open(&options, &h);
	while (r >= 0) {
		if (p->in_flight == 0 && !p->page->running)
			await_go(p->slot);
		while (r >= 0 && p->page->running && p->in_flight < p->publish->outstanding)
			r = request(p, h);
		if (r >= 0 && p->in_flight > 0)
			r = pgherald_wait(h, -1);
	}
	die("libpgherald: %s", pgherald_strerror(r));
}

static void run_none(struct publisher *p)
{
	char pubkey[PUBKEY_LEN + 1];

	connect_to_insert(p);
	for (await_go(p->slot);; await_go(p->slot))
		while (p->page->running) {
			user_pubkey(next_random(&p->random) % USERS, pubkey);
			p->began = clock_ns();
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
	struct publisher p = {publish, page, &page->slots[index], index + 1, NULL, 0, 0};

	sides[publish->side].run(&p);
}

struct load {
	struct page *page;
	struct parties parties;
};

static void measure(void *context, const double *numbers, unsigned n)
{
	const struct load *load = context;

	(void)n;
	measure_burst(load->page, &load->parties, numbers[0]);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"publishers", required_argument, NULL, 'p'},
		{"database", required_argument, NULL, 'd'},
		{"relay", required_argument, NULL, 'r'},
		{"outstanding", required_argument, NULL, 'o'},
		{"insert", no_argument, NULL, 'i'},
		{"relays", required_argument, NULL, 'R'},
		{"postmaster", required_argument, NULL, 'P'},
		{0},
	};
	struct publish publish = {.outstanding = 1};
	struct load load = {0};
	unsigned publishers = 1;
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
		case 'R':
			load.parties.n_relays = pids_of(optarg, load.parties.relays, PIDS_MAX);
			break;
		case 'P':
			load.parties.postmaster = (pid_t)atoi(optarg);
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
	load.page = fork_processes(publishers, run, &publish);
	serve_measurements(measure, &load);
	end_processes(load.page);
	return 0;
}
