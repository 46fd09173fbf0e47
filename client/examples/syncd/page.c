#include "page.h"

#include <sodium/crypto_hash_sha256.h>
#include <sodium/utils.h>
#include <stdio.h>
#include <string.h>

const char page_html[] = {
#include "page.inc"
	, 0};
const size_t page_html_size = sizeof page_html - 1;

#define HASH_TEXT sodium_base64_ENCODED_LEN(crypto_hash_sha256_BYTES, sodium_base64_VARIANT_ORIGINAL)

/* The hash of the text between the two tags. The page has one pair of them. */
static void hash_between(const char *open, const char *close, char text[HASH_TEXT])
{
	unsigned char hash[crypto_hash_sha256_BYTES];
	const char *start = strstr(page_html, open) + strlen(open);

	crypto_hash_sha256(hash, (const unsigned char *)start, (size_t)(strstr(start, close) - start));
	sodium_bin2base64(text, HASH_TEXT, hash, sizeof hash, sodium_base64_VARIANT_ORIGINAL);
}

void page_init(struct page *page)
{
	char script[HASH_TEXT], style[HASH_TEXT];

	hash_between("<script>", "</script>", script);
	hash_between("<style>", "</style>", style);
	snprintf(page->policy, sizeof page->policy,
		"default-src 'none'; script-src 'sha256-%s'; style-src 'sha256-%s'; connect-src 'self'; img-src data:; "
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		script, style);
}
