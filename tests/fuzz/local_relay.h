/* The relay in local mode, without listening sockets and without a process around it: a target
 * hands it one end of socket pairs. Nothing in it is random. The targets of whole sessions use
 * it. */
#pragma once

#include "relay.h"

/* A new relay with the channels "data", of changes, and "log", of texts, and the smallest
 * backlog. */
struct relay *local_relay_start(void);
void local_relay_end(void);
/* Iterations of the loop, without waiting, until no connection is ready. */
void local_relay_run(void);

/* As if PostgreSQL had sent it. */
void local_relay_hear(const char *channel, struct wire_str value);

#define LOCAL_RELAY_EPOCH "0123456789abcdef0123456789abcdef"

/* The other end of a connection that is handed to accepted(); it does not block. small: its
 * send buffer is small. */
int local_relay_connect(void (*accepted)(void *context, int fd), void *context, bool small);
