/* What the ops command "status" says to a person: first what is not well, then what is weaker than
 * it could be, then a short line for each part. What it says to a script is status.c's, which
 * calls this. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

struct parts;

void screen_print(const struct parts *parts, FILE *out);
/* Nothing of what screen_print() says is "NOT WELL". */
bool screen_is_well(const struct parts *parts);
