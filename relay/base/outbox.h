/* Bytes on their way to a socket whose reader may be slow: what the ops and the metrics socket answer. Grows
 * as it is filled; how much may wait, and for how long, its owner says. Workers have none: what they are owed
 * stands in the backlog. */
#pragma once

#include <stddef.h>
#include <stdio.h>

struct outbox {
	char *bytes;
	size_t start, end, size;
	double progress; /* when the socket last took something, or the first byte came to wait */
};

/* 0 or -ENOMEM: nothing was added. */
int outbox_add(struct outbox *outbox, const char *bytes, size_t len);
/* Take back what was added last, but for so many bytes that wait. */
void outbox_cut(struct outbox *outbox, size_t waiting);
/* A stream that adds what is written to it; open_memstream() would not tell that something is missing. NULL:
 * memory is short. outbox_end_stream(): 0 or -ENOMEM: not all of it was added. */
FILE *outbox_stream(struct outbox *outbox);
int outbox_end_stream(FILE *stream);
/* 0: all is sent. -EAGAIN: the socket is full. Another negative errno: the reader is gone. */
int outbox_send(struct outbox *outbox, int fd);
static inline size_t outbox_waiting(const struct outbox *outbox)
{
	return outbox->end - outbox->start;
}
void outbox_free(struct outbox *outbox);
