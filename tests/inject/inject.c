/* Preloaded into a program: lets one allocation or system call fail, where the environment says.
 *
 *   INJECT_SITES=FILE   write down each site at which our own code makes such a call
 *   INJECT_FAIL=SITE    let the first call at this site fail, and write the site to INJECT_DONE
 *   INJECT_OWN=NAME     our own code: the library whose path contains NAME; by default the program
 *
 * A site is the called function and the return addresses up to the third frame of our own code, as
 * offsets in their modules. So it names the same place in every run of a build, and calls of libpq
 * and libev differ by the call of ours that they are made for.
 *
 * Left out are calls that cannot fail as they are made here: close(), clock_gettime(), epoll_ctl()
 * except to add, timerfd_settime(), read() and write() of an eventfd and of stderr, fcntl(),
 * getpid(). */
/* Keeps mmap() from being called mmap64() here. */
#undef _FILE_OFFSET_BITS

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <unwind.h>

#define FRAMES_MAX 40
#define OWN_FRAMES 3
#define SITES_MAX 4096
#define ADDS_MAX 12

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t seen[SITES_MAX];
static unsigned n_seen;
static const char *sites, *wanted, *done, *own;
static bool ready; /* main() is about to run */
static __thread bool inside
	__attribute__((tls_model("initial-exec"))); /* this file makes a call of its own */

/* Modules: the address where each begins, and whether it is ours. */
static struct module {
	uintptr_t start, end;
	bool own;
} modules[64];
static unsigned n_modules;
static uintptr_t self_start;

static int add_module(struct dl_phdr_info *info, size_t size, void *arg)
{
	struct module m = {.start = UINTPTR_MAX};

	(void)size, (void)arg;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		if (p->p_type != PT_LOAD)
			continue;
		uintptr_t start = info->dlpi_addr + p->p_vaddr;
		if (start < m.start)
			m.start = start;
		if (start + p->p_memsz > m.end)
			m.end = start + p->p_memsz;
	}
	/* The program itself has no name here. */
	m.own = own ? strstr(info->dlpi_name, own) != NULL : !*info->dlpi_name;
	if (m.start <= (uintptr_t)add_module && (uintptr_t)add_module < m.end)
		self_start = m.start;
	if (n_modules < sizeof modules / sizeof *modules)
		modules[n_modules++] = m;
	return 0;
}

static const struct module *module_of(uintptr_t address)
{
	for (unsigned i = 0; i < n_modules; i++)
		if (modules[i].start <= address && address < modules[i].end)
			return &modules[i];
	return NULL;
}

static __attribute__((constructor)) void start(void)
{
	inside = true;
	sites = getenv("INJECT_SITES");
	wanted = getenv("INJECT_FAIL");
	done = getenv("INJECT_DONE");
	own = getenv("INJECT_OWN");
	dl_iterate_phdr(add_module, NULL);
	/* Not in programs that this one starts. */
	unsetenv("LD_PRELOAD");
	inside = false;
	ready = sites || wanted;
}

static void append_line(const char *path, const char *line)
{
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

	if (fd < 0 || syscall(SYS_write, fd, line, strlen(line)) < 0)
		abort();
	syscall(SYS_close, fd);
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
	return (hash ^ value) * UINT64_C(0x100000001b3) ^ (hash >> 29);
}

/* A site while its frames are walked, innermost first. */
struct site {
	uint64_t hash;
	int frames, own; /* so far */
	char trace[128]; /* the own frames' offsets */
	size_t trace_len;
};

static _Unwind_Reason_Code add_frame(struct _Unwind_Context *context, void *arg)
{
	struct site *s = arg;
	uintptr_t address = _Unwind_GetIP(context);
	const struct module *m = module_of(address);

	if (m && m->start != self_start) {
		s->hash = mix(s->hash, address - m->start);
		if (m->own)
			s->trace_len += (size_t)snprintf(s->trace + s->trace_len,
				sizeof s->trace - s->trace_len, " 0x%lx", address - m->start);
		s->own += m->own;
	}
	return ++s->frames < FRAMES_MAX && s->own < OWN_FRAMES ? _URC_NO_REASON : _URC_END_OF_STACK;
}

/* False: no frame of our own is on the stack. */
static bool find_site(const char *function, struct site *s)
{
	*s = (struct site){.hash = UINT64_C(0xcbf29ce484222325)};
	for (const char *p = function; *p; p++)
		s->hash = mix(s->hash, (unsigned char)*p);
	_Unwind_Backtrace(add_frame, s);
	return s->own > 0;
}

static bool is_new(uint64_t site)
{
	for (unsigned i = 0; i < n_seen; i++)
		if (seen[i] == site)
			return false;
	if (n_seen < SITES_MAX)
		seen[n_seen++] = site;
	return true;
}

/* Whether this call must fail. */
static bool fails(const char *function)
{
	struct site site;
	char line[256];
	bool fail = false;

	if (!ready || inside)
		return false;
	inside = true;
	int error = errno;
	if (find_site(function, &site)) {
		pthread_mutex_lock(&lock);
		bool new = is_new(site.hash);
		/* libev adds all its descriptors in one place, so each of them is a site. */
		for (int i = 0; !new &&i < ADDS_MAX &&strcmp(function, "epoll_ctl") == 0; i++)
			new = is_new(site.hash = mix(site.hash, (uint64_t)i));
		if (new) {
			snprintf(line, sizeof line, "%s-%016lx%s\n", function, site.hash, site.trace);
			if (sites)
				append_line(sites, line);
			fail = wanted && strncmp(line, wanted, strlen(wanted)) == 0;
			if (fail)
				append_line(done, line);
		}
		pthread_mutex_unlock(&lock);
	}
	errno = error;
	inside = false;
	return fail;
}

/* The real function. While dlsym() allocates, no call fails. */
#define REAL(name)                                                                                           \
	static __typeof__(name) *real;                                                                       \
	if (!real) {                                                                                         \
		bool was = inside;                                                                           \
		inside = true;                                                                               \
		real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                                          \
		inside = was;                                                                                \
	}

#define FAIL(name, error, result)                                                                            \
	if (fails(#name)) {                                                                                  \
		errno = error;                                                                               \
		return result;                                                                               \
	}

/* Memory. The sanitizer allocates before it is ready; dlsym() calls calloc(). */

void *malloc(size_t size)
{
	REAL(malloc)
	FAIL(malloc, ENOMEM, NULL)
	return real(size);
}

void *calloc(size_t n, size_t size)
{
	static char early[4096];
	static size_t used;
	static bool asking;

	if (asking) {
		void *p = early + used;
		used += (n * size + 15) / 16 * 16;
		return used <= sizeof early ? p : NULL;
	}
	asking = true;
	REAL(calloc)
	asking = false;
	FAIL(calloc, ENOMEM, NULL)
	return real(n, size);
}

void *realloc(void *old, size_t size)
{
	REAL(realloc)
	FAIL(realloc, ENOMEM, NULL)
	return real(old, size);
}

void *reallocarray(void *old, size_t n, size_t size)
{
	REAL(reallocarray)
	FAIL(reallocarray, ENOMEM, NULL)
	return real(old, n, size);
}

char *strdup(const char *s)
{
	REAL(strdup)
	FAIL(strdup, ENOMEM, NULL)
	return real(s);
}

char *strndup(const char *s, size_t n)
{
	REAL(strndup)
	FAIL(strndup, ENOMEM, NULL)
	return real(s, n);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
	REAL(posix_memalign)
	FAIL(posix_memalign, ENOMEM, ENOMEM)
	return real(out, alignment, size);
}

void *mmap(void *address, size_t len, int protection, int flags, int fd, off_t offset)
{
	FAIL(mmap, ENOMEM, MAP_FAILED)
	return (void *)syscall(SYS_mmap, address, len, protection, flags, fd, offset);
}

int madvise(void *address, size_t len, int advice)
{
	REAL(madvise)
	FAIL(madvise, EINVAL, -1)
	return real(address, len, advice);
}

/* All others have one form. */
#define WRAP(result, name, parameters, arguments, error)                                                     \
	result name parameters                                                                               \
	{                                                                                                    \
		REAL(name)                                                                                   \
		FAIL(name, error, -1)                                                                        \
		return real arguments;                                                                       \
	}

WRAP(int, socket, (int domain, int type, int protocol), (domain, type, protocol), EMFILE)
WRAP(int, socketpair, (int domain, int type, int protocol, int fds[2]), (domain, type, protocol, fds), EMFILE)
WRAP(int, bind, (int fd, const struct sockaddr *address, socklen_t len), (fd, address, len), EACCES)
WRAP(int, listen, (int fd, int backlog), (fd, backlog), EADDRINUSE)
WRAP(int, accept4, (int fd, struct sockaddr *address, socklen_t *len, int flags), (fd, address, len, flags),
	EMFILE)
WRAP(int, connect, (int fd, const struct sockaddr *address, socklen_t len), (fd, address, len), ECONNREFUSED)
WRAP(int, getsockopt, (int fd, int level, int name, void *value, socklen_t *len),
	(fd, level, name, value, len), ENOBUFS)
WRAP(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t len),
	(fd, level, name, value, len), ENOBUFS)
WRAP(ssize_t, recv, (int fd, void *buf, size_t len, int flags), (fd, buf, len, flags), ECONNRESET)
WRAP(ssize_t, send, (int fd, const void *buf, size_t len, int flags), (fd, buf, len, flags), EPIPE)
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), EPIPE)
WRAP(int, epoll_create1, (int flags), (flags), EMFILE)
WRAP(int, epoll_wait, (int fd, struct epoll_event *events, int n, int timeout), (fd, events, n, timeout),
	EINTR)
WRAP(int, poll, (struct pollfd * fds, nfds_t n, int timeout), (fds, n, timeout), EINTR)
WRAP(int, eventfd, (unsigned count, int flags), (count, flags), EMFILE)
WRAP(int, timerfd_create, (clockid_t clock, int flags), (clock, flags), EMFILE)
WRAP(int, memfd_create, (const char *name, unsigned flags), (name, flags), EMFILE)
WRAP(int, ftruncate, (int fd, off_t len), (fd, len), ENOSPC)
WRAP(int, pipe2, (int fds[2], int flags), (fds, flags), EMFILE)
WRAP(ssize_t, getrandom, (void *buf, size_t len, unsigned flags), (buf, len, flags), ENOSYS)
WRAP(int, chmod, (const char *path, mode_t mode), (path, mode), EROFS)
WRAP(int, unlink, (const char *path), (path), EROFS)
WRAP(int, flock, (int fd, int operation), (fd, operation), ENOLCK)
WRAP(int, lstat, (const char *path, struct stat *out), (path, out), EACCES)

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
	REAL(epoll_ctl)
	if (operation == EPOLL_CTL_ADD)
		FAIL(epoll_ctl, ENOSPC, -1)
	return real(epoll, operation, fd, event);
}

/* The log. */
ssize_t write(int fd, const void *buf, size_t len)
{
	REAL(write)
	if (fd == STDERR_FILENO)
		FAIL(write, EIO, -1)
	return real(fd, buf, len);
}

int open(const char *path, int flags, ...)
{
	va_list arguments;

	REAL(open)
	va_start(arguments, flags);
	mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
	va_end(arguments);
	FAIL(open, EMFILE, -1)
	return real(path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
	REAL(fopen)
	FAIL(fopen, EMFILE, NULL)
	return real(path, mode);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *arg)
{
	REAL(pthread_create)
	FAIL(pthread_create, EAGAIN, EAGAIN)
	return real(thread, attributes, run, arg);
}

/* The names that programs use which are built for large files. */
__typeof__(mmap) mmap64 __attribute__((alias("mmap")));
__typeof__(open) open64 __attribute__((alias("open")));
__typeof__(fopen) fopen64 __attribute__((alias("fopen")));
__typeof__(ftruncate) ftruncate64 __attribute__((alias("ftruncate")));
