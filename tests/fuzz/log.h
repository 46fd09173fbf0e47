/* What the relay writes to its log, kept instead of printed. For the targets that link modules of the relay.
 */
#pragma once

#include <stdbool.h>

void log_clear(void);
/* Whether it stands in a line since log_clear(). */
bool log_has(const char *text);
