#include "lines.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static int flush(void)
{
	putchar('\n');
	return fflush(stdout) == 0 ? 0 : -errno;
}

/* Characters */

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

/* Escaped, so that a terminal shows it and does not obey it. A byte that is not valid UTF-8 becomes
 * U+FFFD. quoted: inside quotes, so escape quotes and backslashes too. */
static void print_escaped(const char *s, size_t len, bool quoted)
{
	const unsigned char *p = (const unsigned char *)s, *end = p + len;

	while (p < end) {
		size_t n = character(p, end);
		if (n == 0)
			fputs("\\ufffd", stdout);
		else if (quoted && (*p == '"' || *p == '\\'))
			printf("\\%c", *p);
		else if (n <= 3 && is_hidden(code_point(p, n)))
			printf("\\u%04x", code_point(p, n));
		else
			fwrite(p, 1, n, stdout);
		p += n ? n : 1;
	}
}

/* JSON */

/* NULL is null. */
static void print_member(const char *key, const char *s, size_t len)
{
	printf(",\"%s\":", key);
	if (!s) {
		fputs("null", stdout);
		return;
	}
	putchar('"');
	print_escaped(s, len, true);
	putchar('"');
}

static void print_text(const char *key, const char *s)
{
	print_member(key, s, strlen(s));
}

static void begin_object(const char *type)
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

static void print_recovered(int recovered)
{
	printf(",\"recovered\":%s", recovered ? "true" : "false");
}

static int end_object(void)
{
	putchar('}');
	return flush();
}

/* Sentences */

/* The time of day when it was heard, and what color the rest has. */
static void begin_sentence(const struct lines *lines, const char *color)
{
	struct timespec now;
	struct tm tm;
	char text[16] = "";

	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	strftime(text, sizeof text, "%H:%M:%S", &tm);
	printf("%s.%03ld  %s", text, now.tv_nsec / 1000000, lines->color ? color : "");
}

static int end_sentence(const struct lines *lines, const char *color)
{
	if (lines->color && *color)
		fputs("\033[0m", stdout);
	return flush();
}

static void say(const char *text)
{
	print_escaped(text, strlen(text), false);
}

static int sentence(const struct lines *lines, const char *color, const char *what, const char *text)
{
	begin_sentence(lines, color);
	fputs(what, stdout);
	say(text);
	return end_sentence(lines, color);
}

#define PLAIN ""
#define RED "\033[1;31m"
#define FAINT "\033[2m"

/* Lines */

int lines_change(const struct lines *lines, const struct pgherald_change *change)
{
	if (lines->json) {
		begin_object("change");
		print_seq(change->seq);
		print_text("channel", change->channel);
		print_member("pubkey", change->pubkey, change->pubkey_len);
		print_member("client_id", change->client_id, change->client_id_len);
		print_recovered(change->recovered);
		return end_object();
	}
	begin_sentence(lines, PLAIN);
	say(change->channel);
	fputs(": ", stdout);
	print_escaped(change->pubkey, change->pubkey_len, false);
	fputs(" changed", stdout);
	if (change->client_id) {
		fputs(", by ", stdout);
		print_escaped(change->client_id, change->client_id_len, false);
	}
	fputs(change->recovered ? " (recovered)" : "", stdout);
	return end_sentence(lines, PLAIN);
}

int lines_message(const struct lines *lines, const struct pgherald_message *message)
{
	if (lines->json) {
		begin_object("message");
		print_seq(message->seq);
		print_text("channel", message->channel);
		print_member("payload", message->payload, message->payload_len);
		print_recovered(message->recovered);
		return end_object();
	}
	begin_sentence(lines, PLAIN);
	say(message->channel);
	fputs(message->recovered ? " (recovered): " : ": ", stdout);
	print_escaped(message->payload, message->payload_len, false);
	return end_sentence(lines, PLAIN);
}

int lines_gap(const struct lines *lines, const struct pgherald_gap *gap)
{
	if (lines->json) {
		begin_object("gap");
		print_seq(gap->seq);
		print_text("cause", gap->cause);
		print_text("text", gap->text);
		return end_object();
	}
	begin_sentence(lines, RED);
	fputs("GAP: changes may be missed (", stdout);
	say(gap->cause);
	fputs("): ", stdout);
	say(gap->text);
	return end_sentence(lines, RED);
}

static int state_object(const struct pgherald_state *state)
{
	switch (state->event) {
	case PGHERALD_CONNECTED:
		begin_object("connected");
		break;
	case PGHERALD_DISCONNECTED:
		begin_object("disconnected");
		break;
	default:
		begin_object("upstream");
		print_text("state", state->event == PGHERALD_UPSTREAM_LIVE ? "live" : "down");
	}
	print_text("text", state->text);
	return end_object();
}

int lines_state(const struct lines *lines, const struct pgherald_state *state)
{
	if (lines->json)
		return state_object(state);
	switch (state->event) {
	case PGHERALD_CONNECTED:
		return sentence(lines, FAINT, "connected to the relay, whose mode is ", state->text);
	case PGHERALD_DISCONNECTED:
		return sentence(lines, RED, "disconnected from the relay: ", state->text);
	case PGHERALD_UPSTREAM_LIVE:
		return sentence(lines, FAINT, "the relay is live", "");
	default:
		return sentence(lines, RED, "the relay does not hear PostgreSQL: ", state->text);
	}
}

int lines_subscribed(const struct lines *lines, uint64_t seq)
{
	if (!lines->json)
		return sentence(lines, FAINT, "subscribed", "");
	begin_object("subscribed");
	printf(",\"seq\":%" PRIu64, seq);
	return end_object();
}

int lines_cursor(const struct lines *lines, const char *cursor)
{
	if (!lines->json)
		return sentence(lines, PLAIN, "cursor: ", cursor);
	begin_object("cursor");
	print_text("cursor", cursor);
	return end_object();
}
