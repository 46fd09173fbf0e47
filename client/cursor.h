/* The worker's place in the relay's order: when it moves, as PROTOCOL.md says under "The
 * cursor", and its text, which an app may store. Pure memory without I/O; session tells it
 * what the relay sent. */
#pragma once

#include "wire.h"

/* Bytes. More than PROTOCOL.md allows, so that a later relay may send longer ones. Escaped,
 * both fit into PGHERALD_CURSOR_SIZE. */
#define CURSOR_EPOCH_MAX 255
#define CURSOR_CHECKPOINT_MAX 2000

struct cursor {
	bool set; /* false if never connected and none was given */
	uint64_t seq;
	uint32_t epoch_len, checkpoint_len;
	bool has_checkpoint;
	char epoch[CURSOR_EPOCH_MAX], checkpoint[CURSOR_CHECKPOINT_MAX];

	/* From a WELCOME until the OK to BEGIN the cursor keeps its old place. Otherwise a
	 * connection lost in between would skip what is still to come. */
	bool catching_up;
	bool replay; /* the epoch is the cursor's own: seqs count even while catching up */
	uint32_t next_epoch_len;
	char next_epoch[CURSOR_EPOCH_MAX]; /* the relay's; the OK to BEGIN makes it the cursor's */
};

/* Fill the three values of resume in a HELLO. The cursor must be set. The strings are
 * borrowed from it. */
void cursor_resume(const struct cursor *cursor, struct wire_hello *hello);

/* WELCOME came, on a connection whose HELLO had a resume exactly if the cursor was set.
 * Returns 0, or -EPROTO if the epoch is too long. */
int cursor_welcome(struct cursor *cursor, const struct wire_welcome *welcome);

/* A frame with this seq (or WIRE_SEQ_NIL) has been handled. */
void cursor_passed(struct cursor *cursor, uint64_t seq);

/* A CHECKPOINT arrived. One that is too long is ignored: with an older one, more is owed,
 * not less. */
void cursor_checkpoint(struct cursor *cursor, const struct wire_checkpoint *checkpoint);

/* The OK to BEGIN arrived, with this seq. */
void cursor_caught_up(struct cursor *cursor, uint64_t seq);

/* Write its text and a NUL. Returns the length without the NUL, -ENODATA if not set, or
 * -ENOSPC. */
int cursor_format(const struct cursor *cursor, char *buf, size_t size);

/* Returns 0, or -EBADMSG if text is malformed. */
int cursor_parse(struct cursor *cursor, const char *text);
