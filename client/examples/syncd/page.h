/* The page that / serves: page.html, embedded, and its Content-Security-Policy, which allows the page's own
 * script and style by their hashes and nothing else. */
#pragma once

#include <stddef.h>

extern const char page_html[];
extern const size_t page_html_size;

struct page {
	char policy[512];
};

void page_init(struct page *page);
