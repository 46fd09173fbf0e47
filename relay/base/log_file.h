/* Where the log goes: stderr, without ever waiting for its reader. What it does not take
 * at once is dropped. diag.c writes the lines, and counts those; main.c opens it. */
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <stddef.h>

/* Finds out what stderr is. Until then, writes may wait. What libraries print on stderr goes the
 * same way from now on. */
void log_file_open(void);
/* Calls drained() from the loop when stderr takes lines again, after it did not. The loop must
 * outlive all that logs. */
void log_file_watch(struct ev_loop *loop, void (*drained)(void));

/* Writes a line, which ends with a newline. False: it is dropped. Only from the loop's thread. */
bool log_file_write(const char *line, size_t len);
