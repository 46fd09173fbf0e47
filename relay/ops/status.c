#include "ops/status.h"

#include "base/clock.h"
#include "ops/parts.h"
#include "ops/screen.h"

static void report_upstream(struct report *r, const struct parts *parts)
{
	const struct upstream *u = parts->upstream;

	report_group(r, "upstream");
	report_text(r, "state", upstream_state_names[u->state]);
	report_seconds(r, "for", clock_now() - u->state_since);
	report_seconds(r, "unheard for", u->state == UPSTREAM_LIVE ? -1 : clock_now() - u->unheard_since);
	report_seconds(r, "next attempt in", u->state == UPSTREAM_WAITING ? u->retry_at - clock_now() : -1);
	report_count(r, "backend pid", u->state >= UPSTREAM_CHECKING ? (uint64_t)u->backend_pid : 0);
	report_text(r, "database", u->database);
	report_count(r, "connects", u->n_connects);
	report_count(r, "losses", u->n_losses);
	report_text(r, "missing functions", rights_missing(parts->told).text);
}

static void report_canary(struct report *r, const struct parts *parts)
{
	const struct canary *c = parts->canary;
	const struct checkpoint *latest = checkpoint_history_latest(&parts->fanout->checkpoints);

	report_group(r, "canary");
	report_seconds(r, "round trip", c->n_heard > 0 ? c->round_trip : -1);
	report_count(r, "sent", c->n_sent);
	report_count(r, "heard", c->n_heard);
	report_count(r, "probes", c->n_probes);
	report_group(r, "checkpoint");
	report_seconds(r, "age", latest ? clock_now() - parts->fanout->checkpoint_at : -1);
	report_flag(r, "recovery", parts->upstream->recoverable && canary_is_comparable(c));
	report_text(r, "recovery fails", *parts->recovery->trouble ? parts->recovery->trouble : "none");
	report_flag(r, "reconciles", parts->reconcile->enabled);
	report_flag(r, "survives restarts", canary_survives_restarts(c));
}

static void report_reconciliation(struct report *r, const struct parts *parts)
{
	const struct reconcile *rc = parts->reconcile;
	double failing = reconcile_failing(rc);

	report_group(r, "reconciliation");
	report_named(r);
	report_flag(r, "on", rc->enabled);
	report_flag(r, "leads", rc->leading);
	report_count(r, "announced", rc->n_announced);
	report_seconds(r, "fails for", failing > 0 ? failing : -1);
	report_text(r, "why", failing > 0 ? rc->trouble : "none");
}

static void report_tracking(struct report *r, const struct parts *parts)
{
	const struct tracking *t = parts->tracking;
	double lag = tracking_fold_lag(t);

	report_group(r, "tracking");
	report_named(r);
	report_flag(r, "on", parts->upstream->tracks);
	report_count(r, "tables", t->n_tables);
	report_count(r, "folded", t->n_folded);
	report_seconds(r, "fold lag", lag > 0 ? lag : -1);
	report_text(r, "problem", *t->problem ? t->problem : "none");
	report_text(r, "fold fails", *t->trouble.text ? t->trouble.text : "none");
}

static void report_publisher(struct report *r, const struct parts *parts)
{
	const struct publisher *p = parts->publisher;

	report_group(r, "publisher");
	report_text(r, "state", p->session.conn ? "connected" : "down");
	report_seconds(r, "next attempt in", publisher_is_down(p) ? publisher_next_attempt(p) : -1);
	report_count(r, "queue", p->queue.n);
	report_count(r, "queue bytes", p->queue.bytes);
	report_count(r, "published", p->n_published);
	report_count(r, "batches", p->n_batches);
	report_count(r, "failed", p->n_failed);
}

/* While something is wrong: what went wrong last. */
static void report_last_error(struct report *r, const struct parts *parts)
{
	const struct upstream *u = parts->upstream;
	const struct publisher *p = parts->publisher;
	bool upstream_fails = u->state != UPSTREAM_LIVE && *u->last_error,
	     publisher_fails = publisher_is_down(p);

	report_text(r, "last error",
		upstream_fails    ? u->last_error
		: publisher_fails ? p->last_error
				  : "none");
	report_seconds(r, "last error ago",
		upstream_fails    ? clock_now() - u->last_error_at
		: publisher_fails ? clock_now() - p->last_error_at
				  : -1);
}

static void report_past_error(
	struct report *r, const char *name, const char *age, const char *text, double at)
{
	report_text(r, name, *text ? text : "none");
	report_seconds(r, age, *text ? clock_now() - at : -1);
}

static void report_backlog(struct report *r, const struct backlog *b)
{
	report_group(r, "backlog");
	report_count(r, "bytes", backlog_used(b));
	report_count(r, "of", b->size);
	report_count(r, "frames", b->head + 1 - b->first);
	report_count(r, "seq", b->head);
}

_Static_assert(RATES_SECONDS >= 60, "there are samples of the last minute");

static void report_rates(struct report *r, const struct rates *rates)
{
	static const struct {
		unsigned seconds;
		const char *name;
	} lines[] = {
		{1, "last 1 s"},
		{10, "last 10 s"},
		{60, "last 1 min"},
	};

	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		report_group(r, lines[i].name);
		report_named(r);
		report_rate(r, "heard", rates_over(rates, RATE_HEARD, lines[i].seconds));
		report_rate(r, "delivered", rates_over(rates, RATE_DELIVERED, lines[i].seconds));
		report_rate(r, "published", rates_over(rates, RATE_PUBLISHED, lines[i].seconds));
	}
}

void ops_status_print(const struct parts *parts, FILE *out)
{
	const struct fanout *f = parts->fanout;
	bool postgres = parts->config->mode == MODE_POSTGRES;
	struct report r;

	report_open(&r, out, REPORT_JSON);
	report_begin(&r);
	report_flag(&r, "well", screen_is_well(parts));
	report_text(&r, "version", PGHERALD_VERSION);
	report_text(&r, "mode", postgres ? "postgres" : "local");
	report_seconds(&r, "up for", clock_now() - parts->started);
	report_text(&r, "epoch", f->epoch);
	if (postgres) {
		report_upstream(&r, parts);
		report_canary(&r, parts);
		report_reconciliation(&r, parts);
		report_tracking(&r, parts);
		report_publisher(&r, parts);
	}
	report_group(&r, "heard");
	report_count(&r, "notifications", fanout_n_appended(f));
	report_count(&r, "recovered", f->n_recovered);
	report_count(&r, "malformed", parts->decode->n_malformed);
	report_group(&r, "deliveries");
	report_count(&r, "frames", f->n_deliveries);
	report_count(&r, "sends", f->n_wakes);
	report_rates(&r, parts->rates);
	report_backlog(&r, &f->backlog);
	report_group(&r, "workers");
	report_count(&r, "connected", f->workers.n);
	report_count(&r, "subscriptions by pubkey", f->router.n_edges);
	report_count(&r, "overruns", f->n_overruns);
	report_count(&r, "gaps", f->n_gaps + parts->catch_up->n_gaps);
	report_group_end(&r);
	if (postgres)
		report_last_error(&r, parts);
	report_end(&r);
	report_close(&r);
}

void ops_upstream_print(const struct parts *parts, FILE *out, enum report_form form)
{
	struct report r;

	report_open(&r, out, form);
	report_begin(&r);
	report_upstream(&r, parts);
	report_canary(&r, parts);
	report_reconciliation(&r, parts);
	report_tracking(&r, parts);
	report_publisher(&r, parts);
	report_group(&r, "recovery");
	report_count(&r, "questions", parts->recovery->n_questions);
	report_count(&r, "rows", parts->recovery->n_rows);
	report_count(&r, "rows of other channels", parts->recovery->n_unserved);
	report_count(&r, "workers", parts->catch_up->n_workers);
	report_count(&r, "bytes", parts->catch_up->kept);
	report_count(&r, "announced", parts->reconcile->n_announced);
	report_group(&r, "last error");
	report_named(&r);
	report_past_error(
		&r, "upstream", "upstream ago", parts->upstream->last_error, parts->upstream->last_error_at);
	report_past_error(&r, "publisher", "publisher ago", parts->publisher->last_error,
		parts->publisher->last_error_at);
	report_end(&r);
	report_close(&r);
}
