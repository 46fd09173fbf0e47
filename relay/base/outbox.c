#include "base/outbox.h"

#include "base/clock.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int outbox_add(struct outbox *o, const char *bytes, size_t len)
{
	if (len == 0)
		return 0;
	if (outbox_waiting(o) == 0)
		o->progress = clock_now();
	if (o->size - o->end < len && o->start > 0) {
		memmove(o->bytes, o->bytes + o->start, outbox_waiting(o));
		o->end -= o->start;
		o->start = 0;
	}
	if (o->size - o->end < len) {
		size_t size = o->size ? o->size : 4096;
		while (size - o->end < len)
			size *= 2;
		char *larger = realloc(o->bytes, size);
		if (!larger)
			return -ENOMEM;
		o->bytes = larger;
		o->size = size;
	}
	memcpy(o->bytes + o->end, bytes, len);
	o->end += len;
	return 0;
}

static ssize_t write_to(void *outbox, const char *bytes, size_t len)
{
	return outbox_add(outbox, bytes, len) < 0 ? 0 : (ssize_t)len;
}

FILE *outbox_stream(struct outbox *o)
{
	return fopencookie(o, "w", (cookie_io_functions_t){.write = write_to});
}

int outbox_end_stream(FILE *stream)
{
	bool good = fflush(stream) == 0 && !ferror(stream);

	return fclose(stream) == 0 && good ? 0 : -ENOMEM;
}

void outbox_cut(struct outbox *o, size_t waiting)
{
	o->end = o->start + waiting;
}

int outbox_send(struct outbox *o, int fd)
{
	while (outbox_waiting(o) > 0) {
		ssize_t n = send(fd, o->bytes + o->start, outbox_waiting(o), MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		o->start += (size_t)n;
		o->progress = clock_now();
	}
	outbox_free(o);
	return 0;
}

void outbox_free(struct outbox *o)
{
	free(o->bytes);
	*o = (struct outbox){0};
}
