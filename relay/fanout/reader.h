/* What a worker sends, from its socket to the frames that requests.c is given, a slice at a time. The
 * schedule says when; a slice ends when it has cost READER_SLICE, wherever in a frame or among pubkeys that
 * is. What was read and not done waits in the worker's input, which is bounded: more is read only when it
 * holds no whole frame. Before each frame there must be room for its answer (room.h). connection.c calls it.
 */
#pragma once

struct worker;

/* The socket has bytes. */
void reader_ready(struct worker *worker);
/* One slice of its requests. The worker may be ended after this. */
void reader_serve(struct worker *worker);
void reader_free(struct worker *worker);
