#include "command_line.h"

#include "exit_status.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

/* Seconds: eleven days. The library counts milliseconds in an unsigned int. */
#define TIMEOUT_MAX 1e6

/* It fits a screen of 24 lines. */
static const char usage[] =
	"Usage: pgherald-cat [OPTION]...\n"
	"       pgherald-cat [OPTION]... --notify PUBKEY [CLIENT_ID]\n"
	"       pgherald-cat [OPTION]... --send PAYLOAD\n"
	"Print what a pgherald relay tells its workers, or publish a change or a message.\n"
	"  -i, --instance NAME    the relay of pgherald@NAME (default: the only one)\n"
	"  -s, --socket PATH      a relay's socket (default: $PGHERALD_SOCKET)\n"
	"  -c, --channel NAME     a channel (default: data_sync_changes); repeat for more\n"
	"  -p, --pubkey PUBKEY    only the changes of PUBKEY; repeat for more\n"
	"  -n, --count N          end after N changes and messages\n"
	"  -t, --timeout SECONDS  end after this time (default: none; publishing: 5)\n"
	"  -S, --since CURSOR     resume from a cursor that --show-cursor printed\n"
	"      --show-cursor      print the cursor at the end\n"
	"  -r, --cursor FILE      resume from the cursor in FILE, and keep it there\n"
	"  -j, --json             one JSON object a line (default: not on a terminal)\n"
	"      --human            lines for people (default: on a terminal)\n"
	"  -N, --name NAME        what the operator sees this connection called\n"
	"      --notify PUBKEY [CLIENT_ID]  publish a change; end when it is committed\n"
	"      --send PAYLOAD     publish a message on a text channel, likewise\n"
	"  -h, --help             show this and end\n"
	"  -V, --version          show the version and end\n"
	"Exit status: 0 done, 1 failed, 2 wrong usage, 3 no relay, 4 the time was over.\n";

/* 0 or -ENOMEM */
static int add_string(struct strings *strings, char *s)
{
	char **items = realloc(strings->items, (strings->n + 1) * sizeof *items);

	if (!items)
		return -ENOMEM;
	strings->items = items;
	items[strings->n++] = s;
	return 0;
}

static int misused(const char *what)
{
	fprintf(stderr, "pgherald-cat: %s (try --help)\n", what);
	return STATUS_MISUSED;
}

/* 0 or STATUS_MISUSED */
static int parse_count(const char *text, unsigned long *out)
{
	char *end;

	errno = 0;
	*out = strtoul(text, &end, 10);
	return errno || *text < '0' || *text > '9' || *end || *out == 0
		       ? misused("--count takes a number from 1 up")
		       : 0;
}

/* 0 or STATUS_MISUSED */
static int parse_timeout(const char *text, double *out)
{
	char *end;

	*out = strtod(text, &end);
	return (*text < '0' || *text > '9') && *text != '.' ? misused("--timeout takes a number of seconds")
	       : *end || !(*out >= 0.001 && *out <= TIMEOUT_MAX)
		       ? misused("--timeout takes seconds, from 0.001 to 1000000")
		       : 0;
}

/* What excludes what. 0 or STATUS_MISUSED */
static int check(const struct command_line *c)
{
	if (c->instance && c->socket)
		return misused("--instance and --socket exclude each other");
	if (c->json && c->human)
		return misused("--json and --human exclude each other");
	if (c->since && c->cursor_file)
		return misused("--since and --cursor exclude each other");
	if (c->notify && c->send)
		return misused("--notify and --send exclude each other");
	if (is_publishing(c) && (c->channels.n > 1 || c->pubkeys.n))
		return misused("publishing takes one channel and no --pubkey");
	if (is_publishing(c) && (c->cursor_file || c->since || c->show_cursor || c->count))
		return misused("publishing takes no --count and no cursor");
	return 0;
}

enum { NOTIFY = 256, SEND, SHOW_CURSOR, HUMAN };

/* As command_line_parse() */
static int take_option(struct command_line *c, int option)
{
	switch (option) {
	case 'i':
		c->instance = optarg;
		return 0;
	case 's':
		c->socket = optarg;
		return 0;
	case 'c':
		return add_string(&c->channels, optarg) < 0 ? STATUS_FAILED : 0;
	case 'p':
		return add_string(&c->pubkeys, optarg) < 0 ? STATUS_FAILED : 0;
	case 'n':
		return parse_count(optarg, &c->count);
	case 't':
		return parse_timeout(optarg, &c->timeout);
	case 'S':
		c->since = optarg;
		return 0;
	case SHOW_CURSOR:
		c->show_cursor = true;
		return 0;
	case 'r':
		c->cursor_file = optarg;
		return 0;
	case 'j':
		c->json = true;
		return 0;
	case HUMAN:
		c->human = true;
		return 0;
	case 'N':
		c->name = optarg;
		return 0;
	case NOTIFY:
		c->notify = optarg;
		return 0;
	case SEND:
		c->send = optarg;
		return 0;
	case 'h':
		fputs(usage, stdout);
		return -1;
	case 'V':
		puts("pgherald-cat " PGHERALD_VERSION);
		return -1;
	default:
		return STATUS_MISUSED;
	}
}

int command_line_parse(struct command_line *c, int argc, char **argv)
{
	static const struct option longs[] = {
		{"instance", required_argument, NULL, 'i'},
		{"socket", required_argument, NULL, 's'},
		{"channel", required_argument, NULL, 'c'},
		{"pubkey", required_argument, NULL, 'p'},
		{"count", required_argument, NULL, 'n'},
		{"timeout", required_argument, NULL, 't'},
		{"since", required_argument, NULL, 'S'},
		{"show-cursor", no_argument, NULL, SHOW_CURSOR},
		{"cursor", required_argument, NULL, 'r'},
		{"json", no_argument, NULL, 'j'},
		{"human", no_argument, NULL, HUMAN},
		{"name", required_argument, NULL, 'N'},
		{"notify", required_argument, NULL, NOTIFY},
		{"send", required_argument, NULL, SEND},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{0},
	};
	static char default_channel[] = "data_sync_changes";
	int option, r = 0;

	*c = (struct command_line){0};
	while (r == 0 && (option = getopt_long(argc, argv, "i:s:c:p:n:t:S:r:jN:hV", longs, NULL)) >= 0)
		r = take_option(c, option);
	if (r == 0 && c->channels.n == 0 && add_string(&c->channels, default_channel) < 0)
		r = STATUS_FAILED;
	if (r == STATUS_FAILED)
		fputs("pgherald-cat: out of memory\n", stderr);
	if (r != 0)
		return r;
	if (c->notify && optind < argc)
		c->client_id = argv[optind++];
	return optind < argc ? misused("too many arguments") : check(c);
}

void command_line_free(struct command_line *c)
{
	free(c->channels.items);
	free(c->pubkeys.items);
}
