/* The page TAIL: how far the log is durable, told to other processes.
 *
 * The writer maps the file shared and stores to it after every group; nothing of it is synced, and
 * a page of another boot does not count. What a page of this boot says stays true when its writer
 * is killed: durable is durable. So a writer that opens leaves it as it finds it, and writes a page
 * anew only where it finds none, before it touches anything else: whoever read the store by its own
 * judgement sees by that page that it has to look again.
 */
#include "log.h"

#include <errno.h>
#include <string.h>

static _Atomic uint64_t *word(uint64_t *at) { return (_Atomic uint64_t *)(void *)at; }

static uint32_t page_crc(const struct hsl_tail_page *page)
{
    return hsl_crc32c(0, (const uint8_t *)page + 12,
                      offsetof(struct hsl_tail_page, zero) - 12);
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
    end_change(page, sequence);
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

/* Opens the file, as large as a page. Blocks are reserved: a store to a hole of a full disk would
 * be a signal. */
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
    int64_t size = io->size(io->ctx, fd);
    int err = size < 0 ? (int)size : 0;
    if (err == 0 && size < (int64_t)HSL_PAGE) {
        err = io->allocate(io->ctx, fd, 0, HSL_PAGE);
        if (err == -EOPNOTSUPP)
            err = io->truncate(io->ctx, fd, HSL_PAGE);
    }
    if (err < 0) {
        io->close(io->ctx, fd);
        if (fresh)
            io->unlink(io->ctx, path);
        return err;
    }
    return fd;
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
    log->tail = io->map_shared(io->ctx, log->tail_fd, HSL_PAGE);
    if (!log->tail)
        return hsl_fail(log, "map", path, EIO);
    if (!page_valid(log->tail, boot) || memcmp(log->tail->uuid, log->uuid, 16) != 0)
        make_page(log, boot);
    return HSL_OK;
}

void hsl_tail_close(struct hsl_log *log)
{
    if (log->tail)
        log->io->unmap(log->io->ctx, log->tail, HSL_PAGE);
    if (log->tail_fd >= 0)
        log->io->close(log->io->ctx, log->tail_fd);
    log->tail = NULL;
    log->tail_fd = -1;
}

static int map_page(struct hsl_log *log)
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
    log->tail = io->map_shared(io->ctx, fd, HSL_PAGE);
    if (!log->tail) {
        io->close(io->ctx, fd);
        return hsl_fail(log, "map", path, EIO);
    }
    log->tail_fd = fd;
    return HSL_OK;
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
        int rc = map_page(log);
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
    if (!page_valid(log->tail, boot))
        return HSL_NOT_FOUND;
    read_words(log->tail, out);
    if (!page_valid(log->tail, boot))
        return HSL_NOT_FOUND;
    if (memcmp(log->tail->uuid, log->uuid, 16) != 0)
        return HSL_DAMAGED;
    log->tail_valid = true;
    return HSL_OK;
}
