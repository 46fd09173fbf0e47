/* Bytes on their way to a socket whose reader may be slow: the answers of the ops and the
 * metrics socket. It grows as it is filled; its owner bounds how much waits, and for how long.
 * Workers have none: their frames stay in the backlog. All zero at first. */
#pragma once

#include <stddef.h>
#include <stdio.h>

struct outbox {
	char *bytes;
	size_t start, end, size;
	/* By clock_now(): when the socket last took a byte, or the first byte began to wait. */
	double progress;
};

/* 0 or -ENOMEM: nothing was added. */
int outbox_add(struct outbox *outbox, const char *bytes, size_t len);
/* Take back what was added last, until only this many bytes wait. */
void outbox_cut(struct outbox *outbox, size_t waiting);
/* A stream that adds what is written to it; NULL: out of memory. outbox_end_stream() closes it:
 * 0; -ENOMEM: not all of it was added. open_memstream() would not report that. */
FILE *outbox_stream(struct outbox *outbox);
int outbox_end_stream(FILE *stream);
/* Send what the socket takes. 0: all is sent. -EAGAIN: the socket is full. Another negative
 * errno: the reader is gone. */
int outbox_send(struct outbox *outbox, int fd);
static inline size_t outbox_waiting(const struct outbox *outbox)
{
	return outbox->end - outbox->start;
}
void outbox_free(struct outbox *outbox);
