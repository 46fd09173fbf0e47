/* What the relay counts, in Prometheus' text format or as JSON, a portion at a time. Each
 * counter is a field of the module that counts; nothing is counted here. The ops command
 * "metrics" and the metrics socket call it. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

struct parts;

/* How much of a page is printed. All zero at first. */
struct metrics_page {
	unsigned section;
	void *files; /* a DIR, while the process's open files are counted */
	unsigned n_files;
};

/* Print the next portion. Returns whether it was the last. */
bool metrics_print(const struct parts *parts, FILE *out, bool json, struct metrics_page *page);
/* Release what page holds, and make it all zero: after the last portion, or instead of the
 * rest. */
void metrics_page_end(struct metrics_page *page);
