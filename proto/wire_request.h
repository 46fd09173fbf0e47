/* The frames of a worker, read by hand. wire_decode() unpacks a whole frame: 65,536 bytes of
 * surplus elements take it a millisecond. This reads only the elements that the type has. It
 * leaves pubkeys packed, so that the reader of them can stop in between. The relay calls it. */
#pragma once

#include "wire.h"

/* Strings that are still to be read, as an offset in their frame, because the frame may move
 * meanwhile. */
struct wire_strs {
	uint32_t offset; /* of the next string; 0 if the frame has nil instead of an array */
	uint32_t left;
};

/* Read a frame that wire_scan() accepted. Strings in *out are valid as long as frame.
 * Differences from wire_decode(): the pubkeys of SUBSCRIBE and UNSUBSCRIBE are not checked
 * yet and are in *pubkeys, not in out->subscribe.pubkeys, which is NULL. Of a frame that
 * only the relay may send, only the type is read. Returns 0, -EPROTO or -ENOTSUP as
 * wire_decode() does. */
int wire_request_read(const void *frame, size_t len, struct wire_frame *out, struct wire_strs *pubkeys);

/* Read the next of strs->left strings. Returns false if none is left, or if it is not a string. */
bool wire_strs_next(struct wire_strs *strs, const void *frame, size_t len, struct wire_str *out);
