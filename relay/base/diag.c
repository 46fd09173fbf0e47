#include "base/diag.h"

#include "base/log_file.h"
#include "base/printable.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>
#include <time.h>

#define LINE_MAX_BYTES 2048

static enum diag_level threshold = DIAG_NOTICE;
static uint64_t counts[DIAG_DEBUG + 1];
/* How many lines were dropped, and how many of them the log has told of. */
static uint64_t n_dropped, n_told;
static bool telling;

static const char *const names[] = {
	[DIAG_ERROR] = "ERROR",
	[DIAG_WARNING] = "WARNING",
	[DIAG_NOTICE] = "NOTICE",
	[DIAG_INFO] = "INFO",
	[DIAG_DEBUG] = "DEBUG",
};
_Static_assert(DIAG_ERROR == LOG_ERR && DIAG_DEBUG == LOG_DEBUG, "journald reads syslog(3)'s numbers");

void diag_set_level(enum diag_level level)
{
	threshold = level;
}

const char *diag_level_name(enum diag_level level)
{
	return names[level];
}

int diag_level_of(const char *name)
{
	for (int level = DIAG_ERROR; level <= DIAG_DEBUG; level++)
		if (strcasecmp(name, names[level]) == 0)
			return level;
	return -EINVAL;
}

uint64_t diag_count(enum diag_level level)
{
	return counts[level];
}

uint64_t diag_n_dropped(void)
{
	return n_dropped;
}

static void write_line(enum diag_level level, const char *text)
{
	char line[LINE_MAX_BYTES + 32];
	size_t n = (size_t)snprintf(line, sizeof line, "<%d>%s: ", level, names[level]);

	/* Leaves a byte for the newline. */
	n += printable_copy(line + n, sizeof line - 1 - n, text, strlen(text));
	line[n++] = '\n';
	bool written = log_file_write(line, n);
	counts[level] += written || !telling;
	n_dropped += !written && !telling;
	if (written && telling)
		n_told = n_dropped;
}

static void __attribute__((format(printf, 2, 0)))
vdiag(enum diag_level level, const char *format, va_list args)
{
	char text[LINE_MAX_BYTES];

	vsnprintf(text, sizeof text, format, args);
	write_line(level, text);
}

void diag(enum diag_level level, const char *format, ...)
{
	va_list args;

	if (level > threshold)
		return;
	va_start(args, format);
	vdiag(level, format, args);
	va_end(args);
}

void diag_tell_dropped(void)
{
	if (n_dropped == n_told || telling)
		return;
	telling = true;
	diag(DIAG_WARNING, "%llu lines of the log were dropped, since its reader was too slow",
		(unsigned long long)(n_dropped - n_told));
	telling = false;
}

void diag_limited(struct diag_limit *limit, enum diag_level level, const char *format, ...)
{
	struct timespec now;
	va_list args;

	if (level > threshold)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (limit->in_window == 0 || now.tv_sec - limit->window_start >= DIAG_BURST_SECONDS) {
		if (limit->suppressed > 0)
			diag(level, "%u more like the next line were not logged", limit->suppressed);
		*limit = (struct diag_limit){.window_start = now.tv_sec};
	}
	if (limit->in_window >= DIAG_BURST) {
		limit->suppressed++;
		return;
	}
	limit->in_window++;
	va_start(args, format);
	vdiag(level, format, args);
	va_end(args);
}
