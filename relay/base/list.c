#include "base/list.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define BLANKS " \t\r\n"
/* What a backslash takes as it is. Before anything else it is a backslash: names had them before it
 * meant anything. */
#define ESCAPED BLANKS "\\\",:=@*"

void list_open(struct list *l, const char *text)
{
	*l = (struct list){.next = text + strspn(text, BLANKS)};
}

bool list_more(struct list *l)
{
	if (!l->began) {
		l->began = true;
		return *l->next != '\0';
	}
	return list_skip(l, ',');
}

bool list_skip(struct list *l, char c)
{
	if (*l->next != c)
		return false;
	l->next += 1 + strspn(l->next + 1, BLANKS);
	return true;
}

static int wrong(char *why, size_t size, const char *text)
{
	snprintf(why, size, "%s", text);
	return -EINVAL;
}

/* Whether the word goes on at l->next; *c is its next character. */
static bool take(struct list *l, const char *ends, char *c)
{
	const char *next = l->next;
	bool escapes = l->quoted ? next[0] == '"' && next[1] == '"'
				 : next[0] == '\\' && next[1] && strchr(ESCAPED, next[1]);

	if (!escapes && (l->quoted ? *next == '"' : strchr(ends, *next) != NULL))
		return false;
	l->next += escapes;
	*c = *l->next;
	if (*c)
		l->next++;
	return *c != '\0';
}

int list_word(struct list *l, const char *ends, char *word, size_t size, char *why, size_t why_size)
{
	size_t len = 0, end = 0;
	char c;

	l->quoted = *l->next == '"';
	l->next += l->quoted;
	for (const char *at = l->next; take(l, ends, &c); at = l->next) {
		if (len + 1 >= size)
			return wrong(why, why_size, "a name is too long");
		word[len++] = c;
		/* Blanks at the end do not count, unless they are written with a backslash. */
		if (l->quoted || !strchr(BLANKS, c) || (*at == '\\' && c != '\\'))
			end = len;
	}
	word[end] = '\0';
	if (!l->quoted)
		return 0;
	if (*l->next != '"')
		return wrong(why, why_size, "a double quote is missing at the end of a name");
	l->next += 1 + strspn(l->next + 1, BLANKS);
	if (*l->next && !strchr(ends, *l->next))
		return wrong(why, why_size, "something follows the double quote at the end of a name");
	return 0;
}
