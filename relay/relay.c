#include "relay.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/systemd.h"
#include "fanout/connection.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* How long a start may take: at least so long, for a server that is still starting, and after the
 * time to connect. */
#define START_SECONDS_MIN 12.
#define START_PROOF_SECONDS 7.

#define LOSS_SAID_SECONDS 30.
/* Between two changes of the status that systemd is told. */
#define STATUS_SECONDS 1.

static struct diag_limit memory_limit;

static void refuse(struct relay *r, const char *why)
{
	r->events.refused(r->context, why);
}

/* Upstream */

static void on_upstream_listening(void *context)
{
	struct relay *r = context;

	publisher_hurry(&r->publisher);
	canary_prove(&r->canary);
}

static void on_upstream_heard(void *context, const char *channel, struct wire_str payload)
{
	struct relay *r = context;
	struct decoded decoded;

	if (strcmp(channel, CANARY_CHANNEL) == 0) {
		canary_notification(&r->canary, payload);
		return;
	}
	canary_activity(&r->canary);
	int result = decode_notification(&r->decode, channel, payload, &decoded);
	if (result == 0) {
		fanout_decoded(&r->fanout, &decoded, 0);
		reconcile_heard(&r->reconcile, &decoded);
		decoded_release(&decoded);
	} else if (result == -ENOMEM) {
		diag_limited(&memory_limit, DIAG_ERROR,
			"told all workers of a gap: out of memory for what PostgreSQL sent channel=\"%s\"",
			channel);
		fanout_gap(&r->fanout, WIRE_GAP_UPSTREAM, "the relay was out of memory for a change");
	}
}

/* An outage that goes on is said again now and then. Before the relay serves, only a start that
 * waits says anything: otherwise the first failure ends it. */
static void say_loss(struct relay *r, const char *error, double retry)
{
	double now = clock_now();

	if (!r->ready && !config_is_patient(r->config))
		return;
	if (now - r->loss_said < LOSS_SAID_SECONDS && strcmp(r->loss, error) == 0)
		return;
	r->loss_said = now;
	snprintf(r->loss, sizeof r->loss, "%s", error);
	diag(r->upstream.by_operator ? DIAG_NOTICE : DIAG_WARNING, "%s; next attempt in %.1f s", error,
		retry);
}

static void on_upstream_lost(void *context, const char *error, bool heals, double retry)
{
	struct relay *r = context;

	canary_stop(&r->canary);
	recovery_abort(&r->recovery);
	tracking_stop(&r->tracking);
	reconcile_reset(&r->reconcile);
	checkpoint_waiting_clear(&r->waiting);
	if (!r->ready && !heals) {
		refuse(r, error);
		return;
	}
	say_loss(r, error, retry);
	if (r->fanout.upstream_live)
		fanout_upstream(&r->fanout, false, "the relay does not hear PostgreSQL");
}

static void go_live(struct relay *r)
{
	upstream_live(&r->upstream);
	fanout_upstream(&r->fanout, true, "the relay hears PostgreSQL");
	diag(DIAG_INFO, "the upstream is live backend=%d", r->upstream.backend_pid);
	tracking_look(&r->tracking);
}

/* Recovery of what the upstream missed */

static void on_recovered(void *context, enum changes_outcome outcome, const char *text)
{
	struct relay *r = context;

	if (outcome != CHANGES_COMPLETE) {
		diag(DIAG_ERROR,
			"told all workers of a gap, because what the upstream missed cannot be recovered: %s",
			text);
		fanout_gap(
			&r->fanout, outcome == CHANGES_WRONG ? WIRE_GAP_RECOVERY : WIRE_GAP_UPSTREAM, text);
	}
	/* If no canary proved the upstream, the last checkpoint stays. */
	if (token_is_set(&r->proved))
		fanout_checkpoint(&r->fanout, r->proved.text);
	go_live(r);
}

/* token: of the canary that proved the upstream; NULL: none did. */
static void recover(struct relay *r, const struct token *token)
{
	const struct checkpoint *since = checkpoint_history_latest(&r->fanout.checkpoints);

	canary_start(&r->canary);
	r->proved = token ? *token : (struct token){0};
	if (r->upstream.recoverable && since) {
		recovery_for_backlog(&r->recovery, since->token);
		return;
	}
	fanout_gap(&r->fanout, WIRE_GAP_UPSTREAM, "the relay did not hear PostgreSQL for a while");
	if (token)
		fanout_checkpoint(&r->fanout, token->text);
	go_live(r);
}

/* Something was committed over the publishing connection. That it is connected tells nothing: a pooler
 * accepts connections also while PostgreSQL is away. */
static void note_published(struct relay *r)
{
	if (r->published)
		return;
	r->published = true;
	upstream_hurry(&r->upstream);
	if (r->publisher_away)
		diag(DIAG_NOTICE, "the publishing connection is back");
	r->publisher_away = false;
}

/* Canary */

static void set_reconciling(struct relay *r)
{
	bool enabled = r->config->reconcile && r->upstream.recoverable && canary_is_comparable(&r->canary);

	if (enabled != r->reconcile.enabled)
		reconcile_reset(&r->reconcile);
	r->reconcile.enabled = r->canary.reconciles = enabled;
	r->reconcile.tracks = r->upstream.tracks;
}

/* PostgreSQL answered a canary: it also told what the publisher's role may do. */
static void look_at_rights(struct relay *r)
{
	struct rights publisher = r->canary.rights;

	/* The operator has renounced it. */
	if (!r->config->logical_message)
		publisher.withheld &= ~(1U << RIGHT_FLUSH);
	rights_tell(&r->told, &r->upstream.rights, &publisher, r->canary.notes_runs,
		PQserverVersion(r->upstream.session.conn));
	set_reconciling(r);
}

static const char *weaker_without_note_run(const struct relay *r)
{
	return r->config->logical_message
		       ? "a restart or failover of PostgreSQL is announced as a gap"
		       : "with PGHERALD_LOGICAL_MESSAGE=no missed changes are announced as gaps";
}

static void on_proved(void *context, const struct token *token)
{
	struct relay *r = context;

	note_published(r);
	look_at_rights(r);
	reconcile_reset(&r->reconcile);
	if (r->ready) {
		diag(DIAG_NOTICE, "the LISTEN connection is back backend=%d", r->upstream.backend_pid);
		recover(r, token);
		return;
	}
	/* If it distrusts a function, upstream.c has logged that already. */
	if (!r->upstream.recoverable && !r->upstream.distrusts)
		diag(DIAG_WARNING,
			"there is no function pgherald.changes_since(pg_snapshot), so missed changes are announced as gaps; "
			"to have them recovered, install pgherald.sql and track your tables, or recovery.sql for the data-sync tables");
	else if (!r->upstream.notes_runs && !r->upstream.distrusts)
		diag(DIAG_WARNING,
			"there is no function pgherald.note_run() that this role may call, so %s; run recovery.sql "
			"again, or grant EXECUTE on it",
			weaker_without_note_run(r));
	else if (r->upstream.notes_runs && !r->canary.notes_runs)
		diag(DIAG_WARNING, "the role that publishes cannot call pgherald.note_run(), so %s: %s",
			weaker_without_note_run(r), r->canary.why_again.text);
	fanout_checkpoint(&r->fanout, token->text);
	canary_start(&r->canary);
	if (r->upstream.recoverable)
		recovery_try(&r->recovery, token->text);
	r->events.proved(r->context);
}

static void on_upstream_equipped(void *context)
{
	struct relay *r = context;

	r->canary.notes_runs = r->upstream.notes_runs;
	set_reconciling(r);
	tracking_look(&r->tracking);
	diag(DIAG_NOTICE,
		"found what recovery needs: pgherald.changes_since() is %s, pgherald.note_run() is %s",
		r->upstream.recoverable ? "there" : "missing", r->upstream.notes_runs ? "there" : "missing");
}

static void on_deaf(void *context, bool different)
{
	struct relay *r = context;
	const char *why =
		different
			? "DATABASE_URL and DATABASE_DIRECT_URL reach different databases; make both name the same one"
			: "LISTEN on DATABASE_DIRECT_URL hears nothing: a transaction pooler stands in between; let it name "
			  "PostgreSQL itself";

	if (!r->ready)
		refuse(r, why);
	else
		upstream_drop(&r->upstream, why);
}

static void on_unproven(void *context, const char *error)
{
	struct relay *r = context;

	/* Once the publisher is connected, it is tried again. */
	if (!r->ready && config_is_patient(r->config) && !r->publisher.session.conn)
		return;
	if (!r->ready) {
		refuse(r, error);
		return;
	}
	/* Serving without a proof is better than not serving. The next turns try again. */
	diag(DIAG_WARNING, "the LISTEN connection is back, but no canary can prove it: %s", error);
	set_reconciling(r);
	recover(r, NULL);
}

/* Without reconciliation, a checkpoint waits one interval, so that a NOTIFY that follows its
 * commit within that time is heard before it. */
static void pass_on_with_delay(struct relay *r, const struct token *token)
{
	const struct checkpoint *latest = checkpoint_history_latest(&r->fanout.checkpoints);
	double now = clock_now();
	struct token due = checkpoint_waiting_take(&r->waiting, now - r->config->checkpoint_interval);

	checkpoint_waiting_add(&r->waiting, token, now);
	if (latest && checkpoint_is_newer(due.text, latest->token))
		fanout_checkpoint(&r->fanout, due.text);
}

static void on_claim(void *context, struct canary_claim *out)
{
	struct relay *r = context;

	reconcile_claim(&r->reconcile, r->upstream.state == UPSTREAM_LIVE, out);
}

static bool on_turn(void *context, const struct canary_turn *turn)
{
	struct relay *r = context;

	/* Until recovery is done, our workers lack changes, so no claim can join on. */
	if (r->upstream.state != UPSTREAM_LIVE)
		return false;
	if (turn->own) {
		note_published(r);
		look_at_rights(r);
		tracking_fold(&r->tracking);
	}
	if (!r->reconcile.enabled)
		pass_on_with_delay(r, &turn->token);
	return reconcile_turn(&r->reconcile, turn);
}

static bool on_pending(void *context, const struct token *owed)
{
	const struct relay *r = context;
	const struct checkpoint *latest = checkpoint_history_latest(&r->fanout.checkpoints);

	return (owed && !(latest && checkpoint_covers(latest->token, owed->text))) ||
	       reconcile_pending(&r->reconcile);
}

/* Publisher */

static void on_published(
	void *context, const struct publish_origin *origin, enum wire_error_code code, const char *text)
{
	struct relay *r = context;

	if (code == WIRE_ERROR_NONE)
		note_published(r);
	/* What no NOTIFY carries is skipped: the other announcements must not wait for it. */
	if (origin->source == 0)
		reconcile_published(&r->reconcile,
			code == WIRE_ERROR_NONE || (code == WIRE_ERROR_REJECTED && r->publisher.unfit));
	else
		connection_published(&r->fanout, (struct worker_ref){origin->slot, origin->source},
			origin->request, code, text);
}

static void on_publisher_connected(void *context)
{
	struct relay *r = context;

	r->published = false;
	if (!r->ready) {
		if (r->upstream.state == UPSTREAM_LISTENING && !r->canary.proving)
			canary_prove(&r->canary);
		else
			upstream_hurry(&r->upstream);
		return;
	}
	upstream_hurry(&r->upstream);
}

static void on_publisher_lost(void *context, const char *error, bool heals, double retry)
{
	struct relay *r = context;

	if (!r->ready && !heals)
		refuse(r, error);
	else if (!r->ready)
		say_loss(r, error, retry);
	else if (r->publisher.idled)
		diag(DIAG_INFO, "the idle publishing connection was closed, and is made again: %s", error);
	else {
		r->publisher_away = true;
		diag(DIAG_WARNING, "%s; next attempt in %.1f s", error, retry);
	}
}

/* Workers */

static void on_publish(
	void *context, struct worker_ref worker, uint64_t request, unsigned topic, struct wire_str payload)
{
	struct relay *r = context;
	const char *channel = r->config->channels[topic - 1].name;
	struct decoded decoded;
	int result;

	if (r->config->mode == MODE_POSTGRES) {
		r->publisher.shared = fanout_is_shared(&r->fanout);
		result = publisher_submit(&r->publisher,
			&(struct publish_origin){workers_find(&r->fanout.workers, worker)->uid, worker.slot,
				worker.id, request},
			channel, payload);
		if (result < 0)
			connection_published(&r->fanout, worker, request, WIRE_ERROR_BUSY,
				"the relay's publish queue, or this user's share of it, is full");
		return;
	}
	result = decode_notification(&r->decode, channel, payload, &decoded);
	if (result == 0) {
		fanout_decoded(&r->fanout, &decoded, 0);
		decoded_release(&decoded);
	}
	if (result == -ENOMEM)
		connection_published(
			&r->fanout, worker, request, WIRE_ERROR_BUSY, "the relay is out of memory");
	else
		connection_published(&r->fanout, worker, request,
			result < 0 ? WIRE_ERROR_INVALID : WIRE_ERROR_NONE, "the payload is not a change");
}

static void on_catch_up(void *context, struct worker *worker)
{
	struct relay *r = context;

	catch_up_begin(&r->catch_up, worker, r->config->mode == MODE_POSTGRES && r->upstream.recoverable);
}

static void on_takes_more(void *context, struct worker *worker)
{
	(void)context;
	catch_up_takes_more(worker);
}

static void on_forget(void *context, struct worker *worker)
{
	struct relay *r = context;

	catch_up_forget(&r->catch_up, worker);
}

void relay_worker_accepted(void *context, int fd)
{
	struct relay *r = context;

	connection_open(&r->fanout, fd);
}

/* At the end of each iteration of the loop */

/* What the status is made of, to see whether it has changed. */
static struct relay_status status_of(const struct relay *r)
{
	return (struct relay_status){
		.stopping = r->parts.stopping,
		.state = r->upstream.state,
		.n_losses = r->upstream.n_losses,
		.n_workers = r->fanout.workers.n,
	};
}

static void tell_status(struct relay *r)
{
	r->told_status = status_of(r);
	r->told_status_at = clock_now();
	if (r->parts.stopping)
		systemd_status("stops, and serves %u workers until then", r->fanout.workers.n);
	else if (r->config->mode == MODE_LOCAL)
		systemd_status("local mode, %u workers", r->fanout.workers.n);
	else if (r->upstream.state == UPSTREAM_LIVE)
		systemd_status("hears PostgreSQL, %u workers", r->fanout.workers.n);
	else
		systemd_status("upstream %s, %u workers; last error: %s",
			upstream_state_names[r->upstream.state], r->fanout.workers.n,
			*r->upstream.last_error ? r->upstream.last_error : "none");
}

/* Workers may come and go thousands of times a second; the status does not. */
static void keep_status(struct relay *r)
{
	struct relay_status now = status_of(r), told = r->told_status;
	bool is_told = now.stopping == told.stopping && now.state == told.state &&
		       now.n_losses == told.n_losses && now.n_workers == told.n_workers;

	if (is_told || ev_is_active(&r->status_rest))
		return;
	double wait = r->told_status_at + STATUS_SECONDS - clock_now();
	if (wait > 0)
		timer_arm(r->loop, &r->status_rest, wait);
	else
		tell_status(r);
}

static void on_status_rest_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	keep_status(timer->data);
}

static void on_iteration(struct ev_loop *loop, struct ev_prepare *watcher, int events)
{
	struct relay *r = watcher->data;
	uint64_t counts[RATES_N] = {
		[RATE_HEARD] = fanout_n_appended(&r->fanout),
		[RATE_PUBLISHED] = r->publisher.n_published,
		[RATE_DELIVERED] = r->fanout.n_deliveries,
	};

	(void)loop;
	(void)events;
	rates_note(&r->rates, counts);
	keep_status(r);
}

/* Start and end */

static void fill_parts(struct relay *r)
{
	r->parts = (struct parts){
		.loop = r->loop,
		.config = r->config,
		.upstream = &r->upstream,
		.decode = &r->decode,
		.fanout = &r->fanout,
		.publisher = &r->publisher,
		.canary = &r->canary,
		.told = &r->told,
		.recovery = &r->recovery,
		.catch_up = &r->catch_up,
		.reconcile = &r->reconcile,
		.tracking = &r->tracking,
		.ops = &r->ops,
		.metrics_socket = &r->metrics_socket,
		.rates = &r->rates,
		.started = clock_now(),
	};
}

int relay_open(struct relay *r, struct ev_loop *loop, const struct config *config,
	const struct relay_events *events, void *context)
{
	static const struct recovery_events recovery_events = {on_recovered};
	static const struct worker_requests requests = {on_publish, on_catch_up, on_takes_more, on_forget};

	*r = (struct relay){.loop = loop, .config = config, .events = *events, .context = context};
	r->decode.config = config;
	int result = fanout_open(&r->fanout, loop, config, &requests, r);
	if (result < 0)
		return result;
	recovery_init(&r->recovery,
		&(struct recovery_uses){loop, config, &r->fanout, &r->decode, &r->upstream}, &recovery_events,
		r);
	catch_up_init(&r->catch_up, loop, config, &r->fanout, &r->recovery, &r->upstream);
	reconcile_init(&r->reconcile, config, &r->fanout, &r->publisher, &r->recovery);
	tracking_init(&r->tracking, loop, config, &r->upstream);
	fill_parts(r);
	ops_init(&r->ops, &r->parts);
	metrics_socket_init(&r->metrics_socket, &r->parts);
	rates_open(&r->rates);
	ev_prepare_init(&r->iteration, on_iteration);
	r->iteration.data = r;
	timer_init(&r->status_rest, on_status_rest_over, r);
	return 0;
}

static void start_postgres(struct relay *r)
{
	static const struct upstream_events upstream_events = {
		on_upstream_listening, on_upstream_heard, on_upstream_equipped, on_upstream_lost};
	static const struct publisher_events publisher_events = {
		on_published, on_publisher_connected, on_publisher_lost};
	static const struct canary_events canary_events = {
		on_proved, on_deaf, on_unproven, on_claim, on_turn, on_pending};

	canary_init(&r->canary,
		&(struct canary_uses){r->loop, r->config, r->fanout.epoch, &r->publisher, &r->upstream},
		&canary_events, r);
	upstream_start(&r->upstream, r->loop, r->config, &upstream_events, r);
	publisher_start(&r->publisher, r->loop, r->config, &publisher_events, r);
}

static void stop_postgres(struct relay *r)
{
	publisher_abandon(&r->publisher, WIRE_ERROR_TIMEOUT,
		"the relay ends, and PostgreSQL has not confirmed it; it may have been published all the same");
	canary_stop(&r->canary);
	recovery_abort(&r->recovery);
	tracking_stop(&r->tracking);
	publisher_stop(&r->publisher);
	upstream_stop(&r->upstream);
}

void relay_start(struct relay *r)
{
	ev_prepare_start(r->loop, &r->iteration);
	tell_status(r);
	if (r->config->mode == MODE_POSTGRES) {
		start_postgres(r);
		return;
	}
	r->events.proved(r->context);
}

void relay_serve(struct relay *r)
{
	r->ready = true;
	if (r->config->mode == MODE_POSTGRES)
		go_live(r);
}

double relay_start_seconds(const struct config *config)
{
	if (config_is_patient(config))
		return config->start_timeout;
	double direct = session_connect_seconds(config->direct_url),
	       publish = session_connect_seconds(config->publish_url);
	double seconds = START_PROOF_SECONDS + (direct > publish ? direct : publish);

	return seconds > START_SECONDS_MIN ? seconds : START_SECONDS_MIN;
}

void relay_explain_delay(const struct relay *r, double seconds, char *why, size_t size)
{
	const char *error = *r->upstream.last_error ? r->upstream.last_error : r->publisher.last_error;
	const char *url =
		r->upstream.state < UPSTREAM_LISTENING ? r->config->direct_url : r->config->publish_url;

	if (*error)
		snprintf(why, size, "%s", error);
	else
		snprintf(why, size,
			"%s does not answer within %.0f s; check the URL, its connect_timeout, the server and the "
			"way there",
			config_url_name(r->config, url), seconds);
}

void relay_drain(struct relay *r)
{
	r->parts.stopping = true;
}

void relay_stop(struct relay *r)
{
	r->parts.stopping = true;
	fanout_stop_reading(&r->fanout);
}

bool relay_is_idle(const struct relay *r)
{
	return !r->ready || r->config->mode == MODE_LOCAL || publisher_idle(&r->publisher);
}

/* Settings that are read again */

void relay_prepare(struct relay *r, const struct config *fresh, void (*done)(void *context, const char *why),
	void *context)
{
	if (r->config->mode == MODE_POSTGRES)
		upstream_listen_more(&r->upstream, fresh, done, context);
	else
		done(context, NULL);
}

static bool has(const struct config *config, unsigned i)
{
	return i < config->n_channels && !config->channels[i].gone;
}

/* Both as masks of topics. */
static void compare_channels(
	const struct relay *r, const struct config *before, uint64_t *added, uint64_t *gone)
{
	*added = *gone = 0;
	for (unsigned i = 0; i < r->config->n_channels; i++) {
		uint64_t topic = UINT64_C(2) << i;
		if (has(r->config, i) && !has(before, i))
			*added |= topic;
		else if (!has(r->config, i) && has(before, i))
			*gone |= topic;
	}
}

/* What the canaries say about the channels, without those that are gone. */
static void tell_canary(struct relay *r)
{
	struct config there = {0};

	for (unsigned i = 0; i < r->config->n_channels; i++)
		if (has(r->config, i))
			there.channels[there.n_channels++] = r->config->channels[i];
	r->canary.channels = canary_channels_of(&there);
	/* No claim about the time before holds for the new channels. */
	reconcile_reset(&r->reconcile);
}

void relay_reloaded(struct relay *r, const struct config *before)
{
	uint64_t added, gone;

	compare_channels(r, before, &added, &gone);
	/* A frame, so that no cursor from before is at the place where it heard them again. */
	if (added)
		fanout_upstream(&r->fanout, r->fanout.upstream_live, "the relay has more channels now");
	for (uint64_t left = added; left; left &= left - 1)
		r->fanout.heard_since[__builtin_ctzll(left)] = r->fanout.backlog.head;
	connection_review(&r->fanout, gone);
	if (r->config->mode == MODE_LOCAL)
		return;
	publisher_limit(&r->publisher);
	if (added || gone)
		tell_canary(r);
	if (gone)
		upstream_unlisten(&r->upstream);
}

void relay_close(struct relay *r)
{
	ev_prepare_stop(r->loop, &r->iteration);
	ev_timer_stop(r->loop, &r->status_rest);
	ops_close(&r->ops);
	metrics_socket_close(&r->metrics_socket);
	if (r->config->mode == MODE_POSTGRES)
		stop_postgres(r);
	connection_close_all(&r->fanout, WIRE_BYE_SHUTDOWN, "the relay ends");
	reconcile_close(&r->reconcile);
	catch_up_close(&r->catch_up);
	recovery_close(&r->recovery);
	checkpoint_waiting_clear(&r->waiting);
	fanout_close(&r->fanout);
}
