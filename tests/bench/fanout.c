/* One measurement of fan-out: W listeners, one source.
 *
 *   bench-fanout SIDE --listeners W --listen ADDRESS[,ADDRESS]... --publish ADDRESS [OPTION]...
 *
 * SIDE: direct, bare, ours, command, redis, nats, or floor. For each line "SECONDS [BATCH RATE]" of its input
 * it warms up, publishes for that long, waits until every listener has heard all of it, and prints a line of
 * JSON. The source runs ahead of the slowest listener by a bounded number of changes, whatever the side: none
 * is measured by what it drops. */
#include "floor.h"
#include "listen.h"
#include "source.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How far the source may run ahead of the slowest listener. */
#define WINDOW 8192

static const struct side {
	const char *name;
	listen_fn *listen;
	const struct source_kind *source;
} sides[] = {
	{"direct", listen_direct, &source_postgres},
	{"bare", listen_bare, &source_postgres},
	{"ours", listen_ours, &source_postgres},
	{"command", listen_command, &source_postgres},
	{"floor", listen_ours, &source_floor},
	{"redis", listen_redis, &source_redis},
	{"nats", listen_nats, &source_nats},
};

struct fanout {
	const struct side *side;
	struct listen listen;
	struct source source;
	struct page *page;
	double batch; /* changes at once; a fraction carries over to the next */
	double rate;  /* times a second; 0: as fast as possible */
	struct parties parties;

	double owed;    /* fraction of a change */
	uint64_t sent;  /* since the listeners started */
	uint64_t heard; /* by the slowest of them, or by all where each hears its own; as last looked at */
};

static void run_listener(void *context, struct page *page, unsigned index)
{
	struct fanout *f = context;

	f->side->listen(&f->listen, page, index);
}

static void look(struct fanout *f)
{
	f->heard = f->listen.own ? total_count(f->page) : least_count(f->page);
}

/* Wait until no more than this many of the changes sent are not heard yet. */
static void await_heard(struct fanout *f, uint64_t behind)
{
	uint64_t deadline = clock_ns() + DEADLINE_SECONDS * NSEC_PER_SEC;

	if (f->heard + behind >= f->sent)
		return;
	for (look(f); f->heard + behind < f->sent; look(f)) {
		if (clock_ns() > deadline)
			die("%llu of %llu changes were not heard", (unsigned long long)(f->sent - f->heard),
				(unsigned long long)f->sent);
		sleep_until(clock_ns() + 50000);
	}
}

/* Publish for this long, then wait until all is heard. */
static void publish(struct fanout *f, double seconds)
{
	uint64_t start = clock_ns(), end = start + (uint64_t)(seconds * NSEC_PER_SEC), n = 0;

	while (clock_ns() < end) {
		f->owed += f->batch;
		unsigned batch = (unsigned)f->owed;
		f->owed -= batch;
		await_heard(f, WINDOW - batch);
		f->side->source->publish(&f->source, batch);
		f->sent += batch;
		if (f->rate > 0)
			sleep_until(start + (uint64_t)((double)++n / f->rate * NSEC_PER_SEC));
	}
	await_heard(f, 0);
}

/* numbers: seconds; perhaps a batch and a rate that replace those of the arguments. */
static void measure(void *context, const double *numbers, unsigned n)
{
	struct fanout *f = context;
	double seconds = numbers[0];

	if (n == 3) {
		f->batch = numbers[1];
		f->rate = numbers[2];
	}
	publish(f, seconds / 4 < 0.3 ? seconds / 4 : 0.3);
	struct account before = account(&f->parties, f->page);
	uint64_t sent = f->sent, start = clock_ns();
	/* Under full load latency would only show how long the queue is, and cost a clock read a change. */
	clear_latency(f->page);
	if (f->rate > 0)
		f->page->record_from = start;
	publish(f, seconds);
	struct account after = account(&f->parties, f->page);
	uint64_t elapsed = clock_ns() - start;
	f->page->record_from = UINT64_MAX;

	unsigned readers = f->listen.listeners - f->listen.busy;
	printf("{\"seconds\": %.6f, \"changes\": %llu, \"faults\": %llu, \"p50\": %llu, \"p99\": %llu, ",
		(double)elapsed / NSEC_PER_SEC, (unsigned long long)(f->sent - sent),
		(unsigned long long)total_faults(f->page),
		(unsigned long long)latency_percentile(f->page, readers, 50),
		(unsigned long long)latency_percentile(f->page, readers, 99));
	print_account(&before, &after);
	puts("}");
}

static void parse(struct fanout *f, int argc, char **argv)
{
	static const struct option options[] = {
		{"listeners", required_argument, NULL, 'w'},
		{"listen", required_argument, NULL, 'l'},
		{"publish", required_argument, NULL, 'p'},
		{"batch", required_argument, NULL, 'b'},
		{"rate", required_argument, NULL, 'r'},
		{"users", required_argument, NULL, 'u'},
		{"own", no_argument, NULL, 'o'},
		{"command", required_argument, NULL, 'c'},
		{"busy", required_argument, NULL, 'B'},
		{"relays", required_argument, NULL, 'R'},
		{"postmaster", required_argument, NULL, 'P'},
		{0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'w':
			f->listen.listeners = (unsigned)atoi(optarg);
			break;
		case 'l':
			f->listen.addresses = optarg;
			break;
		case 'p':
			f->source.address = optarg;
			break;
		case 'b':
			f->batch = atof(optarg);
			break;
		case 'r':
			f->rate = atof(optarg);
			break;
		case 'u':
			f->listen.users = f->source.users = (unsigned)atoi(optarg);
			break;
		case 'o':
			f->listen.own = true;
			break;
		case 'c':
			f->listen.command = optarg;
			break;
		case 'B':
			f->listen.busy = (unsigned)atoi(optarg);
			break;
		case 'R':
			f->parties.n_relays = pids_of(optarg, f->parties.relays, PIDS_MAX);
			break;
		case 'P':
			f->parties.postmaster = (pid_t)atoi(optarg);
			break;
		default:
			exit(2);
		}
	}
	for (size_t i = 0; optind < argc && i < sizeof sides / sizeof *sides; i++)
		if (strcmp(sides[i].name, argv[optind]) == 0)
			f->side = &sides[i];
	if (!f->side || !f->listen.addresses || (f->side->listen == listen_command) != !!f->listen.command ||
		f->listen.listeners <= f->listen.busy || f->batch < 1 || f->batch > SOURCE_BATCH_MAX)
		die("bench-fanout: bad arguments");
	if (!f->side->source->publish)
		die("bench-fanout: built without %s", f->side->name);
}

int main(int argc, char **argv)
{
	struct fanout f = {.batch = 1, .listen.users = 10000, .source.users = 10000};

	parse(&f, argc, argv);
	/* It ends even if something hangs. */
	alarm(3 * DEADLINE_SECONDS);
	if (f.side->source == &source_floor)
		f.source.floor = floor_listen(f.listen.addresses);
	f.page = fork_processes(f.listen.listeners, run_listener, &f);
	if (f.source.floor)
		floor_accept(f.source.floor, f.listen.listeners);
	await_ready(f.page);
	if (f.source.address || f.source.floor)
		f.side->source->open(&f.source);
	serve_measurements(measure, &f);
	end_processes(f.page);
	return 0;
}
