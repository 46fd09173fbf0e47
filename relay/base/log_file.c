#include "base/log_file.h"

#include "base/printable.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes: the longest line of diag.c, of which a terminal may take a part. */
#define REST_MAX 4096

/* How to write without waiting. O_NONBLOCK on stderr itself would change it for the processes
 * that share it. */
enum way {
	PLAIN,  /* a file, or /dev/null: a write does not wait for a reader */
	SOCKET, /* MSG_DONTWAIT */
	OWN,    /* a pipe or a terminal, opened once more, with O_NONBLOCK, in its place */
	POLLED, /* one that cannot be opened: a write after poll() waits only if others fill it just then */
};

static struct {
	/* Threads that connect write too, through libpq. */
	pthread_mutex_t lock;
	enum way way;
	/* The end of a line of which only the beginning was taken. */
	char rest[REST_MAX];
	size_t rest_len;

	struct ev_loop *loop;
	struct ev_io writer;
	bool failed; /* the last line */
	void (*drained)(void);
} file = {.lock = PTHREAD_MUTEX_INITIALIZER};

static ssize_t attempt(const char *bytes, size_t len)
{
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

	if (file.way == SOCKET)
		return send(STDERR_FILENO, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (file.way == POLLED && poll(&p, 1, 0) == 0) {
		errno = EAGAIN;
		return -1;
	}
	return write(STDERR_FILENO, bytes, len);
}

/* 0 or a negative errno. */
static int put_rest(void)
{
	while (file.rest_len > 0) {
		ssize_t n = attempt(file.rest, file.rest_len);
		if (n < 0)
			return -errno;
		file.rest_len -= (size_t)n;
		memmove(file.rest, file.rest + n, file.rest_len);
	}
	return 0;
}

/* 0; or a negative errno, and then nothing of it was taken. */
static int put(const char *bytes, size_t len)
{
	int r = put_rest();
	ssize_t n = r < 0 ? -1 : attempt(bytes, len);

	if (r < 0)
		return r;
	if (n < 0)
		return -errno;
	if ((size_t)n < len && len - (size_t)n <= sizeof file.rest) {
		file.rest_len = len - (size_t)n;
		memcpy(file.rest, bytes + n, file.rest_len);
	}
	return 0;
}

static int put_locked(const char *bytes, size_t len)
{
	pthread_mutex_lock(&file.lock);
	int r = put(bytes, len);
	pthread_mutex_unlock(&file.lock);
	return r;
}

bool log_file_write(const char *line, size_t len)
{
	int r = put_locked(line, len);

	if (!file.loop)
		return r == 0;
	/* After other errors, such as a full disk, there is nothing to wait for. */
	if (r == -EAGAIN)
		ev_io_start(file.loop, &file.writer);
	else if (r == 0 && file.failed)
		ev_feed_event(file.loop, &file.writer, EV_WRITE);
	file.failed = r < 0 && r != -EAGAIN;
	return r == 0;
}

/* What a library prints is text of the server's, so it is escaped like any other. */
static void print_line(const char *text, size_t len)
{
	char line[REST_MAX];
	size_t n = (size_t)snprintf(line, sizeof line, "<4>WARNING: libpq prints: ");

	n += printable_copy(line + n, sizeof line - 1 - n, text, len);
	line[n++] = '\n';
	put_locked(line, n);
}

static ssize_t on_print(void *cookie, const char *bytes, size_t len)
{
	const char *end = bytes + len, *newline;

	(void)cookie;
	for (const char *line = bytes; line < end; line = newline + 1) {
		newline = memchr(line, '\n', (size_t)(end - line));
		if (!newline)
			newline = end;
		if (newline > line)
			print_line(line, (size_t)(newline - line));
	}
	return (ssize_t)len;
}

static enum way way_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return PLAIN;
	if (S_ISSOCK(st.st_mode))
		return SOCKET;
	return S_ISFIFO(st.st_mode) || isatty(fd) ? OWN : PLAIN;
}

/* libpq prints what a server sends to a session that is still being made. */
static void redirect_libraries(void)
{
	FILE *print = fopencookie(NULL, "w", (cookie_io_functions_t){.write = on_print});

	if (!print)
		return;
	setvbuf(print, NULL, _IONBF, 0);
	stderr = print;
}

void log_file_open(void)
{
	file.way = way_of(STDERR_FILENO);
	if (file.way == OWN) {
		int fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (fd < 0 || dup3(fd, STDERR_FILENO, O_CLOEXEC) < 0)
			file.way = POLLED;
		if (fd >= 0)
			close(fd);
	}
	redirect_libraries();
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)events;
	ev_io_stop(loop, watcher);
	pthread_mutex_lock(&file.lock);
	int r = put_rest();
	pthread_mutex_unlock(&file.lock);
	if (r == 0)
		file.drained();
}

void log_file_watch(struct ev_loop *loop, void (*drained)(void))
{
	file.loop = loop;
	file.drained = drained;
	ev_io_init(&file.writer, on_writable, STDERR_FILENO, EV_WRITE);
}
