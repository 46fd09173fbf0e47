/* One listening Unix socket, on a path of its own or inherited. It accepts connections, and
 * pauses while the process has no descriptors or memory for more. If its path is removed or
 * replaced, it listens on the path again. What is said on a connection is its owner's.
 * listeners.c opens one each for workers, operators and metrics. */
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

/* Which file: a path may name another one later. */
struct listener_inode {
	dev_t device;
	ino_t number;
};

/* Of the socket's file. */
struct listener_rights {
	unsigned mode;
	gid_t group; /* -1: the daemon's own */
};

struct listener {
	struct ev_loop *loop;
	char path[sizeof((struct sockaddr_un *)0)->sun_path + 1];
	char lock_path[sizeof((struct sockaddr_un *)0)->sun_path + 8];
	bool inherited;              /* the path is systemd's, and stays when the relay ends */
	int lock_fd, fd;             /* -1: none */
	struct listener_inode inode; /* of the socket's file */
	struct listener_rights rights;
	int trouble; /* a negative errno: why the path is not ours, as the log says; 0: it is ours */
	struct ev_io acceptor;
	struct ev_timer pause; /* accepts no connection until it fires */
	/* Takes fd over. */
	void (*accepted)(void *context, int fd);
	void *context;
};

/* Take the path, until listener_close(), without listening on it. 0; -EADDRINUSE: another process
 * has it; another negative errno. */
int listener_claim(struct listener *listener, const char *path);
/* Take over fd, which listens already. */
void listener_inherit(struct listener *listener, int fd);
static inline bool listener_is_claimed(const struct listener *listener)
{
	return listener->lock_fd >= 0 || listener->inherited;
}
/* Listen, and accept connections. loop and context must outlive the listener. 0 or negative
 * errno. */
int listener_open(struct listener *listener, struct ev_loop *loop, const struct listener_rights *rights,
	void (*accepted)(void *context, int fd), void *context);
/* Looks whether the path is still that of this socket, and else listens there again. Connections
 * stay. Logs what it did, or why it cannot. False: look again soon. */
bool listener_check(struct listener *listener);
/* Stop listening, and remove the path if it is still that of this socket and was not inherited.
 * Also for a listener that was only claimed, or has just {.fd = -1, .lock_fd = -1}. */
void listener_close(struct listener *listener);
