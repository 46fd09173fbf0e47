/* Does what each frame of a worker asks. Publishing and catching up happen elsewhere, and
 * connection.c answers them later. Frames with pubkeys are done in portions. reader.c calls
 * it. */
#pragma once

#include "fanout/worker.h"

/* Does what the frame asks. frame: borrowed until this returns. May end the worker. */
void requests_do(struct worker *worker, const struct wire_frame *frame);

/* Begins a SUBSCRIBE or UNSUBSCRIBE with pubkeys. The frame must stay at the start of the input
 * until requests_subscribe() is done with it. */
void requests_subscribe_begin(struct worker *worker, uint32_t frame_len, const struct wire_strs *pubkeys);
/* Continues with it until it is done, or until *cost is used up: what it costs, in nanoseconds,
 * is subtracted. Returns whether it is done. May end the worker. */
bool requests_subscribe(struct worker *worker, const unsigned char *frame, int *cost);
