/* One worker process: assembles what serves, runs the loop, and ends it without breaking off what is under
 * way. Called by main.c in the child, after the fork. */
#pragma once

#include "listener.h"
#include "settings.h"

/* How long requests that are under way may take at the end, and streams to read their last event. */
#define STOP_SECONDS 10
#define STOP_STREAMS_SECONDS 1

/* Serve until SIGTERM or SIGINT, which are blocked when it is called. One byte is written to ready_fd when it
 * serves. Returns the exit status. */
int worker_run(const struct settings *settings, int listen_fd, int ready_fd);
