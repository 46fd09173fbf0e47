/* One worker process: assembles the parts, runs the loop, and ends without interrupting
 * requests. main.c calls it in the child, after the fork. */
#pragma once

#include "listener.h"
#include "settings.h"

/* Seconds at the end: for requests to finish, and for streams to read their last event. */
#define STOP_SECONDS 10
#define STOP_STREAMS_SECONDS 1

/* Serve until SIGTERM or SIGINT, which the caller has blocked. Writes one byte to ready_fd
 * when it serves. Returns the exit status. */
int worker_run(const struct settings *settings, int listen_fd, int ready_fd);
