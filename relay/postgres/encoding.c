#include "postgres/encoding.h"

#include <errno.h>
#include <iconv.h>
#include <stdlib.h>
#include <string.h>

/* Each encoding that a server may have, by PostgreSQL's name, and iconv's name of the table that
 * converts every character as PostgreSQL does: a worker must hear the pubkey that it subscribed
 * to. tests/pg/test_encodings.py compares them. Only MULE_INTERNAL is left out: neither iconv
 * nor PostgreSQL converts it to UTF-8. */
static const struct name {
	const char *postgres, *iconv;
	bool one_byte; /* each character has one byte */
} names[] = {
	{"EUC_CN", "EUC-CN", false},
	{"EUC_JIS_2004", "EUC-JISX0213", false},
	/* Not EUC-JP, which lacks what NEC and IBM added, and converts seven others differently. */
	{"EUC_JP", "EUC-JP-MS", false},
	{"EUC_KR", "EUC-KR", false},
	{"EUC_TW", "EUC-TW", false},
	{"ISO_8859_5", "ISO-8859-5", true},
	{"ISO_8859_6", "ISO-8859-6", true},
	{"ISO_8859_7", "ISO-8859-7", true},
	{"ISO_8859_8", "ISO-8859-8", true},
	{"KOI8R", "KOI8-R", true},
	{"KOI8U", "KOI8-U", true},
	{"LATIN1", "ISO-8859-1", true},
	{"LATIN2", "ISO-8859-2", true},
	{"LATIN3", "ISO-8859-3", true},
	{"LATIN4", "ISO-8859-4", true},
	{"LATIN5", "ISO-8859-9", true},
	{"LATIN6", "ISO-8859-10", true},
	{"LATIN7", "ISO-8859-13", true},
	{"LATIN8", "ISO-8859-14", true},
	{"LATIN9", "ISO-8859-15", true},
	{"LATIN10", "ISO-8859-16", true},
	{"WIN866", "CP866", true},
	{"WIN874", "CP874", true},
	{"WIN1250", "CP1250", true},
	{"WIN1251", "CP1251", true},
	{"WIN1252", "CP1252", true},
	{"WIN1253", "CP1253", true},
	{"WIN1254", "CP1254", true},
	{"WIN1255", "CP1255", true},
	{"WIN1256", "CP1256", true},
	{"WIN1257", "CP1257", true},
	{"WIN1258", "CP1258", true},
};

/* What EUC-JISX0213 converts differently: FULLWIDTH MACRON and FULLWIDTH YEN SIGN, for which
 * PostgreSQL has OVERLINE and YEN SIGN. */
static const struct {
	const char *iconv, *postgres;
} differ[] = {
	{"\xef\xbf\xa3", "\xe2\x80\xbe"},
	{"\xef\xbf\xa5", "\xc2\xa5"},
};

struct encoding {
	iconv_t iconv;
	const struct name *name;
	/* With one byte a character: each byte from 0x80 in UTF-8; len 0: it is not a character.
	 * iconv would combine some characters with the next, where PostgreSQL does not. */
	struct {
		char utf8[3];
		unsigned char len;
	} high[128];
	char text[ENCODING_UTF8_MAX + 1], object[ENCODING_NAME_UTF8_MAX + 1];
};

bool encoding_must_convert(const char *server_encoding)
{
	return strcmp(server_encoding, "UTF8") != 0 && strcmp(server_encoding, "SQL_ASCII") != 0;
}

static const struct name *find(const char *postgres)
{
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (strcmp(names[i].postgres, postgres) == 0)
			return &names[i];
	return NULL;
}

/* Returns the length in UTF-8; 0: it cannot be converted, or does not fit. */
static size_t run_iconv(struct encoding *e, struct wire_str in, char *out, size_t size)
{
	char *from = (char *)(uintptr_t)in.ptr, *to = out;
	size_t from_left = in.len, to_left = size;

	iconv(e->iconv, NULL, NULL, NULL, NULL);
	/* Without input, it writes what it kept back for a character that might follow. */
	if (iconv(e->iconv, &from, &from_left, &to, &to_left) == (size_t)-1 ||
		iconv(e->iconv, NULL, NULL, &to, &to_left) == (size_t)-1)
		return 0;
	return size - to_left;
}

static void fill_high(struct encoding *e)
{
	for (unsigned i = 0; i < 128; i++) {
		char byte = (char)(i + 128);
		e->high[i].len = (unsigned char)run_iconv(
			e, (struct wire_str){&byte, 1}, e->high[i].utf8, sizeof e->high[i].utf8);
	}
}

int encoding_open(struct encoding **out, const char *server_encoding)
{
	const struct name *name = find(server_encoding);
	struct encoding *e;

	if (!name)
		return -EINVAL;
	e = calloc(1, sizeof *e);
	if (!e)
		return -ENOMEM;
	e->name = name;
	e->iconv = iconv_open("UTF-8", name->iconv);
	if (e->iconv == (iconv_t)-1) {
		int r = errno == ENOMEM ? -ENOMEM : -EINVAL;
		free(e);
		return r;
	}
	if (name->one_byte)
		fill_high(e);
	*out = e;
	return 0;
}

void encoding_close(struct encoding *e)
{
	if (!e)
		return;
	iconv_close(e->iconv);
	free(e);
}

static bool is_ascii(struct wire_str text)
{
	unsigned char all = 0;

	for (uint32_t i = 0; i < text.len; i++)
		all |= (unsigned char)text.ptr[i];
	return all < 0x80;
}

/* As run_iconv(). */
static size_t look_up(const struct encoding *e, struct wire_str in, char *out, size_t size)
{
	char *to = out;

	for (uint32_t i = 0; i < in.len; i++) {
		unsigned char byte = (unsigned char)in.ptr[i];
		const char *utf8 = byte < 0x80 ? &in.ptr[i] : e->high[byte - 0x80].utf8;
		size_t len = byte < 0x80 ? 1 : e->high[byte - 0x80].len;
		if (len == 0 || size - (size_t)(to - out) < len)
			return 0;
		memcpy(to, utf8, len);
		to += len;
	}
	return (size_t)(to - out);
}

/* Puts in place what iconv converted differently. Returns the length, which does not grow. */
static size_t as_postgres(char *text, size_t len)
{
	size_t n = 0, step;

	for (size_t i = 0; i < len; i += step) {
		const char *utf8 = text + i;
		size_t utf8_len = step = 1;
		for (size_t k = 0; k < sizeof differ / sizeof *differ; k++)
			if (len - i >= 3 && memcmp(text + i, differ[k].iconv, 3) == 0) {
				utf8 = differ[k].postgres;
				utf8_len = strlen(utf8);
				step = 3;
			}
		memmove(text + n, utf8, utf8_len);
		n += utf8_len;
	}
	return n;
}

/* size: without the NUL. */
static struct wire_str convert(struct encoding *e, struct wire_str in, char *out, size_t size)
{
	if (is_ascii(in))
		return in;
	size_t len = e->name->one_byte ? look_up(e, in, out, size) : run_iconv(e, in, out, size);
	if (len == 0)
		return in;
	if (strcmp(e->name->postgres, "EUC_JIS_2004") == 0)
		len = as_postgres(out, len);
	out[len] = '\0';
	return (struct wire_str){out, (uint32_t)len};
}

struct wire_str encoding_text(struct encoding *e, struct wire_str text)
{
	if (!e || text.len > ENCODING_TEXT_MAX)
		return text;
	return convert(e, text, e->text, ENCODING_UTF8_MAX);
}

const char *encoding_name(struct encoding *e, const char *name)
{
	return e ? convert(e, wire_str(name), e->object, ENCODING_NAME_UTF8_MAX).ptr : name;
}
