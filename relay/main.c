/* The process: settings, sockets, signals, deadlines, exit status. What it serves is relay.c's.
 * Until the relay has proved that it works, a failure ends the process, because the settings
 * are wrong; from then on only a signal does. */
#include "base/clock.h"
#include "base/diag.h"
#include "base/systemd.h"
#include "listeners.h"
#include "relay.h"

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

/* Descriptors of libev, the locks, PostgreSQL, the log, and connections that are about to be
 * refused. */
#define OTHER_DESCRIPTORS 64

struct process {
	struct ev_loop *loop;
	struct config config;
	struct relay relay;
	struct listeners listeners;
	bool stopping; /* a signal has come */
	int exit_status;
	struct ev_timer start_deadline, stop_deadline;
	struct ev_prepare idle; /* while stopping */
	struct ev_signal sigterm, sigint;
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
	diag(DIAG_ERROR, "start refused: %s", why);
	stop_now(p, EXIT_FAILURE);
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

static void on_start_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct process *p = timer->data;
	char why[600];

	(void)loop;
	(void)events;
	relay_explain_delay(&p->relay, relay_start_seconds(&p->config), why, sizeof why);
	on_refused(p, why);
}

/* systemd must not give the start up earlier. */
static void arm_start_deadline(struct process *p)
{
	double seconds = relay_start_seconds(&p->config);
	char state[64];

	snprintf(state, sizeof state, "EXTEND_TIMEOUT_USEC=%.0f", (seconds + EXIT_SECONDS) * 1e6);
	systemd_notify(state);
	timer_arm(p->loop, &p->start_deadline, seconds);
}

/* The end */

static void on_idle(struct ev_loop *loop, struct ev_prepare *watcher, int events)
{
	struct process *p = watcher->data;

	(void)loop;
	(void)events;
	if (relay_is_idle(&p->relay))
		stop_now(p, EXIT_SUCCESS);
}

static void on_stop_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	stop_now(timer->data, EXIT_SUCCESS);
}

/* Requests that are being published are still answered; no new ones are read. */
static void on_signal(struct ev_loop *loop, struct ev_signal *watcher, int events)
{
	struct process *p = watcher->data;

	(void)events;
	if (p->stopping)
		return;
	p->stopping = true;
	diag(DIAG_NOTICE, "stopping on %s", watcher->signum == SIGTERM ? "SIGTERM" : "SIGINT");
	systemd_notify("STOPPING=1");
	listener_close(&p->listeners.all[LISTENER_WORKERS]);
	relay_stop(&p->relay);
	ev_prepare_start(loop, &p->idle);
	timer_arm(loop, &p->stop_deadline, STOP_SECONDS);
}

static void watch(struct process *p)
{
	signal(SIGPIPE, SIG_IGN);
	ev_signal_init(&p->sigterm, on_signal, SIGTERM);
	ev_signal_init(&p->sigint, on_signal, SIGINT);
	timer_init(&p->start_deadline, on_start_deadline, p);
	timer_init(&p->stop_deadline, on_stop_deadline, p);
	ev_prepare_init(&p->idle, on_idle);
	p->sigterm.data = p->sigint.data = p->idle.data = p;
	ev_signal_start(p->loop, &p->sigterm);
	ev_signal_start(p->loop, &p->sigint);
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
	int result = config_load(&p->config, argc, argv);
	if (result != 0)
		return result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	systemd_init();
	config_fit_descriptors(&p->config, OPS_CONNECTIONS_MAX + METRICS_CONNECTIONS_MAX + OTHER_DESCRIPTORS);
	p->loop = ev_default_loop(EVFLAG_AUTO | EVFLAG_NOENV);
	if (!p->loop) {
		diag(DIAG_ERROR, "start refused: the kernel provides no event loop");
		return EXIT_FAILURE;
	}
	if (listeners_claim(&p->listeners, &p->config) < 0)
		return EXIT_FAILURE;
	watch(p);
	result = relay_open(&p->relay, p->loop, &p->config, &events, p);
	if (result < 0) {
		diag(DIAG_ERROR, "start refused: cannot allocate a backlog of %zu bytes: %s",
			p->config.backlog_size, strerror(-result));
		return EXIT_FAILURE;
	}
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
