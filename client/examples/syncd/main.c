/* syncd: a prefork sync server on pgherald. This process checks the settings, opens the
 * listening socket, starts the workers, and replaces a worker that dies. It serves nothing
 * itself. README.md has the rest.
 *
 * A request: worker (accept) -> http -> request -> pool -> api -> records A change:  request
 * -> events (publish) ... the relay ... events -> stream */
#include "listener.h"
#include "log.h"
#include "settings.h"
#include "store.h"
#include "worker.h"

#include "http.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* So that a worker that dies at once does not make a busy loop. */
#define RESTART_PAUSE_MS 500
/* Longer than a worker gives itself to end. */
#define KILL_SECONDS (STOP_SECONDS + 5)

struct server {
	struct settings settings;
	struct listener listener;
	sigset_t signals;
	int signal_fd, ready_pipe[2];
	pid_t workers[WORKERS_MAX]; /* 0 if there is none just now */
	unsigned n_ready;           /* workers that have reported ready since the start */
	bool stopping, failed;
	int64_t stop_by, restart_at; /* ms of CLOCK_MONOTONIC; restart_at 0: restart no worker */
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Each stream, request and database connection takes descriptors. */
static void raise_descriptor_limit(const struct settings *settings)
{
	rlim_t needed = settings->streams_max + REQUESTS_MAX + settings->connections * 3 + 32;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max < needed)
		log_line(LOG_LEVEL_WARNING,
			"SYNCD_STREAMS_MAX is more than the limit on open files allows: raise LimitNOFILE= limit=%llu needed=%llu",
			(unsigned long long)limit.rlim_max, (unsigned long long)needed);
}

static void start_worker(struct server *s, unsigned number)
{
	pid_t parent = getpid();
	pid_t pid = fork();

	if (pid < 0) {
		log_line(LOG_LEVEL_ERROR, "no worker can be started: %s", strerror(errno));
		s->restart_at = now_ms() + RESTART_PAUSE_MS;
	}
	if (pid != 0) {
		s->workers[number] = pid > 0 ? pid : 0;
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	close(s->signal_fd);
	close(s->ready_pipe[0]);
	if (getppid() != parent)
		_exit(EXIT_FAILURE);
	exit(worker_run(&s->settings, s->listener.fd, s->ready_pipe[1]));
}

static void start_missing(struct server *s)
{
	s->restart_at = 0;
	for (unsigned i = 0; i < s->settings.workers; i++)
		if (!s->workers[i])
			start_worker(s, i);
}

static void stop(struct server *s)
{
	if (s->stopping)
		return;
	s->stopping = true;
	s->stop_by = now_ms() + KILL_SECONDS * 1000L;
	listener_close(&s->listener); /* the workers accept what waits there, then close it too */
	for (unsigned i = 0; i < s->settings.workers; i++)
		if (s->workers[i])
			kill(s->workers[i], SIGTERM);
}

static void buried(struct server *s, pid_t pid, int status)
{
	for (unsigned i = 0; i < s->settings.workers; i++)
		if (s->workers[i] == pid)
			s->workers[i] = 0;
	bool well = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS;
	if (s->stopping) {
		s->failed |= !well;
		return;
	}
	/* A worker that cannot even start has logged why; others would log the same. */
	if (s->n_ready < s->settings.workers && WIFEXITED(status)) {
		s->failed = true;
		stop(s);
		return;
	}
	log_line(LOG_LEVEL_WARNING, "worker %d %s %d; another takes its place", (int)pid,
		WIFSIGNALED(status) ? "was killed by signal" : "ended with",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	s->restart_at = now_ms() + RESTART_PAUSE_MS;
}

static void take_signal(struct server *s)
{
	struct signalfd_siginfo signal;
	int status;
	pid_t pid;

	if (read(s->signal_fd, &signal, sizeof signal) != sizeof signal)
		return;
	/* A worker that died before SIGTERM did not fail to stop, even if we see SIGTERM first. */
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		buried(s, pid, status);
	if (signal.ssi_signo == SIGCHLD)
		return;
	if (!s->stopping)
		log_line(LOG_LEVEL_NOTICE, "stopping on %s",
			signal.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
	stop(s);
}

static void take_ready(struct server *s)
{
	char byte;

	if (read(s->ready_pipe[0], &byte, 1) != 1 || ++s->n_ready != s->settings.workers)
		return;
	log_line(LOG_LEVEL_NOTICE,
		"READY version=" PGHERALD_VERSION " listen=%s workers=%u records=%s relay=%s",
		s->listener.name, s->settings.workers, store_kind(&s->settings)->name,
		*s->settings.relay ? s->settings.relay : "none");
}

static unsigned n_running(const struct server *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->settings.workers; i++)
		n += s->workers[i] != 0;
	return n;
}

/* Runs until all workers have ended. */
static void supervise(struct server *s)
{
	while (!s->stopping || n_running(s) > 0) {
		struct pollfd fds[] = {{s->signal_fd, POLLIN, 0}, {s->ready_pipe[0], POLLIN, 0}};
		int64_t next = s->stopping ? s->stop_by : s->restart_at, left = next ? next - now_ms() : -1;

		if (next && left <= 0) {
			if (!s->stopping) {
				start_missing(s);
				continue;
			}
			for (unsigned i = 0; i < s->settings.workers; i++)
				if (s->workers[i])
					kill(s->workers[i], SIGKILL);
			s->stop_by = now_ms() + 1000;
			continue;
		}
		if (poll(fds, 2, (int)left) <= 0)
			continue;
		if (fds[1].revents)
			take_ready(s);
		if (fds[0].revents)
			take_signal(s);
	}
}

/* Find settings that cannot work before any worker serves. A database that is away comes
 * back. */
static int check_store(const struct settings *settings)
{
	const struct store_kind *kind = store_kind(settings);
	struct store *store;
	int r = kind->open(settings, &store);

	if (r == 0 || r == -ENOTCONN)
		kind->close(store);
	else if (settings->database_url)
		log_line(LOG_LEVEL_ERROR,
			"start refused: the tables cannot be had in DATABASE_URL's database");
	return r == -ENOTCONN ? 0 : r;
}

static int open_all(struct server *s)
{
	if (listener_open(&s->listener, &s->settings) < 0)
		return -EINVAL;
	if (s->listener.beyond_loopback)
		log_line(LOG_LEVEL_WARNING,
			"other hosts can connect, and a client names its own user in X-User: make sure that only the front "
			"proxy can connect listen=%s",
			s->listener.name);
	sigemptyset(&s->signals);
	sigaddset(&s->signals, SIGTERM);
	sigaddset(&s->signals, SIGINT);
	sigaddset(&s->signals, SIGCHLD);
	sigprocmask(SIG_BLOCK, &s->signals, NULL);
	s->signal_fd = signalfd(-1, &s->signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->signal_fd < 0 || pipe2(s->ready_pipe, O_CLOEXEC) < 0) {
		log_line(LOG_LEVEL_ERROR, "start refused: %s", strerror(errno));
		return -errno;
	}
	return 0;
}

/* Open /dev/null for each of the descriptors 0 to 2 that is closed. Otherwise the next file
 * or socket would get such a number, and the log would be written into it. */
static bool open_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
			return false;
	return true;
}

int main(int argc, char **argv)
{
	static struct server server;
	struct server *s = &server;

	/* There is no way to report it. */
	if (!open_standard_streams())
		return EXIT_FAILURE;
	int r = settings_load(&s->settings, argc, argv);
	if (r != 0)
		return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	/* When a client or the reader of the log is gone. The workers inherit it. */
	signal(SIGPIPE, SIG_IGN);
	if (check_store(&s->settings) < 0)
		return EXIT_FAILURE;
	if (open_all(s) < 0)
		return EXIT_FAILURE;
	raise_descriptor_limit(&s->settings);
	start_missing(s);
	supervise(s);
	return s->failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
