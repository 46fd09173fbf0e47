/* Assembles the relay in the order in which a notification flows through it, and takes it apart in reverse:
 *
 *   PostgreSQL -> upstream -> decode -> fanout (backlog, router) -> worker -> its socket
 *   a worker's NOTIFY -> publisher -> PostgreSQL, which returns it on the way above
 *
 * Here stand the events that join the parts: who learns what from whom. Start-up ends with the first canary
 * that came back; until then a failure ends the process, since it is the setting that is wrong; from then on
 * nothing does but a signal. */
#include "base/clock.h"
#include "base/diag.h"
#include "relay.h"
#include "base/systemd.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Within this a healthy start is over; a server that is only just starting is waited for as long. */
#define START_SECONDS 12.
/* For what is being published when the signal comes. */
#define STOP_SECONDS 1.

/* Those of libev, the locks, PostgreSQL, the log, and connections that are about to be turned away. */
#define OTHER_DESCRIPTORS 64

static struct diag_limit memory_limit;

static void stop_now(struct relay *r, int status)
{
	r->exit_status = status;
	ev_break(r->loop, EVBREAK_ALL);
}

static void refuse_start(struct relay *r, const char *why)
{
	/* Whatever else fails in the same turn of the loop is not worth a second line. */
	if (r->exit_status != EXIT_SUCCESS)
		return;
	diag(DIAG_ERROR, "start refused: %s", why);
	stop_now(r, EXIT_FAILURE);
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
			"all workers are told of a gap: memory was short for what PostgreSQL sent channel=\"%s\"",
			channel);
		fanout_gap(&r->fanout, "upstream", "the relay was short of memory for a change");
	}
}

static void on_upstream_lost(void *context, const char *error, bool heals, double retry)
{
	struct relay *r = context;

	canary_stop(&r->canary);
	recovery_abort(&r->recovery);
	reconcile_reset(&r->reconcile);
	checkpoint_waiting_clear(&r->waiting);
	if (!r->ready) {
		if (!heals)
			refuse_start(r, error);
		return;
	}
	diag(DIAG_WARNING, "%s; next attempt in %.1f s", error, retry);
	if (r->fanout.upstream_live)
		fanout_upstream(&r->fanout, false, "the relay does not hear PostgreSQL");
}

static void on_hold(void *context, bool held, size_t ahead)
{
	struct relay *r = context;

	upstream_hold(&r->upstream, held, ahead);
}

static void go_live(struct relay *r)
{
	upstream_live(&r->upstream);
	fanout_upstream(&r->fanout, true, "the relay hears PostgreSQL");
	diag(DIAG_INFO, "the upstream is live backend=%d", r->upstream.backend_pid);
}

/* Recovery of what the upstream missed */

static void on_recovered(void *context, enum changes_outcome outcome, const char *token, const char *text)
{
	struct relay *r = context;

	if (outcome != CHANGES_COMPLETE) {
		diag(DIAG_ERROR,
			"all workers are told of a gap, since what the upstream missed cannot be recovered: %s",
			text);
		fanout_gap(&r->fanout, outcome == CHANGES_WRONG ? "recovery" : "upstream", text);
	}
	/* The moment that was asked about is later, but not on disk yet. Where no canary could be had, the
	 * last checkpoint will do for longer. */
	(void)token;
	if (r->proved[0])
		fanout_checkpoint(&r->fanout, r->proved);
	go_live(r);
}

/* token: as of when the upstream hears; NULL when that could not be proved. */
static void recover(struct relay *r, const char *token)
{
	const struct checkpoint *since = checkpoint_history_latest(&r->fanout.checkpoints);

	canary_start(&r->canary);
	snprintf(r->proved, sizeof r->proved, "%s", token ? token : "");
	if (r->upstream.recoverable && since) {
		recovery_for_backlog(&r->recovery, since->token, on_recovered, r);
		return;
	}
	fanout_gap(&r->fanout, "upstream", "the relay did not hear PostgreSQL for a while");
	if (token)
		fanout_checkpoint(&r->fanout, token);
	go_live(r);
}

/* Canary */

static void open_gates(struct relay *r);

static void set_reconciling(struct relay *r)
{
	r->reconcile.enabled = r->canary.reconciles = r->config.reconcile && r->upstream.recoverable;
}

static void on_proved(void *context, const char *token)
{
	struct relay *r = context;

	set_reconciling(r);
	reconcile_reset(&r->reconcile);
	if (r->ready) {
		diag(DIAG_NOTICE, "the LISTEN connection is back backend=%d", r->upstream.backend_pid);
		recover(r, token);
		return;
	}
	/* That it distrusts one of them, the upstream has said. */
	if (!r->upstream.recoverable && !r->upstream.distrusts)
		diag(DIAG_WARNING,
			"there is no function pgherald.changes_since(pg_snapshot), so changes missed are announced as gaps; "
			"to have them recovered, install recovery.sql or write the function for your schema");
	else if (!r->upstream.notes_runs && !r->upstream.distrusts)
		diag(DIAG_WARNING,
			"there is no function pgherald.note_run() that this role may call, so a restart or failover of "
			"PostgreSQL is announced as a gap; run recovery.sql again, or grant EXECUTE on it");
	fanout_checkpoint(&r->fanout, token);
	canary_start(&r->canary);
	open_gates(r);
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
		refuse_start(r, why);
	else
		upstream_drop(&r->upstream, why);
}

static void on_unproven(void *context, const char *error)
{
	struct relay *r = context;

	if (!r->ready) {
		refuse_start(r, error);
		return;
	}
	/* To hear without proof is better than not to hear; the next turns go on trying. */
	diag(DIAG_WARNING, "the LISTEN connection is back, but no canary can prove it: %s", error);
	set_reconciling(r);
	recover(r, NULL);
}

/* Where nobody reconciles, a checkpoint is passed on once it is an interval old, so that a NOTIFY which
 * follows its commit within that time is heard before it. */
static void pass_on_with_delay(struct relay *r, const char *token)
{
	const struct checkpoint *latest = checkpoint_history_latest(&r->fanout.checkpoints);
	double now = clock_now();
	struct checkpoint *due = checkpoint_waited(&r->waiting, now - r->config.checkpoint_interval);

	checkpoint_wait(&r->waiting, token, now);
	if (due && latest && checkpoint_is_newer(due->token, latest->token))
		fanout_checkpoint(&r->fanout, due->token);
	checkpoint_unref(due);
}

static void on_claim(void *context, struct canary_claim *out)
{
	struct relay *r = context;

	reconcile_claim(&r->reconcile, r->upstream.state == UPSTREAM_LIVE, out);
}

static bool on_turn(void *context, const struct canary_turn *turn)
{
	struct relay *r = context;

	/* Until what the upstream missed is recovered, no account joins on to ours. */
	if (r->upstream.state != UPSTREAM_LIVE)
		return false;
	if (!r->reconcile.enabled)
		pass_on_with_delay(r, turn->token);
	return reconcile_turn(&r->reconcile, turn);
}

static bool on_pending(void *context, const char *owed)
{
	const struct relay *r = context;
	const struct checkpoint *latest = checkpoint_history_latest(&r->fanout.checkpoints);

	return (owed && !(latest && checkpoint_covers(latest->token, owed))) ||
	       reconcile_pending(&r->reconcile);
}

/* Publisher */

static void on_published(
	void *context, uint64_t source, uint32_t slot, uint64_t request, const char *code, const char *text)
{
	struct relay *r = context;

	if (source == 0)
		reconcile_published(&r->reconcile, code == NULL);
	else
		worker_published(&r->fanout, (struct worker_ref){slot, source}, request, code, text);
}

static void on_publisher_connected(void *context)
{
	struct relay *r = context;

	if (!r->ready)
		return;
	diag(DIAG_NOTICE, "the publishing connection is back");
	upstream_hurry(&r->upstream);
}

static void on_publisher_lost(void *context, const char *error, bool heals, double retry)
{
	struct relay *r = context;

	if (r->ready)
		diag(DIAG_WARNING, "%s; next attempt in %.1f s", error, retry);
	else if (!heals)
		refuse_start(r, error);
}

/* Workers */

static void on_publish(
	void *context, struct worker_ref worker, uint64_t request, unsigned topic, struct wire_str payload)
{
	struct relay *r = context;
	const char *channel = r->config.channels[topic - 1].name;
	struct decoded decoded;
	int result;

	if (r->config.mode == MODE_POSTGRES) {
		r->publisher.shared = fanout_is_shared(&r->fanout);
		result = publisher_submit(&r->publisher,
			&(struct publish_origin){
				fanout_worker(&r->fanout, worker)->uid, worker.slot, worker.id, request},
			channel, payload);
		if (result < 0)
			worker_published(&r->fanout, worker, request, "busy",
				"the relay's publish queue, or this user's share of it, is full");
		return;
	}
	result = decode_notification(&r->decode, channel, payload, &decoded);
	if (result == 0) {
		fanout_decoded(&r->fanout, &decoded, 0);
		decoded_release(&decoded);
	}
	if (result == -ENOMEM)
		worker_published(&r->fanout, worker, request, "busy", "the relay is short of memory");
	else
		worker_published(&r->fanout, worker, request, result < 0 ? "invalid" : NULL,
			"the payload is no change");
}

static void on_catch_up(void *context, struct worker *worker)
{
	struct relay *r = context;

	catch_up_begin(&r->catch_up, worker, r->config.mode == MODE_POSTGRES && r->upstream.recoverable);
}

static void on_takes_more(void *context, struct worker *worker)
{
	struct relay *r = context;

	catch_up_takes_more(&r->catch_up, worker);
}

static void on_forget(void *context, struct worker *worker)
{
	struct relay *r = context;

	catch_up_forget(&r->catch_up, worker);
}

static void on_worker_accepted(void *context, int fd)
{
	struct relay *r = context;

	worker_open(&r->fanout, fd);
}

static void open_gates(struct relay *r)
{
	const struct gate_taker takers[GATES_N] = {
		[GATE_METRICS] = {metrics_socket_accepted, &r->metrics_socket},
		[GATE_OPS] = {ops_accepted, &r->ops},
		[GATE_WORKERS] = {on_worker_accepted, r},
	};

	if (gates_open(&r->gates, r->loop, &r->config, takers) < 0) {
		stop_now(r, EXIT_FAILURE);
		return;
	}
	r->ready = true;
	ev_timer_stop(r->loop, &r->start_deadline);
	if (r->config.mode == MODE_POSTGRES)
		go_live(r);
	diag(DIAG_NOTICE, "ready version=" PGHERALD_VERSION " mode=%s socket=%s channels=%u",
		r->config.mode == MODE_POSTGRES ? "postgres" : "local", r->gates.gates[GATE_WORKERS].path,
		r->config.n_channels);
	systemd_notify("READY=1");
}

/* Every second */

static void tell_status(const struct relay *r)
{
	if (r->config.mode == MODE_LOCAL)
		systemd_status("local mode, %u workers", r->fanout.n_workers);
	else if (r->upstream.state == UPSTREAM_LIVE)
		systemd_status("hears PostgreSQL, %u workers", r->fanout.n_workers);
	else
		systemd_status("upstream %s, %u workers; last error: %s",
			upstream_state_name(r->upstream.state), r->fanout.n_workers,
			*r->upstream.last_error ? r->upstream.last_error : "none");
}

static void on_second(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct relay *r = timer->data;
	uint64_t counts[RATES_N] = {
		[RATE_HEARD] = fanout_n_appended(&r->fanout),
		[RATE_PUBLISHED] = r->publisher.n_published,
		[RATE_DELIVERED] = r->fanout.n_deliveries,
	};

	(void)loop;
	(void)events;
	rates_sample(&r->rates, counts);
	ops_tick(&r->ops);
	tell_status(r);
}

/* The end */

static void on_publisher_settled(struct ev_loop *loop, struct ev_prepare *watcher, int events)
{
	struct relay *r = watcher->data;

	(void)loop;
	(void)events;
	if (publisher_idle(&r->publisher))
		stop_now(r, EXIT_SUCCESS);
}

static void on_stop_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	stop_now(timer->data, EXIT_SUCCESS);
}

/* What is being published is waited for, so that it can be answered. Nothing new is taken. */
static void on_signal(struct ev_loop *loop, struct ev_signal *watcher, int events)
{
	struct relay *r = watcher->data;

	(void)events;
	if (r->stopping)
		return;
	r->stopping = true;
	diag(DIAG_NOTICE, "stopping on %s", watcher->signum == SIGTERM ? "SIGTERM" : "SIGINT");
	systemd_notify("STOPPING=1");
	gate_close(&r->gates.gates[GATE_WORKERS]);
	fanout_stop_reading(&r->fanout);
	if (!r->ready || r->config.mode == MODE_LOCAL) {
		stop_now(r, EXIT_SUCCESS);
		return;
	}
	ev_prepare_start(loop, &r->publisher_settled);
	timer_arm(loop, &r->stop_deadline, STOP_SECONDS);
}

static void on_start_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct relay *r = timer->data;
	char why[600];

	(void)loop;
	(void)events;
	if (*r->upstream.last_error || *r->publisher.last_error)
		snprintf(why, sizeof why, "%s",
			*r->upstream.last_error ? r->upstream.last_error : r->publisher.last_error);
	else if (r->upstream.state < UPSTREAM_LISTENING)
		snprintf(why, sizeof why,
			"%s does not answer within %.0f s; check the URL, the server and the way there",
			config_url_name(&r->config, r->config.direct_url), START_SECONDS);
	else
		snprintf(why, sizeof why,
			"%s does not answer within %.0f s; check the URL, the server and the way there",
			config_url_name(&r->config, r->config.publish_url), START_SECONDS);
	refuse_start(r, why);
}

static void watch(struct relay *r)
{
	signal(SIGPIPE, SIG_IGN);
	ev_signal_init(&r->sigterm, on_signal, SIGTERM);
	ev_signal_init(&r->sigint, on_signal, SIGINT);
	timer_init(&r->start_deadline, on_start_deadline, r);
	timer_init(&r->stop_deadline, on_stop_deadline, r);
	ev_prepare_init(&r->publisher_settled, on_publisher_settled);
	ev_timer_init(&r->second, on_second, 0., 1.);
	r->second.data = r;
	r->sigterm.data = r->sigint.data = r->publisher_settled.data = r;
	ev_signal_start(r->loop, &r->sigterm);
	ev_signal_start(r->loop, &r->sigint);
}

static void start_postgres(struct relay *r)
{
	static const struct upstream_events upstream_events = {
		on_upstream_listening, on_upstream_heard, on_upstream_lost};
	static const struct publisher_events publisher_events = {
		on_published, on_publisher_connected, on_publisher_lost};
	static const struct canary_events canary_events = {
		on_proved, on_deaf, on_unproven, on_claim, on_turn, on_pending};

	timer_arm(r->loop, &r->start_deadline, START_SECONDS);
	r->fanout.hold = on_hold;
	r->fanout.hold_context = r;
	canary_init(&r->canary, r->loop, &r->config, r->fanout.epoch, &r->publisher, &r->upstream,
		&canary_events, r);
	upstream_start(&r->upstream, r->loop, &r->config, &upstream_events, r);
	publisher_start(&r->publisher, r->loop, &r->config, &publisher_events, r);
}

static void stop_postgres(struct relay *r)
{
	publisher_abandon(&r->publisher, "timeout",
		"the relay ends, and PostgreSQL has not confirmed it; it may have been published all the same");
	canary_stop(&r->canary);
	recovery_abort(&r->recovery);
	publisher_stop(&r->publisher);
	upstream_stop(&r->upstream);
}

/* Of the descriptors 0 to 2 those that are closed become /dev/null. Else the next file or socket would get
 * such a number, and the log would be written into it. */
static bool open_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
			return false;
	return true;
}

int main(int argc, char **argv)
{
	static struct relay relay;
	struct relay *r = &relay;
	struct worker_requests requests = {r, on_publish, on_catch_up, on_takes_more, on_forget};

	/* Nobody could be told of it. */
	if (!open_standard_streams())
		return EXIT_FAILURE;
	int result = config_load(&r->config, argc, argv);
	if (result != 0)
		return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	systemd_init();
	config_fit_descriptors(&r->config, OPS_CONNECTIONS_MAX + METRICS_CONNECTIONS_MAX + OTHER_DESCRIPTORS);
	r->loop = ev_default_loop(EVFLAG_AUTO | EVFLAG_NOENV);
	if (!r->loop) {
		diag(DIAG_ERROR, "start refused: no event loop can be had from the kernel");
		return EXIT_FAILURE;
	}
	r->started = clock_now();
	if (gates_claim(&r->gates, &r->config) < 0)
		return EXIT_FAILURE;
	watch(r);
	r->decode.config = &r->config;
	result = fanout_open(&r->fanout, r->loop, &r->config, &requests);
	if (result < 0) {
		diag(DIAG_ERROR, "start refused: no backlog of %zu bytes: %s", r->config.backlog_size,
			strerror(-result));
		return EXIT_FAILURE;
	}
	recovery_init(&r->recovery, r->loop, &r->config, &r->fanout, &r->decode, &r->upstream);
	catch_up_init(&r->catch_up, r->loop, &r->config, &r->fanout, &r->recovery, &r->upstream);
	reconcile_init(
		&r->reconcile, &r->config, &r->fanout, &r->publisher, &r->recovery, r->canary.channels);
	ops_init(&r->ops, r);
	metrics_socket_init(&r->metrics_socket, r);
	ev_timer_start(r->loop, &r->second);
	systemd_watchdog_start(r->loop);
	if (r->config.mode == MODE_POSTGRES) {
		start_postgres(r);
	} else {
		if (r->config.pooler_url_alone)
			diag(DIAG_WARNING,
				"DATABASE_URL is set and DATABASE_DIRECT_URL is not: changes stay on this host (local mode); "
				"set DATABASE_DIRECT_URL to PostgreSQL itself, past the pooler");
		open_gates(r);
	}

	if (r->ready || r->config.mode == MODE_POSTGRES)
		ev_run(r->loop, 0);

	ops_close(&r->ops);
	metrics_socket_close(&r->metrics_socket);
	if (r->config.mode == MODE_POSTGRES)
		stop_postgres(r);
	fanout_close_workers(&r->fanout, "shutdown", "the relay ends");
	gates_close(&r->gates);
	reconcile_close(&r->reconcile);
	catch_up_close(&r->catch_up);
	recovery_close(&r->recovery);
	checkpoint_waiting_clear(&r->waiting);
	fanout_close(&r->fanout);
	/* A thread that is still connecting would outlive what exit() takes down. */
	if (session_attempts() > 0)
		_exit(r->exit_status);
	ev_loop_destroy(r->loop);
	return r->exit_status;
}
