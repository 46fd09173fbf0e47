#include "local_relay.h"

#include "base/diag.h"
#include "input.h"

#include "base/clock.h"

#include <sys/socket.h>

static struct relay relay;

static void on_publish(
	void *context, struct worker_ref worker, uint64_t request, unsigned topic, struct wire_str payload)
{
	struct relay *r = context;
	struct decoded decoded;
	int result = decode_notification(&r->decode, r->config.channels[topic - 1].name, payload, &decoded);

	must(result == 0);
	fanout_decoded(&r->fanout, &decoded, 0);
	decoded_release(&decoded);
	worker_published(&r->fanout, worker, request, NULL, NULL);
}

static void on_catch_up(void *context, struct worker *worker)
{
	struct relay *r = context;

	catch_up_begin(&r->catch_up, worker, false);
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

static void load(struct config *config)
{
	char *argv[] = {(char[]){"pgherald"}, (char[]){"--channels=data,log:text"},
		(char[]){"--backlog-size=64K"}, (char[]){"--subscriptions-max=100"},
		(char[]){"--worker-queue-size=16K"}, NULL};

	must(config_load(config, 5, argv) == 0 && config->mode == MODE_LOCAL);
}

struct relay *local_relay_start(void)
{
	struct relay *r = &relay;
	struct worker_requests requests = {r, on_publish, on_catch_up, on_takes_more, on_forget};
	struct config config = r->config;

	/* The settings are those of a process. */
	if (config.n_channels == 0)
		load(&config);
	*r = (struct relay){.loop = ev_default_loop(EVFLAG_AUTO), .config = config};
	must(r->loop);
	/* All there is to say is looked at. */
	diag_set_level(DIAG_DEBUG);
	r->started = clock_now();
	r->ready = true;
	r->decode.config = &r->config;
	must(fanout_open(&r->fanout, r->loop, &r->config, &requests) == 0);
	memset(r->fanout.router.secret, 1, sizeof r->fanout.router.secret);
	memcpy(r->fanout.epoch, LOCAL_RELAY_EPOCH, sizeof LOCAL_RELAY_EPOCH);
	recovery_init(&r->recovery, r->loop, &r->config, &r->fanout, &r->decode, &r->upstream);
	catch_up_init(&r->catch_up, r->loop, &r->config, &r->fanout, &r->recovery, &r->upstream);
	reconcile_init(
		&r->reconcile, &r->config, &r->fanout, &r->publisher, &r->recovery, r->canary.channels);
	ops_init(&r->ops, r);
	metrics_socket_init(&r->metrics_socket, r);
	return r;
}

void local_relay_end(void)
{
	struct relay *r = &relay;

	ops_close(&r->ops);
	metrics_socket_close(&r->metrics_socket);
	fanout_close_workers(&r->fanout, "shutdown", "the relay ends");
	reconcile_close(&r->reconcile);
	catch_up_close(&r->catch_up);
	recovery_close(&r->recovery);
	fanout_close(&r->fanout);
}

void local_relay_turn(void)
{
	do
		ev_run(relay.loop, EVRUN_NOWAIT);
	while (!TAILQ_EMPTY(&relay.fanout.asking.ring) || !TAILQ_EMPTY(&relay.fanout.sending.ring));
}

void local_relay_hear(const char *channel, struct wire_str value)
{
	struct decoded decoded;

	must(decode_recovered(&relay.decode, channel, value, &decoded) == 0);
	fanout_decoded(&relay.fanout, &decoded, 0);
}

int local_relay_connect(void (*accepted)(void *context, int fd), void *context, bool small)
{
	int fds[2], size = 4096;

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
	if (small)
		must(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0);
	accepted(context, fds[0]);
	return fds[1];
}

void local_relay_accept_worker(void *context, int fd)
{
	struct relay *r = context;

	worker_open(&r->fanout, fd);
}
