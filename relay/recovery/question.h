/* Who waits for what one worker missed: users, their questions, and the waiters of each, with the lists on
 * which they stand and the memory that is kept for them. Only keeps the account. catch_up, its only caller,
 * asks and feeds; the structures are in its header. */
#pragma once

#include "recovery/catch_up.h"

/* Finds the user, or makes one. NULL: memory is short. */
struct catch_up_user *question_make_user(struct catch_up *catch_up, uid_t uid);
/* Frees a user that has no worker here. */
void question_drop_idle_user(struct catch_up *catch_up, struct catch_up_user *user);

/* A question without waiters. NULL: there is no memory for it now. */
struct catch_up_question *question_new(struct catch_up *catch_up, struct catch_up_user *user);
/* It has no lane and no waiters. Its user may be gone with it. */
void question_free(struct catch_up *catch_up, struct catch_up_question *question);
/* Whether the next row may come. */
bool question_make_room(struct catch_up *catch_up, struct catch_up_question *question);
/* Call it after whatever may change how much the question's spool holds. */
void question_account(struct catch_up *catch_up, struct catch_up_question *question);
/* Whether the relay's checkpoint is of the run of the server that was asked. moment: as the server said. */
bool question_is_of_run(const struct checkpoint *latest, const char *moment);
/* The checkpoint that the worker continues from; after a gap, NULL when that is not known. Valid as long as
 * the question and worker->passed. */
const char *question_passed(const struct catch_up_question *question, const struct worker *worker, bool gap);

/* To another list; NULL for none. */
void question_place(struct catch_up_waiter *waiter, struct catch_up_waiters *list);
/* Make waiters of all that wait and ask from this checkpoint. Only before it is asked. */
void question_join_all(struct catch_up_question *question, const char *token);
/* Free the waiter, which may be one that waits. Its question stays, even if nobody is left. */
void question_remove(struct catch_up *catch_up, struct catch_up_waiter *waiter);
