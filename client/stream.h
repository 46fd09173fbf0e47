/* The bytes of the connection to the relay: a non-blocking socket, what has arrived cut into frames, and
 * what is to be sent. What frames mean, when to connect, and who waits for the socket, is session's
 * business, its only caller. */
#pragma once

#include "wire.h"

#include <stdbool.h>

/* Holds a partial frame, and as much again, so that one recv can take 64 KiB. */
#define STREAM_IN_SIZE ((size_t)2 * WIRE_FRAME_MAX)
#define STREAM_OUT_SIZE WIRE_FRAME_MAX

struct stream {
	int fd; /* -1: not connected */
	/* Received and not yet handed out: in[in_start, in_end). A byte of slack follows STREAM_IN_SIZE. */
	char *in;
	size_t in_start, in_end;
	struct wire_scanner scanner; /* in the frame that begins at in_start */
	/* Not yet sent: out[out_start, out_end). */
	char *out;
	size_t out_start, out_end;
};

/* 0 or -ENOMEM; stream_free() undoes it either way. */
int stream_init(struct stream *stream);
void stream_free(struct stream *stream);

/* Whether the path is no longer than a socket address can hold. stream_connect() relies on it. */
bool stream_path_fits(const char *path);

/* 0, or a negative errno: nobody listens there (now), a full listening queue (-EAGAIN), no permission, ... */
int stream_connect(struct stream *stream, const char *path);

/* End the connection, also where a forked child still holds the socket. What was not handled or sent is
 * gone. */
void stream_disconnect(struct stream *stream);

/* Take in what has arrived, once. Only when stream_frame() has returned -EAGAIN. How many bytes; -EAGAIN:
 * none for now; -ECONNRESET: the relay ended the connection; another negative errno. */
int stream_receive(struct stream *stream);

/* Whether the last stream_receive() took all it could, so that there may be more. */
bool stream_full(const struct stream *stream);

/* Hand out the next frame, and where it ends. Its strings may be written to, and the byte at *end too if that
 * is put back, until the next call of stream_receive().
 * 0; -EAGAIN: no complete frame is there; -ENOTSUP: one of an unknown type was passed over; -EBADMSG,
 * -EMSGSIZE or -EPROTO: what arrived is none; -ENOMEM. */
int stream_frame(struct stream *stream, struct wire_decoder *decoder, struct wire_frame *out, char **end);

/* Room behind what is to be sent, and how much of it was filled. An empty buffer has room for any frame. */
char *stream_room(struct stream *stream, size_t *size);
void stream_fill(struct stream *stream, size_t len);

/* Send. 0: all of it; -EAGAIN: the socket is full; another negative errno: the connection is broken. */
int stream_flush(struct stream *stream);
