#include "reload.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/systemd.h"

#include <stdio.h>

static void on_again(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	reload_start(timer->data);
}

void reload_init(struct reload *l, struct relay *relay, struct config *config, unsigned n_descriptors)
{
	*l = (struct reload){.relay = relay, .config = config, .n_descriptors = n_descriptors};
	timer_init(&l->again, on_again, l);
}

static void finish(struct reload *l)
{
	l->running = false;
	if (l->relay->ready)
		systemd_notify("READY=1");
	if (l->asked)
		timer_arm(l->relay->loop, &l->again, 0);
}

static void on_prepared(void *context, const char *why)
{
	struct reload *l = context;

	if (why) {
		config_drop(&l->fresh);
		diag(DIAG_ERROR, "the settings stay as they were: PostgreSQL refuses to LISTEN: %s", why);
		finish(l);
		return;
	}
	const struct config before = *l->config;
	unsigned n = config_take(l->config, &l->fresh);
	config_fit_descriptors(l->config, l->n_descriptors);
	relay_reloaded(l->relay, &before);
	diag(DIAG_NOTICE, "the settings were read again changed=%u", n);
	finish(l);
}

/* systemd waits for READY=1. */
static void say_reloading(const struct reload *l)
{
	char state[64];

	if (!l->relay->ready)
		return;
	snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%.0f", clock_now() * 1e6);
	systemd_notify(state);
}

void reload_start(struct reload *l)
{
	if (l->running) {
		l->asked = true;
		return;
	}
	l->running = true;
	l->asked = false;
	say_reloading(l);
	if (config_reread(l->config, &l->fresh) < 0) {
		diag(DIAG_ERROR, "the settings stay as they were: the line before says what is wrong");
		finish(l);
		return;
	}
	relay_prepare(l->relay, &l->fresh, on_prepared, l);
}

void reload_stop(struct reload *l)
{
	if (l->running)
		config_drop(&l->fresh);
	l->running = l->asked = false;
	ev_timer_stop(l->relay->loop, &l->again);
	upstream_forget_more(&l->relay->upstream);
}
