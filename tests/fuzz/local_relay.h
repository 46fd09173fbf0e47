/* The relay in local mode, as main assembles it, without sockets to listen on and without a process: a target
 * hands it one end of socket pairs. Nothing in it is random. For the targets of whole sessions. */
#pragma once

#include "relay.h"

/* The channels "data", of changes, and "log", of texts, and the smallest backlog. Nothing is left of the one
 * before. */
struct relay *local_relay_start(void);
void local_relay_end(void);
/* Turns of the loop, which do not wait, until nobody is ready any more. */
void local_relay_turn(void);

/* As if PostgreSQL had brought it. */
void local_relay_hear(const char *channel, struct wire_str value);

#define LOCAL_RELAY_EPOCH "0123456789abcdef0123456789abcdef"

/* The other end of a connection that accepted() was given; it does not block. small: it takes little at a
 * time. */
int local_relay_connect(void (*accepted)(void *context, int fd), void *context, bool small);
