/* Lists of names in a setting, separated by commas. Blanks around a name do not count. A backslash
 * takes a blank or a sign that follows as it is; so do double quotes around a name, in which two of
 * them stand for one. settings.c and access.c read their lists by this. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct list {
	const char *next;
	bool quoted; /* the last word was in double quotes */
	bool began;
};

/* text must outlive the list. */
void list_open(struct list *list, const char *text);
/* Whether another item follows: after a comma one must. An empty text has none. */
bool list_more(struct list *list);
/* Takes a word, up to one of these characters or the end. 0; -EINVAL: why, of why_size bytes, says
 * what is wrong. */
int list_word(struct list *list, const char *ends, char *word, size_t size, char *why, size_t why_size);
/* Takes this character, if it is next. */
bool list_skip(struct list *list, char c);
