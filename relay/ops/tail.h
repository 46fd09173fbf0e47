/* What the ops command "tail" shows: each frame as it goes into the backlog, of all channels, of one, or of
 * one pubkey. Chooses and prints; the ops socket feeds it, and bounds what waits for a reader that is slow:
 * what does not fit is counted, and the count shown where it is missing. */
#pragma once

#include "base/config.h"
#include "wire.h"

#include <stdio.h>

#define TAIL_PUBKEY_MAX 1024

struct tail {
	bool on, json;
	char channel[CHANNEL_NAME_MAX + 1]; /* empty: all */
	char pubkey[TAIL_PUBKEY_MAX];       /* empty: all */
	uint64_t dropped;                   /* since the last that was shown */
};

bool tail_wants(const struct tail *tail, const struct wire_frame *frame);
void tail_print(bool json, const struct wire_frame *frame, FILE *out);
/* That tail->dropped are missing here. */
void tail_print_dropped(struct tail *tail, FILE *out);
