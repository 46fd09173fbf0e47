/* A relay for tests of the client library, which does and says only what a test tells it to; and an app
 * that writes down what its callbacks heard. Both run in the test's own thread: whatever waits for the
 * worker dispatches its handle meanwhile, so that every step is where the test put it. */
#pragma once

#include "pgherald.h"
#include "wire.h"

#include <stdbool.h>

struct relay {
	char directory[32];
	char path[64];
	int listener; /* -1: stopped */
	int fd;       /* the worker's connection; -1: none */
	struct wire_decoder *decoder;
	char in[2 * WIRE_FRAME_MAX];
	size_t in_start, in_end;
	struct wire_frame frame; /* the one that relay_expect() found */
};

struct app {
	struct pgherald *h; /* NULL once it is closed */
	struct relay *relay;
	bool waits;                      /* by pgherald_wait(), and never asks for the descriptor */
	struct pgherald_options options; /* as given to open */
	char heard[65536];               /* a line for each callback, oldest first */
	size_t heard_len;
};

/* A relay that listens in a new temporary directory, and an app that has opened a handle for it, with
 * cursor or NULL. relay may be NULL: the local notifier. change may set other options. */
void relay_start(struct relay *relay);
void relay_listen(struct relay *relay); /* again, after relay_stop() */
void relay_stop(struct relay *relay);   /* gone: no listener, no connection */
void relay_end(struct relay *relay);    /* and nothing of it left */
void app_open(
	struct app *app, struct relay *relay, const char *cursor, void (*change)(struct pgherald_options *));
void app_close(struct app *app);

/* Fail unless the worker, dispatched meanwhile, connects; or sends a frame of this type, which is then the
 * next. */
void relay_accept(struct app *app);
struct wire_frame *relay_expect(struct app *app, enum wire_type type);

/* Fail if the worker sends something within a few turns. */
void relay_expect_nothing(struct app *app);

/* End the connection. */
void relay_drop(struct relay *relay);

/* Send any bytes. */
void relay_send_bytes(struct relay *relay, const void *bytes, size_t len);

/* The frames that tests send most. */
void relay_ok(struct relay *relay, uint64_t id, uint64_t seq);
void relay_change(struct relay *relay, uint64_t seq, const char *pubkey);
void relay_checkpoint(struct relay *relay, uint64_t seq, const char *checkpoint);

/* Accept, take the HELLO (which is then relay->frame) and say WELCOME. */
void relay_greet(struct app *app, const char *epoch, uint64_t seq);

/* Accept, greet, and answer the one SUBSCRIBE or the resume that follows. */
void relay_settle(struct app *app, const char *epoch, uint64_t seq);

/* Dispatch until what was heard since the last call begins with these lines; fail when there is more, or
 * less. */
void app_expect(struct app *app, const char *lines);

/* Requests that must be accepted. Their completion is heard as "done LABEL ERROR SEQ"; without a label
 * there is none. */
void app_subscribe(struct app *app, const char *channel, const char *pubkey, const char *label);
void app_notify(struct app *app, const char *pubkey, const char *label);

/* That completion; arg is the label. */
void app_done(struct pgherald *h, const struct pgherald_result *result, void *arg);
void *app_label(const char *label);

/* To write down a line of one's own, and to know whose a handle is. */
void app_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
struct app *app_current(void);

/* Dispatch a few turns, for what must not happen. */
void app_turns(struct app *app);

/* The handle's cursor, valid until the next call; "none". */
const char *app_cursor(struct app *app);

void sleep_ms(int ms);
