/* Decides who is told of a gap when memory for recovered changes is short: of the user that keeps
 * most, the waiters of the question for which most is kept, once they have made no room for too
 * long. catch_up.c calls it, and tells them. */
#pragma once

#include "recovery/catch_up.h"

/* Seconds between two looks while the shortage lasts. */
#define SHORTAGE_LOOK_SECONDS 0.5
/* How long a worker may take nothing. Longer than a healthy one pauses between two reads. */
#define SHORTAGE_STALL_SECONDS 15.
/* The same while others wait for the memory. Reading a little, too
 * little to make room, does not start the count again. */
#define SHORTAGE_PATIENCE_SECONDS 5.
_Static_assert(
	(int)SHORTAGE_PATIENCE_SECONDS < (int)SHORTAGE_STALL_SECONDS, "patience is shorter when others wait");

/* Whether a row or a question waits for memory. */
bool shortage_lasts(const struct catch_up *catch_up);
/* Call it every SHORTAGE_LOOK_SECONDS while the shortage lasts. Marks waiters that are overdue,
 * and returns the question whose waiters shall be told; NULL: none. */
struct catch_up_question *shortage_mark_overdue(struct catch_up *catch_up);
