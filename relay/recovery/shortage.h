/* Who is told of a gap when there is no room for more recovered changes: of the user that holds most, the
 * worker for which most is kept, when it has made no room for too long. Only decides; catch_up calls it, and
 * acts. */
#pragma once

#include "recovery/catch_up.h"

/* How often to look while a shortage lasts. */
#define SHORTAGE_LOOK_SECONDS 0.5
/* A worker that took nothing for so long. Longer than a healthy one may pause between two reads. */
#define SHORTAGE_STALL_SECONDS 15.
/* While others wait: one that took too little to make room for so long, all times together. */
#define SHORTAGE_PATIENCE_SECONDS 5.

/* Whether somebody is to be given what there is no room for. */
bool shortage_lasts(const struct catch_up *catch_up);
/* Call it every SHORTAGE_LOOK_SECONDS while the shortage lasts. Returns the question of the waiters that are
 * overdue, which are marked, or NULL. */
struct catch_up_question *shortage_mark_overdue(struct catch_up *catch_up);
