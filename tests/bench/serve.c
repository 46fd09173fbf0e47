#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* More than one measurement and the wait for its end take. */
#define HANG_SECONDS (5 * DEADLINE_SECONDS)

static unsigned parse_numbers(char *line, double *numbers)
{
	unsigned n = 0;
	char *end;

	for (; n < SERVE_NUMBERS_MAX; n++, line = end) {
		numbers[n] = strtod(line, &end);
		if (end == line)
			break;
	}
	return n;
}

void serve_measurements(void (*measure)(void *context, const double *numbers, unsigned n), void *context)
{
	double numbers[SERVE_NUMBERS_MAX];
	char line[256];

	alarm(0);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		unsigned n = parse_numbers(line, numbers);
		if (n == 0)
			die("this is not a measurement: %s", line);
		alarm(HANG_SECONDS + (unsigned)numbers[0]);
		measure(context, numbers, n);
		fflush(stdout);
		alarm(0);
	}
}
