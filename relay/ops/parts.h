/* All parts of the relay, for the operators' side: most are only shown, the others are what its
 * commands act on. relay.c fills it in, and keeps all of them as long as the ops and the
 * metrics socket. */
#pragma once

#include "fanout/fanout.h"
#include "ops/metrics_socket.h"
#include "ops/ops.h"
#include "ops/rates.h"
#include "postgres/publisher.h"
#include "postgres/upstream.h"
#include "recovery/canary.h"
#include "recovery/catch_up.h"
#include "recovery/reconcile.h"
#include "recovery/recovery.h"
#include "recovery/tracking.h"

struct parts {
	struct ev_loop *loop;
	const struct config *config;
	struct upstream *upstream;
	const struct decode *decode;
	struct fanout *fanout;
	struct publisher *publisher;
	const struct canary *canary;
	const struct rights_told *told;
	const struct recovery *recovery;
	const struct catch_up *catch_up;
	const struct reconcile *reconcile;
	const struct tracking *tracking;
	const struct ops *ops;
	const struct metrics_socket *metrics_socket;
	const struct rates *rates;
	double started; /* by clock_now() */
	bool stopping;  /* a signal has come: it takes no new workers */
};
