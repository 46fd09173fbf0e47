#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define TEXT_MAX 1024

static void write_line(enum log_level level, const char *text, unsigned suppressed)
{
	static const char *const names[] = {
		[LOG_LEVEL_ERROR] = "ERROR", [LOG_LEVEL_WARNING] = "WARNING", [LOG_LEVEL_NOTICE] = "NOTICE"};
	char line[TEXT_MAX + 96];
	int n = snprintf(line, sizeof line, "<%d>%s: ", level, names[level]);

	for (const char *p = text; *p && n < TEXT_MAX; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			n += snprintf(line + n, 5, "\\x%02x", (unsigned char)*p);
		else
			line[n++] = *p;
	}
	if (suppressed)
		n += snprintf(line + n, 48, " (and %u more like it)", suppressed);
	line[n++] = '\n';
	/* A log that cannot be written to must not stop the server. */
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return;
}

void log_line(enum log_level level, const char *format, ...)
{
	char text[TEXT_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	write_line(level, text, 0);
}

void log_limited(struct log_limit *limit, enum log_level level, const char *format, ...)
{
	char text[TEXT_MAX];
	struct timespec now;
	va_list args;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (limit->second == now.tv_sec) {
		limit->suppressed++;
		return;
	}
	va_start(args, format);
	vsnprintf(text, sizeof text, format, args);
	va_end(args);
	write_line(level, text, limit->suppressed);
	*limit = (struct log_limit){.second = now.tv_sec};
}
