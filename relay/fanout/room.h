/* Bounds what waits for workers that do not read: for one, for a user, for all. A worker
 * without room waits: its requests are parked, or it is starved of recovered changes, until it
 * or others have read. reader.c asks before each request, catch_up.c before each recovered
 * change; delivery.c reports what was read. */
#pragma once

#include <stdbool.h>

struct fanout;
struct user;
struct worker;

/* Call it when the private queue or the input has grown or shrunk. If it shrunk, workers that
 * wait may be served. */
void room_account(struct worker *worker);

/* Whether the answer to one more request has room. */
bool room_for_answer(const struct worker *worker);
/* Whether a recovered change has room. If not, requests.takes_more() follows. */
bool room_takes_more(struct worker *worker);

/* There is no room for an answer: the worker's requests wait until it reads, or until others of
 * its user have read. */
void room_wait(struct worker *worker);
/* Lets one parked worker of the user go on, if there is room now. */
void room_wake_one(struct user *user);
/* Serves all parked workers, so that reader.c finds those that are gone. Call it every
 * second. */
void room_look_after_parked(struct fanout *fanout);

/* The worker is disconnected, and waits no more. */
void room_leave(struct worker *worker);
