/* How much may wait for workers that do not read: for one, for all of a user, for all. Who has no room waits:
 * its requests are parked, its recovered changes starve, until others have read. The reader asks before each
 * request, the catch-up before each recovered change. */
#pragma once

#include <stdbool.h>

struct fanout;
struct user;
struct worker;

/* The private queue or the input has grown or shrunk. */
void room_account(struct worker *worker);

/* There is room for the answer to one more request. */
bool room_for_answer(const struct worker *worker);
/* There is room for a recovered change. If not, requests.takes_more() follows. */
bool room_takes_more(struct worker *worker);

/* There is no room: its requests wait until it reads, or until others of its user have read. */
void room_wait(struct worker *worker);
/* One that waits for its user goes on, if there is room now. */
void room_wake_one(struct user *user);
/* Every second: those who wait are served, so that it shows which of them are gone. */
void room_look_after_parked(struct fanout *fanout);

/* It waits no more: it is disconnected. */
void room_leave(struct worker *worker);
