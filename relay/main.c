/* The process: settings, sockets, signals, deadlines, exit status. What it serves is relay.c's.
 * Until the relay has proved that it works, a failure ends the process, because the settings
 * are wrong; from then on only a signal does. */
#include "base/clock.h"
#include "base/diag.h"
#include "base/log_file.h"
#include "base/settings.h"
#include "base/systemd.h"
#include "ctl.h"
#include "health_check.h"
#include "listeners.h"
#include "ops/check.h"
#include "relay.h"
#include "reload.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* From the start's deadline to the end of the process. */
#define EXIT_SECONDS 5.
/* How long a stop waits for requests that are being published. */
#define STOP_SECONDS 1.
/* Where the start has no limit: how often systemd is told that it goes on, and how long each of
 * these lasts. */
#define WAITING_SECONDS 10.
#define WAITING_EXTENSION_SECONDS 30.

/* How long --check waits for what the database tells, and how often it looks. */
#define CHECK_SECONDS 15.
#define CHECK_LOOK_SECONDS 0.05

/* Descriptors of libev, the locks, PostgreSQL, the log, and connections that are about to be
 * refused. */
#define OTHER_DESCRIPTORS 64
#define N_DESCRIPTORS (OPS_CONNECTIONS_MAX + METRICS_CONNECTIONS_MAX + OTHER_DESCRIPTORS)

/* The environment file is missing. Trying again would not help, and the unit does not. EX_CONFIG of
 * sysexits.h. */
#define EXIT_NO_SETTINGS 78

struct process {
	struct ev_loop *loop;
	struct config config;
	struct relay relay;
	struct listeners listeners;
	struct reload reload;
	enum {
		RUNNING,
		DRAINING, /* a signal has come, and workers are served as before */
		STOPPING, /* no new requests are read */
	} stage;
	int exit_status;
	struct ev_timer start_deadline, drain_deadline, stop_deadline;
	struct ev_timer check;  /* until the next look whether all is known that --check prints */
	double check_until;     /* seconds of clock_now() */
	struct ev_prepare idle; /* while draining or stopping */
	struct ev_signal sigterm, sigint, sighup;
};

static void stop_now(struct process *p, int status)
{
	p->exit_status = status;
	ev_break(p->loop, EVBREAK_ALL);
}

/* The start */

static void on_refused(void *context, const char *why)
{
	struct process *p = context;

	/* Only the first failure of an iteration is logged. */
	if (p->exit_status != EXIT_SUCCESS)
		return;
	struct setting_shown setting;
	const char *example = settings_origin(why, &setting);
	char from[256] = "";
	if (example)
		snprintf(from, sizeof from, " (%s is from the %s; an example: %s)", setting.name,
			setting.origin, example);
	diag(DIAG_ERROR, "start refused: %s%s", why, from);
	if (p->config.checks && p->config.mode == MODE_POSTGRES) {
		check_print_refused(&p->relay.parts, example ? setting.name : NULL, why, stdout);
		fflush(stdout);
	}
	stop_now(p, EXIT_FAILURE);
}

static void on_check(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct process *p = timer->data;

	(void)events;
	if (!check_is_complete(&p->relay.parts) && clock_now() < p->check_until) {
		timer_arm(loop, timer, CHECK_LOOK_SECONDS);
		return;
	}
	check_print(&p->relay.parts, stdout);
	/* The end of main() may skip the flush of exit(). */
	stop_now(p, fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* The relay is live, without a worker, and looks at what is installed. */
static void begin_check(struct process *p)
{
	ev_timer_stop(p->loop, &p->start_deadline);
	relay_serve(&p->relay);
	p->check_until = clock_now() + CHECK_SECONDS;
	timer_init(&p->check, on_check, p);
	timer_arm(p->loop, &p->check, CHECK_LOOK_SECONDS);
}

static void on_proved(void *context)
{
	struct process *p = context;
	struct relay *r = &p->relay;
	const struct listeners_sink sinks[LISTENERS_N] = {
		[LISTENER_METRICS] = {ops_connections_accepted, &r->metrics_socket.connections},
		[LISTENER_OPS] = {ops_connections_accepted, &r->ops.connections},
		[LISTENER_WORKERS] = {relay_worker_accepted, r},
	};

	if (p->config.checks) {
		begin_check(p);
		return;
	}
	if (listeners_open(&p->listeners, p->loop, &p->config, sinks) < 0) {
		stop_now(p, EXIT_FAILURE);
		return;
	}
	ev_timer_stop(p->loop, &p->start_deadline);
	relay_serve(r);
	diag(DIAG_NOTICE, "ready version=" PGHERALD_VERSION " mode=%s socket=%s channels=%u",
		p->config.mode == MODE_POSTGRES ? "postgres" : "local",
		p->listeners.all[LISTENER_WORKERS].path, p->config.n_channels);
	systemd_notify("READY=1");
}

/* Also while draining: it ends after these seconds at the latest. */
static void extend_timeout(const char *state, double seconds)
{
	char text[96];

	snprintf(text, sizeof text, "%sEXTEND_TIMEOUT_USEC=%.0f", state, seconds * 1e6);
	systemd_notify(text);
}

/* systemd must not give the start up earlier. */
static void arm_start_deadline(struct process *p)
{
	double seconds = relay_start_seconds(&p->config);

	if (seconds > 0) {
		extend_timeout("", seconds + EXIT_SECONDS);
		timer_arm(p->loop, &p->start_deadline, seconds);
	} else {
		extend_timeout("", WAITING_EXTENSION_SECONDS);
		timer_arm(p->loop, &p->start_deadline, WAITING_SECONDS);
	}
}

static void on_start_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct process *p = timer->data;
	double seconds = relay_start_seconds(&p->config);
	char why[600];

	(void)loop;
	(void)events;
	if (seconds <= 0) {
		arm_start_deadline(p);
		return;
	}
	relay_explain_delay(&p->relay, seconds, why, sizeof why);
	on_refused(p, why);
}

/* The end */

/* Requests that are being published are still answered; no new ones are read. */
static void stop(struct process *p)
{
	p->stage = STOPPING;
	ev_timer_stop(p->loop, &p->drain_deadline);
	relay_stop(&p->relay);
	timer_arm(p->loop, &p->stop_deadline, STOP_SECONDS);
}

static void on_idle(struct ev_loop *loop, struct ev_prepare *watcher, int events)
{
	struct process *p = watcher->data;

	(void)loop;
	(void)events;
	if (p->stage == DRAINING && p->relay.fanout.workers.n == 0)
		stop(p);
	if (p->stage == STOPPING && relay_is_idle(&p->relay))
		stop_now(p, EXIT_SUCCESS);
}

static void on_drain_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	stop(timer->data);
}

static void on_stop_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	stop_now(timer->data, EXIT_SUCCESS);
}

static void drain(struct process *p)
{
	p->stage = DRAINING;
	reload_stop(&p->reload);
	extend_timeout("STOPPING=1\n", p->config.drain + EXIT_SECONDS);
	listener_close(&p->listeners.all[LISTENER_WORKERS]);
	relay_drain(&p->relay);
	ev_prepare_start(p->loop, &p->idle);
	if (p->config.drain > 0)
		timer_arm(p->loop, &p->drain_deadline, p->config.drain);
	else
		stop(p);
}

/* A second one ends at once. */
static void on_signal(struct ev_loop *loop, struct ev_signal *watcher, int events)
{
	struct process *p = watcher->data;
	const char *name = watcher->signum == SIGTERM ? "SIGTERM" : "SIGINT";

	(void)loop;
	(void)events;
	if (p->stage != RUNNING) {
		diag(DIAG_NOTICE, "ending at once on a second signal: %s", name);
		stop_now(p, EXIT_SUCCESS);
		return;
	}
	if (p->config.drain > 0 && p->relay.fanout.workers.n > 0)
		diag(DIAG_NOTICE, "stopping on %s once the workers have left, in %g s at most workers=%u",
			name, p->config.drain, p->relay.fanout.workers.n);
	else
		diag(DIAG_NOTICE, "stopping on %s", name);
	drain(p);
}

static void on_reload(struct ev_loop *loop, struct ev_signal *watcher, int events)
{
	struct process *p = watcher->data;

	(void)loop;
	(void)events;
	if (p->stage == RUNNING)
		reload_start(&p->reload);
}

static void watch(struct process *p)
{
	ev_signal_init(&p->sigterm, on_signal, SIGTERM);
	ev_signal_init(&p->sigint, on_signal, SIGINT);
	ev_signal_init(&p->sighup, on_reload, SIGHUP);
	timer_init(&p->start_deadline, on_start_deadline, p);
	timer_init(&p->drain_deadline, on_drain_deadline, p);
	timer_init(&p->stop_deadline, on_stop_deadline, p);
	ev_prepare_init(&p->idle, on_idle);
	p->sigterm.data = p->sigint.data = p->sighup.data = p->idle.data = p;
	ev_signal_start(p->loop, &p->sigterm);
	ev_signal_start(p->loop, &p->sigint);
	ev_signal_start(p->loop, &p->sighup);
}

/* None of them ends the relay: a reader of the log that is gone, a terminal that was closed before
 * SIGHUP means anything, and two that supervisors send to daemons that reopen their logs. */
static void ignore_signals(void)
{
	static const int signals[] = {SIGPIPE, SIGHUP, SIGUSR1, SIGUSR2};

	for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
		signal(signals[i], SIG_IGN);
}

/* If any of the descriptors 0 to 2 is closed, open /dev/null there. Otherwise a file or socket
 * would get that number, and the log would be written into it. */
static bool open_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
			return false;
	return true;
}

int main(int argc, char **argv)
{
	static struct process process;
	struct process *p = &process;
	static const struct relay_events events = {on_proved, on_refused};

	/* There is no place to log it. */
	if (!open_standard_streams())
		return EXIT_FAILURE;
	if (argc > 1 && strcmp(argv[1], "ctl") == 0)
		return ctl(argc - 1, argv + 1);
	ignore_signals();
	log_file_open();
	int result = config_load(&p->config, argc, argv);
	if (p->config.check_path)
		return health_check(p->config.check_path);
	if (result != 0)
		return result == -ENOENT ? EXIT_NO_SETTINGS : result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	systemd_init();
	config_fit_descriptors(&p->config, N_DESCRIPTORS);
	p->loop = ev_default_loop(EVFLAG_AUTO | EVFLAG_NOENV);
	if (!p->loop) {
		diag(DIAG_ERROR, "start refused: the kernel provides no event loop");
		return EXIT_FAILURE;
	}
	log_file_watch(p->loop, diag_tell_dropped);
	if (!p->config.checks && listeners_claim(&p->listeners, &p->config) < 0)
		return EXIT_FAILURE;
	watch(p);
	result = relay_open(&p->relay, p->loop, &p->config, &events, p);
	if (result < 0) {
		diag(DIAG_ERROR, "start refused: cannot allocate a backlog of %zu bytes: %s",
			p->config.backlog_size, strerror(-result));
		return EXIT_FAILURE;
	}
	reload_init(&p->reload, &p->relay, &p->config, N_DESCRIPTORS);
	systemd_watchdog_start(p->loop);
	if (p->config.mode == MODE_POSTGRES)
		arm_start_deadline(p);
	relay_start(&p->relay);
	/* In local mode the start may have failed already. */
	if (p->exit_status == EXIT_SUCCESS)
		ev_run(p->loop, 0);

	relay_close(&p->relay);
	listeners_close(&p->listeners);
	/* A thread that is still connecting uses what exit() destroys. */
	if (session_attempts() > 0)
		_exit(p->exit_status);
	ev_loop_destroy(p->loop);
	return p->exit_status;
}
