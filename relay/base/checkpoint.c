#include "base/checkpoint.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct token token_of(const char *text)
{
	struct token token = {0};
	size_t len = strlen(text);

	assert(len < sizeof token.text);
	memcpy(token.text, text, len);
	return token;
}

struct checkpoint *checkpoint_new(struct wire_str token, uint64_t seq)
{
	struct checkpoint *c = malloc(sizeof *c + token.len + 1);

	if (!c)
		return NULL;
	*c = (struct checkpoint){.refs = 1, .seq = seq, .len = token.len};
	memcpy(c->token, token.ptr, token.len);
	c->token[token.len] = '\0';
	return c;
}

struct checkpoint *checkpoint_ref(struct checkpoint *c)
{
	if (c)
		c->refs++;
	return c;
}

void checkpoint_unref(struct checkpoint *c)
{
	if (c && --c->refs == 0)
		free(c);
}

void checkpoint_set(struct checkpoint **place, struct checkpoint *c)
{
	checkpoint_ref(c);
	checkpoint_unref(*place);
	*place = c;
}

void checkpoint_history_add(struct checkpoint_history *h, struct checkpoint *c)
{
	if (h->n == CHECKPOINT_HISTORY_MAX) {
		checkpoint_unref(h->items[0]);
		memmove(h->items, h->items + 1, (CHECKPOINT_HISTORY_MAX - 1) * sizeof *h->items);
		h->n--;
	}
	h->items[h->n++] = c;
}

struct checkpoint *checkpoint_history_latest(const struct checkpoint_history *h)
{
	return h->n ? h->items[h->n - 1] : NULL;
}

struct checkpoint *checkpoint_history_at(const struct checkpoint_history *h, uint64_t seq)
{
	unsigned i = h->n;

	while (i > 0 && h->items[i - 1]->seq > seq)
		i--;
	return i ? h->items[i - 1] : NULL;
}

void checkpoint_history_clear(struct checkpoint_history *h)
{
	while (h->n)
		checkpoint_unref(h->items[--h->n]);
}

/* Reads digits of the base up to the delimiter, and the delimiter. False: there are no digits,
 * or the number is above max. */
static bool number(const char **p, int base, char delimiter, uint64_t max, uint64_t *out)
{
	char *end;

	/* strtoull() alone would also accept blanks, signs and 0x. */
	if (!isxdigit((unsigned char)**p) || strncasecmp(*p, "0x", 2) == 0)
		return false;
	errno = 0;
	*out = strtoull(*p, &end, base);
	if (errno || *end != delimiter || *out > max)
		return false;
	*p = end + (delimiter != '\0');
	return true;
}

static bool lsn(const char **p, char delimiter, uint64_t *out)
{
	uint64_t high, low;

	if (!number(p, 16, '/', UINT32_MAX, &high) || !number(p, 16, delimiter, UINT32_MAX, &low))
		return false;
	*out = high << 32 | low;
	return true;
}

int checkpoint_parse_lsn(const char *text, uint64_t *out)
{
	return lsn(&text, '\0', out) ? 0 : -EBADMSG;
}

int checkpoint_parse(const char *token, struct checkpoint_parts *out)
{
	const char *p = token;
	uint64_t xid;

	if (!number(&p, 10, ';', UINT64_MAX, &out->system_identifier) ||
		!number(&p, 10, ';', INT64_MAX, &out->run) || !lsn(&p, ';', &out->lsn))
		return -EBADMSG;
	out->snapshot = p;
	if (!number(&p, 10, ':', UINT64_MAX, &out->xmin) || !number(&p, 10, ':', UINT64_MAX, &out->xmax) ||
		out->xmin == 0 || out->xmin > out->xmax)
		return -EBADMSG;
	/* PostgreSQL takes the transactions in progress only in order, from xmin to below
	 * xmax. */
	for (uint64_t last = 0; *p; last = xid) {
		const char *comma = strchr(p, ',');
		if (!number(&p, 10, comma ? ',' : '\0', UINT64_MAX, &xid) || xid <= last || xid < out->xmin ||
			xid >= out->xmax || (comma && !*p))
			return -EBADMSG;
	}
	return 0;
}

/* Steps through the transactions that the snapshot saw running. False: there are no more. */
static bool next_running(const char **p, uint64_t *xid)
{
	char *end;

	if (!**p)
		return false;
	*xid = strtoull(*p, &end, 10);
	*p = end + (*end == ',');
	return true;
}

static const char *running(const struct checkpoint_parts *s)
{
	return strrchr(s->snapshot, ':') + 1;
}

static bool sees(const struct checkpoint_parts *s, uint64_t xid)
{
	const char *p = running(s);
	uint64_t other;

	while (next_running(&p, &other))
		if (other == xid)
			return false;
	return xid < s->xmax;
}

/* The microsecond of a server's start tells servers apart even where the system identifier is
 * unknown. */
static bool of_one_run(const struct checkpoint_parts *x, const struct checkpoint_parts *y)
{
	return x->run != 0 && x->run == y->run &&
	       (x->system_identifier == y->system_identifier || x->system_identifier == 0 ||
		       y->system_identifier == 0);
}

/* Also false for a text that is not a token. */
static bool parse_of_one_run(
	const char *a, const char *b, struct checkpoint_parts *x, struct checkpoint_parts *y)
{
	return checkpoint_parse(a, x) == 0 && checkpoint_parse(b, y) == 0 && of_one_run(x, y);
}

/* Of two tokens of one run. */
static bool is_later(const struct checkpoint_parts *x, const struct checkpoint_parts *y)
{
	if (x->lsn != 0 && y->lsn != 0)
		return x->lsn > y->lsn;
	return x->xmax > y->xmax || (x->xmax == y->xmax && x->xmin > y->xmin);
}

bool checkpoint_same_run(const char *a, const char *b)
{
	struct checkpoint_parts x, y;

	return parse_of_one_run(a, b, &x, &y);
}

bool checkpoint_covers(const char *a, const char *b)
{
	struct checkpoint_parts x, y;
	uint64_t xid, n_unseen = 0;

	if (!parse_of_one_run(a, b, &x, &y))
		return false;
	for (const char *p = running(&x); next_running(&p, &xid);)
		if (sees(&y, xid))
			return false;
	/* y must have seen every transaction from x's xmax on running. */
	for (const char *p = running(&y); next_running(&p, &xid);)
		n_unseen += xid >= x.xmax;
	return y.xmax <= x.xmax || y.xmax - x.xmax == n_unseen;
}

bool checkpoint_precedes(const char *a, const char *b)
{
	struct checkpoint_parts x, y;

	return parse_of_one_run(a, b, &x, &y) && !is_later(&x, &y);
}

bool checkpoint_is_newer(const char *a, const char *b)
{
	struct checkpoint_parts x, y;

	if (checkpoint_parse(a, &x) < 0 || checkpoint_parse(b, &y) < 0)
		return false;
	return !of_one_run(&x, &y) || is_later(&x, &y);
}

struct token checkpoint_before_both(const char *a, const char *b)
{
	struct token token = {0};
	struct checkpoint_parts x, y;

	bool good = parse_of_one_run(a, b, &x, &y);
	assert(good);
	(void)good;
	uint64_t lsn = x.lsn < y.lsn ? x.lsn : y.lsn, xmin = x.xmin < y.xmin ? x.xmin : y.xmin;
	snprintf(token.text, sizeof token.text,
		"%" PRIu64 ";%" PRIu64 ";%" PRIX32 "/%" PRIX32 ";%" PRIu64 ":%" PRIu64 ":",
		x.system_identifier ? x.system_identifier : y.system_identifier, x.run, (uint32_t)(lsn >> 32),
		(uint32_t)lsn, xmin, xmin);
	return token;
}

/* Waiting */

void checkpoint_waiting_add(struct checkpoint_waiting *w, const struct token *token, double now)
{
	if (w->n == CHECKPOINT_WAITING_MAX)
		return;
	w->items[w->n].token = *token;
	w->items[w->n++].heard = now;
}

struct token checkpoint_waiting_take(struct checkpoint_waiting *w, double heard)
{
	struct token newest = {0};
	unsigned n = 0;

	while (n < w->n && w->items[n].heard <= heard)
		newest = w->items[n++].token;
	w->n -= n;
	memmove(w->items, w->items + n, w->n * sizeof *w->items);
	return newest;
}
