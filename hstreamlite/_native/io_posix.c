/* The table of production: files, mappings and clocks of the operating system.
 *
 * Where a system lacks a call of Linux the nearest one that keeps the promise of io_api.h stands
 * in, or the function answers -EOPNOTSUPP; none of them weakens durability.
 */
#include "platform.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include "hsl.h"

enum { FILE_MODE = 0600, DIR_MODE = 0700, PID_TEXT = 21 };

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;
    do
        fd = open(path, flags, mode);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

/* Opens a regular file, and nothing else: of a pipe it would wait for the other end, and a
 * directory fails at the first read only. */
static int open_file(const char *path, int how)
{
    how |= O_CLOEXEC | O_NOFOLLOW | O_NOCTTY;
    int fd = open_retry(path, how | O_NONBLOCK, FILE_MODE);
    if (fd == -EWOULDBLOCK) /* somebody has a lease on the file, and is being asked to end it */
        fd = open_retry(path, how, FILE_MODE);
    if (fd < 0)
        return fd;
    struct stat st;
    int rc = fstat(fd, &st) < 0 ? -errno : 0;
    if (rc == 0 && !S_ISREG(st.st_mode))
        rc = S_ISDIR(st.st_mode) ? -EISDIR : -ENXIO;
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

static int posix_open(void *ctx, const char *path, int flags)
{
    int how = 0;
    if ((flags & HSL_OPEN_READ) && (flags & HSL_OPEN_WRITE))
        how |= O_RDWR;
    else if (flags & HSL_OPEN_WRITE)
        how |= O_WRONLY;
    else if (flags & HSL_OPEN_READ)
        how |= O_RDONLY;
    else
        return -EINVAL;
    if (flags & HSL_OPEN_CREATE)
        how |= O_CREAT;
    if (flags & HSL_OPEN_EXCL)
        how |= O_EXCL;
    if (flags & HSL_OPEN_DIRECT) {
#ifdef HSL_LINUX
        how |= O_DIRECT;
#else
        return -EINVAL;
#endif
    }
    return open_file(path, how);
}

static int posix_close(void *ctx, int fd)
{
    /* Linux has released the descriptor even when it reports EINTR; a retry could close the
     * descriptor another thread was just given. */
    if (close(fd) < 0 && errno != EINTR)
        return -errno;
    return 0;
}

#ifdef POSIX_FADV_WILLNEED
static void posix_announce(void *ctx, int fd, uint64_t off, uint64_t len)
{
    (void)ctx;
    posix_fadvise(fd, (off_t)off, (off_t)len, POSIX_FADV_WILLNEED);
}
#else
#define posix_announce NULL
#endif

static int64_t posix_pread(void *ctx, int fd, void *buf, size_t len, uint64_t off)
{
    ssize_t n;
    do
        n = pread(fd, buf, len, (off_t)off);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

#ifdef RWF_NOWAIT
static int64_t posix_pread_cached(void *ctx, int fd, void *buf, size_t len, uint64_t off)
{
    struct iovec part = {.iov_base = buf, .iov_len = len};
    ssize_t n = preadv2(fd, &part, 1, (off_t)off, RWF_NOWAIT);
    if (n >= 0)
        return n;
    return errno == EINTR || errno == EOPNOTSUPP || errno == ENOSYS ? -EAGAIN : -errno;
}
#else
#define posix_pread_cached NULL
#endif

static int64_t posix_pwrite(void *ctx, int fd, const void *buf, size_t len, uint64_t off)
{
    ssize_t n;
    do
        n = pwrite(fd, buf, len, (off_t)off);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static int posix_sync(void *ctx, int fd)
{
    int rc;
    do
#ifdef F_FULLFSYNC
        /* fsync of macOS stops at the drive's volatile cache; a file system without the call, as
         * one on the network, has nothing beyond fsync. */
        if ((rc = fcntl(fd, F_FULLFSYNC)) < 0 && (errno == ENOTSUP || errno == EINVAL))
            rc = fsync(fd);
#else
        rc = fsync(fd);
#endif
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

static int posix_datasync(void *ctx, int fd)
{
#ifdef F_FULLFSYNC
    return posix_sync(ctx, fd);
#else
    int rc;
    do
        rc = fdatasync(fd);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
#endif
}

static int64_t posix_size(void *ctx, int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    return st.st_size;
}

static int posix_truncate(void *ctx, int fd, uint64_t len)
{
    int rc;
    do
        rc = ftruncate(fd, (off_t)len);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* Blocks for the bytes behind `size` and up to `end`, by writing them. */
/* GCOV_EXCL_START: not reached: file systems that the tests use reserve blocks themselves */
static int write_zeros(int fd, uint64_t size, uint64_t end)
{
    static _Alignas(4096) const uint8_t zeros[1 << 16]; /* the file may be unbuffered */
    while (size < end) {
        uint64_t len = end - size < sizeof zeros ? end - size : sizeof zeros;
        int64_t n = posix_pwrite(NULL, fd, zeros, (size_t)len, size);
        if (n <= 0)
            return n < 0 ? (int)n : -EIO;
        size += (uint64_t)n;
    }
    return 0;
}
/* GCOV_EXCL_STOP */

/* What the system has for reserving blocks; -EOPNOTSUPP where that is nothing. Not posix_fallocate,
 * which macOS lacks, and which may leave a file that has eaten all space. */
static int reserve(int fd, uint64_t off, uint64_t len)
{
#ifdef HSL_LINUX
    int rc;
    do
        rc = fallocate(fd, 0, (off_t)off, (off_t)len);
    while (rc < 0 && errno == EINTR);
    if (rc == 0)
        return 0;
    return errno == ENOSYS || errno == ENOTSUP ? -EOPNOTSUPP : -errno;
#else
    return -EOPNOTSUPP;
#endif
}

static int posix_allocate(void *ctx, int fd, uint64_t off, uint64_t len)
{
    if (len == 0)
        return -EINVAL;
    int64_t before = posix_size(ctx, fd);
    if (before < 0)
        return (int)before;
    int rc = reserve(fd, off, len);
    if (rc == -EOPNOTSUPP)
        rc = write_zeros(fd, (uint64_t)before, off + len); /* not reached: as write_zeros */
    /* A file system may keep the blocks it had found when space ran out, even beyond the size:
     * truncation to the size the file had gives them back. */
    if (rc == -ENOSPC || rc == -EDQUOT || rc == -EIO)
        (void)posix_truncate(ctx, fd, (uint64_t)before);
    return rc;
}

static int posix_rename(void *ctx, const char *from, const char *to)
{
    return rename(from, to) < 0 ? -errno : 0;
}

static int posix_unlink(void *ctx, const char *path)
{
    if (unlink(path) == 0)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    int err = errno;
    if (rmdir(path) == 0)
        return 0;
    return errno == ENOTDIR ? -err : -errno;
}

static int posix_mkdir(void *ctx, const char *path)
{
    return mkdir(path, DIR_MODE) < 0 ? -errno : 0;
}

static int posix_sync_dir(void *ctx, const char *path)
{
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    int rc = posix_sync(ctx, fd);
    close(fd);
    return rc;
}

struct names {
    char **items;
    size_t count;
    size_t capacity;
    size_t bytes;
};

static int names_add(struct names *names, const char *name)
{
    if (names->count == names->capacity) {
        size_t capacity = names->capacity ? 2 * names->capacity : 64;
        char **items = realloc(names->items, capacity * sizeof *items);
        if (!items)
            return -ENOMEM;
        names->items = items;
        names->capacity = capacity;
    }
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    names->items[names->count++] = copy;
    names->bytes += strlen(copy) + 1;
    return 0;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int names_read(struct names *names, const char *path)
{
    DIR *dir = opendir(path);
    if (!dir)
        return -errno;
    int rc = 0;
    while (rc == 0) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry) {
            rc = -errno;
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            rc = names_add(names, entry->d_name);
    }
    closedir(dir);
    return rc;
}

static int64_t posix_list(void *ctx, const char *path, char *out, size_t cap)
{
    struct names names = {0};
    int64_t rc = names_read(&names, path);
    if (rc == 0) {
        rc = (int64_t)names.bytes;
        if (names.count && names.bytes <= cap) {
            qsort(names.items, names.count, sizeof *names.items, by_bytes);
            for (size_t i = 0; i < names.count; i++) {
                size_t size = strlen(names.items[i]) + 1;
                memcpy(out, names.items[i], size);
                out += size;
            }
        }
    }
    for (size_t i = 0; i < names.count; i++)
        free(names.items[i]);
    free(names.items);
    return rc;
}

static int64_t read_text(int fd, char *text, size_t cap)
{
    int64_t n = posix_pread(NULL, fd, text, cap - 1, 0);
    text[n > 0 ? n : 0] = 0;
    return n;
}

#ifndef HSL_LINUX

enum { LOCK_TRIES = 10000, LOCK_PAUSE_NS = 100000 };

static int try_flock(int fd, int how)
{
    int rc;
    do
        rc = flock(fd, how | LOCK_NB);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno == EWOULDBLOCK)
        return -EAGAIN;
    return rc < 0 ? -errno : 0;
}

#endif

/* The lock belongs to the open file description, so that it holds between threads and between
 * two stores of one process too; a forked child shares it until it closes the handle. */
static int lock_descriptor(int fd)
{
    int rc;
#ifdef HSL_LINUX
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    do
        rc = fcntl(fd, F_OFD_SETLK, &whole);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno == EACCES)
        return -EAGAIN;
    return rc < 0 ? -errno : 0;
#else
    /* Who asks for the holder holds the lock shared meanwhile. An owner holds it alone, so that
     * not even a share is to be had; where one is, it is free as soon as the others have asked,
     * which takes long only if they do not get a processor. */
    for (int tries = 0; (rc = try_flock(fd, LOCK_EX)) == -EAGAIN && tries < LOCK_TRIES;
         tries++) {
        if ((rc = try_flock(fd, LOCK_SH)) < 0)
            break;
        try_flock(fd, LOCK_UN);
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
    }
    return rc;
#endif
}

static int posix_lock(void *ctx, const char *path, int64_t *owner)
{
    *owner = 0;
    int fd = open_file(path, O_RDWR | O_CREAT);
    if (fd < 0)
        return fd;
    int rc = lock_descriptor(fd);
    if (rc < 0) {
        char text[PID_TEXT + 1];
        if (rc == -EAGAIN && read_text(fd, text, sizeof text) > 0)
            *owner = strtoll(text, NULL, 10);
        close(fd);
        return rc;
    }
    /* One write of fixed length: whoever finds the lock taken never reads half a number. The pid
     * only informs, so a full disk does not cost the lock, but must not leave another's pid. */
    char text[PID_TEXT + 1];
    snprintf(text, sizeof text, "%-20" PRId64 "\n", (int64_t)getpid());
    if (posix_pwrite(ctx, fd, text, PID_TEXT, 0) != PID_TEXT)
        (void)posix_truncate(ctx, fd, 0); /* not reached: a disk that fills up at this write */
    return fd;
}

/* Asks with a descriptor of its own: a lock of the same descriptor would not count. */
static int posix_locked(void *ctx, const char *path, int64_t *owner)
{
    *owner = 0;
    int fd = open_file(path, O_RDONLY);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    int rc;
#ifdef HSL_LINUX
    struct flock whole = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    do
        rc = fcntl(fd, F_OFD_GETLK, &whole);
    while (rc < 0 && errno == EINTR);
    rc = rc < 0 ? -errno : whole.l_type != F_UNLCK;
#else
    rc = try_flock(fd, LOCK_SH);
    if (rc == 0)
        try_flock(fd, LOCK_UN); /* a child forked meanwhile would keep it beyond the close */
    rc = rc == -EAGAIN ? 1 : rc;
#endif
    char text[PID_TEXT + 1];
    if (rc == 1 && read_text(fd, text, sizeof text) > 0)
        *owner = strtoll(text, NULL, 10);
    close(fd);
    return rc;
}

static void *posix_map_shared(void *ctx, int fd, size_t len)
{
    /* A touch beyond the end of the file would be a signal. */
    int64_t size = posix_size(ctx, fd);
    int mode = fcntl(fd, F_GETFL);
    if (size < 0 || (uint64_t)size < len || mode < 0)
        return NULL;
    int access = (mode & O_ACCMODE) == O_RDONLY ? PROT_READ : PROT_READ | PROT_WRITE;
    void *addr = mmap(NULL, len, access, MAP_SHARED, fd, 0);
    return addr == MAP_FAILED ? NULL : addr;
}

static int posix_unmap(void *ctx, void *addr, size_t len)
{
    return munmap(addr, len) < 0 ? -errno : 0;
}

static int64_t posix_free_bytes(void *ctx, const char *path)
{
    struct statvfs st;
    int rc;
    do
        rc = statvfs(path, &st);
    while (rc < 0 && errno == EINTR);
    if (rc < 0)
        return -errno;
    return (int64_t)(st.f_bavail * st.f_frsize);
}

#if defined HSL_LINUX || defined __APPLE__

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* "8-4-4-4-12" lower-case hexadecimal digits, as the kernel prints a uuid. */
static int parse_uuid(const char *text, uint8_t id[16])
{
    for (int i = 0; i < 16; i++) {
        if (*text == '-')
            text++;
        int high = hex_digit(text[0]);
        int low = high < 0 ? -1 : hex_digit(text[1]);
        if (low < 0)
            return -EINVAL;
        id[i] = (uint8_t)(high << 4 | low);
        text += 2;
    }
    return 0;
}

#endif

#ifdef HSL_LINUX

static int read_proc(const char *path, char *text, size_t cap)
{
    int fd = open_retry(path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    int64_t n = read_text(fd, text, cap);
    close(fd);
    return n < 0 ? (int)n : 0;
}

static int system_boot_id(uint8_t id[16])
{
    char uuid[64];
    if (read_proc("/proc/sys/kernel/random/boot_id", uuid, sizeof uuid) == 0 &&
        parse_uuid(uuid, id) == 0)
        return 0;
    /* GCOV_EXCL_START: not reached: a kernel without a boot id */
    /* The btime line stands behind the interrupt counters, which may be tens of KiB long. */
    enum { STAT_BYTES = 1 << 20 };
    char *stat_text = malloc(STAT_BYTES);
    if (!stat_text)
        return -ENOMEM;
    int rc = read_proc("/proc/stat", stat_text, STAT_BYTES);
    const char *line = rc == 0 ? strstr(stat_text, "\nbtime ") : NULL;
    if (line) {
        uint64_t seconds = strtoull(line + sizeof "\nbtime " - 1, NULL, 10);
        memset(id, 0, 16);
        for (int i = 0; i < 8; i++)
            id[i] = (uint8_t)(seconds >> 8 * i);
    } else {
        rc = -EOPNOTSUPP;
    }
    free(stat_text);
    return rc;
    /* GCOV_EXCL_STOP */
}

#elif defined __APPLE__

static int system_boot_id(uint8_t id[16])
{
    char uuid[64];
    size_t len = sizeof uuid;
    if (sysctlbyname("kern.bootsessionuuid", uuid, &len, NULL, 0) < 0)
        return -errno;
    for (char *c = uuid; *c; c++)
        *c = (char)(*c >= 'A' && *c <= 'F' ? *c - 'A' + 'a' : *c);
    return parse_uuid(uuid, id);
}

#else

static int system_boot_id(uint8_t id[16]) { return -EOPNOTSUPP; }

#endif

/* A number in shared memory of the machine, which keeps it until it boots: whoever looks first
 * draws it. */
/* GCOV_EXCL_START: not reached: a system without boot ids; ./run portable */
static int drawn_boot_id(uint8_t id[16])
{
    int fd = shm_open("/hstreamlite-boot", O_RDWR | O_CREAT, 0666);
    if (fd < 0)
        return -errno;
    int rc = posix_truncate(NULL, fd, sizeof(uint64_t));
    _Atomic uint64_t *word = rc < 0 ? NULL : posix_map_shared(NULL, fd, sizeof *word);
    close(fd);
    if (!word)
        return rc < 0 ? rc : -ENOMEM;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t mine = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    uint64_t drawn = 0;
    if (atomic_compare_exchange_strong(word, &drawn, mine))
        drawn = mine;
    memset(id, 0, 16);
    memcpy(id, &drawn, sizeof drawn);
    munmap((void *)word, sizeof *word);
    return 0;
}
/* GCOV_EXCL_STOP */

static int posix_boot_id(void *ctx, uint8_t id[16])
{
    return system_boot_id(id) == 0 ? 0 : drawn_boot_id(id);
}

static uint64_t posix_wall_ms(void *ctx)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static uint64_t posix_mono_ns(void *ctx)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

int hsl_io_portable(void)
{
#ifdef HSL_LINUX
    return 0;
#else
    return 1;
#endif
}

const struct hsl_io *hsl_io_posix(void)
{
    static const struct hsl_io table = {
        .ctx = NULL,
        .open = posix_open,
        .close = posix_close,
        .announce = posix_announce,
        .pread = posix_pread,
        .pread_cached = posix_pread_cached,
        .pwrite = posix_pwrite,
        .datasync = posix_datasync,
        .sync = posix_sync,
        .allocate = posix_allocate,
        .truncate = posix_truncate,
        .size = posix_size,
        .rename = posix_rename,
        .unlink = posix_unlink,
        .mkdir = posix_mkdir,
        .sync_dir = posix_sync_dir,
        .list = posix_list,
        .lock = posix_lock,
        .locked = posix_locked,
        .map_shared = posix_map_shared,
        .unmap = posix_unmap,
        .free_bytes = posix_free_bytes,
        .boot_id = posix_boot_id,
        .wall_ms = posix_wall_ms,
        .mono_ns = posix_mono_ns,
    };
    return &table;
}
