/* Wakes an event loop: one write to an eventfd, or to a pipe, per group commit. */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#ifdef HSL_LINUX

#include <sys/eventfd.h>

int hsl_notify_open(int32_t ends[2])
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno; /* not reached: the process is out of descriptors */
    ends[0] = ends[1] = fd;
    return 0;
}

#else

int hsl_notify_open(int32_t ends[2])
{
    int pair[2];
    if (pipe(pair) < 0)
        return -errno;
    for (int i = 0; i < 2; i++) {
        fcntl(pair[i], F_SETFD, FD_CLOEXEC);
        fcntl(pair[i], F_SETFL, O_NONBLOCK);
        ends[i] = pair[i];
    }
    return 0;
}

#endif

void hsl_notify_drain(int32_t end)
{
    uint64_t counts[512]; /* an eventfd gives one; a pipe all that fell together */
    while (read(end, counts, sizeof counts) == sizeof counts)
        ;
}

void hsl_notify_close(const int32_t ends[2])
{
    close(ends[0]);
    if (ends[1] != ends[0])
        close(ends[1]); /* not reached: a pipe has two, an eventfd one; ./run portable */
}

void hsl_notify(int fd)
{
    if (fd < 0)
        return;
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one); /* EAGAIN: the loop has not read the last ones yet */
    (void)n;
}
