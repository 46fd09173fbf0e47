/* What the ops command "tail" shows: each frame that is appended to the backlog, of all
 * channels, of one, or of one pubkey. This chooses and prints. ops.c calls it for each frame,
 * and bounds what waits for a slow reader: it counts frames that do not fit, and shows the
 * count where they are missing. */
#pragma once

#include "base/config.h"
#include "wire.h"

#include <stdio.h>

#define TAIL_PUBKEY_MAX 1024

struct tail {
	bool on, json;
	char channel[CHANNEL_NAME_MAX + 1]; /* empty: all */
	char pubkey[TAIL_PUBKEY_MAX];       /* empty: all */
	uint64_t dropped;                   /* frames, since the last one that was shown */
};

bool tail_wants(const struct tail *tail, const struct wire_frame *frame);
void tail_print(bool json, const struct wire_frame *frame, FILE *out);
/* Say that tail->dropped frames are missing here, and set it to 0. */
void tail_print_dropped(struct tail *tail, FILE *out);
