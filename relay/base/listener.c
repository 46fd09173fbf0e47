/* The process that holds an flock on "PATH.lock" owns PATH. So it can remove a socket that a
 * killed relay left, without a race against a live relay. The lock file is never removed:
 * otherwise two processes could each hold a lock on a file of this name. */
#include "base/listener.h"

#include "base/clock.h"
#include "base/diag.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Connections to accept at a time, and the pause when more wait in the kernel's queue. To
 * accept one takes some 20 microseconds, and to greet it as much again. This accepts some
 * 10,000 a second. */
#define ACCEPT_BATCH 16
#define ACCEPT_REST_SECONDS 0.001
/* The pause after accept() had no descriptor or memory. */
#define ACCEPT_PAUSE_SECONDS 0.1

static struct diag_limit accept_limit;

int listener_claim(struct listener *l, const char *path)
{
	char lock_path[sizeof l->path + 8];

	*l = (struct listener){.fd = -1};
	snprintf(l->path, sizeof l->path, "%s", path);
	snprintf(lock_path, sizeof lock_path, "%s.lock", path);
	l->lock_fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (l->lock_fd < 0)
		return -errno;
	if (flock(l->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	int r = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
	close(l->lock_fd);
	l->lock_fd = -1;
	return r;
}

static void pause_accepting(struct listener *l, double seconds)
{
	ev_io_stop(l->loop, &l->acceptor);
	timer_arm(l->loop, &l->pause, seconds);
}

/* The connection stays in the kernel's queue, so without a pause the loop would spin. */
static void cannot_accept(struct listener *l, const char *why)
{
	diag_limited(
		&accept_limit, DIAG_WARNING, "a connection cannot be accepted now: %s path=%s", why, l->path);
	pause_accepting(l, ACCEPT_PAUSE_SECONDS);
}

static void on_acceptable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct listener *l = watcher->data;

	(void)loop;
	if (events & EV_ERROR) {
		cannot_accept(l, "the kernel watches no more sockets for the relay");
		return;
	}
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			l->accepted(l->context, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			cannot_accept(l, strerror(errno));
			return;
		}
		if (errno != EINTR && errno != ECONNABORTED)
			return;
	}
	pause_accepting(l, ACCEPT_REST_SECONDS);
}

static void on_pause_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct listener *l = timer->data;

	(void)events;
	ev_io_start(loop, &l->acceptor);
}

static int remove_stale(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	return unlink(path) < 0 ? -errno : 0;
}

void listener_inherit(struct listener *l, int fd)
{
	struct sockaddr_un address = {0};
	socklen_t len = sizeof address;

	*l = (struct listener){.inherited = true, .fd = fd, .lock_fd = -1};
	if (getsockname(fd, (struct sockaddr *)&address, &len) == 0)
		snprintf(l->path, sizeof l->path, "%.*s", (int)sizeof address.sun_path, address.sun_path);
}

_Static_assert(sizeof((struct listener *)NULL)->path > sizeof((struct sockaddr_un *)NULL)->sun_path,
	"a path has a NUL, also one that fills its sockaddr");

static int bind_and_listen(struct listener *l, unsigned mode)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int r = remove_stale(l->path);

	if (r < 0)
		return r;
	memcpy(address.sun_path, l->path, sizeof address.sun_path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* A connect() before listen() fails, so the mode is in force for the first
	 * connection. */
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || chmod(l->path, (mode_t)mode) < 0 ||
		listen(fd, SOMAXCONN) < 0) {
		r = -errno;
		/* The lock says that it belongs to this relay. */
		unlink(l->path);
		close(fd);
		return r;
	}
	l->fd = fd;
	return 0;
}

int listener_open(struct listener *l, struct ev_loop *loop, unsigned mode,
	void (*accepted)(void *context, int fd), void *context)
{
	int r = l->inherited ? 0 : bind_and_listen(l, mode);

	if (r < 0)
		return r;
	l->loop = loop;
	l->accepted = accepted;
	l->context = context;
	ev_io_init(&l->acceptor, on_acceptable, l->fd, EV_READ);
	timer_init(&l->pause, on_pause_over, l);
	l->acceptor.data = l;
	ev_io_start(loop, &l->acceptor);
	return 0;
}

void listener_close(struct listener *l)
{
	if (l->fd >= 0) {
		if (l->loop) {
			ev_io_stop(l->loop, &l->acceptor);
			ev_timer_stop(l->loop, &l->pause);
		}
		/* On a path of systemd's, clients wait for the next relay. */
		if (!l->inherited)
			unlink(l->path);
		close(l->fd);
		l->fd = -1;
	}
	if (l->lock_fd >= 0)
		close(l->lock_fd);
	l->lock_fd = -1;
	l->inherited = false;
}
