/* The local notifier, which needs no relay: the handle hears what it publishes, in the next
 * dispatch. It is for a single process, and for tests of apps. A dispatch in pgherald.c
 * calls it instead of session. */
#pragma once

struct pgherald;

/* The work of one dispatch. What callbacks publish meanwhile waits for the next dispatch.
 * Call handle_goes_on() after it. */
void local_turn(struct pgherald *h);
