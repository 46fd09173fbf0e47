/* What a worker sends, read by hand. wire_decode() unpacks all of a frame: 65,536 bytes of elements that
 * nobody asked for take it a millisecond. This reads only the elements that the type has, and leaves pubkeys
 * packed, so that whoever takes them can stop in between. The relay calls it. */
#pragma once

#include "wire.h"

/* Strings that are still to be read, as a place in their frame: it may move meanwhile. */
struct wire_strs {
	uint32_t offset; /* of the next; 0: there is no array, but nil */
	uint32_t left;
};

/* Read a frame that wire_scan() accepted. As wire_decode(), but *pubkeys are those of SUBSCRIBE and
 * UNSUBSCRIBE, not looked at yet, and out->subscribe.pubkeys is NULL; and of a frame that is the relay's to
 * send only the type is read. Its strings stay valid as long as frame. 0, -EPROTO or -ENOTSUP. */
int wire_request_read(const void *frame, size_t len, struct wire_frame *out, struct wire_strs *pubkeys);

/* Take the next of strs->left strings. False: it is no string. */
bool wire_strs_next(struct wire_strs *strs, const void *frame, size_t len, struct wire_str *out);
