#include "ops/commands.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/settings.h"
#include "fanout/connection.h"
#include "fanout/delivery.h"
#include "ops/parts.h"
#include "ops/screen.h"
#include "ops/status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORDS_MAX 4
/* Workers in one slice. For each of them the relay reads a file in /proc. */
#define WORKERS_A_PORTION 4
/* Rows of a table that are measured for the widths of its columns. */
#define MEASURED_MAX 64

_Static_assert(sizeof "tail   json" + CHANNEL_NAME_MAX + TAIL_PUBKEY_MAX <= OPS_LINE_MAX,
	"a line can name the longest channel and pubkey");

struct command_line {
	struct parts *parts;
	uid_t uid;
	FILE *out;
	struct ops_answer *answer;
	char text[OPS_LINE_MAX];
	char *words[WORDS_MAX]; /* the arguments; NULL where there is none */
	bool json;
};

static void refuse(struct command_line *l, const char *code, const char *text)
{
	fprintf(l->out, "ERR %s %s\n", code, text);
}

static void done(struct command_line *l, const char *text)
{
	if (l->json)
		fprintf(l->out, "{\"ok\":true}\n");
	else
		fprintf(l->out, "%s\n", text);
}

/* What only reads */

static void run_status(struct command_line *l)
{
	if (l->json)
		ops_status_print(l->parts, l->out);
	else
		screen_print(l->parts, l->out);
}

static void run_upstream(struct command_line *l)
{
	if (l->parts->config->mode == MODE_LOCAL)
		refuse(l, "local", "there is no upstream in local mode");
	else
		ops_upstream_print(l->parts, l->out, l->json ? REPORT_JSON : REPORT_SCREEN);
}

/* Empty if the kernel does not say: systemd's ProtectProc= hides the processes of other
 * users. */
static void read_program(pid_t pid, char buf[32])
{
	char path[32];

	snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
	FILE *file = fopen(path, "re");
	size_t n = file ? fread(buf, 1, 31, file) : 0;
	if (file)
		fclose(file);
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
}

static void print_worker(struct report *r, struct worker *w)
{
	char program[32];
	struct delivery_lag lag = delivery_lag(w);

	read_program(w->pid, program);
	report_begin(r);
	report_count(r, "id", w->id);
	report_count(r, "pid", (uint64_t)w->pid);
	report_count(r, "uid", w->uid);
	report_text(r, "program", *program ? program : NULL);
	report_text(r, "state", worker_state_names[w->state]);
	/* Bit 0 is not a channel: it is what every worker gets. */
	report_count(r, "channels", (unsigned)__builtin_popcountll(w->all_mask) - 1);
	report_count(r, "pubkeys", w->n_edges);
	report_count(r, "lag frames", lag.frames);
	report_count(r, "lag bytes", lag.bytes);
	report_count(r, "to recover", catch_up_rows_left(w));
	report_count(r, "sent", w->n_sent);
	report_count(r, "drops", w->n_dropped);
	report_count(r, "overruns", w->n_overruns);
	report_count(r, "publishing", w->n_publishing);
	report_seconds(r, "age", clock_now() - w->since);
	report_text(r, "name", w->name);
	report_end(r);
}

/* By slot: workers may connect and disconnect between two portions. */
static int go_on_workers(struct ops_answer *a, const struct parts *parts, FILE *out)
{
	const struct fanout *f = parts->fanout;
	struct report r;

	if (report_open_table(&r, out, &a->table, a->json) < 0)
		return -ENOMEM;
	for (int n = 0; n < WORKERS_A_PORTION && a->slot < f->workers.n_slots; a->slot++) {
		struct worker *w = f->workers.slots[a->slot];
		if (!w)
			continue;
		print_worker(&r, w);
		a->n_measured += a->table.measuring;
		n++;
	}
	if (report_close(&r) < 0)
		return -ENOMEM;
	if (a->table.measuring) {
		if (a->n_measured >= MEASURED_MAX || a->slot >= f->workers.n_slots) {
			a->table.measuring = false;
			a->slot = 0;
		}
		return 0;
	}
	return a->slot >= f->workers.n_slots;
}

static void run_workers(struct command_line *l)
{
	l->answer->go_on = go_on_workers;
	l->answer->table.measuring = !l->json;
}

static void print_channels(struct command_line *l, struct report *r, const uint64_t *whole)
{
	const struct parts *parts = l->parts;

	for (unsigned i = 0; i < parts->config->n_channels; i++) {
		const struct channel *channel = &parts->config->channels[i];
		if (channel->gone)
			continue;
		report_begin(r);
		report_text(r, "channel", channel->name);
		report_text(r, "kind", channel->kind == CHANNEL_TEXT ? "text" : "changes");
		report_count(r, "heard", parts->fanout->n_appended[i + 1]);
		report_count(r, "workers for all", whole[i + 1]);
		report_end(r);
	}
}

static void run_channels(struct command_line *l)
{
	uint64_t whole[CHANNELS_MAX + 1] = {0};
	struct report_table table = {0};
	struct report r;

	const struct worker *w;
	TAILQ_FOREACH (w, &l->parts->fanout->workers.all, next)
		for (uint64_t left = w->all_mask; left; left &= left - 1)
			whole[__builtin_ctzll(left)]++;
	int result = report_open_table(&r, l->out, &table, l->json);
	if (result == 0) {
		table.measuring = true;
		if (!l->json)
			print_channels(l, &r, whole);
		table.measuring = false;
		print_channels(l, &r, whole);
		result = report_close(&r);
	}
	if (result < 0)
		refuse(l, "memory", "the relay is out of memory; try again");
}

static void run_tail(struct command_line *l)
{
	const char *channel = l->words[0], *pubkey = l->words[1];
	struct tail *tail = &l->answer->tail;

	if (channel && decode_topic(l->parts->config, wire_str(channel)) == 0) {
		refuse(l, "channel", "the channel is not configured; \"channels\" lists those that are");
		return;
	}
	if (pubkey && strlen(pubkey) > TAIL_PUBKEY_MAX - 1) {
		refuse(l, "too-long", "the pubkey");
		return;
	}
	*tail = (struct tail){.on = true, .json = l->json};
	snprintf(tail->channel, sizeof tail->channel, "%s", channel ? channel : "");
	snprintf(tail->pubkey, sizeof tail->pubkey, "%s", pubkey ? pubkey : "");
}

static int go_on_metrics(struct ops_answer *a, const struct parts *parts, FILE *out)
{
	return metrics_print(parts, out, a->json, &a->page);
}

static void run_metrics(struct command_line *l)
{
	l->answer->go_on = go_on_metrics;
}

static void run_config(struct command_line *l)
{
	struct report r;

	report_open(&r, l->out, REPORT_JSON);
	for (unsigned i = 0; i < settings_n(); i++) {
		struct setting_shown setting;
		settings_show(i, &setting);
		if (!l->json) {
			fprintf(l->out, "%s=", setting.name);
			report_escape_text(l->out, setting.value, strlen(setting.value));
			fprintf(l->out, " (%s)\n", setting.origin);
			continue;
		}
		report_begin(&r);
		report_text(&r, "setting", setting.name);
		report_text(&r, "value", setting.value);
		report_text(&r, "origin", setting.origin);
		report_text(&r, "meaning", setting.help);
		report_end(&r);
	}
	report_close(&r);
}

static void run_version(struct command_line *l)
{
	if (l->json)
		fprintf(l->out, "{\"version\":\"" PGHERALD_VERSION "\"}\n");
	else
		fprintf(l->out, "pgherald " PGHERALD_VERSION "\n");
}

/* What changes something */

static void run_kill(struct command_line *l)
{
	char *end = NULL;
	unsigned long long id = l->words[0] ? strtoull(l->words[0], &end, 10) : 0;

	if (!end || *end || l->words[0][0] < '0' || l->words[0][0] > '9') {
		refuse(l, "usage", "kill ID; \"workers\" lists the ids");
		return;
	}
	struct worker *w = workers_find_id(&l->parts->fanout->workers, id);
	if (!w) {
		refuse(l, "no-worker", "no worker has this id now");
		return;
	}
	connection_close(w, WIRE_BYE_EVICTED, "an operator ended this connection");
	done(l, "killed");
}

static void run_log(struct command_line *l)
{
	int level = l->words[0] ? diag_level_of(l->words[0]) : -EINVAL;

	if (level < 0) {
		refuse(l, "usage", "log LEVEL: error, warning, notice, info or debug");
		return;
	}
	diag_set_level((enum diag_level)level);
	diag(DIAG_NOTICE, "an operator set the log level level=%s uid=%u",
		diag_level_name((enum diag_level)level), (unsigned)l->uid);
	done(l, "set");
}

static void run_reconnect(struct command_line *l)
{
	struct parts *parts = l->parts;

	if (parts->config->mode == MODE_LOCAL) {
		refuse(l, "local", "there is no upstream in local mode");
		return;
	}
	if (parts->upstream->state > UPSTREAM_CONNECTING)
		upstream_reconnect(parts->upstream);
	upstream_hurry(parts->upstream);
	publisher_hurry(parts->publisher);
	done(l, "reconnecting");
}

/* The table */

static void run_help(struct command_line *l);

static const struct command {
	const char *name, *arguments;
	void (*run)(struct command_line *line);
	unsigned n_arguments; /* at most */
	bool privileged;
	const char *help;
} commands[] = {
	{"status", "", run_status, 0, false,
		"whether all is well; what is not stands first; so does a blank line"},
	{"workers", "", run_workers, 0, false, "who is connected, and how far behind"},
	{"channels", "", run_channels, 0, false, "what is relayed"},
	{"upstream", "", run_upstream, 0, false, "the connections to PostgreSQL, in full"},
	{"tail", "[CHANNEL] [PUBKEY]", run_tail, 2, false, "what is heard, live, until the next line"},
	{"metrics", "", run_metrics, 0, false, "all counters, as Prometheus reads them"},
	{"config", "", run_config, 0, false, "each setting, its value, where it came from"},
	{"help", "", run_help, 0, false, "print this"},
	{"version", "", run_version, 0, false, "the relay's version"},
	{"kill", "ID", run_kill, 1, true, "end a worker's connection; it will come back, and resume"},
	{"log", "LEVEL", run_log, 1, true, "error, warning, notice, info or debug, until the relay ends"},
	{"reconnect", "", run_reconnect, 0, true,
		"drop the LISTEN connection and connect again; what it misses is recovered"},
};

#define N_COMMANDS (sizeof commands / sizeof *commands)

static void run_help(struct command_line *l)
{
	struct report r;

	if (l->json) {
		report_open(&r, l->out, REPORT_JSON);
		for (size_t i = 0; i < N_COMMANDS; i++) {
			report_begin(&r);
			report_text(&r, "command", commands[i].name);
			report_text(&r, "arguments", commands[i].arguments);
			report_text(&r, "help", commands[i].help);
			report_flag(&r, "privileged", commands[i].privileged);
			report_end(&r);
		}
		report_close(&r);
		return;
	}
	for (size_t i = 0; i < N_COMMANDS; i++) {
		int width = fprintf(l->out, "%s %s", commands[i].name, commands[i].arguments);
		fprintf(l->out, "%*s %s%s\n", 25 - width, "", commands[i].help,
			commands[i].privileged ? " (root and the daemon's user)" : "");
	}
	fprintf(l->out,
		"A last word \"json\" gives one JSON object a line. Each reply ends with a blank line.\n");
}

static const struct command *find(const char *name)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (strcmp(commands[i].name, name) == 0)
			return &commands[i];
	return NULL;
}

/* Cut l->text into words. Returns the first one, the command; *n of the others are arguments,
 * without a last "json". */
static const char *split(struct command_line *l, unsigned *n)
{
	const char *name = NULL;
	char *rest = l->text, *word;

	*n = 0;
	while ((word = strsep(&rest, " \t\r"))) {
		if (!*word)
			continue;
		if (!name)
			name = word;
		else if (*n < WORDS_MAX)
			l->words[(*n)++] = word;
	}
	if (*n > 0 && strcmp(l->words[*n - 1], "json") == 0) {
		l->words[--*n] = NULL;
		l->json = true;
	}
	return name ? name : "status";
}

void ops_command(struct parts *parts, uid_t uid, const char *text, FILE *out, struct ops_answer *answer)
{
	struct command_line line = {.parts = parts, .uid = uid, .out = out, .answer = answer}, *l = &line;
	unsigned n;

	snprintf(l->text, sizeof l->text, "%s", text);
	const struct command *command = find(split(l, &n));
	answer->json = l->json;
	if (!command)
		refuse(l, "unknown-command", "try \"help\"");
	else if (n > command->n_arguments)
		fprintf(out, "ERR usage %s %s [json]\n", command->name, command->arguments);
	else if (command->privileged && !places_is_privileged(uid))
		refuse(l, "denied", "only root and the daemon's user may do this");
	else
		command->run(l);
}

void ops_answer_end(struct ops_answer *a)
{
	metrics_page_end(&a->page);
	*a = (struct ops_answer){0};
}
