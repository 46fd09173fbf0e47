/* Diagnostics on stderr: one event a line, with the <priority> that journald reads. Each
 * event is logged once, where it is handled. May be called from any thread. */
#pragma once

#include <time.h>

enum log_level { LOG_LEVEL_ERROR = 3, LOG_LEVEL_WARNING = 4, LOG_LEVEL_NOTICE = 5 };

/* Control bytes in what others wrote are escaped, so that one call is one line. */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For events that a peer can cause: one line a second for each limit, with the number of
 * lines left out. A limit belongs to one thread, and is all zero at first. */
struct log_limit {
	time_t second;
	unsigned suppressed;
};
void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
