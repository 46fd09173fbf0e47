/* All parts of the relay in flow order, as main assembles them. Only main and the ops module, which reports
 * on all of them, see this. */
#pragma once

#include "recovery/canary.h"
#include "recovery/catch_up.h"
#include "base/config.h"
#include "fanout/decode.h"
#include "fanout/fanout.h"
#include "listeners.h"
#include "ops/metrics_socket.h"
#include "ops/ops.h"
#include "postgres/publisher.h"
#include "ops/rates.h"
#include "recovery/reconcile.h"
#include "recovery/recovery.h"
#include "postgres/upstream.h"

struct relay {
	struct ev_loop *loop;
	struct config config;
	struct upstream upstream;
	struct decode decode;
	struct fanout fanout; /* backlog, router, workers */
	struct publisher publisher;
	struct canary canary;
	struct recovery recovery;
	struct catch_up catch_up;
	struct reconcile reconcile;
	struct ops ops;
	struct metrics_socket metrics_socket;
	struct gates gates;
	struct rates rates;
	struct ev_timer second;

	double started;
	/* Tokens of canaries, where nobody reconciles, until they are an interval old. */
	struct checkpoint_waiting waiting;
	/* Of the canary that proved the upstream, while what it missed is recovered; empty when none did. */
	char proved[CHECKPOINT_TOKEN_MAX + 1];
	bool ready;    /* start-up is over: failures are retried from now on */
	bool stopping; /* the signal has come */
	int exit_status;
	struct ev_timer start_deadline, stop_deadline;
	struct ev_prepare publisher_settled; /* once stopping */
	struct ev_signal sigterm, sigint;
};
