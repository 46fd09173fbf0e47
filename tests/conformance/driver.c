/* The driver of libpgherald for the conformance suite: README.md here has its commands and events. It has
 * one thread, and one poll() over its input and the handle's descriptor. */
#include "pgherald.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define INPUT_SIZE ((size_t)1 << 20)
#define LARGEST_EXACT (UINT64_C(1) << 53) /* what any JSON reader takes for what it is */

static struct pgherald *handle; /* NULL while none is open */
static json_t *rules;           /* of `on`: lists of lists of commands, by event */

static void run_commands(json_t *commands);

/* Events */

static json_t *of_bytes(const char *s, size_t len)
{
	json_t *text = json_stringn(s, len);
	char *hex, *p;

	if (text)
		return text;
	hex = p = calloc(1, 2 * len + 1);
	for (size_t i = 0; i < len; i++)
		p += sprintf(p, "%02x", (unsigned char)s[i]);
	text = json_pack("{ss}", "bin", hex);
	free(hex);
	return text;
}

static json_t *of_string(const char *s)
{
	return s ? of_bytes(s, strlen(s)) : json_null();
}

static json_t *of_uint(uint64_t n)
{
	char text[32];

	if (n <= LARGEST_EXACT)
		return json_integer((json_int_t)n);
	snprintf(text, sizeof text, "%" PRIu64, n);
	return json_pack("{ss}", "uint", text);
}

static json_t *of_error(int error)
{
	return error ? json_string(strerrorname_np(-error)) : json_null();
}

static json_t *of_cursor(void)
{
	char text[PGHERALD_CURSOR_SIZE];

	return pgherald_cursor(handle, text, sizeof text) > 0 ? json_string(text) : json_null();
}

/* Takes the event over. */
static void print(json_t *event)
{
	json_dumpf(event, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(event);
}

/* The same, in a callback: what was registered for this kind is run. */
static void print_and_react(json_t *event)
{
	json_t *waiting = json_object_get(rules, json_string_value(json_object_get(event, "event")));
	json_t *commands = json_incref(json_array_get(waiting, 0));

	print(event);
	if (!commands)
		return;
	json_array_remove(waiting, 0);
	run_commands(commands);
	json_decref(commands);
}

static void on_change(struct pgherald *h, const struct pgherald_change *c, void *data)
{
	(void)h, (void)data;
	json_t *client_id = c->client_id ? of_bytes(c->client_id, c->client_id_len) : json_null();
	print_and_react(json_pack("{sssososososbso}", "event", "change", "channel", of_string(c->channel),
		"pubkey", of_bytes(c->pubkey, c->pubkey_len), "client_id", client_id, "seq", of_uint(c->seq),
		"recovered", c->recovered, "cursor", of_cursor()));
}

static void on_message(struct pgherald *h, const struct pgherald_message *m, void *data)
{
	(void)h, (void)data;
	print_and_react(json_pack("{sssosososbso}", "event", "message", "channel", of_string(m->channel),
		"payload", of_bytes(m->payload, m->payload_len), "seq", of_uint(m->seq), "recovered",
		m->recovered, "cursor", of_cursor()));
}

static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	(void)h, (void)data;
	print_and_react(json_pack("{sssosososo}", "event", "gap", "cause", of_string(gap->cause), "text",
		of_string(gap->text), "seq", of_uint(gap->seq), "cursor", of_cursor()));
}

static void on_state(struct pgherald *h, const struct pgherald_state *state, void *data)
{
	static const char *const names[] = {
		[PGHERALD_CONNECTED] = "connected",
		[PGHERALD_DISCONNECTED] = "disconnected",
		[PGHERALD_UPSTREAM_LIVE] = "live",
		[PGHERALD_UPSTREAM_DOWN] = "down",
	};

	(void)h, (void)data;
	print_and_react(json_pack(
		"{ssssso}", "event", "state", "state", names[state->event], "text", of_string(state->text)));
}

static json_t *done_event(const char *label, int error, uint64_t seq, const char *text)
{
	return json_pack("{ssss?sososo}", "event", "done", "label", label, "error", of_error(error), "seq",
		of_uint(seq), "text", of_string(text));
}

/* arg is the label, which was allocated for this. */
static void on_done(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)h;
	json_t *event = done_event(arg, result->error, result->seq, result->text);
	free(arg);
	print_and_react(event);
}

/* Commands */

/* The bytes of a string, or of {"bin": HEX}, with a NUL after them. NULL for null; else free it. */
static char *bytes_of(const json_t *value, size_t *len)
{
	const char *hex = json_string_value(json_object_get(value, "bin"));
	char *bytes;

	*len = json_string_length(value);
	if (!hex) {
		if (!json_is_string(value))
			return NULL;
		bytes = malloc(*len + 1);
		memcpy(bytes, json_string_value(value), *len + 1);
		return bytes;
	}
	bytes = malloc(strlen(hex) / 2 + 1);
	for (*len = 0; sscanf(hex + 2 * *len, "%2hhx", (unsigned char *)bytes + *len) == 1; ++*len)
		;
	bytes[*len] = '\0';
	return bytes;
}

/* The label of a command, as the argument of its completion; NULL without a label. */
static char *label_of(json_t *command)
{
	const char *label = json_string_value(json_object_get(command, "label"));

	return label ? strdup(label) : NULL;
}

/* The call has returned r, and no completion will run. */
static void returned(char *label, int r)
{
	if (label || r < 0)
		print_and_react(done_event(label, r < 0 ? r : 0, 0, pgherald_strerror(r)));
	free(label);
}

/* The fields of a command. Those that it lacks are NULL. */
struct fields {
	char *channel, *pubkey, *client_id, *payload, *label;
	size_t payload_len;
};

static struct fields fields_of(json_t *command)
{
	size_t len;
	struct fields f = {.label = label_of(command)};

	f.channel = bytes_of(json_object_get(command, "channel"), &len);
	f.pubkey = bytes_of(json_object_get(command, "pubkey"), &len);
	f.client_id = bytes_of(json_object_get(command, "client_id"), &len);
	f.payload = bytes_of(json_object_get(command, "payload"), &f.payload_len);
	return f;
}

static void free_fields(struct fields *f)
{
	free(f->channel);
	free(f->pubkey);
	free(f->client_id);
	free(f->payload);
}

/* It has a completion if it returns 0. */
static int request(const char *what, struct fields *f)
{
	pgherald_done *done = f->label ? on_done : NULL;

	if (strcmp(what, "subscribe") == 0)
		return pgherald_subscribe(handle, f->channel, f->pubkey, done, f->label);
	if (strcmp(what, "notify") == 0)
		return pgherald_notify(handle, f->channel, f->pubkey, f->client_id, done, f->label);
	return pgherald_send(handle, f->channel, f->payload, f->payload_len, done, f->label);
}

static void do_request(json_t *command, const char *what)
{
	struct fields f = fields_of(command);

	int r = request(what, &f);
	free_fields(&f);
	if (r < 0)
		returned(f.label, r);
}

static void do_open(json_t *command)
{
	struct pgherald_options options = {
		.size = sizeof options,
		.socket = json_string_value(json_object_get(command, "socket")),
		.cursor = json_string_value(json_object_get(command, "cursor")),
		.queue_size = (size_t)json_integer_value(json_object_get(command, "queue_size")),
		.deadline_ms = (unsigned int)json_integer_value(json_object_get(command, "deadline_ms")),
		.on_change = on_change,
		.on_message = on_message,
		.on_gap = on_gap,
		.on_state = on_state,
	};
	size_t len;
	char *name = bytes_of(json_object_get(command, "name"), &len);

	options.name = name;
	int r = pgherald_open(&options, &handle);
	free(name);
	returned(label_of(command), r);
	size_t i;
	json_t *subscription;
	json_array_foreach(json_object_get(command, "subscribe"), i, subscription)
		do_request(subscription, "subscribe");
}

static void do_unsubscribe(json_t *command)
{
	struct fields f = fields_of(command);

	int r = pgherald_unsubscribe(handle, f.channel, f.pubkey);
	free_fields(&f);
	returned(f.label, r);
}

static void do_close(void)
{
	struct pgherald *closing = handle;

	/* The handle is open in completions, which may call it: each call must fail. */
	pgherald_close(closing);
	handle = NULL;
	print(json_pack("{ss}", "event", "closed"));
}

static void do_on(json_t *command)
{
	const char *event = json_string_value(json_object_get(command, "event"));

	if (!json_object_get(rules, event))
		json_object_set_new(rules, event, json_array());
	json_array_append(json_object_get(rules, event), json_object_get(command, "commands"));
}

static void do_pause(json_t *command)
{
	json_int_t ms = json_integer_value(json_object_get(command, "ms"));

	print(json_pack("{ss}", "event", "paused"));
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* Every call, in a child. The error of all, or 0 if they differ. */
static int use_everything(void)
{
	char text[PGHERALD_CURSOR_SIZE];
	int results[] = {
		pgherald_fd(handle),
		pgherald_dispatch(handle),
		pgherald_wait(handle, 0),
		pgherald_subscribe(handle, "data", "x", NULL, NULL),
		pgherald_unsubscribe(handle, "data", NULL),
		pgherald_notify(handle, "data", "x", NULL, NULL, NULL),
		pgherald_send(handle, "text", "x", 1, NULL, NULL),
		pgherald_cursor(handle, text, sizeof text),
	};

	for (size_t i = 0; i < sizeof results / sizeof results[0]; i++) {
		fprintf(stderr, "in the child, call %zu: %d\n", i, results[i]);
		if (results[i] != results[0])
			return 0;
	}
	return results[0];
}

/* The child says by its exit status which errno it was. */
static void do_fork(void)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		int r = use_everything();
		pgherald_close(handle);
		_exit(-r);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0 || !WIFEXITED(status))
		status = 0;
	int error = WEXITSTATUS(status);
	print(json_pack(
		"{ssss}", "event", "forked", "error", error ? strerrorname_np(error) : "they differ"));
}

static void run_command(json_t *command)
{
	const char *what = json_string_value(json_object_get(command, "do"));

	if (!what)
		fprintf(stderr, "driver: a command without \"do\"\n");
	else if (strcmp(what, "open") == 0)
		do_open(command);
	else if (strcmp(what, "unsubscribe") == 0)
		do_unsubscribe(command);
	else if (strcmp(what, "cursor") == 0)
		print(json_pack("{ssso}", "event", "cursor", "cursor", of_cursor()));
	else if (strcmp(what, "close") == 0)
		do_close();
	else if (strcmp(what, "on") == 0)
		do_on(command);
	else if (strcmp(what, "pause") == 0)
		do_pause(command);
	else if (strcmp(what, "fork") == 0)
		do_fork();
	else
		do_request(command, what);
}

static void run_commands(json_t *commands)
{
	size_t i;
	json_t *command;

	json_array_foreach(commands, i, command) run_command(command);
}

/* Input, line by line. Returns false at its end. */
static bool read_input(void)
{
	static char input[INPUT_SIZE];
	static size_t len;
	char *line = input, *end;
	ssize_t n = read(STDIN_FILENO, input + len, sizeof input - len);

	if (n <= 0)
		return false;
	len += (size_t)n;
	for (; (end = memchr(line, '\n', len - (size_t)(line - input))); line = end + 1) {
		json_t *command = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
		run_command(command);
		json_decref(command);
	}
	len -= (size_t)(line - input);
	memmove(input, line, len);
	return true;
}

int main(void)
{
	struct pollfd pfds[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.events = POLLIN}};

	rules = json_object();
	print(json_pack("{sss[sssss]ss}", "event", "driver", "abilities", "fork", "pause", "local", "bytes",
		"unasked", "name", "libpgherald"));
	for (;;) {
		pfds[1].fd = handle ? pgherald_fd(handle) : -1;
		if (poll(pfds, 2, -1) < 0 && errno != EINTR)
			return 1;
		/* -ESHUTDOWN: it was closed in a callback, and is NULL. */
		if (handle && pfds[1].revents)
			pgherald_dispatch(handle);
		if (pfds[0].revents && !read_input())
			break;
	}
	pgherald_close(handle);
	json_decref(rules);
	return 0;
}
