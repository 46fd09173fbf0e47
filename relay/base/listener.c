/* The process that holds an flock on "PATH.lock" owns PATH. So it can remove a socket that a
 * killed relay left, without a race against a live relay. The lock file is never removed:
 * otherwise two processes could each hold a lock on a file of this name. Somebody else may remove
 * it nevertheless, so a socket that answers is not removed either. */
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
/* Bytes that setsockopt() doubles. What the kernel keeps of what a peer does not read counts against
 * the unit's MemoryMax=, so it must not depend on the host's net.core.wmem_default. The last write may
 * go beyond it by some 53 KiB: together at most 240 KiB, as in the sum in settings.c. */
#define SEND_BUFFER (92 << 10)
/* Of Linux 6.16, with this number where a relay runs; older headers do not have it. */
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
/* The pause after accept() had no descriptor or memory. */
#define ACCEPT_PAUSE_SECONDS 0.1

static struct diag_limit accept_limit, path_limit;

/* Locks the file that has this path now. Returns its descriptor; -EADDRINUSE: another process has
 * locked it; another negative errno. */
static int take_lock(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0)
		return fd;
	int r = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
	close(fd);
	return r;
}

static struct sockaddr_un address_of(const struct listener *l)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memcpy(address.sun_path, l->path, sizeof address.sun_path);
	return address;
}

/* 0: no process listens at the path, or there is nothing; -EADDRINUSE: one does; another negative
 * errno: it is not a socket of this kind, or not one that we may connect to. */
static int is_free(const struct listener *l)
{
	struct sockaddr_un address = address_of(l);
	struct stat st;

	if (lstat(l->path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int r = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : -EADDRINUSE;
	close(fd);
	/* EAGAIN: its queue is full. */
	return r == -ECONNREFUSED || r == -ENOENT ? 0 : r == -EAGAIN ? -EADDRINUSE : r;
}

int listener_claim(struct listener *l, const char *path)
{
	*l = (struct listener){.fd = -1, .lock_fd = -1};
	snprintf(l->path, sizeof l->path, "%s", path);
	snprintf(l->lock_path, sizeof l->lock_path, "%s.lock", path);
	int fd = take_lock(l->lock_path);
	if (fd < 0)
		return fd;
	int r = is_free(l);
	/* listener_open() says what is wrong with another file. */
	if (r < 0 && r != -ENOTSOCK) {
		close(fd);
		return r;
	}
	l->lock_fd = fd;
	return 0;
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

static void hand_over(struct listener *l, int fd)
{
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){SEND_BUFFER}, sizeof(int));
	l->accepted(l->context, fd);
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
			hand_over(l, fd);
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

static bool find_inode(const char *path, struct listener_inode *out)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return false;
	*out = (struct listener_inode){st.st_dev, st.st_ino};
	return true;
}

static bool is_inode(const char *path, const struct listener_inode *inode)
{
	struct listener_inode found;

	return find_inode(path, &found) && found.device == inode->device && found.number == inode->number;
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

/* Returns the socket, or a negative errno. */
static int bind_and_listen(struct listener *l)
{
	struct sockaddr_un address = address_of(l);
	int r = is_free(l);

	if (r == 0 && unlink(l->path) < 0 && errno != ENOENT)
		r = -errno;
	int fd = r == 0 ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) : -1;
	if (fd < 0)
		return r < 0 ? r : -errno;
	if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		r = -errno;
		close(fd);
		return r;
	}
	/* A connect() before listen() fails, so the rights are in force for the first
	 * connection. */
	if ((l->rights.group != (gid_t)-1 && lchown(l->path, (uid_t)-1, l->rights.group) < 0) ||
		chmod(l->path, (mode_t)l->rights.mode) < 0 || !find_inode(l->path, &l->inode) ||
		listen(fd, SOMAXCONN) < 0) {
		r = -errno;
		unlink(l->path);
		close(fd);
		return r;
	}
	return fd;
}

/* A peer may pass descriptors, though the relay asks for none. It then closes them as it reads, and
 * that may take as long as the peer likes: for example of a TCP socket with SO_LINGER. Connections have
 * this from their listener. Older kernels cannot refuse (SECURITY.md). */
static void refuse_descriptors(int fd)
{
	(void)setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &(int){0}, sizeof(int));
}

static void accept_from(struct listener *l, int fd)
{
	refuse_descriptors(fd);
	l->fd = fd;
	ev_io_init(&l->acceptor, on_acceptable, fd, EV_READ);
	l->acceptor.data = l;
	ev_io_start(l->loop, &l->acceptor);
}

int listener_open(struct listener *l, struct ev_loop *loop, const struct listener_rights *rights,
	void (*accepted)(void *context, int fd), void *context)
{
	l->rights = *rights;
	int fd = l->inherited ? l->fd : bind_and_listen(l);

	if (fd < 0)
		return fd;
	if (l->inherited)
		find_inode(l->path, &l->inode);
	l->loop = loop;
	l->accepted = accepted;
	l->context = context;
	timer_init(&l->pause, on_pause_over, l);
	accept_from(l, fd);
	return 0;
}

/* The path */

/* 0: we hold the lock on the file that has the lock's path. */
static int keep_lock(struct listener *l)
{
	struct stat st;

	if (l->lock_fd >= 0) {
		if (fstat(l->lock_fd, &st) == 0 &&
			is_inode(l->lock_path, &(struct listener_inode){st.st_dev, st.st_ino}))
			return 0;
		close(l->lock_fd);
	}
	l->lock_fd = take_lock(l->lock_path);
	if (l->lock_fd >= 0)
		return 0;
	int r = l->lock_fd;
	l->lock_fd = -1;
	return r;
}

/* Those that have connected to the socket whose path is gone are served. */
static void accept_rest(struct listener *l)
{
	int fd;

	while ((fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
		hand_over(l, fd);
}

/* 0 or a negative errno. */
static int listen_again(struct listener *l)
{
	int fd = bind_and_listen(l);

	if (fd < 0)
		return fd;
	accept_rest(l);
	ev_io_stop(l->loop, &l->acceptor);
	ev_timer_stop(l->loop, &l->pause);
	close(l->fd);
	accept_from(l, fd);
	return 0;
}

static void say_again(struct listener *l)
{
	diag_limited(&path_limit, DIAG_WARNING,
		"the path of a socket was removed or replaced, and the relay listens there again; find who "
		"removes it path=%s",
		l->path);
}

static void say_trouble(struct listener *l, int r)
{
	if (l->trouble == r)
		return;
	l->trouble = r;
	if (l->inherited)
		diag_limited(&path_limit, DIAG_WARNING,
			"the path of a socket of systemd's was removed or replaced, so no client can connect; restart "
			"its socket unit path=%s",
			l->path);
	else
		diag_limited(&path_limit, DIAG_WARNING,
			"the path of a socket was removed or replaced, so no client can connect, and the relay cannot "
			"listen there again: %s path=%s",
			r == -EADDRINUSE ? "another process does" : strerror(-r), l->path);
}

bool listener_check(struct listener *l)
{
	if (l->fd < 0 || !l->loop)
		return true;
	bool is_ours = is_inode(l->path, &l->inode);
	int r = l->inherited ? 0 : keep_lock(l);

	if (is_ours) {
		l->trouble = 0;
		return r == 0;
	}
	if (l->inherited) {
		say_trouble(l, -ENOENT);
		return true;
	}
	if (r == 0)
		r = listen_again(l);
	if (r < 0) {
		say_trouble(l, r);
		return false;
	}
	l->trouble = 0;
	say_again(l);
	return true;
}

void listener_close(struct listener *l)
{
	if (l->fd >= 0) {
		if (l->loop) {
			ev_io_stop(l->loop, &l->acceptor);
			ev_timer_stop(l->loop, &l->pause);
		}
		/* On a path of systemd's, clients wait for the next relay. */
		if (!l->inherited && is_inode(l->path, &l->inode))
			unlink(l->path);
		close(l->fd);
		l->fd = -1;
	}
	if (l->lock_fd >= 0)
		close(l->lock_fd);
	l->lock_fd = -1;
	l->inherited = false;
}
