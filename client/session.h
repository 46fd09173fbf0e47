/* The conversation with the relay, as PROTOCOL.md has it: connect, greet, resume, requests and answers, and
 * what follows when the connection breaks. Called by a dispatch of pgherald.c; what it learns goes to cursor,
 * subscriptions, publishes, and through tell to the app. */
#pragma once

#include "stream.h"
#include "wake.h"

struct pgherald;

struct session {
	struct stream stream;
	bool welcomed;       /* WELCOME came: requests to publish may go */
	bool begin_due;      /* HELLO had a resume, and BEGIN is still to be sent behind the SUBSCRIBEs */
	bool output_blocked; /* the wake looks for room to send */
	uint64_t begin_id;   /* of the BEGIN that has no OK yet; 0: none */
	uint64_t welcomed_at;
	uint64_t retry_at;     /* when not connected */
	unsigned int failures; /* in a row: they make the pause longer */
	char reason[256];      /* why it is not connected, as the app was told last; empty: not told */
};

/* 0 or -ENOMEM; session_free() undoes it either way. */
int session_init(struct session *session);

/* One turn: connect if it is time, take in and handle what has come; socket says whether something has.
 * Bounded; true: there may be more. Ask handle_goes_on() after it. */
bool session_turn(struct pgherald *h, uint64_t now, enum wake_socket socket);

/* Send what is due, as far as the socket takes it. Ask handle_goes_on() after it. */
void session_flush(struct pgherald *h);

/* End the connection without a word to the app, for good. */
void session_end(struct pgherald *h);

/* Free the memory and this process's descriptor, and nothing that a parent process shares. */
void session_free(struct session *session);
