/* The page TAIL: how far the log is durable, told to other processes.
 *
 * The writer maps the file shared and stores to it after every group; nothing of it is synced, and
 * a page of another boot does not count. What a page of this boot says stays true when its writer
 * is killed: durable is durable. So a writer that opens leaves it as it finds it, and writes a page
 * anew only where it finds none, before it touches anything else: whoever read the store by its own
 * judgement sees by that page that it has to look again.
 *
 * Behind the page lies a ring with the newest frames, so that a follower that keeps up reads no
 * disk: such reads would slow the very writes they wait for. A byte at offset o of the active
 * segment lies at o modulo the ring's size. The ring holds all that is durable from the place
 * `ring_from` on, which is of the active segment; it is raised before bytes in front of it are
 * overwritten, and whoever copied bytes looks at it again. What is copied is checked like what is
 * read, and read instead if it does not hold.
 */
#include "log.h"

#include <errno.h>
#include <string.h>

#define RING_SHARE 4u /* of the ring, for one group */

static _Atomic uint64_t *word(uint64_t *at) { return (_Atomic uint64_t *)(void *)at; }

static uint32_t page_crc(const struct hsl_tail_page *page)
{
    return hsl_crc32c(0, (const uint8_t *)page + 12,
                      offsetof(struct hsl_tail_page, ring_bytes) - 12);
}

static bool page_valid(const struct hsl_tail_page *page, const uint8_t boot[16])
{
    return memcmp(page->magic, HSL_TAIL_MAGIC, 8) == 0 && page->crc == page_crc(page) &&
           page->major == HSL_VERSION_MAJOR && memcmp(page->boot, boot, 16) == 0;
}

static uint64_t begin_change(struct hsl_tail_page *page)
{
    uint64_t sequence = atomic_load_explicit(word(&page->sequence), memory_order_relaxed) | 1;
    atomic_store_explicit(word(&page->sequence), sequence, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    return sequence;
}

static void end_change(struct hsl_tail_page *page, uint64_t sequence)
{
    atomic_store_explicit(word(&page->sequence), sequence + 1, memory_order_release);
}

static void store(uint64_t *at, uint64_t value)
{
    atomic_store_explicit(word(at), value, memory_order_relaxed);
}

void hsl_tail_publish(struct hsl_log *log, enum hsl_tail_state state)
{
    struct hsl_tail_page *page = log->tail;
    if (!page)
        return;
    uint64_t sequence = begin_change(page);
    store(&page->state, state);
    store(&page->epoch, log->epoch);
    store(&page->durable, log->durable_at);
    if (log->ring_bytes != 0 && log->ring_end != log->durable_at)
        store(&page->ring_from, log->durable_at);
    log->ring_end = log->durable_at;
    end_change(page, sequence);
}

/* Where the bytes at an offset of the active segment lie, and in *len how many of them do without
 * a break. */
static _Atomic uint64_t *in_ring(const struct hsl_log *log, uint64_t off, size_t *len)
{
    uint64_t at = off % log->ring_bytes;
    if (*len > log->ring_bytes - at)
        *len = log->ring_bytes - at;
    return (_Atomic uint64_t *)(void *)((uint8_t *)log->tail + HSL_PAGE + at);
}

static void put(const struct hsl_log *log, const struct hsl_write *w)
{
    for (size_t done = 0, len; done < w->len; done += len) {
        len = w->len - done;
        _Atomic uint64_t *to = in_ring(log, w->at + done, &len);
        const uint8_t *from = w->from + done;
        for (size_t i = 0; i < len / 8; i++) {
            uint64_t bytes;
            memcpy(&bytes, from + i * 8, 8);
            atomic_store_explicit(&to[i], bytes, memory_order_relaxed);
        }
    }
}

/* Frames are large where many bytes are written: those are read from the file in few reads, and a
 * copy of all of them would cost more than these. Of a checkpoint memory is free already. */
void hsl_tail_keep(struct hsl_log *log, const struct hsl_group *g)
{
    uint64_t segment = g->segment->number << 32, room = log->ring_bytes;
    uint64_t start = segment | g->writes[0].at, end = segment | g->end;
    if (end - start > room / RING_SHARE || g->checkpoint != 0)
        return;
    uint64_t from = atomic_load_explicit(word(&log->tail->ring_from), memory_order_relaxed);
    if (start != log->ring_end)
        from = start;
    else if (end - from > room)
        from = end - room;
    store(&log->tail->ring_from, from);
    atomic_thread_fence(memory_order_release); /* before what lay there is overwritten */
    for (uint32_t i = 0; i < g->writes_len; i++)
        put(log, &g->writes[i]);
    log->ring_end = end;
}

/* A writer that opens may make the ring after its page was found. */
static bool find_ring(struct hsl_log *log)
{
    uint64_t bytes = atomic_load_explicit(word(&log->tail->ring_bytes), memory_order_acquire);
    if (bytes <= log->tail_len - HSL_PAGE && bytes % HSL_PAGE == 0)
        log->ring_bytes = bytes;
    return log->ring_bytes != 0;
}

bool hsl_tail_copy(struct hsl_log *log, uint64_t segment, uint64_t off, size_t len, uint8_t *out)
{
    if (!log->tail || !find_ring(log) || len > log->ring_bytes)
        return false;
    uint64_t start = segment << 32 | off;
    _Atomic uint64_t *ring_from = word(&log->tail->ring_from);
    if (atomic_load_explicit(ring_from, memory_order_acquire) > start)
        return false;
    for (size_t done = 0, n; done < len; done += n) {
        n = len - done;
        _Atomic uint64_t *from = in_ring(log, off + done, &n);
        for (size_t i = 0; i < n / 8; i++) {
            uint64_t bytes = atomic_load_explicit(&from[i], memory_order_relaxed);
            memcpy(out + done + i * 8, &bytes, 8);
        }
    }
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(ring_from, memory_order_relaxed) <= start;
}

static void make_page(struct hsl_log *log, const uint8_t boot[16])
{
    struct hsl_tail_page *page = log->tail, fresh = {
        .major = HSL_VERSION_MAJOR,
        .minor = HSL_VERSION_MINOR,
    };
    memcpy(fresh.magic, HSL_TAIL_MAGIC, 8);
    memcpy(fresh.uuid, log->uuid, 16);
    memcpy(fresh.boot, boot, 16);
    fresh.crc = page_crc(&fresh);
    uint64_t sequence = begin_change(page);
    store(&page->state, HSL_TAIL_STARTING);
    store(&page->epoch, 0);
    store(&page->durable, 0);
    atomic_thread_fence(memory_order_release); /* the page counts from here on */
    memcpy(page, &fresh, offsetof(struct hsl_tail_page, sequence));
    end_change(page, sequence);
}

/* Makes the file so large. Blocks are reserved: a store to a hole of a full disk would be a
 * signal. */
static int reserve(const struct hsl_io *io, int fd, uint64_t len)
{
    int64_t size = io->size(io->ctx, fd);
    if (size < 0)
        return (int)size;
    return size >= (int64_t)len ? 0 : io->allocate(io->ctx, fd, 0, len);
}

static int open_page(struct hsl_log *log, const char *path)
{
    const struct hsl_io *io = log->io;
    int flags = HSL_OPEN_READ | HSL_OPEN_WRITE;
    int fd = io->open(io->ctx, path, flags);
    bool fresh = fd == -ENOENT;
    if (fresh)
        fd = io->open(io->ctx, path, flags | HSL_OPEN_CREATE);
    if (fd < 0)
        return fd;
    int err = reserve(io, fd, HSL_PAGE);
    if (err < 0) {
        io->close(io->ctx, fd);
        if (fresh)
            io->unlink(io->ctx, path);
        return err;
    }
    return fd;
}

/* The whole file, as far as it is the page and a ring. */
static int map(struct hsl_log *log, const char *path)
{
    const struct hsl_io *io = log->io;
    int64_t size = io->size(io->ctx, log->tail_fd);
    if (size < 0)
        return hsl_fail(log, "size", path, (int)-size);
    log->tail_len = (size_t)size / HSL_PAGE * HSL_PAGE;
    log->tail = io->map_shared(io->ctx, log->tail_fd, log->tail_len);
    return log->tail ? HSL_OK : hsl_fail(log, "map", path, EIO);
}

/* Takes the ring there is, or makes one. Its size stays: followers count on it. Where there is no
 * room for one, followers read the disk. */
static void open_ring(struct hsl_log *log)
{
    struct hsl_tail_page *page = log->tail;
    uint64_t room = log->tail_len - HSL_PAGE, wanted = hsl_align_page(log->cfg.tail_bytes);
    if (page->ring_bytes != 0 || wanted != 0)
        store(&page->ring_from, UINT64_MAX);
    if (page->ring_bytes == 0 && room >= wanted)
        store(&page->ring_bytes, wanted);
    if (wanted != 0 && page->ring_bytes <= room)
        log->ring_bytes = page->ring_bytes;
}

int hsl_log_tail_open(struct hsl_log *log)
{
    char path[HSL_PATH_MAX + 64];
    uint8_t boot[16];
    const struct hsl_io *io = log->io;
    hsl_path(log, path, "TAIL");
    int err = io->boot_id(io->ctx, boot);
    if (err < 0)
        return hsl_fail(log, "read boot id for", path, -err); /* not reached: there is one */
    log->tail_fd = open_page(log, path);
    if (log->tail_fd < 0)
        return hsl_fail(log, "open", path, -log->tail_fd);
    reserve(io, log->tail_fd, HSL_PAGE + hsl_align_page(log->cfg.tail_bytes));
    int rc = map(log, path);
    if (rc != HSL_OK)
        return rc;
    if (!page_valid(log->tail, boot) || memcmp(log->tail->uuid, log->uuid, 16) != 0)
        make_page(log, boot);
    open_ring(log);
    return HSL_OK;
}

void hsl_tail_close(struct hsl_log *log)
{
    if (log->tail)
        log->io->unmap(log->io->ctx, log->tail, log->tail_len);
    if (log->tail_fd >= 0)
        log->io->close(log->io->ctx, log->tail_fd);
    log->tail = NULL;
    log->tail_fd = -1;
}

static int find_page(struct hsl_log *log)
{
    char path[HSL_PATH_MAX + 64];
    const struct hsl_io *io = log->io;
    hsl_path(log, path, "TAIL");
    int fd = io->open(io->ctx, path, HSL_OPEN_READ);
    if (fd < 0)
        return fd == -ENOENT ? HSL_NOT_FOUND : hsl_fail(log, "open", path, -fd);
    int64_t size = io->size(io->ctx, fd);
    if (size < (int64_t)HSL_PAGE) { /* being made */
        io->close(io->ctx, fd);
        return size < 0 ? hsl_fail(log, "size", path, (int)-size) : HSL_NOT_FOUND;
    }
    log->tail_fd = fd;
    int rc = map(log, path);
    if (rc != HSL_OK)
        hsl_tail_close(log);
    return rc;
}

/* A writer killed while it stored leaves an odd sequence for good. Each of the words holds an old
 * or a new value then, and both are true. */
static void read_words(const struct hsl_tail_page *page, struct hsl_tail *out)
{
    struct hsl_tail_page *from = (struct hsl_tail_page *)(uintptr_t)page;
    for (int i = 0; i < 1000; i++) {
        out->sequence = atomic_load_explicit(word(&from->sequence), memory_order_acquire);
        out->state = atomic_load_explicit(word(&from->state), memory_order_relaxed);
        out->epoch = atomic_load_explicit(word(&from->epoch), memory_order_relaxed);
        out->durable = atomic_load_explicit(word(&from->durable), memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        uint64_t again = atomic_load_explicit(word(&from->sequence), memory_order_relaxed);
        if (again == out->sequence && again % 2 == 0)
            return;
    }
}

int hsl_log_tail_read(struct hsl_log *log, struct hsl_tail *out)
{
    uint8_t boot[16];
    *out = (struct hsl_tail){0};
    if (!log->tail) {
        int rc = find_page(log);
        if (rc != HSL_OK)
            return rc;
    }
    if (log->tail_valid) {
        read_words(log->tail, out);
        return HSL_OK;
    }
    int err = log->io->boot_id(log->io->ctx, boot);
    if (err < 0)
        return hsl_fail(log, "read boot id for", "TAIL", -err); /* not reached: there is one */
    bool valid = page_valid(log->tail, boot);
    if (valid)
        read_words(log->tail, out);
    if (!valid || !page_valid(log->tail, boot)) {
        hsl_tail_close(log); /* its writer makes the file larger before the page counts */
        return HSL_NOT_FOUND;
    }
    if (memcmp(log->tail->uuid, log->uuid, 16) != 0)
        return HSL_REPLACED;
    log->tail_valid = true;
    return HSL_OK;
}

/* Is the page that has the name another one than the mapped one? A copy of a store tells itself by
 * another sequence while that of the mapped page rests. */
static bool is_other(const struct hsl_log *log, struct hsl_tail_page *named)
{
    if (memcmp(named->magic, HSL_TAIL_MAGIC, 8) != 0 || named->crc != page_crc(named))
        return false; /* being made: not yet known */
    uint64_t before = atomic_load(word(&log->tail->sequence));
    uint64_t found = atomic_load(word(&named->sequence));
    uint64_t after = atomic_load(word(&log->tail->sequence));
    return memcmp(named->uuid, log->uuid, 16) != 0 || (before == after && found != before);
}

int hsl_tail_check(struct hsl_log *log)
{
    char path[HSL_PATH_MAX + 64];
    const struct hsl_io *io = log->io;
    hsl_path(log, path, "TAIL");
    if (!log->tail_valid)
        return HSL_OK;
    int fd = io->open(io->ctx, path, HSL_OPEN_READ);
    if (fd < 0)
        return fd == -ENOENT || fd == -ENOTDIR ? HSL_REPLACED : HSL_OK; /* others pass */
    int rc = HSL_OK;
    void *named = io->size(io->ctx, fd) < (int64_t)HSL_PAGE ? NULL
                                                            : io->map_shared(io->ctx, fd, HSL_PAGE);
    if (named) {
        rc = is_other(log, named) ? HSL_REPLACED : HSL_OK;
        io->unmap(io->ctx, named, HSL_PAGE);
    }
    io->close(io->ctx, fd);
    return rc;
}
