/* Forked children: a handle is its parent's, and nothing that a child does with its copy may cost the
 * parent a byte. A program of its own, because Criterion forks by itself. */
#include "pgherald.h"
#include "wire.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 500 /* of two forks each */

#define CHECK(condition)                                                                                     \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                      \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

/* The relay, a process of its own: each worker is welcomed, its SUBSCRIBE is answered, and then changes
 * come as fast as they can. A worker that leaves ends it. */

static void send_frame(int fd, const struct wire_frame *frame)
{
	char bytes[256];
	int len = wire_encode(frame, bytes, sizeof bytes);

	CHECK(len > 0);
	if (send(fd, bytes, (size_t)len, MSG_NOSIGNAL) < 0)
		_exit(errno == EPIPE || errno == ECONNRESET ? 0 : 1);
}

static void serve(int listener)
{
	char bytes[4096];
	int fd = accept(listener, NULL, NULL);

	CHECK(fd >= 0);
	CHECK(recv(fd, bytes, sizeof bytes, 0) >
		0); /* HELLO and SUBSCRIBE come in one go, and this knows them */
	send_frame(fd, &(struct wire_frame){.type = WIRE_WELCOME,
			       .welcome = {.version = WIRE_VERSION,
				       .epoch = wire_str("e"),
				       .mode = wire_str("local"),
				       .upstream = wire_str("live"),
				       .relay_version = wire_str("test"),
				       .channels = &(struct wire_str){"data", 4},
				       .n_channels = 1}});
	send_frame(fd, &(struct wire_frame){.type = WIRE_OK, .ok = {.id = 1}});
	for (uint64_t seq = 1;; seq++)
		send_frame(fd, &(struct wire_frame){.type = WIRE_CHANGE,
				       .change = {.seq = seq,
					       .channel = wire_str("data"),
					       .pubkey = wire_str("alice")}});
}

static pid_t start_relay(int listener)
{
	pid_t relay = fork();

	CHECK(relay >= 0);
	if (relay == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(listener);
	}
	return relay;
}

static int make_listener(struct sockaddr_un *address)
{
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(listener >= 0);
	CHECK(bind(listener, (struct sockaddr *)address, sizeof *address) == 0);
	CHECK(listen(listener, 8) == 0);
	return listener;
}

/* The worker */

/* What a child that is forked in a callback does before it returns. */
enum what { CLOSES, RETURNS };

struct worker {
	uint64_t last; /* seq */
	int connections;
	bool is_child;
	bool fork_in_callback; /* in the next */
	enum what what;
};

static void unexpected(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)h, (void)result;
	/* In a child no completion runs, whatever it inherited. */
	CHECK(!((struct worker *)arg)->is_child);
}

static void use_everything(struct pgherald *h)
{
	char cursor[PGHERALD_CURSOR_SIZE];

	CHECK(pgherald_fd(h) == -ECHILD);
	CHECK(pgherald_dispatch(h) == -ECHILD);
	CHECK(pgherald_wait(h, 100) == -ECHILD);
	CHECK(pgherald_subscribe(h, "data", "bob", NULL, NULL) == -ECHILD);
	CHECK(pgherald_unsubscribe(h, "data", NULL) == -ECHILD);
	CHECK(pgherald_notify(h, "data", "bob", NULL, NULL, NULL) == -ECHILD);
	CHECK(pgherald_send(h, "text", "", 0, NULL, NULL) == -ECHILD);
	CHECK(pgherald_cursor(h, cursor, sizeof cursor) == -ECHILD);
}

static void reap(pid_t child)
{
	int status;

	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	struct worker *worker = data;

	CHECK(!worker->is_child);
	CHECK(change->seq == worker->last + 1);
	worker->last = change->seq;
	if (!worker->fork_in_callback)
		return;
	worker->fork_in_callback = false;
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		worker->is_child = true;
		use_everything(h);
		if (worker->what == CLOSES)
			pgherald_close(h);
		return; /* into the dispatch that is under way, and must end there */
	}
	reap(child);
	worker->what = worker->what == CLOSES ? RETURNS : CLOSES;
}

static void on_state(struct pgherald *h, const struct pgherald_state *state, void *data)
{
	struct worker *worker = data;

	(void)h;
	CHECK(!worker->is_child);
	if (state->event == PGHERALD_CONNECTED)
		worker->connections++;
}

static struct pgherald *open_worker(struct worker *worker, const char *path)
{
	struct pgherald_options options = {.size = sizeof options,
		.socket = path,
		.data = worker,
		.on_change = on_change,
		.on_state = on_state};
	struct pgherald *h;

	CHECK(pgherald_open(&options, &h) == 0);
	CHECK(pgherald_subscribe(h, "data", NULL, NULL, NULL) == 0);
	return h;
}

/* In the middle of a busy stream: the parent hears each change, in one connection. */
static void fork_in_a_busy_stream(const char *path, int listener)
{
	struct worker worker = {0};
	pid_t relay = start_relay(listener);
	struct pgherald *h = open_worker(&worker, path);

	/* Something due, that a child must not be told about */
	CHECK(pgherald_notify(h, "data", "alice", NULL, unexpected, &worker) == 0);
	for (int round = 0; round < ROUNDS; round++) {
		worker.fork_in_callback = true;
		int r = pgherald_wait(h, 5000);
		if (worker.is_child) {
			CHECK(r == (worker.what == CLOSES ? -ESHUTDOWN : -ECHILD));
			if (worker.what == RETURNS)
				pgherald_close(h);
			exit(0); /* not _exit: what a child's close leaves behind is a leak */
		}
		CHECK(r > 0);
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			worker.is_child = true;
			use_everything(h);
			pgherald_close(h);
			exit(0);
		}
		reap(child);
	}
	CHECK(worker.connections == 1);
	CHECK(worker.last > ROUNDS);
	pgherald_close(h);
	reap(relay);
}

/* A child that never closes its copy holds the parent's socket. The relay still sees the parent leave,
 * and the parent's descriptor does not stay readable for a socket that it has closed. */
static void child_that_keeps_its_copy(const char *path, int listener)
{
	struct worker worker = {0};
	pid_t relay = start_relay(listener);
	struct pgherald *h = open_worker(&worker, path);

	while (worker.last == 0)
		CHECK(pgherald_wait(h, 5000) > 0);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pause();
		_exit(0);
	}
	/* The relay goes, and its last bytes come. */
	kill(relay, SIGKILL);
	CHECK(waitpid(relay, NULL, 0) == relay);
	struct pollfd pfd = {.fd = pgherald_fd(h), .events = POLLIN};
	int turns = 0;
	for (int quiet = 0; quiet < 3; turns++) {
		quiet = poll(&pfd, 1, 20) == 0 ? quiet + 1 : 0;
		CHECK(pgherald_dispatch(h) >= 0);
		CHECK(turns < 200); /* no busy loop */
	}
	/* A new one, which counts from 1 again, and which the parent leaves. */
	worker.last = 0;
	relay = start_relay(listener);
	while (worker.connections < 2)
		pgherald_wait(h, 5000);
	pgherald_close(h);
	reap(relay);
	kill(child, SIGKILL);
	CHECK(waitpid(child, NULL, 0) == child);
}

static void fork_at_the_first(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	int *completions = arg;

	(void)h, (void)result;
	if (++*completions > 1)
		return;
	pid_t child = fork();
	CHECK(child >= 0);
	if (child > 0)
		reap(child);
	else
		*completions = 100;
}

/* Of several completions that are due together, a child that is forked in one runs none of the others. */
static void fork_in_a_completion(void)
{
	struct pgherald_options options = {.size = sizeof options, .socket = ""};
	struct pgherald *h;
	int completions = 0;

	CHECK(pgherald_open(&options, &h) == 0);
	for (int i = 0; i < 3; i++) {
		CHECK(pgherald_subscribe(h, "data", NULL, fork_at_the_first, &completions) == 0);
		CHECK(pgherald_notify(h, "data", "alice", NULL, fork_at_the_first, &completions) == 0);
	}
	int r = pgherald_dispatch(h);
	bool is_child = completions >= 100;
	CHECK(r == (is_child ? -ECHILD : 6));
	pgherald_close(h);
	CHECK(completions == (is_child ? 100 : 6));
	if (is_child)
		exit(0);
}

int main(void)
{
	char directory[] = "/tmp/pgherald-XXXXXX";
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	alarm(120);
	fork_in_a_completion();
	CHECK(mkdtemp(directory));
	snprintf(address.sun_path, sizeof address.sun_path, "%s/relay.sock", directory);
	int listener = make_listener(&address);
	fork_in_a_busy_stream(address.sun_path, listener);
	child_that_keeps_its_copy(address.sun_path, listener);
	close(listener);
	unlink(address.sun_path);
	rmdir(directory);
	return 0;
}
