#include "local_relay.h"

#include "base/diag.h"
#include "input.h"

#include <sys/socket.h>

static struct relay relay;

static void on_proved(void *context)
{
	relay_serve(context);
}

static void on_refused(void *context, const char *why)
{
	(void)context;
	(void)why;
	must(false);
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
	static const struct relay_events events = {on_proved, on_refused};
	static struct config config;
	struct ev_loop *loop = ev_default_loop(EVFLAG_AUTO);

	/* A process loads its settings once. */
	if (config.n_channels == 0)
		load(&config);
	must(loop);
	/* Log lines of all levels are checked. */
	diag_set_level(DIAG_DEBUG);
	must(relay_open(&relay, loop, &config, &events, &relay) == 0);
	memset(relay.fanout.router.secret, 1, sizeof relay.fanout.router.secret);
	memcpy(relay.fanout.epoch, LOCAL_RELAY_EPOCH, sizeof LOCAL_RELAY_EPOCH);
	relay_start(&relay);
	return &relay;
}

void local_relay_end(void)
{
	relay_close(&relay);
}

void local_relay_run(void)
{
	do
		ev_run(relay.loop, EVRUN_NOWAIT);
	while (!schedule_is_idle(&relay.fanout.asking) || !schedule_is_idle(&relay.fanout.sending));
}

void local_relay_hear(const char *channel, struct wire_str value)
{
	struct decoded decoded;

	must(decode_recovered(&relay.decode, channel, value, value.len, &decoded) == 0);
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
