/* What the relay counts, in Prometheus' text format or as JSON, a portion at a time. Counts nothing itself:
 * each number stands beside what it counts. The ops command and the metrics socket call it. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

struct parts;

/* How far a page has come. All zero at first. */
struct metrics_page {
	unsigned section;
	void *files; /* a DIR, while the process' own are counted */
	unsigned n_files;
};

/* Print the next portion. Whether that was the last; then, or if it is given up before, metrics_page_end().
 */
bool metrics_print(const struct parts *parts, FILE *out, bool json, struct metrics_page *page);
void metrics_page_end(struct metrics_page *page);
