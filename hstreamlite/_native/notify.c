/* Wakes an event loop: one eventfd write per group commit. */
#include "log.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int hsl_notify_open(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

void hsl_notify_drain(int fd)
{
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count);
    (void)n;
}

void hsl_notify_close(int fd) { close(fd); }

void hsl_notify(int fd)
{
    if (fd < 0)
        return;
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one); /* EAGAIN: the loop has not read the last one yet */
    (void)n;
}
