#include "ops/tail.h"

#include "ops/report.h"

#include <string.h>
#include <time.h>

static bool is(struct wire_str str, const char *text)
{
	return wire_str_eq(str, wire_str(text));
}

bool tail_wants(const struct tail *t, const struct wire_frame *f)
{
	switch (f->type) {
	case WIRE_CHANGE:
		return (!*t->channel || is(f->change.channel, t->channel)) &&
		       (!*t->pubkey || is(f->change.pubkey, t->pubkey));
	case WIRE_MESSAGE:
		return !*t->pubkey && (!*t->channel || is(f->message.channel, t->channel));
	case WIRE_CHECKPOINT:
		return !*t->channel;
	default:
		return true;
	}
}

/* The relay reads the wall clock only here: an operator compares this time with other logs. */
static void print_time(struct report *r)
{
	struct timespec now;
	struct tm tm;
	char text[40];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	size_t len = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + len, sizeof text - len, ".%03ldZ", now.tv_nsec / 1000000);
	report_text(r, "time", text);
}

static void put(struct report *r, const char *name, struct wire_str value)
{
	report_bytes(r, name, value.ptr, value.len);
}

static void put_head(struct report *r, const char *type, uint64_t seq)
{
	report_text(r, "type", type);
	report_count(r, "seq", seq);
}

static void print_line(bool json, FILE *out, void (*print)(struct report *r, const void *of), const void *of)
{
	struct report r;

	report_open(&r, out, json ? REPORT_JSON : REPORT_LINE);
	report_begin(&r);
	print_time(&r);
	print(&r, of);
	report_end(&r);
	report_close(&r);
}

static void print_frame(struct report *r, const void *of)
{
	const struct wire_frame *f = of;

	switch (f->type) {
	case WIRE_CHANGE:
		put_head(r, "change", f->change.seq);
		put(r, "channel", f->change.channel);
		put(r, "pubkey", f->change.pubkey);
		put(r, "client_id", f->change.client_id);
		report_flag(r, "recovered", f->change.flags & WIRE_RECOVERED);
		break;
	case WIRE_MESSAGE:
		put_head(r, "message", f->message.seq);
		put(r, "channel", f->message.channel);
		put(r, "payload", f->message.payload);
		report_flag(r, "recovered", f->message.flags & WIRE_RECOVERED);
		break;
	case WIRE_CHECKPOINT:
		put_head(r, "checkpoint", f->checkpoint.seq);
		put(r, "checkpoint", f->checkpoint.checkpoint);
		break;
	case WIRE_GAP:
		put_head(r, "gap", f->gap.seq);
		put(r, "cause", f->gap.cause);
		put(r, "text", f->gap.text);
		break;
	case WIRE_UPSTREAM:
		put_head(r, "upstream", f->upstream.seq);
		put(r, "state", f->upstream.state);
		put(r, "text", f->upstream.text);
		break;
	default:
		break;
	}
}

static void print_dropped(struct report *r, const void *of)
{
	const struct tail *t = of;

	report_text(r, "type", "dropped");
	report_count(r, "frames", t->dropped);
}

void tail_print(bool json, const struct wire_frame *f, FILE *out)
{
	print_line(json, out, print_frame, f);
}

void tail_print_dropped(struct tail *t, FILE *out)
{
	print_line(t->json, out, print_dropped, t);
	t->dropped = 0;
}
