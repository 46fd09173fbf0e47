/* One listening Unix socket, on a path of its own or inherited. It accepts connections, and
 * pauses while the process has no descriptors or memory for more. What is said on a connection
 * is its owner's. listeners.c opens one each for workers, operators and metrics. */
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <sys/un.h>

struct listener {
	struct ev_loop *loop;
	char path[sizeof((struct sockaddr_un *)0)->sun_path + 1];
	bool inherited;  /* the path is systemd's, and stays when the relay ends */
	int lock_fd, fd; /* -1: none */
	struct ev_io acceptor;
	struct ev_timer pause; /* accepts no connection until it fires */
	/* Takes fd over. */
	void (*accepted)(void *context, int fd);
	void *context;
};

/* Take the path, until listener_close(), without listening on it. 0; -EADDRINUSE: another relay
 * has it; another negative errno. */
int listener_claim(struct listener *listener, const char *path);
/* Take over fd, which listens already. */
void listener_inherit(struct listener *listener, int fd);
static inline bool listener_is_claimed(const struct listener *listener)
{
	return listener->lock_fd >= 0 || listener->inherited;
}
/* Listen, and accept connections. mode: of the socket's file. loop and context must outlive the
 * listener. 0 or negative errno. */
int listener_open(struct listener *listener, struct ev_loop *loop, unsigned mode,
	void (*accepted)(void *context, int fd), void *context);
/* Stop listening, and remove the path unless it was inherited. Also for a listener that was
 * only claimed, or has just {.fd = -1, .lock_fd = -1}. */
void listener_close(struct listener *listener);
