/* All parts of the relay in flow order, as main assembles them. Only main and the ops module, which reports on all of them, see
 * this. */
#pragma once

#include "canary.h"
#include "config.h"
#include "decode.h"
#include "fanout.h"
#include "gate.h"
#include "ops.h"
#include "publisher.h"
#include "upstream.h"

struct relay {
	struct ev_loop *loop;
	struct config config;
	struct upstream upstream;
	struct decode decode;
	struct fanout fanout; /* backlog, router, workers */
	struct gate gate;
	struct publisher publisher;
	struct canary canary;
	struct ops ops;
	struct gate ops_gate;

	ev_tstamp started;
	bool ready;    /* start-up is over: failures are retried from now on */
	bool stopping; /* the signal has come */
	int exit_status;
	struct ev_timer start_deadline, stop_deadline;
	struct ev_prepare publisher_settled; /* once stopping */
	struct ev_signal sigterm, sigint;
};
