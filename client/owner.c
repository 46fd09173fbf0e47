#include "owner.h"

#include <sys/mman.h>

void owner_init(struct owner *owner)
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);
	char *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	*owner = (struct owner){.pid = getpid()};
	if (page == MAP_FAILED)
		return;
	if (madvise(page, size, MADV_WIPEONFORK) < 0) {
		munmap(page, size);
		return;
	}
	*page = 1;
	owner->mark = page;
}

void owner_free(struct owner *owner)
{
	if (owner->mark)
		munmap(owner->mark, (size_t)sysconf(_SC_PAGESIZE));
}
