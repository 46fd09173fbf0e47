/* The log: one event a line on stderr, with the <priority> that journald reads. A line is
 * "LEVEL: what happened, to what, and what to do", then key=value pairs; a value that may
 * contain spaces is quoted. The code that handles an error logs it. proto/ and client/ never
 * log. A line that stderr does not take at once is dropped (log_file.h). */
#pragma once

#include <stdint.h>

/* syslog(3)'s numbers */
enum diag_level {
	DIAG_ERROR = 3,
	DIAG_WARNING = 4,
	DIAG_NOTICE = 5,
	DIAG_INFO = 6,
	DIAG_DEBUG = 7,
};

/* Lines above this level are dropped. NOTICE until it is called. */
void diag_set_level(enum diag_level level);
/* "error" to "debug"; -EINVAL for another name. */
int diag_level_of(const char *name);
const char *diag_level_name(enum diag_level level);

/* Lines logged at this level so far, those included that were dropped. */
uint64_t diag_count(enum diag_level level);
/* Lines dropped so far, of all levels. */
uint64_t diag_n_dropped(void);

/* Says how many lines were dropped since it was last said, if the log takes lines again. */
void diag_tell_dropped(void);

/* Escapes what is not printable, so one call is one line. */
void diag(enum diag_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What a peer can cause is logged at most DIAG_BURST times in DIAG_BURST_SECONDS for each
 * struct diag_limit, which is all zero at first. The next line after that is preceded by one
 * that says how many were left out. */
#define DIAG_BURST 5
#define DIAG_BURST_SECONDS 10
struct diag_limit {
	int64_t window_start; /* seconds, CLOCK_MONOTONIC */
	uint32_t in_window;
	uint32_t suppressed;
};
void diag_limited(struct diag_limit *limit, enum diag_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
