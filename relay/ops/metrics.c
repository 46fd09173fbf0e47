#include "ops/metrics.h"

#include "base/clock.h"
#include "base/diag.h"
#include "ops/parts.h"
#include "ops/report.h"

#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Open files that are counted in one portion. */
#define FILES_MAX 256

/* Prometheus wants the samples of one name together, after its help and type. */
struct page {
	FILE *out;
	bool json;
	const char *name;
	struct metrics_page *progress;
};

static void family(struct page *p, const char *name, const char *type, const char *help)
{
	p->name = name;
	if (!p->json)
		fprintf(p->out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* value: a constant of the relay's, or a channel's name, which is valid UTF-8. */
static void print_label(struct page *p, const char *label, const char *value)
{
	fprintf(p->out, "{%s=\"", label);
	for (; *value; value++) {
		if (*value == '\n')
			fputs("\\n", p->out);
		else if (*value == '"' || *value == '\\')
			fprintf(p->out, "\\%c", *value);
		else
			fputc(*value, p->out);
	}
	fputs("\"}", p->out);
}

static void sample(
	struct page *p, const char *suffix, const char *label, const char *label_value, double value)
{
	if (p->json) {
		fprintf(p->out, "{\"name\":\"%s%s\"", p->name, suffix);
		if (label) {
			fprintf(p->out, ",\"%s\":", label);
			report_escape_json(p->out, label_value, strlen(label_value));
		}
		fprintf(p->out, ",\"value\":%.15g}\n", value);
		return;
	}
	fprintf(p->out, "%s%s", p->name, suffix);
	if (label)
		print_label(p, label, label_value);
	fprintf(p->out, " %.15g\n", value);
}

static void labelled(struct page *p, const char *label, const char *label_value, uint64_t value)
{
	sample(p, "", label, label_value, (double)value);
}

static void counter(struct page *p, const char *name, const char *help, uint64_t value)
{
	family(p, name, "counter", help);
	sample(p, "", NULL, NULL, (double)value);
}

static void gauge(struct page *p, const char *name, const char *help, double value)
{
	family(p, name, "gauge", help);
	sample(p, "", NULL, NULL, value);
}

static void print_histogram(struct page *p, const char *name, const char *help, const struct histogram *h)
{
	static const double bounds[HISTOGRAM_BUCKETS] = HISTOGRAM_BOUNDS;
	uint64_t count = 0;
	char bound[32];

	family(p, name, "histogram", help);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		count += h->counts[i];
		snprintf(bound, sizeof bound, "%g", bounds[i]);
		sample(p, "_bucket", "le", bound, (double)count);
	}
	count += h->counts[HISTOGRAM_BUCKETS];
	sample(p, "_bucket", "le", "+Inf", (double)count);
	sample(p, "_sum", NULL, NULL, h->sum);
	sample(p, "_count", NULL, NULL, (double)count);
}

static void print_postgres(struct page *p, const struct parts *r)
{
	const struct checkpoint *latest = checkpoint_history_latest(&r->fanout->checkpoints);
	const struct publisher *pub = r->publisher;
	const struct canary *c = r->canary;

	if (r->config->mode != MODE_POSTGRES)
		return;
	gauge(p, "pgherald_upstream_live",
		"Whether the relay hears PostgreSQL, and has recovered what it missed.",
		r->upstream->state == UPSTREAM_LIVE);
	counter(p, "pgherald_upstream_connects_total", "Attempts to make the LISTEN connection.",
		r->upstream->n_connects);
	counter(p, "pgherald_upstream_losses_total",
		"Attempts that failed, and LISTEN connections that were lost.", r->upstream->n_losses);
	gauge(p, "pgherald_functions_missing",
		"Functions of PostgreSQL that the relay lacks the right to call, or that the server does not support.",
		__builtin_popcount(r->told->missing));
	gauge(p, "pgherald_recovery_available",
		"Whether the database has the recovery function, and tells what checkpoints need.",
		r->upstream->recoverable && canary_is_comparable(c));
	counter(p, "pgherald_canaries_sent_total", "Canaries sent.", c->n_sent);
	counter(p, "pgherald_canaries_heard_total", "Canaries heard, this relay's and others'.", c->n_heard);
	counter(p, "pgherald_canaries_missed_total", "Canaries that were committed and not heard in time.",
		c->n_missed);
	counter(p, "pgherald_probes_total", "Looks at whether anything happened, instead of a canary.",
		c->n_probes);
	print_histogram(p, "pgherald_canary_round_trip_seconds", "From sending a canary to hearing it.",
		&c->round_trips);
	gauge(p, "pgherald_checkpoint_age_seconds",
		"Since the latest checkpoint; an idle database has no new ones.",
		latest ? clock_now() - r->fanout->checkpoint_at : 0);
	gauge(p, "pgherald_publisher_connected", "Whether the publishing connection is there.",
		pub->session.conn != NULL);
	gauge(p, "pgherald_publish_queue_requests", "Requests that wait for PostgreSQL.", pub->queue.n);
	gauge(p, "pgherald_publish_queue_bytes", "Their payloads.", (double)pub->queue.bytes);
	counter(p, "pgherald_publish_batches_total", "Statements that published.", pub->n_batches);
	counter(p, "pgherald_published_total", "Requests that were committed.", pub->n_published);
	counter(p, "pgherald_publish_failures_total",
		"Requests that were answered with an error by the publisher.", pub->n_failed);
	print_histogram(p, "pgherald_publish_to_commit_seconds",
		"From a request to the confirmation of its commit.", &pub->to_commit);
	counter(p, "pgherald_recovery_questions_total", "Questions to the database about what was missed.",
		r->recovery->n_questions);
	counter(p, "pgherald_recovery_rows_total", "Rows they returned.", r->recovery->n_rows);
	counter(p, "pgherald_recovery_unserved_rows_total",
		"Those of them that are of a channel that the relay is not configured for.",
		r->recovery->n_unserved);
	gauge(p, "pgherald_recovery_fails", "Whether the last question failed.",
		*r->recovery->trouble != '\0');
	gauge(p, "pgherald_tracked_tables", "Tables that pgherald.track() tracks.",
		(double)r->tracking->n_tables);
	gauge(p, "pgherald_tracked_problem", "Whether something is wrong with a tracked table.",
		*r->tracking->problem != '\0');
	gauge(p, "pgherald_fold_lag_seconds",
		"How long the fold of tracked changes has not kept up; 0 while it does.",
		tracking_fold_lag(r->tracking));
	gauge(p, "pgherald_fold_fails", "Whether the last fold failed.", *r->tracking->trouble.text != '\0');
	counter(p, "pgherald_folded_total", "Rows of tracked changes that this relay has folded.",
		r->tracking->n_folded);
	gauge(p, "pgherald_recovery_workers", "Workers that are caught up from the database.",
		r->catch_up->n_workers);
	gauge(p, "pgherald_recovery_bytes", "Memory for the recovered changes that they have yet to take.",
		(double)r->catch_up->kept);
	counter(p, "pgherald_announced_total", "Changes that nobody had notified, found and published.",
		r->reconcile->n_announced);
	gauge(p, "pgherald_reconcile_leading",
		"Whether this relay asks the database, for all relays, what nobody notified.",
		r->reconcile->leading);
	gauge(p, "pgherald_reconcile_failing_seconds",
		"For how long this relay could not find out what nobody notified, and no other relay did; 0 while "
		"all is well.",
		reconcile_failing(r->reconcile));
	gauge(p, "pgherald_runs_noted",
		"Whether the database keeps note of the server's runs, without which a restart of PostgreSQL is a gap.",
		canary_survives_restarts(c));
}

static void print_fanout(struct page *p, const struct parts *r)
{
	const struct fanout *f = r->fanout;

	family(p, "pgherald_notifications_total", "counter",
		"Changes and messages that went into the backlog.");
	for (unsigned i = 0; i < r->config->n_channels; i++)
		if (!r->config->channels[i].gone)
			labelled(p, "channel", r->config->channels[i].name, f->n_appended[i + 1]);
	counter(p, "pgherald_recovered_total", "Those of them that were recovered from the database.",
		f->n_recovered);
	counter(p, "pgherald_malformed_total", "Payloads that were not valid changes, and were dropped.",
		r->decode->n_malformed);
	gauge(p, "pgherald_backlog_bytes", "Bytes of the frames in the backlog.",
		(double)backlog_used(&f->backlog));
	gauge(p, "pgherald_backlog_size_bytes", "Bytes that the backlog can hold.", (double)f->backlog.size);
	gauge(p, "pgherald_backlog_frames", "Frames in the backlog.",
		(double)(f->backlog.head + 1 - f->backlog.first));
	counter(p, "pgherald_delivered_frames_total", "Frames of the backlog sent to workers.",
		f->n_deliveries);
	counter(p, "pgherald_sends_total", "Sends to workers; each may wake one, and carries many frames.",
		f->n_wakes);
	counter(p, "pgherald_overruns_total", "Workers that fell out of the backlog.", f->n_overruns);
	family(p, "pgherald_gaps_total", "counter", "Gaps told: once to all workers, or to one alone.");
	labelled(p, "to", "all", f->n_gaps);
	labelled(p, "to", "one", r->catch_up->n_gaps);
}

static void print_workers(struct page *p, const struct parts *r)
{
	const struct fanout *f = r->fanout;

	gauge(p, "pgherald_workers", "Workers connected.", f->workers.n);
	gauge(p, "pgherald_pubkey_subscriptions", "Subscriptions by pubkey, of all workers.",
		f->router.n_edges);
	counter(p, "pgherald_workers_accepted_total", "Workers that connected.", f->n_accepted);
	family(p, "pgherald_workers_closed_total", "counter",
		"Connections of workers that ended, by the code of BYE.");
	for (unsigned i = 0; i < WIRE_BYES_N; i++)
		labelled(p, "code", i == WIRE_BYE_NONE ? "left" : wire_bye_names[i], f->n_closed[i]);
	family(p, "pgherald_errors_total", "counter", "Requests answered with ERROR, by its code.");
	for (unsigned i = WIRE_ERROR_NONE + 1; i < WIRE_ERRORS_N; i++)
		labelled(p, "code", wire_error_names[i], f->n_errors[i]);
}

static void print_limits(struct page *p, const struct parts *r)
{
	family(p, "pgherald_limit_reached_total", "counter",
		"How often a limit was reached, and somebody refused or held up.");
	for (unsigned i = 0; i < LIMITS_N; i++)
		labelled(p, "limit", worker_limit_names[i], r->fanout->n_limited[i]);
	labelled(p, "limit", "publish_queue", r->publisher->n_full);
	labelled(p, "limit", "publishes_per_uid", r->publisher->n_full_for_user);
	labelled(p, "limit", "recovery_size", r->catch_up->n_evicted);
}

static void print_build(struct page *p, const struct parts *r)
{
	family(p, "pgherald_build_info", "gauge", "The relay's version.");
	labelled(p, "version", PGHERALD_VERSION, 1);
	gauge(p, "pgherald_uptime_seconds", "Since the relay was started.", clock_now() - r->started);
}

static void print_operators(struct page *p, const struct parts *r)
{
	family(p, "pgherald_log_lines_total", "counter", "Lines logged, by level.");
	labelled(p, "level", "error", diag_count(DIAG_ERROR));
	labelled(p, "level", "warning", diag_count(DIAG_WARNING));
	labelled(p, "level", "notice", diag_count(DIAG_NOTICE));
	counter(p, "pgherald_log_dropped_total",
		"Lines that were dropped, since the reader of the log was too slow.", diag_n_dropped());
	counter(p, "pgherald_ops_connections_total", "Connections to the ops socket.",
		r->ops->connections.n_accepted);
	counter(p, "pgherald_ops_dropped_total",
		"Those of them that were refused, or dropped for others or for not reading.",
		r->ops->connections.n_turned_away);
	counter(p, "pgherald_metrics_requests_total", "Requests on the metrics socket.",
		r->metrics_socket->n_requests);
	counter(p, "pgherald_metrics_refused_total",
		"Connections to the metrics socket that were refused, or dropped for others.",
		r->metrics_socket->connections.n_turned_away);
}

/* Names that all Prometheus client libraries use. */
static void print_process(struct page *p, const struct parts *r)
{
	char line[80], *resident;
	FILE *statm = fopen("/proc/self/statm", "re");

	(void)r;
	if (statm && fgets(line, sizeof line, statm)) {
		strtoul(line, &resident, 10); /* all of it, resident or not */
		gauge(p, "process_resident_memory_bytes", "Resident memory.",
			(double)strtoul(resident, NULL, 10) * (double)sysconf(_SC_PAGESIZE));
	}
	if (statm)
		fclose(statm);
}

/* Thousands of workers are thousands of files, so they are counted in portions. Returns whether
 * all are counted. */
static bool count_files(struct metrics_page *page)
{
	const struct dirent *e;

	if (!page->files)
		page->files = opendir("/proc/self/fd");
	if (!page->files)
		return true;
	for (int i = 0; i < FILES_MAX; i++) {
		if (!(e = readdir(page->files)))
			return true;
		page->n_files += isdigit((unsigned char)e->d_name[0]) != 0;
	}
	return false;
}

static void print_files(struct page *p, const struct parts *r)
{
	struct metrics_page *page = p->progress;

	(void)r;
	if (!count_files(page)) {
		page->section--;
		return;
	}
	if (!page->files)
		return;
	gauge(p, "process_open_fds", "Open files.", page->n_files);
	gauge(p, "process_max_fds", "Open files at most.", (double)sysconf(_SC_OPEN_MAX));
}

void metrics_page_end(struct metrics_page *page)
{
	if (page->files)
		closedir(page->files);
	*page = (struct metrics_page){0};
}

bool metrics_print(const struct parts *r, FILE *out, bool json, struct metrics_page *page)
{
	static void (*const sections[])(struct page * p, const struct parts *r) = {print_build,
		print_postgres, print_fanout, print_workers, print_limits, print_operators, print_process,
		print_files};
	struct page p = {.out = out, .json = json, .progress = page};

	sections[page->section++](&p, r);
	return page->section == sizeof sections / sizeof *sections;
}
