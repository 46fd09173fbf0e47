/* The worker's place in the relay's order, as PROTOCOL.md's "The cursor" has it: when it moves, and its
 * text, which an app may store. Pure; session tells it what the relay said. */
#pragma once

#include "wire.h"

#define CURSOR_EPOCH_MAX 255
#define CURSOR_CHECKPOINT_MAX 2000

struct cursor {
	bool set; /* false: never connected, and none was given */
	uint64_t seq;
	uint32_t epoch_len, checkpoint_len;
	bool has_checkpoint;
	char epoch[CURSOR_EPOCH_MAX], checkpoint[CURSOR_CHECKPOINT_MAX];

	/* From a WELCOME until the OK to BEGIN it keeps its place, lest a drop in between skip what is
	 * still to come. */
	bool catching_up;
	bool replay; /* the relay's run is the cursor's own: seqs count even while catching up */
	uint32_t next_epoch_len;
	char next_epoch[CURSOR_EPOCH_MAX]; /* the relay's, to be taken with the OK to BEGIN */
};

/* For a HELLO: the three values of resume. Only when it is set. */
void cursor_resume(const struct cursor *cursor, struct wire_hello *hello);

/* A connection whose HELLO had a resume exactly if the cursor was set. 0, or -EPROTO: no epoch that can be
 * kept. */
int cursor_welcome(struct cursor *cursor, const struct wire_welcome *welcome);

/* A frame with this seq (or WIRE_SEQ_NIL) has been handled. */
void cursor_passed(struct cursor *cursor, uint64_t seq);

/* A CHECKPOINT arrived. One too long to keep is passed over: with an older one, more is owed, not less. */
void cursor_checkpoint(struct cursor *cursor, const struct wire_checkpoint *checkpoint);

/* OK to BEGIN, at seq. */
void cursor_caught_up(struct cursor *cursor, uint64_t seq);

/* Its text, NUL-terminated. The length, -ENODATA when not set, or -ENOSPC. */
int cursor_format(const struct cursor *cursor, char *buf, size_t size);

/* 0, or -EBADMSG when text is no cursor. */
int cursor_parse(struct cursor *cursor, const char *text);
