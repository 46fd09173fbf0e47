#include "ops/screen.h"

#include "base/clock.h"
#include "ops/parts.h"
#include "ops/report.h"

#include <stdarg.h>
#include <string.h>

/* Bytes of a line: the longest has a text of PostgreSQL's, of 512. */
#define LINE_SIZE 1024

struct screen {
	const struct parts *parts;
	FILE *out; /* NULL: the faults are counted only */
	unsigned n_faults;
};

/* Some of the text is PostgreSQL's or a worker's. */
static void say(const struct screen *s, const char *label, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static void say(const struct screen *s, const char *label, const char *format, ...)
{
	char text[LINE_SIZE];
	va_list args;

	if (!s->out)
		return;
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	report_label(s->out, label);
	report_escape_text(s->out, text, strlen(text));
	fputc('\n', s->out);
}

/* A count and its noun: "1 change", "2 changes". */
struct counted {
	char text[64];
};

static struct counted counted(uint64_t n, const char *noun)
{
	struct counted c;

	snprintf(c.text, sizeof c.text, "%llu %s%s", (unsigned long long)n, noun, n == 1 ? "" : "s");
	return c;
}

/* What is not well */

static void fault(struct screen *s, const char *text)
{
	s->n_faults++;
	say(s, "NOT WELL", "%s", text);
}

static void say_last_error(const struct screen *s, const char *error, double at)
{
	if (*error)
		say(s, "", "%s ago: %s", report_duration(clock_now() - at).text, error);
}

static void say_upstream_fault(struct screen *s)
{
	const struct upstream *u = s->parts->upstream;
	char text[200], next[64] = "";

	if (u->state == UPSTREAM_LIVE)
		return;
	if (u->state == UPSTREAM_WAITING)
		snprintf(next, sizeof next, "; the next attempt is in %s",
			report_duration(u->retry_at - clock_now()).text);
	snprintf(text, sizeof text, "PostgreSQL has not been heard for %s%s%s",
		report_duration(clock_now() - u->unheard_since).text, next,
		u->state == UPSTREAM_LISTENING ? "; it is connected, and what was missed is being recovered"
					       : "");
	fault(s, text);
	say_last_error(s, u->last_error, u->last_error_at);
}

static void say_publisher_fault(struct screen *s)
{
	const struct publisher *p = s->parts->publisher;
	double next = publisher_next_attempt(p);
	char text[200], when[64] = "";

	if (!publisher_is_down(p))
		return;
	if (next >= 0)
		snprintf(when, sizeof when, "; the next attempt is in %s", report_duration(next).text);
	snprintf(text, sizeof text, "nothing can be published%s", when);
	fault(s, text);
	say_last_error(s, p->last_error, p->last_error_at);
}

static void say_other_faults(struct screen *s)
{
	const struct parts *p = s->parts;
	double failing = reconcile_failing(p->reconcile), lag = tracking_fold_lag(p->tracking);
	char text[LINE_SIZE];

	if (*p->recovery->trouble) {
		fault(s, "recovery fails, so what is missed in an outage would be a gap:");
		say(s, "", "%s", p->recovery->trouble);
	}
	if (failing > 0) {
		snprintf(text, sizeof text,
			"reconciliation fails for %s, so what nobody notifies is not announced:",
			report_duration(failing).text);
		fault(s, text);
		say(s, "", "%s", p->reconcile->trouble);
	}
	if (*p->tracking->problem) {
		fault(s, "changes of a tracked table may be missed:");
		say(s, "", "%s", p->tracking->problem);
	}
	if (*p->tracking->trouble.text) {
		fault(s, "what is tracked cannot be folded or asked about:");
		say(s, "", "%s", p->tracking->trouble.text);
	} else if (lag > 0) {
		snprintf(text, sizeof text, "the journal of changes has waited %s for its fold",
			report_duration(lag).text);
		fault(s, text);
	}
}

static void say_faults(struct screen *s)
{
	if (s->parts->stopping)
		fault(s, "the relay is stopping, and takes no new workers");
	if (s->parts->config->mode != MODE_POSTGRES)
		return;
	say_upstream_fault(s);
	say_publisher_fault(s);
	say_other_faults(s);
}

bool screen_is_well(const struct parts *parts)
{
	struct screen screen = {.parts = parts};

	say_faults(&screen);
	return screen.n_faults == 0;
}

/* What is weaker */

static void say_weaker(const struct screen *s)
{
	const struct parts *p = s->parts;
	const struct rights_sql missing = rights_missing(p->told);

	/* It is asked once it is connected. */
	if (p->upstream->state < UPSTREAM_LISTENING)
		return;
	if (!p->upstream->recoverable)
		say(s, "WEAKER",
			"what is missed in an outage is a gap; install pgherald.sql, and track your tables");
	else if (!canary_survives_restarts(p->canary))
		say(s, "WEAKER", "a restart or failover of PostgreSQL is a gap; pgherald --check says why");
	if (p->told->missing)
		say(s, "WEAKER", "a role may not call %s; pgherald --check prints the GRANT", missing.text);
	if (*p->tracking->unserved)
		say(s, "WEAKER",
			"a table is tracked for the channel %s, which PGHERALD_CHANNELS does not have",
			p->tracking->unserved);
}

/* A line for each part */

static void say_upstream(const struct screen *s)
{
	const struct upstream *u = s->parts->upstream;
	const struct canary *c = s->parts->canary;

	if (u->state < UPSTREAM_CHECKING) {
		say(s, "upstream", "%s", upstream_state_names[u->state]);
		return;
	}
	say(s, "upstream", "%s for %s, database %s, backend pid %d", upstream_state_names[u->state],
		report_duration(clock_now() - u->state_since).text, u->database, u->backend_pid);
	if (c->n_heard > 0)
		say(s, "canary", "%s, heard %llu of %llu, probes %llu", report_duration(c->round_trip).text,
			(unsigned long long)c->n_heard, (unsigned long long)c->n_sent,
			(unsigned long long)c->n_probes);
}

static void say_recovery(const struct screen *s)
{
	const struct parts *p = s->parts;
	const struct reconcile *r = p->reconcile;
	bool recovers = p->upstream->recoverable && canary_is_comparable(p->canary);

	if (checkpoint_history_latest(&p->fanout->checkpoints))
		say(s, "checkpoint", "%s old%s%s",
			report_duration(clock_now() - p->fanout->checkpoint_at).text,
			recovers ? "; what is missed is recovered from there" : "",
			recovers && canary_survives_restarts(p->canary)
				? ", also over a restart of PostgreSQL"
				: "");
	if (r->enabled)
		say(s, "reconciles", "%s leads; %s announced", r->leading ? "this relay" : "another relay",
			counted(r->n_announced, "change").text);
	if (p->upstream->tracks)
		say(s, "tracking", "%s, %s folded", counted(p->tracking->n_tables, "table").text,
			counted(p->tracking->n_folded, "row").text);
}

static void say_publisher(const struct screen *s)
{
	const struct publisher *p = s->parts->publisher;

	say(s, "publisher", "%s, queue %llu, published %llu, failed %llu",
		p->session.conn ? "connected" : "down", (unsigned long long)p->queue.n,
		(unsigned long long)p->n_published, (unsigned long long)p->n_failed);
}

static void say_rates(const struct screen *s, const char *label, unsigned seconds)
{
	const struct rates *r = s->parts->rates;

	say(s, label, "heard %.1f/s, delivered %.1f/s, published %.1f/s", rates_over(r, RATE_HEARD, seconds),
		rates_over(r, RATE_DELIVERED, seconds), rates_over(r, RATE_PUBLISHED, seconds));
}

static void say_fanout(const struct screen *s)
{
	const struct fanout *f = s->parts->fanout;

	say(s, "heard", "%llu, recovered %llu, malformed %llu", (unsigned long long)fanout_n_appended(f),
		(unsigned long long)f->n_recovered, (unsigned long long)s->parts->decode->n_malformed);
	say_rates(s, "last 10 s", 10);
	say_rates(s, "last 1 min", 60);
	say(s, "backlog", "%.0f %% of %.1f MiB, %s",
		100. * (double)backlog_used(&f->backlog) / (double)f->backlog.size,
		(double)f->backlog.size / (1 << 20),
		counted(f->backlog.head + 1 - f->backlog.first, "frame").text);
	say(s, "workers", "%llu, subscriptions by pubkey %llu, overruns %llu, gaps %llu",
		(unsigned long long)f->workers.n, (unsigned long long)f->router.n_edges,
		(unsigned long long)f->n_overruns,
		(unsigned long long)f->n_gaps + s->parts->catch_up->n_gaps);
}

void screen_print(const struct parts *parts, FILE *out)
{
	struct screen screen = {.parts = parts, .out = out}, *s = &screen;
	bool postgres = parts->config->mode == MODE_POSTGRES;

	say_faults(s);
	if (s->n_faults == 0)
		fprintf(out, "All is well.\n");
	if (postgres)
		say_weaker(s);
	say(s, "mode", "%s, up for %s, version " PGHERALD_VERSION ", epoch %s",
		postgres ? "postgres" : "local", report_duration(clock_now() - parts->started).text,
		parts->fanout->epoch);
	if (postgres) {
		say_upstream(s);
		say_recovery(s);
		say_publisher(s);
	}
	say_fanout(s);
}
