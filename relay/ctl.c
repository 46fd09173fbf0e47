#include "ctl.h"

#include "instance.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* For the connect, and for each part of a reply. A relay answers at once. */
#define REPLY_SECONDS 5
/* Bytes of a command with its newline. A relay takes no longer one. */
#define COMMAND_SIZE 4096

enum { DONE = 0, FAILED = 1, MISUSED = 2, NO_RELAY = 3 };

static const char usage[] =
	"Usage: pgherald ctl [OPTION]... [COMMAND [ARGUMENT]...]\n"
	"Send a command to the ops socket of a relay, and print the reply.\n"
	"\n"
	"  -i, --instance NAME  the relay of pgherald@NAME (default: the only one of this host)\n"
	"  -s, --socket PATH    an ops socket (default: $PGHERALD_OPS_SOCKET, if it is set)\n"
	"  -j, --json           one JSON object a line\n"
	"  -h, --help           show this and end\n"
	"\n"
	"COMMAND is status (the default), workers, channels, upstream, tail, metrics, config,\n"
	"version, kill, log or reconnect. \"pgherald ctl help\" asks the relay what each does.\n"
	"Exit status: 0 done, 1 refused or no reply, 2 wrong usage, 3 no relay.\n";

struct command {
	const char *instance, *socket;
	bool json, endless; /* endless: the reply goes on until the operator ends it */
	char path[INSTANCE_PATH_SIZE];
	char text[COMMAND_SIZE];
	size_t len;
};

static int misused(const char *what)
{
	fprintf(stderr, "pgherald ctl: %s (try --help)\n", what);
	return MISUSED;
}

/* 0 or -E2BIG */
static int add_word(struct command *c, const char *word)
{
	size_t room = sizeof c->text - c->len;
	int n = snprintf(c->text + c->len, room, "%s%s", c->len ? " " : "", word);

	/* The newline follows. */
	if ((size_t)n + 1 >= room)
		return -E2BIG;
	c->len += (size_t)n;
	return 0;
}

/* 0: go on; otherwise *status is what to exit with. */
static int parse(struct command *c, int argc, char **argv, int *status)
{
	static const struct option longs[] = {
		{"instance", required_argument, NULL, 'i'},
		{"socket", required_argument, NULL, 's'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	static char name[] = "pgherald ctl";
	int option;

	argv[0] = name; /* getopt's messages begin with it */
	while ((option = getopt_long(argc, argv, "i:s:jh", longs, NULL)) >= 0) {
		switch (option) {
		case 'i':
			c->instance = optarg;
			break;
		case 's':
			c->socket = optarg;
			break;
		case 'j':
			c->json = true;
			break;
		case 'h':
			fputs(usage, stdout);
			*status = DONE;
			return 1;
		default:
			*status = MISUSED;
			return 1;
		}
	}
	return 0;
}

/* 0 or MISUSED */
static int compose(struct command *c, char **words)
{
	/* No command has a slash. */
	if (*words && strchr(*words, '/') && !c->socket && !c->instance)
		c->socket = *words++;
	c->endless = *words && strcmp(*words, "tail") == 0;
	int r = *words ? 0 : add_word(c, "status");
	for (; *words && r == 0; words++) {
		/* Otherwise it would be two commands. */
		if (strpbrk(*words, "\r\n"))
			return misused("a command is one line");
		r = add_word(c, *words);
	}
	if (r == 0 && c->json)
		r = add_word(c, "json");
	if (r < 0)
		return misused("the command is too long");
	c->text[c->len++] = '\n';
	return 0;
}

/* 0, or what to exit with. */
static int find_socket(struct command *c)
{
	const char *variable = getenv("PGHERALD_OPS_SOCKET");
	char why[INSTANCE_TEXT_SIZE];

	if (c->socket && c->instance)
		return misused("a path and --instance exclude each other");
	if (c->instance)
		return instance_path(c->path, c->instance, "ops.sock") < 0
			       ? misused("--instance takes the NAME of pgherald@NAME")
			       : 0;
	if (!c->socket && variable && *variable && strcmp(variable, "none") != 0)
		c->socket = variable;
	if (c->socket) {
		int len = snprintf(c->path, sizeof c->path, "%s", c->socket);
		return len < (int)sizeof c->path ? 0 : misused("the path of the socket is too long");
	}
	int r = instance_find("ops.sock", c->path, why);
	if (r < 0)
		fprintf(stderr, "pgherald ctl: %s\n", why);
	return r == 0 ? 0 : r == -EMLINK ? MISUSED : NO_RELAY;
}

static const char *reason(int error)
{
	return error == EAGAIN ? "no answer in 5 s" : strerror(error);
}

_Static_assert(REPLY_SECONDS == 5, "reason() says so");

/* Prints the reply, which ends with a blank line. Returns the exit status. */
static int print_reply(FILE *reply, const char *path)
{
	char part[4096];
	bool starts = true, refused = false;

	errno = 0;
	for (bool first = true; fgets(part, sizeof part, reply); first = false) {
		if (starts && strcmp(part, "\n") == 0)
			return refused ? FAILED : fflush(stdout) == 0 ? DONE : FAILED;
		starts = part[strlen(part) - 1] == '\n';
		refused |= first && strncmp(part, "ERR ", 4) == 0;
		if (refused)
			fprintf(stderr, "%s%s", first ? "pgherald ctl: the relay refused the command: " : "",
				first ? part + 4 : part);
		else if (fputs(part, stdout) < 0 || (starts && fflush(stdout) != 0)) {
			fprintf(stderr, "pgherald ctl: standard output: %s\n", strerror(errno));
			return FAILED;
		}
	}
	fprintf(stderr, "pgherald ctl: %s: the reply is not complete: %s\n", path,
		errno ? reason(errno) : "the relay closed the connection");
	return FAILED;
}

static int ask(const struct command *c)
{
	char advice[INSTANCE_TEXT_SIZE];
	int fd = instance_connect(c->path, REPLY_SECONDS, c->endless ? 0 : REPLY_SECONDS);

	if (fd < 0) {
		instance_advise(advice, c->path, fd);
		fprintf(stderr, "pgherald ctl: cannot connect to %s: %s%s\n", c->path, reason(-fd), advice);
		return NO_RELAY;
	}
	FILE *reply = fdopen(fd, "r");
	if (!reply) {
		/* The program ends now, and closes it. */
		fprintf(stderr, "pgherald ctl: %s\n", reason(errno));
		return FAILED;
	}
	int status = FAILED;
	/* A relay that has no place for one more closes at once. Its reply, if any, says why. */
	if (send(fd, c->text, c->len, MSG_NOSIGNAL) == (ssize_t)c->len)
		status = print_reply(reply, c->path);
	else
		fprintf(stderr, "pgherald ctl: %s does not take the command: %s\n", c->path, reason(errno));
	fclose(reply);
	return status;
}

int ctl(int argc, char **argv)
{
	struct command command = {0};
	int status = DONE;

	if (parse(&command, argc, argv, &status) != 0)
		return status;
	status = compose(&command, argv + optind);
	if (status == DONE)
		status = find_socket(&command);
	return status == DONE ? ask(&command) : status;
}
