/* Keeps what the relay writes to its log, instead of printing it. */
#pragma once

#include <stdbool.h>

void log_clear(void);
/* Whether a line since log_clear() contains text. */
bool log_has(const char *text);
