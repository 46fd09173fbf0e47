/* The listening Unix sockets: takes their paths, lets workers in, keeps others out. What is said on a connection is the
 * worker's and the ops module's business. main opens one gate for workers and one for operators. */
#pragma once

#include <ev.h>
#include <stddef.h>

struct gate {
	struct ev_loop *loop;
	const char *path;
	int lock_fd, fd;
	struct ev_io acceptor;
	struct ev_timer pause; /* after an accept that failed for want of descriptors or memory */
	/* Takes the descriptor over. */
	void (*accepted)(void *context, int fd);
	void *context;
};

/* Take the path: it stays ours until gate_close(), and nobody is let in yet. 0; -EADDRINUSE: another relay has it; another
 * negative errno. */
int gate_claim(struct gate *gate, const char *path);
/* Listen. 0 or negative errno. */
int gate_open(struct gate *gate, struct ev_loop *loop, unsigned mode, void (*accepted)(void *context, int fd),
	      void *context);
/* Let nobody in any more, and remove the path. Also for a gate that was only claimed. */
void gate_close(struct gate *gate);
