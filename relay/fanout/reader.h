/* Reads a worker's socket and gives its frames to requests.c, a slice at a time. connection.c
 * calls it when the schedule serves the worker.
 *
 * A slice ends when it has cost READER_SLICE, even in the middle of a frame's pubkeys. What was
 * read and not done waits in the worker's input. The input is bounded: more is read only when
 * it contains no whole frame. Each frame is done only if its answer has room (room.h). */
#pragma once

struct worker;

/* The socket is readable: adds the worker to the schedule. */
void reader_ready(struct worker *worker);
/* Does one slice of its requests. May end the worker. */
void reader_serve(struct worker *worker);
/* Frees the input. */
void reader_free(struct worker *worker);
