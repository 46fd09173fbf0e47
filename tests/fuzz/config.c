/* The settings, each from the environment or from a flag. What is accepted is within the ranges
 * that the rest of the relay relies on, and what is refused is one line. A password is never
 * printed, also when it is in a wrong place of its URL. */
#include "input.h"

#include "base/config.h"
#include "base/settings.h"
#include "log.h"
#include "wire.h"

#include <errno.h>
#include <getopt.h>

#define PASSWORD "xyzzyPlughXyzzy"

static struct config config;

/* Values live as long as the process, which here reads many inputs. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

/* A URL with a password, and around it what the input gives:
 * scheme://USER:PASSWORD...@REST. */
static char *make_url(struct input *in)
{
	static const char *const schemes[] = {"postgres://", "postgresql://"};
	char *user = input_text(in), *tail = input_text(in), *rest = input_text(in), *url;

	user[strspn(user, "abcdefghijklmnopqrstuvwxyz0123456789_.%-")] = '\0';
	must(asprintf(&url, "%s%s:" PASSWORD "%s@%s", schemes[input_byte(in) % 2], user, tail, rest) > 0);
	free(user);
	free(tail);
	free(rest);
	return url;
}

static void check_accepted(void)
{
	must(config.n_channels >= 1 && config.n_channels <= CHANNELS_MAX);
	for (unsigned i = 0; i < config.n_channels; i++) {
		const struct channel *c = &config.channels[i];
		size_t len = strlen(c->name);
		must(len >= 1 && len <= CHANNEL_NAME_MAX && wire_utf8_valid(c->name, len));
		must(strcmp(c->name, CANARY_CHANNEL) != 0 && !c->gone);
		for (unsigned j = 0; j < i; j++)
			must(strcmp(c->name, config.channels[j].name) != 0);
	}
	must(config.backlog_size >= BACKLOG_SIZE_MIN);
	must((config.backlog_size & (config.backlog_size - 1)) == 0);
	must(config.socket_mode <= 0777);
	must(config.socket_path && strlen(config.socket_path) < 108);
	must(!config.ops_path || strlen(config.ops_path) < 108);
	must(!config.metrics_path || strlen(config.metrics_path) < 108);
	must(config.start_timeout == -1 || (config.start_timeout >= 0 && config.start_timeout <= 86400));
	must(config.drain >= 0 && config.drain <= 86400);
	must(config.checkpoint_interval >= 0.1 && config.checkpoint_interval <= 3600);
	must(config.recovery_rate >= 0 && config.recovery_rate <= 1e9);
	must(config.recovery_timeout >= 0.1 && config.recovery_timeout <= 3600);
	must(config.recovery_size >= RECOVERY_SIZE_MIN);
	must(config.workers_max >= 1 && config.workers_per_uid_max >= 1 && config.subscriptions_max >= 1);
	must(config.worker_queue_size >= 1024 && config.worker_publishes_max >= 1);
	must(config.publish_queue_max >= 1 && config.publish_queue_size >= 8192);
	must((config.mode == MODE_POSTGRES) == (config.direct_url != NULL));
	must(config.mode == MODE_LOCAL || config.publish_url);
	uint64_t topics = config.n_channels == 63 ? UINT64_MAX : (UINT64_C(2) << config.n_channels) - 1;
	for (unsigned i = 0; i < config.access.n_rules; i++) {
		const struct access_rights *rights = &config.access.rules[i].rights;
		must(rights->listen || rights->publish);
		/* All channels, or one that is configured. */
		must(rights->listen == 0 || rights->listen == UINT64_MAX ||
			(rights->listen & topics) == rights->listen);
		must(rights->publish == 0 || rights->publish == UINT64_MAX ||
			(rights->publish & topics) == rights->publish);
	}
}

/* As the operator may see it. */
static void check_redaction(void)
{
	struct setting_shown setting;

	for (unsigned i = 0; i < settings_n(); i++) {
		settings_show(i, &setting);
		must(!strstr(setting.value, PASSWORD));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	struct setting_shown setting;
	char *argv[16] = {(char[]){"pgherald"}};
	int argc = 1;
	unsigned n = settings_n();

	/* If the input has it elsewhere, it is not a secret. */
	if (memmem(data, size, PASSWORD, strlen(PASSWORD)))
		return 0;
	for (unsigned i = 0; i < n; i++) {
		settings_show(i, &setting);
		unsetenv(setting.name);
	}
	while (input_more(&in) && argc < 15) {
		unsigned which = input_byte(&in);
		settings_show(which % n, &setting);
		/* It would read any file. */
		if (strcmp(setting.name, "PGHERALD_ENVIRONMENT_FILE") == 0)
			continue;
		bool is_url = strstr(setting.name, "URL") != NULL;
		char *value = is_url && which >= 128 ? make_url(&in) : input_text(&in);
		if (input_byte(&in) & 1)
			must(asprintf(&argv[argc++], "--%s=%s", setting.flag, value) > 0);
		else
			setenv(setting.name, value, 1);
		free(value);
	}
	log_clear();
	optind = 0;
	int r = config_load(&config, argc, argv);
	must(r == 0 || r == -EINVAL);
	must((r == 0) != log_has("ERROR: "));
	must(!log_has(PASSWORD));
	if (r == 0) {
		check_accepted();
		check_redaction();
	}
	for (int i = 1; i < argc; i++) {
		must(!strstr(argv[i], PASSWORD));
		free(argv[i]);
	}
	access_free(&config.access);
	return 0;
}
