/* Calls to a simulated disk on an open file. */
#include "platform.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "simdisk.h"

int sim_handle_new(struct hsl_simfs *fs, uint32_t inode, int flags, const char *path)
{
    size_t slot = 0;
    while (slot < fs->handle_count && fs->handles[slot].open)
        slot++;
    if (slot == HANDLES_MAX)
        return -EMFILE;
    if (slot == fs->handle_count) {
        fs->handles = sim_grow(fs->handles, &fs->handle_capacity, fs->handle_count,
                               sizeof *fs->handles);
        fs->handles[fs->handle_count++] = (struct handle){0};
    }
    struct handle *handle = &fs->handles[slot];
    handle->open = true;
    handle->holds_lock = false;
    handle->flags = flags;
    handle->inode = inode;
    handle->path = sim_name_new(path);
    fs->inodes[inode]->handles++;
    return (int)(handle->generation << HANDLE_BITS | slot);
}

void sim_handle_close(struct hsl_simfs *fs, struct handle *handle)
{
    struct inode *node = fs->inodes[handle->inode];
    uint64_t before = sim_charged(node);
    if (handle->holds_lock)
        node->locked = false;
    node->handles--;
    sim_charge(fs, node, before);
    sim_name_drop(handle->path);
    handle->path = NULL;
    handle->open = false;
    handle->generation = handle->generation == GENERATION_MAX ? 0 : handle->generation + 1;
}

static int do_open(struct call *c, struct place *at, const char *path, int flags)
{
    struct hsl_simfs *fs = c->fs;
    if (!(flags & (HSL_OPEN_READ | HSL_OPEN_WRITE)))
        return -EINVAL;
    if (at->inode == NONE) {
        if (!(flags & HSL_OPEN_CREATE))
            return -ENOENT;
    } else {
        if ((flags & HSL_OPEN_CREATE) && (flags & HSL_OPEN_EXCL))
            return -EEXIST;
        if (fs->inodes[at->inode]->directory)
            return -EISDIR;
    }
    if ((flags & HSL_OPEN_DIRECT) && !fs->direct_alignment)
        return -EINVAL;
    if (at->inode == NONE)
        sim_create(fs, at, false);
    return sim_handle_new(fs, at->inode, flags, path);
}

static int sim_open(void *ctx, const char *path, int flags)
{
    struct call c;
    struct place at;
    int rc = sim_begin(&c, ctx, HSL_SIM_OPEN, path, (uint64_t)flags, 0);
    if (rc == 0) {
        int found = sim_find(c.fs, path, &at);
        rc = sim_admit(&c, NULL, found == 0 && at.inode == NONE && (flags & HSL_OPEN_CREATE));
        if (rc == 0)
            rc = found;
    }
    if (rc == 0)
        rc = do_open(&c, &at, path, flags);
    return (int)sim_end(&c, rc);
}

static int sim_close(void *ctx, int fd)
{
    struct call c;
    int rc = sim_begin_handle(&c, ctx, HSL_SIM_CLOSE, fd, 0, 0, false);
    if (c.handle && !c.fs->stopped) {
        /* The name must outlive the handle for the trace. */
        struct name *path = sim_name_share(c.handle->path);
        sim_handle_close(c.fs, c.handle);
        rc = (int)sim_end(&c, rc);
        sim_name_drop(path);
        return rc;
    }
    return (int)sim_end(&c, rc);
}

static bool misaligned(const struct call *c, const void *buf, size_t len, uint64_t off)
{
    uint64_t mask = c->fs->direct_alignment - 1;
    return (c->handle->flags & HSL_OPEN_DIRECT) && (((uintptr_t)buf | len | off) & mask);
}

static size_t shortened(const struct call *c, size_t len)
{
    if (c->effect != HSL_SIM_SHORT || len < 2)
        return len;
    size_t limit = c->arg > 0 ? (size_t)c->arg : len / 2;
    if (c->handle->flags & HSL_OPEN_DIRECT) {
        limit -= limit % SIM_SECTOR;
        if (!limit)
            limit = SIM_SECTOR;
    }
    return len < limit ? len : limit;
}

static int64_t do_pread(struct call *c, void *buf, size_t len, uint64_t off)
{
    const struct inode *node = c->node;
    if (!(c->handle->flags & HSL_OPEN_READ))
        return -EBADF;
    if (off > INT64_MAX || misaligned(c, buf, len, off))
        return -EINVAL;
    if (off >= node->now.size)
        return 0;
    if (len > node->now.size - off)
        len = (size_t)(node->now.size - off);
    len = shortened(c, len);
    sim_bytes_read(&node->now, off, buf, len);
    if (node->flat && off < node->flat_len) {
        uint64_t room = node->flat_len - off;
        memcpy(buf, node->flat + off, len < room ? len : (size_t)room);
    }
    return (int64_t)len;
}

static int64_t sim_pread(void *ctx, int fd, void *buf, size_t len, uint64_t off)
{
    struct call c;
    int64_t rc = sim_begin_handle(&c, ctx, HSL_SIM_PREAD, fd, off, len, false);
    if (rc == 0)
        rc = do_pread(&c, buf, len, off);
    return sim_end(&c, rc);
}

uint64_t sim_reachable_end(const struct hsl_simfs *fs, const struct inode *node)
{
    uint64_t room = fs->capacity > fs->used ? fs->capacity - fs->used : 0;
    return node->now.reserved + room / SIM_PAGE * SIM_PAGE;
}

static int64_t do_pwrite(struct call *c, const void *buf, size_t len, uint64_t off)
{
    if (!(c->handle->flags & HSL_OPEN_WRITE))
        return -EBADF;
    if (off > INT64_MAX || misaligned(c, buf, len, off))
        return -EINVAL;
    if (!len)
        return 0;
    if (off >= FILE_BYTES_MAX)
        return -EFBIG;
    if (len > FILE_BYTES_MAX - off)
        len = (size_t)(FILE_BYTES_MAX - off);
    len = shortened(c, len);
    uint64_t limit = sim_reachable_end(c->fs, c->node);
    if (off >= limit)
        return -ENOSPC;
    if (len > limit - off)
        len = (size_t)(limit - off);
    sim_write_node(c->fs, c->node, off, buf, len, c->handle->flags & HSL_OPEN_DIRECT);
    return (int64_t)len;
}

static int64_t sim_pwrite(void *ctx, int fd, const void *buf, size_t len, uint64_t off)
{
    struct call c;
    int64_t rc = sim_begin_handle(&c, ctx, HSL_SIM_PWRITE, fd, off, len, true);
    if (rc == 0)
        rc = do_pwrite(&c, buf, len, off);
    return sim_end(&c, rc);
}

static int do_sync(struct call *c)
{
    uint64_t before = sim_charged(c->node);
    sim_harvest(c->node);
    sim_charge(c->fs, c->node, before);
    switch (c->effect) {
    case HSL_SIM_SYNC_LOST:
        sim_changes_clear_writes(c->node);
        return (int)-c->arg;
    case HSL_SIM_SYNC_REVERTED:
        sim_revert_writes(c->fs, c->node);
        return (int)-c->arg;
    case HSL_SIM_SYNC_SURVIVED:
        sim_write_out(c->node);
        return (int)-c->arg;
    default:
        sim_write_out(c->node);
        return 0;
    }
}

static int sim_datasync(void *ctx, int fd)
{
    struct call c;
    int rc = sim_begin_handle(&c, ctx, HSL_SIM_DATASYNC, fd, 0, 0, true);
    if (rc == 0)
        rc = do_sync(&c);
    return (int)sim_end(&c, rc);
}

static int sim_sync(void *ctx, int fd)
{
    struct call c;
    int rc = sim_begin_handle(&c, ctx, HSL_SIM_SYNC, fd, 0, 0, true);
    if (rc == 0)
        rc = do_sync(&c);
    return (int)sim_end(&c, rc);
}

static int do_allocate(struct call *c, uint64_t off, uint64_t len)
{
    if (!len || off > INT64_MAX || len > INT64_MAX)
        return -EINVAL;
    if (!(c->handle->flags & HSL_OPEN_WRITE))
        return -EBADF;
    if (off + len > FILE_BYTES_MAX)
        return -EFBIG;
    if (off + len > sim_reachable_end(c->fs, c->node))
        return -ENOSPC;
    uint64_t before = sim_charged(c->node);
    sim_reserve_in(&c->node->now, off + len);
    sim_charge(c->fs, c->node, before);
    sim_changes_push(c->node, sim_change_new(RESERVE, off, len, NULL));
    return 0;
}

static int sim_allocate(void *ctx, int fd, uint64_t off, uint64_t len)
{
    struct call c;
    int rc = sim_begin_handle(&c, ctx, HSL_SIM_ALLOCATE, fd, off, len, true);
    if (rc == 0)
        rc = do_allocate(&c, off, len);
    return (int)sim_end(&c, rc);
}

static int do_truncate(struct call *c, uint64_t len)
{
    if (!(c->handle->flags & HSL_OPEN_WRITE) || len > INT64_MAX)
        return -EINVAL;
    if (len > FILE_BYTES_MAX)
        return -EFBIG;
    uint64_t before = sim_charged(c->node);
    sim_harvest(c->node);
    sim_bytes_truncate(&c->node->now, len);
    sim_changes_push(c->node, sim_change_new(TRUNCATE, 0, len, NULL));
    sim_flat_refresh(c->node);
    sim_charge(c->fs, c->node, before);
    return 0;
}

static int sim_truncate(void *ctx, int fd, uint64_t len)
{
    struct call c;
    int rc = sim_begin_handle(&c, ctx, HSL_SIM_TRUNCATE, fd, 0, len, true);
    if (rc == 0)
        rc = do_truncate(&c, len);
    return (int)sim_end(&c, rc);
}

static int64_t sim_size(void *ctx, int fd)
{
    struct call c;
    int64_t rc = sim_begin_handle(&c, ctx, HSL_SIM_SIZE, fd, 0, 0, false);
    if (rc == 0)
        rc = (int64_t)c.node->now.size;
    return sim_end(&c, rc);
}

/* A handle that cannot write gets the same memory: that it only reads is the caller's word. */
static void *do_map(struct call *c, size_t len)
{
    struct inode *node = c->node;
    if (!(c->handle->flags & HSL_OPEN_READ) || !len || len > node->now.size)
        return NULL;
    if (!node->flat) {
        size_t whole = (len + SIM_PAGE - 1) / SIM_PAGE * SIM_PAGE;
        node->flat = aligned_alloc(SIM_PAGE, whole);
        if (!node->flat)
            return NULL;
        memset(node->flat, 0, whole);
        node->flat_len = len;
        sim_flat_refresh(node);
    } else if (len > node->flat_len) {
        /* The memory others point into cannot move. */
        return NULL;
    }
    uint64_t before = sim_charged(node);
    node->maps++;
    sim_charge(c->fs, node, before);
    return node->flat;
}

static void *sim_map_shared(void *ctx, int fd, size_t len)
{
    struct call c;
    void *addr = NULL;
    if (sim_begin_handle(&c, ctx, HSL_SIM_MAP, fd, 0, len, false) == 0)
        addr = do_map(&c, len);
    sim_end(&c, addr ? 0 : -EIO);
    return addr;
}

static int do_unmap(struct hsl_simfs *fs, void *addr)
{
    for (size_t i = 0; i < fs->inode_count; i++) {
        struct inode *node = fs->inodes[i];
        if (!node || !node->flat || node->flat != addr)
            continue;
        uint64_t before = sim_charged(node);
        sim_harvest(node);
        if (--node->maps == 0) {
            free(node->flat);
            node->flat = NULL;
        }
        sim_charge(fs, node, before);
        return 0;
    }
    return -EINVAL;
}

static int sim_unmap(void *ctx, void *addr, size_t len)
{
    struct call c;
    int rc = sim_begin(&c, ctx, HSL_SIM_UNMAP, NULL, 0, len);
    if (rc == 0)
        rc = sim_admit(&c, NULL, false);
    if (rc == 0)
        rc = do_unmap(c.fs, addr);
    return (int)sim_end(&c, rc);
}

void sim_file_calls(struct hsl_io *io)
{
    io->open = sim_open;
    io->close = sim_close;
    io->pread = sim_pread;
    io->pwrite = sim_pwrite;
    io->datasync = sim_datasync;
    io->sync = sim_sync;
    io->allocate = sim_allocate;
    io->truncate = sim_truncate;
    io->size = sim_size;
    io->map_shared = sim_map_shared;
    io->unmap = sim_unmap;
}
