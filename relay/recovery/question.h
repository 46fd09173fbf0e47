/* The bookkeeping of catch_up: users, their questions, the waiters of each, the lists they are
 * in, and the memory that is kept for them. The structures are in catch_up.h. It does not ask
 * the database or feed workers: catch_up.c, its only caller, does. */
#pragma once

#include "recovery/catch_up.h"

/* Finds the user, or makes one. NULL: out of memory. */
struct catch_up_user *question_make_user(struct catch_up *catch_up, uid_t uid);
/* Frees the user if no worker of it is left. */
void question_drop_idle_user(struct catch_up *catch_up, struct catch_up_user *user);

/* A question from this checkpoint, without waiters. NULL: out of memory for now. */
struct catch_up_question *question_new(
	struct catch_up *catch_up, struct catch_up_user *user, struct checkpoint *since);
/* The question must have no lane and no waiters. Frees its user too, if that was its last. */
void question_free(struct catch_up *catch_up, struct catch_up_question *question);
/* Frees all that have neither a lane nor a waiter. */
void question_free_idle(struct catch_up *catch_up);
/* Makes room for a row of any size, if the user may have more memory. Returns whether there is
 * room. */
bool question_make_room(struct catch_up *catch_up, struct catch_up_question *question);
/* Counts the memory of the question's spool. Call it after each change of the spool. */
void question_account(struct catch_up *catch_up, struct catch_up_question *question);
/* Whether the relay's checkpoint is of the run that was asked. moment: of the answer. Either
 * may be NULL. */
bool question_is_of_run(const struct checkpoint *latest, const char *moment);
/* The checkpoint that the worker continues from; NULL after a gap when none is known. Borrowed
 * from the question or from worker->passed, whichever changes first. */
const char *question_passed(const struct catch_up_question *question, const struct worker *worker, bool gap);

/* Moves the waiter to this list; NULL: to none. Takes it out of the schedule. */
void question_place(struct catch_up_waiter *waiter, struct catch_up_waiters *list);
/* Adds each waiter of the user that waits for a lane and asks the same. */
void question_join_all(struct catch_up_question *question);
/* Adds the waiter to a question of its user that asks the same and still has all rows. False: it has
 * no such question. */
bool question_join_any(const struct catch_up *catch_up, struct catch_up_waiter *waiter);
/* Gives back what all waiters have taken, of all questions. */
void question_trim_all(struct catch_up *catch_up);
/* Frees the waiter. Its question stays, even without waiters. */
void question_remove(struct catch_up *catch_up, struct catch_up_waiter *waiter);
