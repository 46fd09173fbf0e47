#include "stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int stream_init(struct stream *s)
{
	*s = (struct stream){.fd = -1, .in = malloc(STREAM_IN_SIZE + 1), .out = malloc(STREAM_OUT_SIZE)};
	return s->in && s->out ? 0 : -ENOMEM;
}

void stream_free(struct stream *s)
{
	if (s->fd >= 0)
		close(s->fd);
	free(s->in);
	free(s->out);
}

bool stream_path_fits(const char *path)
{
	return strlen(path) < sizeof((struct sockaddr_un *)NULL)->sun_path;
}

int stream_connect(struct stream *s, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memcpy(address.sun_path, path, strlen(path) + 1);
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->fd < 0)
		return -errno;
	/* On a Unix socket connect() is never in progress: it succeeds or fails at once. */
	if (connect(s->fd, (struct sockaddr *)&address, sizeof address) < 0) {
		int r = -errno;
		close(s->fd);
		s->fd = -1;
		return r;
	}
	return 0;
}

void stream_disconnect(struct stream *s)
{
	shutdown(s->fd, SHUT_RDWR);
	close(s->fd);
	s->fd = -1;
	s->in_start = s->in_end = 0;
	s->out_start = s->out_end = 0;
	s->scanner = (struct wire_scanner){0};
}

int stream_receive(struct stream *s)
{
	/* What is left is part of one frame, so this makes room for at least a whole one. */
	memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
	s->in_end -= s->in_start;
	s->in_start = 0;

	ssize_t n;
	do
		n = recv(s->fd, s->in + s->in_end, STREAM_IN_SIZE - s->in_end, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (n == 0)
		return -ECONNRESET;
	s->in_end += (size_t)n;
	return (int)n;
}

bool stream_full(const struct stream *s)
{
	return s->in_end == STREAM_IN_SIZE;
}

int stream_frame(struct stream *s, struct wire_decoder *decoder, struct wire_frame *out, char **end)
{
	size_t len = 0;
	int r = wire_next(&s->scanner, decoder, s->in + s->in_start, s->in_end - s->in_start, out, &len);

	s->in_start += len;
	*end = s->in + s->in_start;
	return r;
}

char *stream_room(struct stream *s, size_t *size)
{
	*size = STREAM_OUT_SIZE - s->out_end;
	return s->out + s->out_end;
}

void stream_fill(struct stream *s, size_t len)
{
	s->out_end += len;
}

int stream_flush(struct stream *s)
{
	while (s->out_start < s->out_end) {
		ssize_t n = send(s->fd, s->out + s->out_start, s->out_end - s->out_start, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		s->out_start += (size_t)n;
	}
	s->out_start = s->out_end = 0;
	return 0;
}
