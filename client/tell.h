/* Calls the app's callbacks: converts wire structs to public ones, ends strings with a NUL, and
 * counts the calls. session, local and pgherald.c decide what to tell, and when.
 *
 * Call handle_goes_on() after each of these. The handle is not freed before the dispatch
 * returns. */
#pragma once

#include "handle.h"

/* The strings must be in a buffer that may be written to: the byte after each is
 * overwritten. */
void tell_change(struct pgherald *h, const struct wire_change *change);
void tell_message(struct pgherald *h, const struct wire_message *message);
void tell_gap(struct pgherald *h, const struct wire_gap *gap);

/* A gap that the library itself found: cause "refused". */
void tell_refused(struct pgherald *h, const char *text);

void tell_state(struct pgherald *h, enum pgherald_event event, const char *text);

/* done may be NULL, and so may result.text. */
void tell_done(struct pgherald *h, pgherald_done *done, void *arg, struct pgherald_result result);

/* Run the completion of a publish that was removed from publishes, and free it. */
void tell_published(struct pgherald *h, struct publish *pub, struct pgherald_result result);

/* Run the completions that are ready now. Those that become ready meanwhile wait for the
 * next call, so an app whose completions always subscribe again cannot hold up its own loop. */
void tell_ready(struct pgherald *h);

/* Write a NUL after a string from wire_decode(), and return it. NULL for nil. */
const char *tell_text(struct wire_str s);
