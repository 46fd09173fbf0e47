/* Checkpoint tokens, which come from workers and other relays. An accepted token is printed
 * again from its parts, equal except for differences that PostgreSQL ignores. Of two tokens, at
 * most one is newer. */
#include "input.h"

#include "base/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

static void print_lsn(char *buf, size_t size, uint64_t lsn)
{
	snprintf(buf, size, "%" PRIX32 "/%" PRIX32, (uint32_t)(lsn >> 32), (uint32_t)lsn);
}

static void parse_lsn(const char *text)
{
	char again[32];
	uint64_t lsn, lsn_again;

	if (checkpoint_parse_lsn(text, &lsn) < 0)
		return;
	print_lsn(again, sizeof again, lsn);
	must(checkpoint_parse_lsn(again, &lsn_again) == 0 && lsn == lsn_again);
	/* An LSN has only digits and a slash. */
	must(strspn(text, "0123456789abcdefABCDEF/") == strlen(text));
}

static void parse(const char *token)
{
	char *again, lsn[32];
	struct checkpoint_parts a, b;
	int r = checkpoint_parse(token, &a);

	must(r == 0 || r == -EBADMSG);
	if (r < 0)
		return;
	must(a.xmin > 0 && a.xmin <= a.xmax);
	must(a.snapshot > token && a.snapshot < token + strlen(token));
	/* It goes into a query as pg_snapshot, so it must be what that type accepts. */
	must(strspn(a.snapshot, "0123456789:,") == strlen(a.snapshot));
	print_lsn(lsn, sizeof lsn, a.lsn);
	must(asprintf(&again, "%" PRIu64 ";%" PRIu64 ";%s;%s", a.system_identifier, a.run, lsn, a.snapshot) >
		0);
	must(checkpoint_parse(again, &b) == 0);
	must(a.system_identifier == b.system_identifier && a.run == b.run && a.lsn == b.lsn &&
		a.xmin == b.xmin && a.xmax == b.xmax && strcmp(a.snapshot, b.snapshot) == 0);
	/* What is of an unknown run cannot be compared. */
	bool known = a.run != 0;
	must(checkpoint_is_newer(token, again) == !known && checkpoint_is_newer(again, token) == !known);
	must(checkpoint_covers(token, again) == known && checkpoint_precedes(token, again) == known);
	free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	const uint8_t *newline = size ? memchr(data, '\n', size) : NULL;
	struct span first = input_span(&in, newline ? (size_t)(newline - data) : size);
	char *a, *b;

	input_byte(&in);
	a = span_text(first);
	b = span_text(input_span(&in, SIZE_MAX));
	parse(a);
	parse(b);
	parse_lsn(a);
	struct checkpoint_parts x, y;
	if (checkpoint_parse(a, &x) == 0 && checkpoint_parse(b, &y) == 0 && checkpoint_same_run(a, b))
		must(!(checkpoint_is_newer(a, b) && checkpoint_is_newer(b, a)));
	else if (checkpoint_parse(a, &x) < 0)
		must(!checkpoint_is_newer(a, b) && !checkpoint_is_newer(b, a));
	free(a);
	free(b);
	return 0;
}
