/* The notifier without a relay: what the handle publishes comes back to it, in the next dispatch. For one
 * process that is alone, and for tests of apps. Called by a dispatch of pgherald.c instead of session. */
#pragma once

struct pgherald;

/* One turn. What is published by callbacks meanwhile waits for the next. Ask handle_goes_on() after it. */
void local_turn(struct pgherald *h);
