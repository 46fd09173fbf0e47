/* Calls of the app's callbacks: wire structs become public ones, strings get their NUL, and what ran is
 * counted. What to tell, and when, is decided by session and local.
 *
 * After any of these ask handle_goes_on(). The handle's memory is there until the dispatch returns. */
#pragma once

#include "handle.h"

/* The strings of what is told stand in a buffer of ours, and the byte behind each is overwritten. */
void tell_change(struct pgherald *h, const struct wire_change *change);
void tell_message(struct pgherald *h, const struct wire_message *message);
void tell_gap(struct pgherald *h, const struct wire_gap *gap);

/* A gap of the library's own making. */
void tell_refused(struct pgherald *h, const char *text);

void tell_state(struct pgherald *h, enum pgherald_event event, const char *text);

/* done may be NULL, and so may result.text. */
void tell_done(struct pgherald *h, pgherald_done *done, void *arg, struct pgherald_result result);

/* Tell how a publish ended, and free it. */
void tell_published(struct pgherald *h, struct publish *pub, struct pgherald_result result);

/* Run the completions that are ready now. Those that become ready meanwhile wait for the next time, so that
 * an app that always asks again cannot hold up the loop. */
void tell_ready(struct pgherald *h);

/* End a string that wire_decode() found with a NUL. NULL for nil. */
const char *tell_text(struct wire_str s);
