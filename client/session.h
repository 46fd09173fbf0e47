/* The worker's side of PROTOCOL.md: connecting, HELLO, resuming, requests and answers, and
 * what follows when the connection breaks. A dispatch in pgherald.c calls it. It updates
 * cursor, subscriptions and publishes, and calls the app's callbacks through tell. */
#pragma once

#include "stream.h"
#include "wake.h"

struct pgherald;

struct session {
	struct stream stream;
	bool welcomed;         /* WELCOME came: requests to publish may go */
	bool begin_due;        /* HELLO had a resume, and BEGIN must follow the SUBSCRIBEs */
	bool output_blocked;   /* the socket is full: wake watches for room */
	uint64_t begin_id;     /* of the BEGIN that waits for its OK; 0 if none does */
	uint64_t welcomed_at;  /* nanoseconds of wake_clock() */
	uint64_t retry_at;     /* the same; when to connect again */
	unsigned int failures; /* in a row; each makes the pause longer */
	char reason[256];      /* why it is not connected, as on_state was told last; or empty */
};

/* Returns 0 or -ENOMEM. session_free() undoes it in both cases. */
int session_init(struct session *session);

/* The receiving half of one dispatch: connect if it is time, receive and handle a bounded
 * number of frames. socket: what wake_wait() said of it. Returns true if there may be more.
 * Call handle_goes_on() after it. */
bool session_turn(struct pgherald *h, uint64_t now, enum wake_socket socket);

/* The sending half: send what is due, as far as the socket takes it. Call handle_goes_on()
 * after it. */
void session_flush(struct pgherald *h);

/* Outside of a dispatch: send what is due, if the socket has taken all before and no request to
 * publish waits for its answer. False if something is left for the next dispatch. No callback
 * runs. */
bool session_send_first(struct pgherald *h);

/* Close the connection for good. No callback runs. */
void session_end(struct pgherald *h);

/* Free the memory and close this process's descriptor. A connection that a parent process
 * shares stays. */
void session_free(struct session *session);
