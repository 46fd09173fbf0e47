/* The bytes of the connection to the relay: a non-blocking socket, an input buffer that is
 * cut into frames, and an output buffer. It leaves out what frames mean, when to connect,
 * and who waits for the socket: session, its only caller, decides that. */
#pragma once

#include "wire.h"

#include <stdbool.h>

/* Bytes. Room for a partial frame, and as much again, so that one recv() can take 64 KiB. */
#define STREAM_IN_SIZE ((size_t)2 * WIRE_FRAME_MAX)
#define STREAM_OUT_SIZE WIRE_FRAME_MAX

struct stream {
	int fd; /* -1 if not connected */
	/* Received and not yet handed out: in[in_start, in_end). One more byte follows
	 * STREAM_IN_SIZE, for the NUL after a last string. */
	char *in;
	size_t in_start, in_end;
	struct wire_scanner scanner; /* of the frame that begins at in_start */
	/* Not yet sent: out[out_start, out_end). */
	char *out;
	size_t out_start, out_end;
};

/* Returns 0 or -ENOMEM. stream_free() undoes it in both cases. */
int stream_init(struct stream *stream);
void stream_free(struct stream *stream);

/* Whether a socket address can hold the path. stream_connect() relies on it. */
bool stream_path_fits(const char *path);

/* Returns 0, or the negative errno of socket() or connect(): -ECONNREFUSED if no relay
 * listens, -EAGAIN if its queue is full, ... */
int stream_connect(struct stream *stream, const char *path);

/* Close the connection, even if a forked child still holds the socket. Bytes that were not
 * handled or sent are dropped. */
void stream_disconnect(struct stream *stream);

/* One recv(). Only after stream_frame() has returned -EAGAIN. Returns the number of bytes,
 * -EAGAIN if there are none now, -ECONNRESET if the relay closed the connection, or another
 * negative errno. */
int stream_receive(struct stream *stream);

/* Whether the last stream_receive() filled the buffer, so that there may be more. */
bool stream_full(const struct stream *stream);

/* Hand out the next frame, and where it ends. Its strings are valid until the next
 * stream_receive(). Until then the caller may write to them, and to the byte at *end if it puts
 * that back.
 *
 * Returns 0, or:
 * -EAGAIN   no complete frame has arrived
 * -ENOTSUP  a frame of an unknown type was skipped
 * -EBADMSG, -EMSGSIZE, -EPROTO  what arrived is not a frame
 * -ENOMEM */
int stream_frame(struct stream *stream, struct wire_decoder *decoder, struct wire_frame *out, char **end);

/* The free space after what is to be sent. Then stream_fill() says how many bytes of it were
 * written. An empty buffer has room for any frame. */
char *stream_room(struct stream *stream, size_t *size);
void stream_fill(struct stream *stream, size_t len);

/* Send. Returns 0 if everything was sent, -EAGAIN if the socket is full, or another negative
 * errno if the connection is broken. */
int stream_flush(struct stream *stream);
