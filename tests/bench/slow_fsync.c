/* For LD_PRELOAD: a disk whose flush takes a millisecond, on any machine. */
#include <time.h>
#include <unistd.h>

static int flush(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	return 0;
}

int fsync(int fd)
{
	(void)fd;
	return flush();
}

int fdatasync(int fd)
{
	(void)fd;
	return flush();
}
