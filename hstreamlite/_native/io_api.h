/* The one seam to the outside: files, mappings and clocks as a table of functions.
 *
 * The engine never calls the system itself. hsl_io_posix() is the table of production; a struct
 * hsl_simfs (simfs_api.h) offers the same table over memory, with faults and crashes. Every int
 * or int64_t result is >= 0 on success and -errno on failure. Paths are NUL-terminated UTF-8.
 * All functions may be called from any thread. None calls back into Python.
 */
enum hsl_open_flag {
    HSL_OPEN_READ = 1,
    HSL_OPEN_WRITE = 2,
    HSL_OPEN_CREATE = 4,
    HSL_OPEN_EXCL = 8,
    HSL_OPEN_DIRECT = 16
};

struct hsl_io {
    void *ctx;
    /* Returns a handle >= 0. DIRECT on a file system that refuses it gives -EINVAL. What is no
     * regular file is not opened: -EISDIR for a directory, -ELOOP for a link, -ENXIO for a pipe and
     * all else. */
    int (*open)(void *ctx, const char *path, int flags);
    int (*close)(void *ctx, int fd);
    /* Says that these bytes will be read soon; NULL where that cannot be said. */
    void (*announce)(void *ctx, int fd, uint64_t off, uint64_t len);
    /* May be short, like the system calls; 0 from pread means end of file. */
    int64_t (*pread)(void *ctx, int fd, void *buf, size_t len, uint64_t off);
    /* As pread, of what needs no wait for the disk: -EAGAIN if that is nothing; NULL where that
     * cannot be said. */
    int64_t (*pread_cached)(void *ctx, int fd, void *buf, size_t len, uint64_t off);
    int64_t (*pwrite)(void *ctx, int fd, const void *buf, size_t len, uint64_t off);
    /* Data and the size needed to read it are durable on return (fdatasync). */
    int (*datasync)(void *ctx, int fd);
    /* Data and all metadata (fsync). */
    int (*sync)(void *ctx, int fd);
    /* Reserves blocks for [off, off+len) and extends the size, by zeros written there where the
     * file system cannot. -ENOSPC leaves no block behind that was not there before. */
    int (*allocate)(void *ctx, int fd, uint64_t off, uint64_t len);
    int (*truncate)(void *ctx, int fd, uint64_t len);
    int64_t (*size)(void *ctx, int fd);
    int (*rename)(void *ctx, const char *from, const char *to);
    /* Removes the name of a file or of an empty directory. */
    int (*unlink)(void *ctx, const char *path);
    int (*mkdir)(void *ctx, const char *path);
    int (*sync_dir)(void *ctx, const char *path);
    /* Writes the sorted entry names (without . and ..) NUL-separated to names; returns the bytes
     * needed, which may exceed cap: then nothing is written. */
    int64_t (*list)(void *ctx, const char *path, char *names, size_t cap);
    /* Takes the exclusive lock on path (created if absent) and writes the own pid into it. Returns
     * a handle; -EAGAIN when held elsewhere, with the holder's pid (0 if unknown) in *owner. */
    int (*lock)(void *ctx, const char *path, int64_t *owner);
    /* 1 if somebody holds the lock on path, with the pid as above, 0 if nobody does or there is no
     * such file. Changes nothing. */
    int (*locked)(void *ctx, const char *path, int64_t *owner);
    /* Maps the first len bytes of an open file shared, and writable if the handle is; NULL on
     * failure. The bytes outlive the process, not the machine. */
    void *(*map_shared)(void *ctx, int fd, size_t len);
    int (*unmap)(void *ctx, void *addr, size_t len);
    int64_t (*free_bytes)(void *ctx, const char *path);
    /* A number that changes when the machine boots. */
    int (*boot_id)(void *ctx, uint8_t id[16]);
    uint64_t (*wall_ms)(void *ctx); /* ask hsl_wall_ms, not this */
    uint64_t (*mono_ns)(void *ctx);
    /* Keep ctx alive, and let it go; NULL where it lives for ever. */
    void (*retain)(void *ctx);
    void (*release)(void *ctx);
};

const struct hsl_io *hsl_io_posix(void);
/* Milliseconds since 1970; 0 where the clock stands before that, or behind the year 9999. Times of
 * a log never go back: one that no date can show would be that of all its records to come. */
uint64_t hsl_wall_ms(const struct hsl_io *io);
/* 1 = built without what Linux has beyond POSIX: no unbuffered files, no /proc. */
int hsl_io_portable(void);
