#include "base/spelling.h"

#include <ctype.h>
#include <string.h>

#define NAME_MAX_BYTES 63

static unsigned least(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

static bool same(char a, char b)
{
	return toupper((unsigned char)a) == toupper((unsigned char)b);
}

/* The optimal string alignment distance: row i of the table has the distances of the first i
 * letters of a. */
unsigned spelling_distance(const char *a, const char *b, unsigned most)
{
	unsigned rows[NAME_MAX_BYTES + 1][NAME_MAX_BYTES + 1];
	size_t m = strlen(a), n = strlen(b);

	if (m > NAME_MAX_BYTES || n > NAME_MAX_BYTES)
		return most + 1;
	for (unsigned j = 0; j <= n; j++)
		rows[0][j] = j;
	for (unsigned i = 1; i <= m; i++) {
		rows[i][0] = i;
		for (unsigned j = 1; j <= n; j++) {
			unsigned changed = rows[i - 1][j - 1] + !same(a[i - 1], b[j - 1]);
			rows[i][j] = least(changed, least(rows[i - 1][j], rows[i][j - 1]) + 1);
			if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
				rows[i][j] = least(rows[i][j], rows[i - 2][j - 2] + 1);
		}
	}
	return least(rows[m][n], most + 1);
}
