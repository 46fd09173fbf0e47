/* The page at /: page.html, embedded, and its Content-Security-Policy, which allows only the
 * page's own script and style, by their hashes. */
#pragma once

#include <stddef.h>

extern const char page_html[];
extern const size_t page_html_size;

struct page {
	char policy[512];
};

void page_init(struct page *page);
