/* All parts of the relay, as the operators' side sees them: what it shows of each, and the few that its
 * commands act on. relay.c fills it in. */
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

struct parts {
	struct ev_loop *loop;
	const struct config *config;
	struct upstream *upstream;
	const struct decode *decode;
	struct fanout *fanout;
	struct publisher *publisher;
	const struct canary *canary;
	const struct recovery *recovery;
	const struct catch_up *catch_up;
	const struct reconcile *reconcile;
	const struct ops *ops;
	const struct metrics_socket *metrics_socket;
	const struct rates *rates;
	double started; /* of clock_now() */
	bool stopping;  /* it serves to the end what was begun, and takes nothing new */
};
