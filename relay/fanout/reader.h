/* Reads a worker's socket, and gives its frames to requests.c, a slice at a time. What was read
 * and not done waits in the worker's input. A frame is done only if its answer has room
 * (room.h). connection.c calls it when the schedule serves the worker. */
#pragma once

struct worker;

/* The socket is readable: adds the worker to the schedule. */
void reader_ready(struct worker *worker);
/* Does requests until they have cost READER_SLICE, even if that ends in the middle of a frame's
 * pubkeys. May end the worker. */
void reader_serve(struct worker *worker);
/* Frees the input. */
void reader_free(struct worker *worker);
