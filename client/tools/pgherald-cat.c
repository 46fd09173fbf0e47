/* pgherald-cat: print what a pgherald relay sends, as JSON lines; or publish one change or
 * message. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <pgherald.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

static const char usage[] =
	"Usage: pgherald-cat [OPTION]...\n"
	"       pgherald-cat [OPTION]... --notify PUBKEY [CLIENT_ID]\n"
	"       pgherald-cat [OPTION]... --send PAYLOAD\n"
	"Print the changes that a pgherald relay tells, one JSON object a line; or publish one.\n"
	"\n"
	"  -s, --socket PATH    the relay's socket (default: $PGHERALD_SOCKET, else\n"
	"                       /run/pgherald/relay.sock)\n"
	"  -c, --channel NAME   a channel (default: data_sync_changes); repeat for more\n"
	"  -p, --pubkey PUBKEY  only the changes of PUBKEY (default: all); repeat for more\n"
	"  -n, --count N        end after N changes and messages\n"
	"  -r, --cursor FILE    resume from the cursor in FILE if it is there, and keep it there\n"
	"  -N, --name NAME      what the operator sees this connection called\n"
	"      --notify PUBKEY [CLIENT_ID]\n"
	"                       publish a change, and end when it is committed\n"
	"      --send PAYLOAD   publish a message on a text channel, and end when it is committed\n"
	"  -h, --help           show this and end\n"
	"  -V, --version        show the version and end\n";

struct strings {
	char **items;
	size_t n;
};

struct cat {
	struct strings channels, pubkeys;
	const char *notify, *client_id, *send; /* what to publish, if anything */
	const char *cursor_file;
	unsigned long count; /* changes and messages still to print; 0: no limit */
	size_t waiting;      /* subscriptions that are not live yet */
	bool done;           /* there is nothing left to do */
	bool cursor_kept;    /* done, and the file has the last cursor */
	int status;          /* to exit with */
	char away[256];      /* why there is no relay; empty: there is one */
};

static void fail(struct cat *cat, const char *what, const char *why)
{
	fprintf(stderr, "pgherald-cat: %s: %s\n", what, why);
	cat->status = 1;
	cat->done = true;
}

/* JSON lines */

/* The length in bytes of the UTF-8 character at p; 0: it is malformed. */
static size_t character(const unsigned char *p, const unsigned char *end)
{
	size_t len = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;

	if (len == 0 || (size_t)(end - p) < len)
		return 0;
	for (size_t i = 1; i < len; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	/* Overlong forms, surrogates, and what lies beyond U+10FFFF */
	if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
		(*p == 0xf4 && p[1] > 0x8f))
		return 0;
	return len;
}

/* The code point of up to three bytes of UTF-8. */
static unsigned code_point(const unsigned char *p, size_t n)
{
	return n == 1   ? *p
	       : n == 2 ? (*p & 0x1fu) << 6 | (p[1] & 0x3fu)
			: (*p & 0xfu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
}

/* A control character, which a terminal obeys, or an invisible one: a mark of direction or of
 * zero width. */
static bool is_hidden(unsigned code)
{
	return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0xad || code == 0x61c ||
	       (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
	       (code >= 0x2060 && code <= 0x206f) || code == 0xfeff;
}

/* NULL is null. A byte that is not valid UTF-8 becomes U+FFFD, so each line is valid JSON. */
static void print_string(const char *s, size_t len)
{
	if (!s) {
		fputs("null", stdout);
		return;
	}
	const unsigned char *p = (const unsigned char *)s, *end = p + len;
	putchar('"');
	while (p < end) {
		size_t n = character(p, end);
		if (n == 0)
			fputs("\\ufffd", stdout);
		else if (*p == '"' || *p == '\\')
			printf("\\%c", *p);
		else if (n <= 3 && is_hidden(code_point(p, n)))
			printf("\\u%04x", code_point(p, n));
		else
			fwrite(p, 1, n, stdout);
		p += n ? n : 1;
	}
	putchar('"');
}

static void print_member(const char *key, const char *s, size_t len)
{
	printf(",\"%s\":", key);
	print_string(s, len);
}

static void print_text(const char *key, const char *s)
{
	print_member(key, s, strlen(s));
}

static void begin_line(const char *type)
{
	printf("{\"type\":\"%s\"", type);
}

static void print_seq(uint64_t seq)
{
	if (seq)
		printf(",\"seq\":%" PRIu64, seq);
	else
		fputs(",\"seq\":null", stdout);
}

/* Flushes each line: a pipe may be read live. */
static void end_line(struct cat *cat)
{
	fputs("}\n", stdout);
	if (fflush(stdout) != 0 && !cat->done)
		fail(cat, "standard output", strerror(errno));
}

/* The cursor's file */

static void read_cursor(struct cat *cat, char *buf, size_t size)
{
	FILE *file = fopen(cat->cursor_file, "re");

	if (!file && errno != ENOENT)
		fail(cat, cat->cursor_file, strerror(errno));
	if (!file)
		return;
	if (!fgets(buf, (int)size, file))
		fail(cat, cat->cursor_file, "no cursor in it");
	buf[strcspn(buf, "\n")] = '\0';
	fclose(file);
}

/* Written to another file and renamed, so the cursor's file is always whole. */
static void keep_cursor(struct cat *cat, struct pgherald *h)
{
	char text[PGHERALD_CURSOR_SIZE], aside[4096];

	if (!cat->cursor_file || cat->cursor_kept || pgherald_cursor(h, text, sizeof text) < 0)
		return;
	cat->cursor_kept = cat->done;
	int len = snprintf(aside, sizeof aside, "%s.new", cat->cursor_file);
	FILE *file = len < (int)sizeof aside ? fopen(aside, "we") : NULL;
	bool good = file && fprintf(file, "%s\n", text) > 0;
	if (file && fclose(file) != 0)
		good = false;
	if (!good || rename(aside, cat->cursor_file) < 0)
		fail(cat, cat->cursor_file, strerror(errno));
}

/* Callbacks. One dispatch may bring more than the last line to print. The rest is left to the
 * next run: the cursor that is stored does not include it. */

static bool is_over(struct cat *cat, struct pgherald *h)
{
	if (cat->done)
		keep_cursor(cat, h);
	return cat->done;
}

/* The end of a change or a message, which --count counts. */
static void end_counted(struct cat *cat, bool recovered)
{
	printf(",\"recovered\":%s", recovered ? "true" : "false");
	end_line(cat);
	if (cat->count == 0)
		return;
	cat->count--;
	cat->done |= cat->count == 0;
}

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	struct cat *cat = data;

	if (is_over(cat, h))
		return;
	begin_line("change");
	print_seq(change->seq);
	print_text("channel", change->channel);
	print_member("pubkey", change->pubkey, change->pubkey_len);
	print_member("client_id", change->client_id, change->client_id_len);
	end_counted(cat, change->recovered);
}

static void on_message(struct pgherald *h, const struct pgherald_message *message, void *data)
{
	struct cat *cat = data;

	if (is_over(cat, h))
		return;
	begin_line("message");
	print_seq(message->seq);
	print_text("channel", message->channel);
	print_member("payload", message->payload, message->payload_len);
	end_counted(cat, message->recovered);
}

static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	struct cat *cat = data;

	if (is_over(cat, h))
		return;
	begin_line("gap");
	print_seq(gap->seq);
	print_text("cause", gap->cause);
	print_text("text", gap->text);
	end_line(cat);
}

static void on_state(struct pgherald *h, const struct pgherald_state *state, void *data)
{
	struct cat *cat = data;
	bool connected = state->event == PGHERALD_CONNECTED,
	     disconnected = state->event == PGHERALD_DISCONNECTED;

	if (connected || disconnected)
		snprintf(cat->away, sizeof cat->away, "%s", disconnected ? state->text : "");
	if (is_over(cat, h) || cat->notify || cat->send)
		return;
	if (connected || disconnected) {
		begin_line(connected ? "connected" : "disconnected");
	} else {
		begin_line("upstream");
		print_text("state", state->event == PGHERALD_UPSTREAM_LIVE ? "live" : "down");
	}
	print_text("text", state->text);
	end_line(cat);
}

static void on_subscribed(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct cat *cat = arg;

	if (is_over(cat, h))
		return;
	if (result->error) {
		fail(cat, "subscribe", result->text);
		return;
	}
	if (--cat->waiting > 0)
		return;
	begin_line("subscribed");
	printf(",\"seq\":%" PRIu64, result->seq);
	end_line(cat);
}

static void on_published(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct cat *cat = arg;

	(void)h;
	if (result->error == -ETIMEDOUT && cat->away[0]) /* it was never sent: say why */
		fail(cat, "publish", cat->away);
	else if (result->error)
		fail(cat, "publish", result->text);
	cat->done = true;
}

static int request(struct cat *cat, struct pgherald *h)
{
	int r = 0;

	if (cat->notify)
		return pgherald_notify(
			h, cat->channels.items[0], cat->notify, cat->client_id, on_published, cat);
	if (cat->send)
		return pgherald_send(
			h, cat->channels.items[0], cat->send, strlen(cat->send), on_published, cat);
	cat->waiting = cat->channels.n * (cat->pubkeys.n ? cat->pubkeys.n : 1);
	for (size_t i = 0; i < cat->channels.n && r == 0; i++) {
		const char *channel = cat->channels.items[i];
		if (cat->pubkeys.n == 0)
			r = pgherald_subscribe(h, channel, NULL, on_subscribed, cat);
		for (size_t j = 0; j < cat->pubkeys.n && r == 0; j++)
			r = pgherald_subscribe(h, channel, cat->pubkeys.items[j], on_subscribed, cat);
	}
	return r;
}

/* Until there is nothing left to do, or SIGINT or SIGTERM asks to end. */
static void loop(struct cat *cat, struct pgherald *h)
{
	sigset_t signals;
	int r = 0;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	struct pollfd fds[] = {{.fd = pgherald_fd(h), .events = POLLIN},
		{.fd = signalfd(-1, &signals, SFD_CLOEXEC), .events = POLLIN}};
	while (!cat->done && r >= 0) {
		r = poll(fds, 2, -1) < 0 ? -errno : pgherald_dispatch(h);
		if (fds[1].revents)
			cat->done = true;
		if (r > 0)
			keep_cursor(cat, h);
	}
	if (r < 0)
		fail(cat, "lost", pgherald_strerror(r));
	keep_cursor(cat, h);
	close(fds[1].fd);
}

/* Command line */

static void add_string(struct strings *strings, char *s)
{
	char **items = realloc(strings->items, (strings->n + 1) * sizeof *items);

	if (!items) {
		perror("pgherald-cat");
		exit(1);
	}
	strings->items = items;
	items[strings->n++] = s;
}

static int misused(const char *what)
{
	fprintf(stderr, "pgherald-cat: %s (try --help)\n", what);
	return 2;
}

/* 0: go on; -1: exit with success; another value: exit with that. */
static int parse(struct cat *cat, struct pgherald_options *options, int argc, char **argv)
{
	enum { NOTIFY = 256, SEND };
	static const struct option longs[] = {
		{"socket", required_argument, NULL, 's'},
		{"channel", required_argument, NULL, 'c'},
		{"pubkey", required_argument, NULL, 'p'},
		{"count", required_argument, NULL, 'n'},
		{"cursor", required_argument, NULL, 'r'},
		{"name", required_argument, NULL, 'N'},
		{"notify", required_argument, NULL, NOTIFY},
		{"send", required_argument, NULL, SEND},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{0},
	};
	static char default_channel[] = "data_sync_changes";
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, "s:c:p:n:r:N:hV", longs, NULL)) >= 0) {
		switch (c) {
		case 's':
			options->socket = optarg;
			break;
		case 'c':
			add_string(&cat->channels, optarg);
			break;
		case 'p':
			add_string(&cat->pubkeys, optarg);
			break;
		case 'n':
			errno = 0;
			cat->count = strtoul(optarg, &end, 10);
			if (errno || *optarg < '0' || *optarg > '9' || *end || cat->count == 0)
				return misused("--count takes a number from 1 up");
			break;
		case 'r':
			cat->cursor_file = optarg;
			break;
		case 'N':
			options->name = optarg;
			break;
		case NOTIFY:
			cat->notify = optarg;
			break;
		case SEND:
			cat->send = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return -1;
		case 'V':
			puts("pgherald-cat " PGHERALD_VERSION);
			return -1;
		default:
			return 2;
		}
	}
	if (cat->channels.n == 0)
		add_string(&cat->channels, default_channel);
	if (cat->notify && optind < argc)
		cat->client_id = argv[optind++];
	if (optind < argc)
		return misused("too many arguments");
	if (cat->notify && cat->send)
		return misused("--notify and --send exclude each other");
	if ((cat->notify || cat->send) && (cat->channels.n > 1 || cat->pubkeys.n || cat->cursor_file))
		return misused("publishing takes one channel, and no --pubkey and no --cursor");
	return 0;
}

/* If any of the descriptors 0 to 2 is closed, open /dev/null there. Otherwise a file or socket
 * would get that number, and the output would be written into it. */
static bool open_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
			return false;
	return true;
}

int main(int argc, char **argv)
{
	struct cat cat = {0};
	struct pgherald_options options = {
		.size = sizeof options,
		.name = "pgherald-cat",
		.data = &cat,
		.on_change = on_change,
		.on_message = on_message,
		.on_gap = on_gap,
		.on_state = on_state,
	};
	char cursor[PGHERALD_CURSOR_SIZE] = "";
	struct pgherald *h = NULL;

	/* There is no place to report it. */
	if (!open_standard_streams())
		return EXIT_FAILURE;
	int r = parse(&cat, &options, argc, argv);
	if (r != 0) {
		cat.status = r < 0 ? 0 : r;
		goto end;
	}
	if (cat.cursor_file) {
		read_cursor(&cat, cursor, sizeof cursor);
		if (cat.done)
			goto end;
		options.cursor = cursor[0] ? cursor : NULL;
	}
	r = pgherald_open(&options, &h);
	if (r < 0) {
		fail(&cat, "cannot open", pgherald_strerror(r));
		goto end;
	}
	r = request(&cat, h);
	if (r < 0)
		fail(&cat, "cannot ask for it", pgherald_strerror(r));
	else
		loop(&cat, h);
	cat.done = true;
	cat.cursor_kept = true;
	pgherald_close(h);
end:
	free(cat.channels.items);
	free(cat.pubkeys.items);
	return cat.status;
}
