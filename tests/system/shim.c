/* Preloaded into a worker: one sync of a file fails, and takes with it what was written since the
 * last good one. That is what ext4 does: the error is told once, the pages are marked clean.
 *
 *   SHIM_SYNC=N   the N-th fdatasync or fsync, counted over all files and directories, gives EIO
 *   SHIM_LOSES    the bytes go back at once to what they were
 *   SHIM_ZEROS=N  zeros take N microseconds longer to be written than what is not, and than others
 *                 that are begun meanwhile
 *   SHIM_KEEPS=F  they stay readable until the cache drops them; file F gets what comes back then:
 *                 offset, length as u64, and the bytes, in the order in which to put them; F.link
 *                 becomes another name of the file
 *
 * The thread that saw a sync fail is not to write the file again: that ends the process with a
 * report. Another one may have had a group under way.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct write {
    ino_t inode;
    uint64_t offset, len;
    void *before;
    struct write *older;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct write *newest;
static long syncs;
static ino_t failed;
static pthread_t told;

static ino_t inode_of(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? st.st_ino : 0;
}

static ssize_t real_pwrite(int fd, const void *buf, size_t len, off_t off)
{
    static ssize_t (*next)(int, const void *, size_t, off_t);
    if (!next)
        next = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    return next(fd, buf, len, off);
}

static void remember(int fd, ino_t inode, size_t len, off_t off)
{
    struct write *write = calloc(1, sizeof *write);
    void *before = aligned_alloc(4096, (len + 4095) & ~(size_t)4095);
    if (!write || !before)
        abort();
    memset(before, 0, len);
    if (pread(fd, before, len, off) < 0)
        abort();
    *write = (struct write){inode, (uint64_t)off, len, before, newest};
    newest = write;
}

/* Forgets the writes to a file, after undoing them if undo is set, or noting them in `keeps`. */
static void settle(int fd, ino_t inode, int undo, FILE *keeps)
{
    for (struct write **at = &newest; *at;) {
        struct write *write = *at;
        if (write->inode != inode) {
            at = &write->older;
            continue;
        }
        if (undo && real_pwrite(fd, write->before, write->len, (off_t)write->offset) < 0)
            abort();
        if (keeps) {
            uint64_t head[2] = {write->offset, write->len};
            fwrite(head, sizeof head, 1, keeps);
            fwrite(write->before, write->len, 1, keeps);
        }
        *at = write->older;
        free(write->before);
        free(write);
    }
}

static void hold_up_zeros(const char *buf, size_t len)
{
    static int held;
    const char *micros = getenv("SHIM_ZEROS");
    if (!micros || len < 2 || buf[0] != 0 || memcmp(buf, buf + 1, len - 1) != 0)
        return;
    if (__sync_fetch_and_add(&held, 1) == 0)
        usleep((useconds_t)atol(micros));
    __sync_fetch_and_sub(&held, 1);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off_t off)
{
    hold_up_zeros(buf, len);
    pthread_mutex_lock(&mutex);
    ino_t inode = inode_of(fd);
    if (inode && inode == failed && pthread_equal(told, pthread_self())) {
        static const char text[] = "written again after a failed sync\n";
        (void)!write(1, text, sizeof text - 1);
        abort();
    }
    if (inode)
        remember(fd, inode, len, off);
    ssize_t n = real_pwrite(fd, buf, len, off);
    pthread_mutex_unlock(&mutex);
    return n;
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
    return pwrite64(fd, buf, len, off);
}

static FILE *note_loss(int fd, const char *path)
{
    char name[64], link[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    snprintf(link, sizeof link, "%s.link", path);
    FILE *keeps = fopen(path, "wb");
    if (!keeps || linkat(AT_FDCWD, name, AT_FDCWD, link, AT_SYMLINK_FOLLOW) < 0)
        abort();
    return keeps;
}

static int sync_by(int fd, const char *name)
{
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *number = getenv("SHIM_SYNC"), *path = getenv("SHIM_KEEPS");
    int rc = -1;
    pthread_mutex_lock(&mutex);
    ino_t inode = inode_of(fd);
    if (number && ++syncs == atol(number)) {
        FILE *keeps = path && inode ? note_loss(fd, path) : NULL;
        failed = inode;
        told = pthread_self();
        settle(fd, inode, getenv("SHIM_LOSES") != NULL, keeps);
        if (keeps)
            fclose(keeps);
        const char *text = inode ? "struck file\n" : "struck directory\n";
        (void)!write(1, text, strlen(text));
        errno = EIO;
    } else {
        rc = next(fd);
        if (rc == 0)
            settle(fd, inode, 0, NULL);
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

int fdatasync(int fd) { return sync_by(fd, "fdatasync"); }

int fsync(int fd) { return sync_by(fd, "fsync"); }
