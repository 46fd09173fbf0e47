#include "fanout/worker.h"

#include "fanout/fanout.h"

const char *const worker_state_names[] = {
	[WORKER_NEW] = "new",
	[WORKER_RESUMING] = "resuming",
	[WORKER_CATCHING_UP] = "catching-up",
	[WORKER_LIVE] = "live",
	[WORKER_DEAD] = "dead",
};

const char *const worker_limit_names[LIMITS_N] = {
	[LIMIT_WORKERS] = "workers",
	[LIMIT_WORKERS_PER_UID] = "workers_per_uid",
	[LIMIT_SUBSCRIPTIONS] = "subscriptions",
	[LIMIT_SUBSCRIPTIONS_PER_UID] = "subscriptions_per_uid",
	[LIMIT_SUBSCRIPTIONS_TOTAL] = "subscriptions_total",
	[LIMIT_WORKER_QUEUE] = "worker_queue",
	[LIMIT_WORKER_QUEUES] = "worker_queues",
	[LIMIT_WORKER_PUBLISHES] = "worker_publishes",
	[LIMIT_FRAME] = "frame",
};

void worker_end(struct worker *w, enum wire_bye_code code, const char *reason)
{
	if (w->ended)
		return;
	w->ended = true;
	w->end_code = code;
	w->end_reason = reason;
	worker_ask(w);
}

void worker_ask(struct worker *w)
{
	schedule_add(&w->fanout->asking, &w->asking);
}

void worker_send(struct worker *w)
{
	schedule_add(&w->fanout->sending, &w->sending);
}

void worker_resume_reading(struct worker *w)
{
	if (w->reading || w->ended || w->fanout->stopping)
		return;
	w->reading = true;
	w->input.more = true;
	worker_ask(w);
}

void worker_stop_reading(struct worker *w)
{
	w->reading = false;
	ev_io_stop(w->fanout->loop, &w->reader);
}

void worker_note_checkpoint(struct worker *w)
{
	struct checkpoint *at =
		w->state == WORKER_LIVE ? checkpoint_history_at(&w->fanout->checkpoints, w->cursor) : NULL;

	if (at && (!w->passed || w->passed->seq < at->seq)) {
		checkpoint_unref(w->passed);
		w->passed = checkpoint_ref(at);
	}
}
