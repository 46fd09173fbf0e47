/* What each frame of a worker's does. Publishing and catching up go on elsewhere, and are answered later. A
 * frame with pubkeys is done in portions. The reader calls it. */
#pragma once

#include "fanout/worker.h"

/* Do what the frame asks. The worker may be ended after this. */
void requests_do(struct worker *worker, const struct wire_frame *frame);

/* Begin a SUBSCRIBE or UNSUBSCRIBE with pubkeys. */
void requests_subscribe_begin(struct worker *worker, uint32_t frame_len, const struct wire_strs *pubkeys);
/* Go on with it until it is done, or until *cost, from which is taken what it costs in nanoseconds, is used
 * up. Whether it is done. The worker may be ended after this. */
bool requests_subscribe(struct worker *worker, const unsigned char *frame, int *cost);
