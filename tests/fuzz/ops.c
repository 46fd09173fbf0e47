/* The operator's socket: any lines, in any pieces, while workers with any name connect and
 * disconnect. Each line gets one whole reply, which ends with a blank line, is printable
 * whatever the workers sent, and with "json" is made of JSON objects. */
#include "input.h"

#include "local_relay.h"
#include "log.h"
#include "ops/commands.h"

#include <errno.h>
#include <jansson.h>
#include <sys/socket.h>
#include <unistd.h>

static struct relay *relay;
static char reply[4 << 20];
static size_t reply_len;

static bool read_reply(int fd)
{
	ssize_t n = recv(fd, reply + reply_len, sizeof reply - 1 - reply_len, MSG_DONTWAIT);

	must(n >= 0 || errno == EAGAIN || errno == ECONNRESET);
	if (n > 0)
		reply_len += (size_t)n;
	reply[reply_len] = '\0';
	return n > 0;
}

/* Returns whether the connection has ended. */
static bool read_replies(int fd)
{
	char byte;

	for (int quiet = 0; quiet < 3; quiet++) {
		local_relay_run();
		while (read_reply(fd))
			quiet = 0;
	}
	return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

static void check_printable(void)
{
	for (size_t i = 0; i < reply_len; i++) {
		unsigned char c = (unsigned char)reply[i];
		must(c == '\n' || (c >= 0x20 && c != 0x7f));
	}
	must(wire_utf8_valid(reply, reply_len));
}

/* Each line of the reply is a JSON object, or an error. Destroys the reply. */
static void check_json(void)
{
	char *rest = reply, *line;

	while ((line = strsep(&rest, "\n"))) {
		if (!*line || strncmp(line, "ERR ", 4) == 0)
			continue;
		json_t *object = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
		must(json_is_object(object));
		json_decref(object);
	}
	reply_len = 0;
}

static void send_bytes(int fd, const void *bytes, size_t len)
{
	if (len > 0)
		(void)!send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int add_worker(struct input *in)
{
	unsigned char buf[1024];
	struct span name = input_span(in, input_byte(in));
	int fd = local_relay_connect(relay_worker_accepted, relay, false);
	int len = wire_encode(
		&(struct wire_frame){.type = WIRE_HELLO,
			.hello = {.version = 1, .name = {(const char *)name.bytes, (uint32_t)name.len}}},
		buf, sizeof buf);

	send_bytes(fd, buf, (size_t)len);
	local_relay_run();
	return fd;
}

/* The input's next line, without its newline. */
static struct span take_line(struct input *in)
{
	size_t left = (size_t)(in->end - in->next);
	const uint8_t *newline = left ? memchr(in->next, '\n', left) : NULL;
	struct span line = input_span(in, newline ? (size_t)(newline - in->next) : left);

	input_byte(in);
	return line;
}

static bool is_blank(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static bool ends_with(struct span line, const char *word)
{
	size_t len = strlen(word);

	while (line.len > 0 && is_blank(line.bytes[line.len - 1]))
		line.len--;
	return line.len > len && is_blank(line.bytes[line.len - len - 1]) &&
	       memcmp(line.bytes + line.len - len, word, len) == 0 && !memchr(line.bytes, '\0', line.len);
}

/* Sends the lines one after the other, and checks each reply. */
static void ask_lines(int fd, struct input *in)
{
	while (input_more(in)) {
		struct span line = take_line(in);
		bool tailed = !LIST_EMPTY(&relay->ops.tails);
		reply_len = 0;
		send_bytes(fd, line.bytes, line.len);
		send_bytes(fd, "\n", 1);
		must(!read_replies(fd));
		check_printable();
		bool tails = !LIST_EMPTY(&relay->ops.tails);
		must(tails || (reply_len >= 2 && memcmp(reply + reply_len - 2, "\n\n", 2) == 0) ||
			(reply_len == 1 && reply[0] == '\n'));
		if (ends_with(line, "json") && !tailed && line.len < OPS_LINE_MAX)
			check_json();
		reply_len = 0;
		if (tails) {
			local_relay_hear("data", (struct wire_str){(const char *)line.bytes, 0});
			local_relay_hear("log",
				(struct wire_str){(const char *)line.bytes, (uint32_t)line.len % 1000});
			fanout_gap(&relay->fanout, WIRE_GAP_UPSTREAM, "for the tail");
			read_replies(fd);
			check_printable();
			if (ends_with(line, "json"))
				check_json();
		}
	}
}

/* Sends the input in pieces of any length, without waiting for replies. */
static void ask_pieces(int fd, struct input *in)
{
	while (input_more(in)) {
		struct span piece = input_span(in, input_byte(in));
		send_bytes(fd, piece.bytes, piece.len);
		if (piece.len % 3 == 0)
			local_relay_run();
		if (piece.len % 5 == 0)
			read_reply(fd);
		if (reply_len > sizeof reply / 2)
			return;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	unsigned how = input_byte(&in);
	int workers[2] = {-1, -1};

	log_clear();
	relay = local_relay_start();
	for (unsigned i = 0; i < (how >> 1 & 3) && i < 2; i++)
		workers[i] = add_worker(&in);
	int fd = local_relay_connect(ops_connections_accepted, &relay->ops.connections, how & 8);
	reply_len = 0;
	if (how & 1)
		ask_pieces(fd, &in);
	else
		ask_lines(fd, &in);
	shutdown(fd, SHUT_WR);
	bool ended = read_replies(fd);
	/* A tail continues as long as its reader is there. */
	must(ended || !LIST_EMPTY(&relay->ops.tails));
	check_printable();
	if (ended && (how & 1))
		must(reply_len == 0 || reply[reply_len - 1] == '\n');
	for (int i = 0; i < 2; i++)
		if (workers[i] >= 0)
			close(workers[i]);
	close(fd);
	ops_tick(&relay->ops);
	must(relay->ops.connections.places.n == 0 && LIST_EMPTY(&relay->ops.tails) && !relay->fanout.tap);
	local_relay_end();
	return 0;
}
