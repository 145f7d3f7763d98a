/* A simulated disk behind the table of io_api.h; what it promises stands in simfs_api.h.
 *
 * Inodes are numbered; directory entries and handles hold numbers, so that a clone copies arrays
 * and shares every page. An inode has two contents, now (what is seen) and durable, and the list
 * of changes that lead from one to the other. Syncing copies the touched pages from now, as a page
 * cache does; a power cut applies some of the changes to durable.
 *
 * A mapped file has its mapped part in flat memory besides. Writes by pointer are found by
 * comparing it with now (harvest) before anything looks at the content as a whole.
 */
#include "platform.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HSL_ALLOC_PLAIN /* a simulated disk has no honest answer to lack of memory */
#include "hsl.h"
#include "simbytes.h"
#include "simfs.h"

enum {
    ROOT = 0,
    NAME_BYTES_MAX = 255,
    DEPTH_MAX = 64,
    HANDLE_BITS = 12,
    HANDLES_MAX = 1 << HANDLE_BITS,
    GENERATION_MAX = (1 << (31 - HANDLE_BITS)) - 1,
    PID_TEXT = 21
};
static const uint32_t NONE = UINT32_MAX;
static const uint64_t FILE_BYTES_MAX = (uint64_t)1 << 40;
static const uint64_t BOOT_NS = 1000000000;

struct name {
    atomic_uint references;
    char text[];
};

struct entry {
    struct name *name;
    uint32_t inode;
};

/* Sorted by name. */
struct entries {
    struct entry *items;
    size_t count;
    size_t capacity;
};

enum entry_change_kind { LINK, UNLINK, MOVE };

struct entry_change {
    enum entry_change_kind kind;
    struct name *name;
    struct name *target; /* of a MOVE */
    uint32_t inode;
};

enum change_kind { WRITE, TRUNCATE, RESERVE };

/* Never changed once made; clones share it. */
struct change {
    atomic_uint references;
    enum change_kind kind;
    bool direct;
    bool mapped;
    bool zero; /* a WRITE of zeros carries no data */
    uint64_t off;
    uint64_t len;
    unsigned char data[];
};

struct inode {
    bool directory;
    bool locked;
    uint32_t links; /* seen entries that name it */
    uint32_t handles;
    uint32_t maps;

    struct sim_bytes now;
    struct sim_bytes durable;
    struct change **changes;
    size_t change_count;
    size_t change_capacity;
    unsigned char *flat;
    size_t flat_len;

    struct entries seen;
    struct entries kept;
    struct entry_change *entry_changes;
    size_t entry_change_count;
    size_t entry_change_capacity;
};

struct handle {
    bool open;
    bool holds_lock;
    int flags;
    uint32_t generation;
    uint32_t inode;
    struct name *path;
};

struct fault {
    uint32_t ops;
    int effect;
    int64_t arg;
    uint64_t nth;
    bool from_then_on;
    uint64_t seen;
    int64_t hits;
    char *path_part;
};

struct process {
    struct hsl_io io;
    struct hsl_simfs *fs;
    uint64_t life;
    struct process *previous;
};

/* Map of a dead process, which may still hold pointers into it. */
struct orphan {
    void *memory;
    struct orphan *next;
};

struct hsl_simfs {
    pthread_mutex_t mutex;
    _Atomic uint32_t holders; /* its owner, and every log over it */
    uint64_t capacity;
    uint64_t used;
    uint32_t direct_alignment;
    uint64_t rng;
    uint64_t wall_ms;
    uint64_t wall_ns_rest;
    uint64_t mono_ns;
    uint8_t boot_id[16];
    int64_t pid;

    struct inode **inodes;
    size_t inode_count;
    size_t inode_capacity;
    struct sim_bytes ghost; /* of the file freed last: what stale blocks may hold */

    struct handle *handles;
    size_t handle_count;
    size_t handle_capacity;

    struct process *process;
    uint64_t life;
    struct orphan *orphans;

    uint64_t calls;
    uint64_t mutations;
    uint64_t stop_at;
    bool stopped;
    struct fault *faults;
    size_t fault_count;
    size_t fault_capacity;
    simfs_watcher *watcher;
    void *watching;

    bool tracing;
    struct hsl_sim_call *trace;
    size_t trace_count;
    size_t trace_capacity;
};

/* Randomness */

static uint64_t draw(uint64_t *rng)
{
    *rng += 0x9e3779b97f4a7c15u;
    return sim_mix(*rng);
}

static uint64_t draw_below(uint64_t *rng, uint64_t bound)
{
    return draw(rng) % bound;
}

/* True in eighths of all cases out of 8. */
static bool draw_chance(uint64_t *rng, unsigned eighths)
{
    return draw_below(rng, 8) < eighths;
}

/* Names and entries */

static struct name *name_new(const char *text)
{
    size_t size = strlen(text) + 1;
    struct name *name = sim_alloc(sizeof *name + size);
    atomic_store(&name->references, 1);
    memcpy(name->text, text, size);
    return name;
}

static struct name *name_share(struct name *name)
{
    if (name)
        atomic_fetch_add(&name->references, 1);
    return name;
}

static void name_drop(struct name *name)
{
    if (name && atomic_fetch_sub(&name->references, 1) == 1)
        free(name);
}

static size_t entries_place(const struct entries *entries, const char *text)
{
    size_t low = 0;
    size_t high = entries->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(entries->items[middle].name->text, text) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool entries_holds(const struct entries *entries, size_t place, const char *text)
{
    return place < entries->count && strcmp(entries->items[place].name->text, text) == 0;
}

static uint32_t entries_get(const struct entries *entries, const char *text)
{
    size_t place = entries_place(entries, text);
    return entries_holds(entries, place, text) ? entries->items[place].inode : NONE;
}

static void entries_set(struct entries *entries, struct name *name, uint32_t inode)
{
    size_t place = entries_place(entries, name->text);
    if (entries_holds(entries, place, name->text)) {
        entries->items[place].inode = inode;
        return;
    }
    entries->items = sim_grow(entries->items, &entries->capacity, entries->count,
                              sizeof *entries->items);
    memmove(entries->items + place + 1, entries->items + place,
            (entries->count - place) * sizeof *entries->items);
    entries->items[place] = (struct entry){name_share(name), inode};
    entries->count++;
}

/* Removes the name if it means this inode. */
static void entries_remove(struct entries *entries, const char *text, uint32_t inode)
{
    size_t place = entries_place(entries, text);
    if (!entries_holds(entries, place, text) || entries->items[place].inode != inode)
        return;
    name_drop(entries->items[place].name);
    entries->count--;
    memmove(entries->items + place, entries->items + place + 1,
            (entries->count - place) * sizeof *entries->items);
}

static void entries_clear(struct entries *entries)
{
    for (size_t i = 0; i < entries->count; i++)
        name_drop(entries->items[i].name);
    free(entries->items);
    *entries = (struct entries){0};
}

static void entries_copy(struct entries *dst, const struct entries *src)
{
    entries_clear(dst);
    if (!src->count)
        return;
    dst->items = sim_alloc(src->count * sizeof *dst->items);
    dst->count = dst->capacity = src->count;
    for (size_t i = 0; i < src->count; i++)
        dst->items[i] = (struct entry){name_share(src->items[i].name), src->items[i].inode};
}

static void entry_change_apply(const struct entry_change *change, struct entries *entries)
{
    switch (change->kind) {
    case LINK:
        entries_set(entries, change->name, change->inode);
        break;
    case UNLINK:
        entries_remove(entries, change->name->text, change->inode);
        break;
    case MOVE:
        entries_remove(entries, change->name->text, change->inode);
        entries_set(entries, change->target, change->inode);
        break;
    }
}

/* Inodes */

static struct change *change_new(enum change_kind kind, uint64_t off, uint64_t len,
                                 const void *data)
{
    struct change *change = sim_alloc(sizeof *change + (data ? (size_t)len : 0));
    atomic_store(&change->references, 1);
    change->kind = kind;
    change->off = off;
    change->len = len;
    if (data)
        memcpy(change->data, data, (size_t)len);
    else
        change->zero = kind == WRITE;
    return change;
}

static void change_drop(struct change *change)
{
    if (atomic_fetch_sub(&change->references, 1) == 1)
        free(change);
}

static void changes_push(struct inode *node, struct change *change)
{
    node->changes = sim_grow(node->changes, &node->change_capacity, node->change_count,
                             sizeof *node->changes);
    node->changes[node->change_count++] = change;
}

static void changes_clear(struct inode *node)
{
    for (size_t i = 0; i < node->change_count; i++)
        change_drop(node->changes[i]);
    node->change_count = 0;
}

static void changes_clear_writes(struct inode *node)
{
    size_t kept = 0;
    for (size_t i = 0; i < node->change_count; i++) {
        if (node->changes[i]->kind == WRITE)
            change_drop(node->changes[i]);
        else
            node->changes[kept++] = node->changes[i];
    }
    node->change_count = kept;
}

static void entry_changes_push(struct inode *dir, enum entry_change_kind kind, struct name *name,
                               struct name *target, uint32_t inode)
{
    dir->entry_changes = sim_grow(dir->entry_changes, &dir->entry_change_capacity,
                                  dir->entry_change_count, sizeof *dir->entry_changes);
    struct entry_change change = {kind, name_share(name), name_share(target), inode};
    dir->entry_changes[dir->entry_change_count++] = change;
    entry_change_apply(&change, &dir->seen);
}

static void entry_changes_clear(struct inode *dir)
{
    for (size_t i = 0; i < dir->entry_change_count; i++) {
        name_drop(dir->entry_changes[i].name);
        name_drop(dir->entry_changes[i].target);
    }
    dir->entry_change_count = 0;
}

static void entry_changes_write_out(struct inode *dir)
{
    for (size_t i = 0; i < dir->entry_change_count; i++)
        entry_change_apply(&dir->entry_changes[i], &dir->kept);
    entry_changes_clear(dir);
}

static uint32_t inode_new(struct hsl_simfs *fs, bool directory)
{
    size_t number = 0;
    while (number < fs->inode_count && fs->inodes[number])
        number++;
    if (number == fs->inode_count) {
        fs->inodes = sim_grow(fs->inodes, &fs->inode_capacity, fs->inode_count,
                              sizeof *fs->inodes);
        fs->inode_count++;
    }
    fs->inodes[number] = sim_alloc(sizeof *fs->inodes[number]);
    fs->inodes[number]->directory = directory;
    return (uint32_t)number;
}

static void inode_free(struct inode *node)
{
    changes_clear(node);
    free(node->changes);
    entry_changes_clear(node);
    free(node->entry_changes);
    entries_clear(&node->seen);
    entries_clear(&node->kept);
    sim_bytes_clear(&node->now);
    sim_bytes_clear(&node->durable);
    free(node->flat);
    free(node);
}

static bool inode_is_held(const struct inode *node)
{
    return node->links || node->handles || node->maps;
}

/* To be called with what the inode was charged for after its space or its holders changed. */
static void charge(struct hsl_simfs *fs, const struct inode *node, uint64_t before)
{
    fs->used += (inode_is_held(node) ? node->now.reserved : 0) - before;
}

static uint64_t charged(const struct inode *node)
{
    return inode_is_held(node) ? node->now.reserved : 0;
}

static void mark(struct hsl_simfs *fs, uint32_t number, bool *marks)
{
    if (marks[number])
        return;
    marks[number] = true;
    const struct inode *node = fs->inodes[number];
    for (size_t i = 0; i < node->seen.count; i++)
        mark(fs, node->seen.items[i].inode, marks);
    for (size_t i = 0; i < node->kept.count; i++)
        mark(fs, node->kept.items[i].inode, marks);
    for (size_t i = 0; i < node->entry_change_count; i++)
        mark(fs, node->entry_changes[i].inode, marks);
}

/* Frees the inodes that neither view, nor a pending change, nor a holder can reach. */
static void sweep(struct hsl_simfs *fs)
{
    bool *marks = sim_alloc(fs->inode_count);
    mark(fs, ROOT, marks);
    for (size_t i = 0; i < fs->inode_count; i++)
        if (fs->inodes[i] && (fs->inodes[i]->handles || fs->inodes[i]->maps))
            mark(fs, (uint32_t)i, marks);
    for (size_t i = 0; i < fs->inode_count; i++) {
        if (!fs->inodes[i] || marks[i])
            continue;
        if (fs->inodes[i]->now.size)
            sim_bytes_copy(&fs->ghost, &fs->inodes[i]->now);
        inode_free(fs->inodes[i]);
        fs->inodes[i] = NULL;
    }
    free(marks);
}

/* Content */

static void flat_refresh(struct inode *node)
{
    if (node->flat)
        sim_bytes_read(&node->now, 0, node->flat, node->flat_len);
}

static bool sector_differs(const struct inode *node, uint64_t off, uint64_t limit)
{
    unsigned char seen[SIM_SECTOR];
    size_t len = limit - off < SIM_SECTOR ? (size_t)(limit - off) : SIM_SECTOR;
    sim_bytes_read(&node->now, off, seen, len);
    return memcmp(seen, node->flat + off, len) != 0;
}

/* Turns what was written by pointer into changes, one per run of sectors. */
static void harvest(struct inode *node)
{
    if (!node->flat)
        return;
    uint64_t limit = node->flat_len < node->now.size ? node->flat_len : node->now.size;
    uint64_t at = 0;
    while (at < limit) {
        uint64_t start = at;
        while (at < limit && sector_differs(node, at, limit))
            at += SIM_SECTOR;
        if (at == start) {
            at += SIM_SECTOR;
            continue;
        }
        uint64_t len = (at < limit ? at : limit) - start;
        struct change *change = change_new(WRITE, start, len, node->flat + start);
        change->mapped = true;
        changes_push(node, change);
        sim_bytes_write(&node->now, start, node->flat + start, len);
    }
}

static void harvest_all(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->inode_count; i++) {
        struct inode *node = fs->inodes[i];
        if (!node || !node->flat)
            continue;
        uint64_t before = charged(node);
        harvest(node);
        charge(fs, node, before);
    }
}

static void write_node(struct hsl_simfs *fs, struct inode *node, uint64_t off, const void *data,
                       size_t len, bool direct)
{
    uint64_t before = charged(node);
    struct change *change = change_new(WRITE, off, len, sim_all_zero(data, len) ? NULL : data);
    change->direct = direct;
    changes_push(node, change);
    sim_bytes_write(&node->now, off, data, len);
    if (node->flat && off < node->flat_len) {
        uint64_t room = node->flat_len - off;
        memcpy(node->flat + off, data, len < room ? len : (size_t)room);
    }
    charge(fs, node, before);
}

static void write_out(struct inode *node)
{
    for (size_t i = 0; i < node->change_count; i++) {
        const struct change *change = node->changes[i];
        if (change->kind == TRUNCATE && change->len < node->durable.size)
            sim_bytes_truncate(&node->durable, change->len);
    }
    for (size_t i = 0; i < node->change_count; i++) {
        const struct change *change = node->changes[i];
        if (change->kind == WRITE)
            sim_bytes_share(&node->durable, &node->now, change->off, change->len);
    }
    sim_bytes_truncate(&node->durable, node->now.size);
    node->durable.reserved = node->now.reserved;
    changes_clear(node);
}

static void revert_writes(struct hsl_simfs *fs, struct inode *node)
{
    uint64_t before = charged(node);
    uint64_t size = node->now.size;
    for (size_t i = 0; i < node->change_count; i++) {
        const struct change *change = node->changes[i];
        if (change->kind == WRITE)
            sim_bytes_share(&node->now, &node->durable, change->off, change->len);
    }
    if (node->durable.size > size) {
        node->now.size = node->durable.size;
        sim_bytes_truncate(&node->now, size);
    }
    changes_clear_writes(node);
    flat_refresh(node);
    charge(fs, node, before);
}

/* Calls through the table: begin, work, end. Between begin and end the mutex is held. */

struct call {
    struct hsl_simfs *fs;
    struct hsl_sim_call trace;
    int effect; /* of the fault that fired, -1 for none */
    int64_t arg;
    struct handle *handle;
    struct inode *node;
};

static void advance(struct hsl_simfs *fs, uint64_t ns)
{
    fs->mono_ns += ns;
    fs->wall_ns_rest += ns;
    fs->wall_ms += fs->wall_ns_rest / 1000000;
    fs->wall_ns_rest %= 1000000;
}

static int begin(struct call *c, void *ctx, int op, const char *path, uint64_t off, uint64_t len)
{
    struct process *process = ctx;
    *c = (struct call){.fs = process->fs, .effect = -1};
    c->trace = (struct hsl_sim_call){.op = op, .off = off, .len = len, .path = path};
    pthread_mutex_lock(&c->fs->mutex);
    if (process->life != c->fs->life)
        return -EBADF;
    c->fs->calls++;
    return c->fs->stopped ? -EIO : 0;
}

static int64_t end(struct call *c, int64_t result)
{
    struct hsl_simfs *fs = c->fs;
    if (fs->tracing) {
        fs->trace = sim_grow(fs->trace, &fs->trace_capacity, fs->trace_count, sizeof *fs->trace);
        c->trace.path = c->trace.path ? strdup(c->trace.path) : NULL;
        c->trace.result = result;
        fs->trace[fs->trace_count++] = c->trace;
    }
    pthread_mutex_unlock(&fs->mutex);
    return result;
}

static bool fault_concerns(const struct fault *fault, int op, const char *path, const char *other)
{
    if (!(fault->ops & (uint32_t)op))
        return false;
    return !fault->path_part || (path && strstr(path, fault->path_part)) ||
           (other && strstr(other, fault->path_part));
}

static bool is_sync(int op)
{
    return op & (HSL_SIM_DATASYNC | HSL_SIM_SYNC | HSL_SIM_SYNC_DIR);
}

/* Counts the call and lets the power switch and the faults at it. */
static int admit(struct call *c, const char *other, bool mutation)
{
    struct hsl_simfs *fs = c->fs;
    if (mutation) {
        if (fs->mutations >= fs->stop_at) {
            fs->stopped = true;
            return -EIO;
        }
        if (fs->watcher)
            fs->watcher(fs->watching, fs, &c->trace);
        fs->mutations++;
    }
    for (size_t i = 0; i < fs->fault_count; i++) {
        struct fault *fault = &fs->faults[i];
        if (!fault_concerns(fault, c->trace.op, c->trace.path, other))
            continue;
        fault->seen++;
        bool fires = fault->from_then_on ? fault->seen >= fault->nth : fault->seen == fault->nth;
        if (!fires || c->effect >= 0)
            continue;
        fault->hits++;
        c->effect = fault->effect;
        c->arg = fault->arg;
    }
    switch (c->effect) {
    case HSL_SIM_FAIL:
        return (int)-c->arg;
    case HSL_SIM_SYNC_LOST:
    case HSL_SIM_SYNC_REVERTED:
    case HSL_SIM_SYNC_SURVIVED:
        return is_sync(c->trace.op) ? 0 : (int)-c->arg;
    case HSL_SIM_DELAY:
        advance(fs, (uint64_t)c->arg);
        return 0;
    default:
        return 0;
    }
}

static int begin_handle(struct call *c, void *ctx, int op, int fd, uint64_t off, uint64_t len,
                        bool mutation)
{
    int rc = begin(c, ctx, op, NULL, off, len);
    if (rc < 0)
        return rc;
    size_t slot = (size_t)(fd & (HANDLES_MAX - 1));
    uint32_t generation = (uint32_t)fd >> HANDLE_BITS;
    if (fd < 0 || slot >= c->fs->handle_count || !c->fs->handles[slot].open ||
        c->fs->handles[slot].generation != generation)
        return -EBADF;
    c->handle = &c->fs->handles[slot];
    c->node = c->fs->inodes[c->handle->inode];
    c->trace.path = c->handle->path->text;
    return admit(c, NULL, mutation);
}

struct place {
    uint32_t parent;
    uint32_t inode;
    char name[NAME_BYTES_MAX + 1];
};

/* Finds what the path names. A last name that does not exist gives inode NONE, not an error. */
static int find(const struct hsl_simfs *fs, const char *path, struct place *at)
{
    uint32_t ancestors[DEPTH_MAX];
    size_t depth = 0;
    at->parent = NONE;
    at->inode = ROOT;
    at->name[0] = 0;
    if (!*path)
        return -ENOENT;
    for (;;) {
        path += strspn(path, "/");
        if (!*path)
            return 0;
        size_t len = strcspn(path, "/");
        if (len > NAME_BYTES_MAX)
            return -ENAMETOOLONG;
        if (at->inode == NONE)
            return -ENOENT;
        const struct inode *dir = fs->inodes[at->inode];
        if (!dir->directory)
            return -ENOTDIR;
        if (len == 2 && path[0] == '.' && path[1] == '.') {
            at->inode = depth ? ancestors[--depth] : ROOT;
            at->parent = NONE;
        } else if (len != 1 || path[0] != '.') {
            if (depth == DEPTH_MAX)
                return -ENAMETOOLONG;
            ancestors[depth++] = at->inode;
            memcpy(at->name, path, len);
            at->name[len] = 0;
            at->parent = at->inode;
            at->inode = entries_get(&dir->seen, at->name);
        }
        path += len;
    }
}

static int find_file(const struct hsl_simfs *fs, const char *path, struct inode **node)
{
    struct place at;
    int rc = find(fs, path, &at);
    if (rc < 0)
        return rc;
    if (at.inode == NONE)
        return -ENOENT;
    *node = fs->inodes[at.inode];
    return (*node)->directory ? -EISDIR : 0;
}

static int find_directory(const struct hsl_simfs *fs, const char *path, struct inode **node)
{
    struct place at;
    int rc = find(fs, path, &at);
    if (rc < 0)
        return rc;
    if (at.inode == NONE)
        return -ENOENT;
    *node = fs->inodes[at.inode];
    return (*node)->directory ? 0 : -ENOTDIR;
}

static void create(struct hsl_simfs *fs, struct place *at, bool directory)
{
    at->inode = inode_new(fs, directory);
    fs->inodes[at->inode]->links = 1;
    struct name *name = name_new(at->name);
    entry_changes_push(fs->inodes[at->parent], LINK, name, NULL, at->inode);
    name_drop(name);
}

static int handle_new(struct hsl_simfs *fs, uint32_t inode, int flags, const char *path)
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
    handle->path = name_new(path);
    fs->inodes[inode]->handles++;
    return (int)(handle->generation << HANDLE_BITS | slot);
}

static void handle_close(struct hsl_simfs *fs, struct handle *handle)
{
    struct inode *node = fs->inodes[handle->inode];
    uint64_t before = charged(node);
    if (handle->holds_lock)
        node->locked = false;
    node->handles--;
    charge(fs, node, before);
    name_drop(handle->path);
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
        create(fs, at, false);
    return handle_new(fs, at->inode, flags, path);
}

static int sim_open(void *ctx, const char *path, int flags)
{
    struct call c;
    struct place at;
    int rc = begin(&c, ctx, HSL_SIM_OPEN, path, (uint64_t)flags, 0);
    if (rc == 0) {
        int found = find(c.fs, path, &at);
        rc = admit(&c, NULL, found == 0 && at.inode == NONE && (flags & HSL_OPEN_CREATE));
        if (rc == 0)
            rc = found;
    }
    if (rc == 0)
        rc = do_open(&c, &at, path, flags);
    return (int)end(&c, rc);
}

static int sim_close(void *ctx, int fd)
{
    struct call c;
    int rc = begin_handle(&c, ctx, HSL_SIM_CLOSE, fd, 0, 0, false);
    if (c.handle && !c.fs->stopped) {
        /* The name must outlive the handle for the trace. */
        struct name *path = name_share(c.handle->path);
        handle_close(c.fs, c.handle);
        rc = (int)end(&c, rc);
        name_drop(path);
        return rc;
    }
    return (int)end(&c, rc);
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
    int64_t rc = begin_handle(&c, ctx, HSL_SIM_PREAD, fd, off, len, false);
    if (rc == 0)
        rc = do_pread(&c, buf, len, off);
    return end(&c, rc);
}

/* End of the space the inode may fill: its own and what is free. */
static uint64_t reachable_end(const struct hsl_simfs *fs, const struct inode *node)
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
    uint64_t limit = reachable_end(c->fs, c->node);
    if (off >= limit)
        return -ENOSPC;
    if (len > limit - off)
        len = (size_t)(limit - off);
    write_node(c->fs, c->node, off, buf, len, c->handle->flags & HSL_OPEN_DIRECT);
    return (int64_t)len;
}

static int64_t sim_pwrite(void *ctx, int fd, const void *buf, size_t len, uint64_t off)
{
    struct call c;
    int64_t rc = begin_handle(&c, ctx, HSL_SIM_PWRITE, fd, off, len, true);
    if (rc == 0)
        rc = do_pwrite(&c, buf, len, off);
    return end(&c, rc);
}

static int do_sync(struct call *c)
{
    uint64_t before = charged(c->node);
    harvest(c->node);
    charge(c->fs, c->node, before);
    switch (c->effect) {
    case HSL_SIM_SYNC_LOST:
        changes_clear_writes(c->node);
        return (int)-c->arg;
    case HSL_SIM_SYNC_REVERTED:
        revert_writes(c->fs, c->node);
        return (int)-c->arg;
    case HSL_SIM_SYNC_SURVIVED:
        write_out(c->node);
        return (int)-c->arg;
    default:
        write_out(c->node);
        return 0;
    }
}

static int sim_datasync(void *ctx, int fd)
{
    struct call c;
    int rc = begin_handle(&c, ctx, HSL_SIM_DATASYNC, fd, 0, 0, true);
    if (rc == 0)
        rc = do_sync(&c);
    return (int)end(&c, rc);
}

static int sim_sync(void *ctx, int fd)
{
    struct call c;
    int rc = begin_handle(&c, ctx, HSL_SIM_SYNC, fd, 0, 0, true);
    if (rc == 0)
        rc = do_sync(&c);
    return (int)end(&c, rc);
}

static void reserve_in(struct sim_bytes *bytes, uint64_t end_off)
{
    sim_bytes_reserve(bytes, end_off);
    if (bytes->size < end_off)
        sim_bytes_truncate(bytes, end_off);
}

static int do_allocate(struct call *c, uint64_t off, uint64_t len)
{
    if (!len || off > INT64_MAX || len > INT64_MAX)
        return -EINVAL;
    if (!(c->handle->flags & HSL_OPEN_WRITE))
        return -EBADF;
    if (off + len > FILE_BYTES_MAX)
        return -EFBIG;
    if (off + len > reachable_end(c->fs, c->node))
        return -ENOSPC;
    uint64_t before = charged(c->node);
    reserve_in(&c->node->now, off + len);
    charge(c->fs, c->node, before);
    changes_push(c->node, change_new(RESERVE, off, len, NULL));
    return 0;
}

static int sim_allocate(void *ctx, int fd, uint64_t off, uint64_t len)
{
    struct call c;
    int rc = begin_handle(&c, ctx, HSL_SIM_ALLOCATE, fd, off, len, true);
    if (rc == 0)
        rc = do_allocate(&c, off, len);
    return (int)end(&c, rc);
}

static int do_truncate(struct call *c, uint64_t len)
{
    if (!(c->handle->flags & HSL_OPEN_WRITE) || len > INT64_MAX)
        return -EINVAL;
    if (len > FILE_BYTES_MAX)
        return -EFBIG;
    uint64_t before = charged(c->node);
    harvest(c->node);
    sim_bytes_truncate(&c->node->now, len);
    changes_push(c->node, change_new(TRUNCATE, 0, len, NULL));
    flat_refresh(c->node);
    charge(c->fs, c->node, before);
    return 0;
}

static int sim_truncate(void *ctx, int fd, uint64_t len)
{
    struct call c;
    int rc = begin_handle(&c, ctx, HSL_SIM_TRUNCATE, fd, 0, len, true);
    if (rc == 0)
        rc = do_truncate(&c, len);
    return (int)end(&c, rc);
}

static int64_t sim_size(void *ctx, int fd)
{
    struct call c;
    int64_t rc = begin_handle(&c, ctx, HSL_SIM_SIZE, fd, 0, 0, false);
    if (rc == 0)
        rc = (int64_t)c.node->now.size;
    return end(&c, rc);
}

static void unlink_inode(struct hsl_simfs *fs, uint32_t number)
{
    struct inode *node = fs->inodes[number];
    uint64_t before = charged(node);
    node->links--;
    charge(fs, node, before);
}

static bool is_below(const struct hsl_simfs *fs, uint32_t number, uint32_t top)
{
    if (number == top)
        return true;
    const struct inode *node = fs->inodes[top];
    for (size_t i = 0; i < node->seen.count; i++)
        if (fs->inodes[node->seen.items[i].inode]->directory &&
            is_below(fs, number, node->seen.items[i].inode))
            return true;
    return false;
}

static int do_rename(struct hsl_simfs *fs, const char *from_path, const char *to_path)
{
    struct place from;
    struct place to;
    int rc = find(fs, from_path, &from);
    if (rc == 0)
        rc = find(fs, to_path, &to);
    if (rc < 0)
        return rc;
    if (from.inode == NONE)
        return -ENOENT;
    if (from.parent == NONE || to.parent == NONE)
        return -EBUSY;
    if (from.inode == to.inode)
        return 0;
    const struct inode *moved = fs->inodes[from.inode];
    if (moved->directory && is_below(fs, to.parent, from.inode))
        return -EINVAL;
    if (to.inode != NONE) {
        const struct inode *target = fs->inodes[to.inode];
        if (moved->directory && !target->directory)
            return -ENOTDIR;
        if (!moved->directory && target->directory)
            return is_below(fs, from.parent, to.inode) ? -ENOTEMPTY : -EISDIR;
        if (target->directory && target->seen.count)
            return -ENOTEMPTY;
        unlink_inode(fs, to.inode);
    }
    struct name *old_name = name_new(from.name);
    struct name *new_name = name_new(to.name);
    if (from.parent == to.parent) {
        entry_changes_push(fs->inodes[from.parent], MOVE, old_name, new_name, from.inode);
    } else {
        entry_changes_push(fs->inodes[to.parent], LINK, new_name, NULL, from.inode);
        entry_changes_push(fs->inodes[from.parent], UNLINK, old_name, NULL, from.inode);
    }
    name_drop(old_name);
    name_drop(new_name);
    return 0;
}

static int sim_rename(void *ctx, const char *from, const char *to)
{
    struct call c;
    int rc = begin(&c, ctx, HSL_SIM_RENAME, from, 0, 0);
    if (rc == 0)
        rc = admit(&c, to, true);
    if (rc == 0)
        rc = do_rename(c.fs, from, to);
    return (int)end(&c, rc);
}

static int do_unlink(struct hsl_simfs *fs, const char *path)
{
    struct place at;
    int rc = find(fs, path, &at);
    if (rc < 0)
        return rc;
    if (at.inode == NONE)
        return -ENOENT;
    if (fs->inodes[at.inode]->directory && fs->inodes[at.inode]->seen.count)
        return -ENOTEMPTY;
    if (at.parent == NONE)
        return -EBUSY;
    struct name *name = name_new(at.name);
    entry_changes_push(fs->inodes[at.parent], UNLINK, name, NULL, at.inode);
    name_drop(name);
    unlink_inode(fs, at.inode);
    return 0;
}

static int sim_unlink(void *ctx, const char *path)
{
    struct call c;
    int rc = begin(&c, ctx, HSL_SIM_UNLINK, path, 0, 0);
    if (rc == 0)
        rc = admit(&c, NULL, true);
    if (rc == 0)
        rc = do_unlink(c.fs, path);
    return (int)end(&c, rc);
}

static int do_mkdir(struct hsl_simfs *fs, const char *path)
{
    struct place at;
    int rc = find(fs, path, &at);
    if (rc < 0)
        return rc;
    if (at.inode != NONE)
        return -EEXIST;
    create(fs, &at, true);
    return 0;
}

static int sim_mkdir(void *ctx, const char *path)
{
    struct call c;
    int rc = begin(&c, ctx, HSL_SIM_MKDIR, path, 0, 0);
    if (rc == 0)
        rc = admit(&c, NULL, true);
    if (rc == 0)
        rc = do_mkdir(c.fs, path);
    return (int)end(&c, rc);
}

static int do_sync_dir(struct call *c, const char *path)
{
    struct inode *dir;
    int rc = find_directory(c->fs, path, &dir);
    if (rc < 0)
        return rc;
    /* A directory has no content to show again: reverted is lost. */
    if (c->effect == HSL_SIM_SYNC_LOST || c->effect == HSL_SIM_SYNC_REVERTED)
        entry_changes_clear(dir);
    else
        entry_changes_write_out(dir);
    sweep(c->fs);
    bool failed = c->effect == HSL_SIM_SYNC_LOST || c->effect == HSL_SIM_SYNC_REVERTED ||
                  c->effect == HSL_SIM_SYNC_SURVIVED;
    return failed ? (int)-c->arg : 0;
}

static int sim_sync_dir(void *ctx, const char *path)
{
    struct call c;
    int rc = begin(&c, ctx, HSL_SIM_SYNC_DIR, path, 0, 0);
    if (rc == 0)
        rc = admit(&c, NULL, true);
    if (rc == 0)
        rc = do_sync_dir(&c, path);
    return (int)end(&c, rc);
}

static int64_t do_list(struct hsl_simfs *fs, const char *path, char *out, size_t cap)
{
    struct inode *dir;
    int rc = find_directory(fs, path, &dir);
    if (rc < 0)
        return rc;
    size_t bytes = 0;
    for (size_t i = 0; i < dir->seen.count; i++)
        bytes += strlen(dir->seen.items[i].name->text) + 1;
    if (bytes <= cap)
        for (size_t i = 0; i < dir->seen.count; i++)
            out = stpcpy(out, dir->seen.items[i].name->text) + 1;
    return (int64_t)bytes;
}

static int64_t sim_list(void *ctx, const char *path, char *names, size_t cap)
{
    struct call c;
    int64_t rc = begin(&c, ctx, HSL_SIM_LIST, path, 0, cap);
    if (rc == 0)
        rc = admit(&c, NULL, false);
    if (rc == 0)
        rc = do_list(c.fs, path, names, cap);
    return end(&c, rc);
}

static int do_lock(struct call *c, const char *path, int64_t *owner)
{
    struct hsl_simfs *fs = c->fs;
    struct place at;
    int rc = find(fs, path, &at);
    if (rc < 0)
        return rc;
    if (at.inode == NONE)
        create(fs, &at, false);
    struct inode *node = fs->inodes[at.inode];
    if (node->directory)
        return -EISDIR;
    char text[PID_TEXT + 1] = {0};
    if (node->locked) {
        sim_bytes_read(&node->now, 0, text, PID_TEXT);
        *owner = strtoll(text, NULL, 10);
        return -EAGAIN;
    }
    int fd = handle_new(fs, at.inode, HSL_OPEN_READ | HSL_OPEN_WRITE, path);
    if (fd < 0)
        return fd;
    fs->handles[fd & (HANDLES_MAX - 1)].holds_lock = true;
    node->locked = true;
    snprintf(text, sizeof text, "%-20" PRId64 "\n", fs->pid);
    if (reachable_end(fs, node) >= PID_TEXT)
        write_node(fs, node, 0, text, PID_TEXT, false);
    return fd;
}

static int sim_lock(void *ctx, const char *path, int64_t *owner)
{
    struct call c;
    *owner = 0;
    int rc = begin(&c, ctx, HSL_SIM_LOCK, path, 0, 0);
    if (rc == 0)
        rc = admit(&c, NULL, true);
    if (rc == 0)
        rc = do_lock(&c, path, owner);
    return (int)end(&c, rc);
}

static int do_locked(struct hsl_simfs *fs, const char *path, int64_t *owner)
{
    struct place at;
    int rc = find(fs, path, &at);
    if (rc < 0 || at.inode == NONE)
        return rc < 0 && rc != -ENOENT ? rc : 0;
    struct inode *node = fs->inodes[at.inode];
    char text[PID_TEXT + 1] = {0};
    if (node->locked) {
        sim_bytes_read(&node->now, 0, text, PID_TEXT);
        *owner = strtoll(text, NULL, 10);
    }
    return node->locked;
}

static int sim_locked(void *ctx, const char *path, int64_t *owner)
{
    struct call c;
    *owner = 0;
    int rc = begin(&c, ctx, HSL_SIM_LOCK, path, 0, 0);
    if (rc == 0)
        rc = admit(&c, NULL, false);
    if (rc == 0)
        rc = do_locked(c.fs, path, owner);
    return (int)end(&c, rc);
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
        flat_refresh(node);
    } else if (len > node->flat_len) {
        /* The memory others point into cannot move. */
        return NULL;
    }
    uint64_t before = charged(node);
    node->maps++;
    charge(c->fs, node, before);
    return node->flat;
}

static void *sim_map_shared(void *ctx, int fd, size_t len)
{
    struct call c;
    void *addr = NULL;
    if (begin_handle(&c, ctx, HSL_SIM_MAP, fd, 0, len, false) == 0)
        addr = do_map(&c, len);
    end(&c, addr ? 0 : -EIO);
    return addr;
}

static int do_unmap(struct hsl_simfs *fs, void *addr)
{
    for (size_t i = 0; i < fs->inode_count; i++) {
        struct inode *node = fs->inodes[i];
        if (!node || !node->flat || node->flat != addr)
            continue;
        uint64_t before = charged(node);
        harvest(node);
        if (--node->maps == 0) {
            free(node->flat);
            node->flat = NULL;
        }
        charge(fs, node, before);
        return 0;
    }
    return -EINVAL;
}

static int sim_unmap(void *ctx, void *addr, size_t len)
{
    struct call c;
    int rc = begin(&c, ctx, HSL_SIM_UNMAP, NULL, 0, len);
    if (rc == 0)
        rc = admit(&c, NULL, false);
    if (rc == 0)
        rc = do_unmap(c.fs, addr);
    return (int)end(&c, rc);
}

static int64_t sim_free_bytes(void *ctx, const char *path)
{
    struct call c;
    struct place at;
    int64_t rc = begin(&c, ctx, HSL_SIM_FREE_BYTES, path, 0, 0);
    if (rc == 0)
        rc = admit(&c, NULL, false);
    if (rc == 0)
        rc = find(c.fs, path, &at);
    if (rc == 0 && at.inode == NONE)
        rc = -ENOENT;
    if (rc == 0)
        rc = c.fs->capacity > c.fs->used ? (int64_t)(c.fs->capacity - c.fs->used) : 0;
    return end(&c, rc);
}

static int sim_boot_id(void *ctx, uint8_t id[16])
{
    struct hsl_simfs *fs = ((struct process *)ctx)->fs;
    pthread_mutex_lock(&fs->mutex);
    memcpy(id, fs->boot_id, 16);
    pthread_mutex_unlock(&fs->mutex);
    return 0;
}

static uint64_t sim_wall_ms(void *ctx)
{
    struct hsl_simfs *fs = ((struct process *)ctx)->fs;
    pthread_mutex_lock(&fs->mutex);
    uint64_t now = fs->wall_ms;
    pthread_mutex_unlock(&fs->mutex);
    return now;
}

static uint64_t sim_mono_ns(void *ctx)
{
    struct hsl_simfs *fs = ((struct process *)ctx)->fs;
    pthread_mutex_lock(&fs->mutex);
    uint64_t now = fs->mono_ns;
    pthread_mutex_unlock(&fs->mutex);
    return now;
}

static void sim_retain(void *ctx)
{
    atomic_fetch_add(&((struct process *)ctx)->fs->holders, 1);
}

static void sim_release(void *ctx) { hsl_simfs_free(((struct process *)ctx)->fs); }

static void process_begin(struct hsl_simfs *fs)
{
    struct process *process = sim_alloc(sizeof *process);
    process->fs = fs;
    process->life = ++fs->life;
    process->previous = fs->process;
    process->io = (struct hsl_io){
        .ctx = process,
        .open = sim_open,
        .close = sim_close,
        .pread = sim_pread,
        .pwrite = sim_pwrite,
        .datasync = sim_datasync,
        .sync = sim_sync,
        .allocate = sim_allocate,
        .truncate = sim_truncate,
        .size = sim_size,
        .rename = sim_rename,
        .unlink = sim_unlink,
        .mkdir = sim_mkdir,
        .sync_dir = sim_sync_dir,
        .list = sim_list,
        .lock = sim_lock,
        .locked = sim_locked,
        .map_shared = sim_map_shared,
        .unmap = sim_unmap,
        .free_bytes = sim_free_bytes,
        .boot_id = sim_boot_id,
        .wall_ms = sim_wall_ms,
        .mono_ns = sim_mono_ns,
        .retain = sim_retain,
        .release = sim_release,
    };
    fs->process = process;
    fs->calls = 0;
    fs->mutations = 0;
    fs->stop_at = UINT64_MAX;
    fs->stopped = false;
}

/* The disk as an object */

static void boot(struct hsl_simfs *fs, uint64_t *rng)
{
    uint64_t id[2] = {draw(rng), draw(rng)};
    memcpy(fs->boot_id, id, sizeof id);
    fs->mono_ns = BOOT_NS;
}

struct hsl_simfs *hsl_simfs_new(uint64_t capacity, uint64_t seed)
{
    struct hsl_simfs *fs = sim_alloc(sizeof *fs);
    pthread_mutex_init(&fs->mutex, NULL);
    fs->holders = 1;
    fs->capacity = capacity;
    fs->direct_alignment = SIM_SECTOR;
    fs->rng = seed;
    fs->pid = 1000;
    boot(fs, &fs->rng);
    inode_new(fs, true);
    fs->inodes[ROOT]->links = 1;
    process_begin(fs);
    return fs;
}

static void trace_clear(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->trace_count; i++)
        free((char *)fs->trace[i].path);
    fs->trace_count = 0;
}

static void faults_clear(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->fault_count; i++)
        free(fs->faults[i].path_part);
    fs->fault_count = 0;
}

void hsl_simfs_free(struct hsl_simfs *fs)
{
    if (!fs || atomic_fetch_sub(&fs->holders, 1) > 1)
        return;
    for (size_t i = 0; i < fs->handle_count; i++)
        name_drop(fs->handles[i].path);
    free(fs->handles);
    for (size_t i = 0; i < fs->inode_count; i++)
        if (fs->inodes[i])
            inode_free(fs->inodes[i]);
    free(fs->inodes);
    sim_bytes_clear(&fs->ghost);
    while (fs->orphans) {
        struct orphan *next = fs->orphans->next;
        free(fs->orphans->memory);
        free(fs->orphans);
        fs->orphans = next;
    }
    while (fs->process) {
        struct process *previous = fs->process->previous;
        free(fs->process);
        fs->process = previous;
    }
    faults_clear(fs);
    free(fs->faults);
    trace_clear(fs);
    free(fs->trace);
    pthread_mutex_destroy(&fs->mutex);
    free(fs);
}

static struct inode *inode_clone(const struct inode *node)
{
    struct inode *copy = sim_alloc(sizeof *copy);
    copy->directory = node->directory;
    copy->links = node->links;
    sim_bytes_copy(&copy->now, &node->now);
    sim_bytes_copy(&copy->durable, &node->durable);
    if (node->change_count) {
        copy->changes = sim_alloc(node->change_count * sizeof *copy->changes);
        copy->change_count = copy->change_capacity = node->change_count;
        for (size_t i = 0; i < node->change_count; i++) {
            copy->changes[i] = node->changes[i];
            atomic_fetch_add(&copy->changes[i]->references, 1);
        }
    }
    entries_copy(&copy->seen, &node->seen);
    entries_copy(&copy->kept, &node->kept);
    if (node->entry_change_count) {
        size_t count = node->entry_change_count;
        copy->entry_changes = sim_alloc(count * sizeof *copy->entry_changes);
        copy->entry_change_count = copy->entry_change_capacity = count;
        for (size_t i = 0; i < count; i++) {
            copy->entry_changes[i] = node->entry_changes[i];
            name_share(copy->entry_changes[i].name);
            name_share(copy->entry_changes[i].target);
        }
    }
    return copy;
}

/* After holders of all inodes changed at once. */
static void recount(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->inode_count; i++)
        if (fs->inodes[i])
            fs->inodes[i]->links = i == ROOT;
    for (size_t i = 0; i < fs->inode_count; i++) {
        const struct inode *dir = fs->inodes[i];
        for (size_t j = 0; dir && j < dir->seen.count; j++)
            fs->inodes[dir->seen.items[j].inode]->links++;
    }
    fs->used = 0;
    for (size_t i = 0; i < fs->inode_count; i++)
        if (fs->inodes[i])
            fs->used += charged(fs->inodes[i]);
}

struct hsl_simfs *simfs_clone_held(struct hsl_simfs *fs)
{
    harvest_all(fs);
    struct hsl_simfs *copy = sim_alloc(sizeof *copy);
    pthread_mutex_init(&copy->mutex, NULL);
    copy->holders = 1;
    copy->capacity = fs->capacity;
    copy->direct_alignment = fs->direct_alignment;
    copy->rng = fs->rng;
    copy->wall_ms = fs->wall_ms;
    copy->wall_ns_rest = fs->wall_ns_rest;
    copy->mono_ns = fs->mono_ns;
    memcpy(copy->boot_id, fs->boot_id, sizeof copy->boot_id);
    copy->pid = fs->pid;
    copy->inodes = sim_alloc(fs->inode_count * sizeof *copy->inodes);
    copy->inode_count = copy->inode_capacity = fs->inode_count;
    for (size_t i = 0; i < fs->inode_count; i++)
        copy->inodes[i] = fs->inodes[i] ? inode_clone(fs->inodes[i]) : NULL;
    sim_bytes_copy(&copy->ghost, &fs->ghost);
    process_begin(copy);
    sweep(copy);
    recount(copy);
    return copy;
}

struct hsl_simfs *hsl_simfs_clone(struct hsl_simfs *fs)
{
    pthread_mutex_lock(&fs->mutex);
    struct hsl_simfs *copy = simfs_clone_held(fs);
    pthread_mutex_unlock(&fs->mutex);
    return copy;
}

void simfs_watch(struct hsl_simfs *fs, simfs_watcher *watcher, void *ctx)
{
    pthread_mutex_lock(&fs->mutex);
    fs->watcher = watcher;
    fs->watching = ctx;
    pthread_mutex_unlock(&fs->mutex);
}

void simfs_hold(struct hsl_simfs *fs)
{
    atomic_fetch_add(&fs->holders, 1);
}

const struct hsl_io *hsl_simfs_io(struct hsl_simfs *fs)
{
    pthread_mutex_lock(&fs->mutex);
    const struct hsl_io *io = &fs->process->io;
    pthread_mutex_unlock(&fs->mutex);
    return io;
}

void hsl_simfs_set_capacity(struct hsl_simfs *fs, uint64_t capacity)
{
    pthread_mutex_lock(&fs->mutex);
    fs->capacity = capacity;
    pthread_mutex_unlock(&fs->mutex);
}

void hsl_simfs_set_direct(struct hsl_simfs *fs, uint32_t alignment)
{
    pthread_mutex_lock(&fs->mutex);
    fs->direct_alignment = alignment;
    pthread_mutex_unlock(&fs->mutex);
}

void hsl_simfs_set_time(struct hsl_simfs *fs, uint64_t wall_ms, uint64_t mono_ns)
{
    pthread_mutex_lock(&fs->mutex);
    fs->wall_ms = wall_ms;
    fs->wall_ns_rest = 0;
    fs->mono_ns = mono_ns;
    pthread_mutex_unlock(&fs->mutex);
}

void hsl_simfs_advance(struct hsl_simfs *fs, uint64_t ns)
{
    pthread_mutex_lock(&fs->mutex);
    advance(fs, ns);
    pthread_mutex_unlock(&fs->mutex);
}

int64_t hsl_simfs_pid(struct hsl_simfs *fs)
{
    pthread_mutex_lock(&fs->mutex);
    int64_t pid = fs->pid;
    pthread_mutex_unlock(&fs->mutex);
    return pid;
}

void hsl_simfs_counts(struct hsl_simfs *fs, struct hsl_sim_counts *counts)
{
    pthread_mutex_lock(&fs->mutex);
    harvest_all(fs);
    *counts = (struct hsl_sim_counts){
        .calls = fs->calls, .mutations = fs->mutations, .used = fs->used};
    for (size_t i = 0; i < fs->inode_count; i++) {
        const struct inode *node = fs->inodes[i];
        if (!node)
            continue;
        counts->unsynced += node->change_count + node->entry_change_count;
        counts->handles += node->handles;
        counts->maps += node->maps;
    }
    pthread_mutex_unlock(&fs->mutex);
}

int hsl_simfs_fault(struct hsl_simfs *fs, uint32_t ops, const char *path_part, uint64_t nth,
                    int from_then_on, int effect, int64_t arg)
{
    pthread_mutex_lock(&fs->mutex);
    fs->faults = sim_grow(fs->faults, &fs->fault_capacity, fs->fault_count, sizeof *fs->faults);
    fs->faults[fs->fault_count] = (struct fault){
        .ops = ops,
        .effect = effect,
        .arg = arg,
        .nth = nth,
        .from_then_on = from_then_on != 0,
        .path_part = path_part ? strdup(path_part) : NULL,
    };
    int number = (int)fs->fault_count++;
    pthread_mutex_unlock(&fs->mutex);
    return number;
}

int64_t hsl_simfs_fault_hits(struct hsl_simfs *fs, int fault)
{
    pthread_mutex_lock(&fs->mutex);
    int64_t hits = -EINVAL;
    if (fault >= 0 && (size_t)fault < fs->fault_count)
        hits = fs->faults[fault].hits;
    pthread_mutex_unlock(&fs->mutex);
    return hits;
}

void hsl_simfs_clear_faults(struct hsl_simfs *fs)
{
    pthread_mutex_lock(&fs->mutex);
    faults_clear(fs);
    pthread_mutex_unlock(&fs->mutex);
}

void hsl_simfs_stop_at(struct hsl_simfs *fs, uint64_t index)
{
    pthread_mutex_lock(&fs->mutex);
    fs->stop_at = index;
    pthread_mutex_unlock(&fs->mutex);
}

int hsl_simfs_stopped(struct hsl_simfs *fs)
{
    pthread_mutex_lock(&fs->mutex);
    int stopped = fs->stopped;
    pthread_mutex_unlock(&fs->mutex);
    return stopped;
}

/* Crashes */

/* How kind a power cut is, in eighths. Drawn anew per crash and sometimes per file: extremes find
 * bugs that a middle course never shows. */
struct mood {
    unsigned keep;
    unsigned tear;
    uint64_t *subset; /* decides in the place of keep */
};

static struct mood mood_draw(uint64_t *rng)
{
    static const unsigned keep[] = {0, 1, 4, 7, 8};
    static const unsigned tear[] = {0, 2, 6};
    struct mood mood = {0};
    mood.keep = keep[draw_below(rng, sizeof keep / sizeof *keep)];
    mood.tear = tear[draw_below(rng, sizeof tear / sizeof *tear)];
    return mood;
}

static bool survives(struct mood mood, uint64_t *rng)
{
    if (!mood.subset)
        return draw_chance(rng, mood.keep);
    bool bit = *mood.subset & 1;
    *mood.subset >>= 1;
    return bit;
}

static const void *change_data(const struct change *change, uint64_t skip)
{
    return change->zero ? NULL : change->data + skip;
}

static void survive_prefix(const struct change *change, struct sim_bytes *durable, uint64_t *rng)
{
    uint64_t len = draw_below(rng, change->len + 1);
    if (change->direct)
        len -= len % SIM_SECTOR;
    sim_bytes_write(durable, change->off, change_data(change, 0), len);
}

static void extend(struct sim_bytes *durable, uint64_t end_off)
{
    if (durable->size < end_off)
        sim_bytes_truncate(durable, end_off);
}

static void survive_sectors(const struct change *change, struct sim_bytes *durable, uint64_t *rng)
{
    unsigned keep = 1 + (unsigned)draw_below(rng, 7);
    uint64_t done = 0;
    while (done < change->len) {
        uint64_t at = change->off + done;
        uint64_t n = SIM_SECTOR - at % SIM_SECTOR;
        if (n > change->len - done)
            n = change->len - done;
        if (draw_chance(rng, keep))
            sim_bytes_write(durable, at, change_data(change, done), n);
        done += n;
    }
    if (draw_chance(rng, 4))
        extend(durable, change->off + change->len);
}

/* The blocks hold what was there before the file got them: another file's bytes or noise. */
static void survive_stale(struct hsl_simfs *fs, const struct change *change,
                          struct sim_bytes *durable, uint64_t *rng)
{
    unsigned char block[SIM_PAGE];
    const struct sim_bytes *donor = NULL;
    if (draw_chance(rng, 2) && fs->ghost.size) {
        donor = &fs->ghost;
    } else if (draw_chance(rng, 6)) {
        const struct inode *node = fs->inodes[draw_below(rng, fs->inode_count)];
        if (node && node->durable.size)
            donor = &node->durable;
    }
    for (uint64_t done = 0; done < change->len; done += SIM_PAGE) {
        size_t n = change->len - done < SIM_PAGE ? (size_t)(change->len - done) : SIM_PAGE;
        if (donor) {
            sim_bytes_read(donor, change->off + done, block, n);
        } else {
            for (size_t i = 0; i < SIM_PAGE; i += 8) {
                uint64_t noise = draw(rng);
                memcpy(block + i, &noise, 8);
            }
        }
        sim_bytes_write(durable, change->off + done, block, n);
    }
}

static void survive_torn(struct hsl_simfs *fs, const struct change *change,
                         struct sim_bytes *durable, uint64_t *rng)
{
    /* What was written by pointer lies over blocks that had content: sectors are old or new. */
    if (change->mapped) {
        survive_sectors(change, durable, rng);
        return;
    }
    switch (draw_below(rng, 8)) {
    case 0:
    case 1:
        survive_prefix(change, durable, rng);
        break;
    case 2:
    case 3:
    case 4:
        survive_sectors(change, durable, rng);
        break;
    case 5:
        sim_bytes_write(durable, change->off, NULL, change->len);
        break;
    case 6:
        survive_stale(fs, change, durable, rng);
        break;
    default:
        extend(durable, change->off + change->len);
        break;
    }
}

static void survive_whole(const struct change *change, struct sim_bytes *durable)
{
    switch (change->kind) {
    case WRITE:
        sim_bytes_write(durable, change->off, change_data(change, 0), change->len);
        break;
    case TRUNCATE:
        sim_bytes_truncate(durable, change->len);
        break;
    case RESERVE:
        reserve_in(durable, change->off + change->len);
        break;
    }
}

static void cut_file(struct hsl_simfs *fs, struct inode *node, struct mood mood, uint64_t *rng)
{
    for (size_t i = 0; i < node->change_count; i++) {
        const struct change *change = node->changes[i];
        if (!survives(mood, rng))
            continue;
        if (change->kind == WRITE && draw_chance(rng, mood.tear))
            survive_torn(fs, change, &node->durable, rng);
        else
            survive_whole(change, &node->durable);
    }
    changes_clear(node);
    sim_bytes_copy(&node->now, &node->durable);
}

static void cut_directory(struct inode *dir, struct mood mood, uint64_t *rng)
{
    for (size_t i = 0; i < dir->entry_change_count; i++)
        if (survives(mood, rng))
            entry_change_apply(&dir->entry_changes[i], &dir->kept);
    entry_changes_clear(dir);
    entries_copy(&dir->seen, &dir->kept);
}

static void cut_power(struct hsl_simfs *fs, int profile, uint64_t seed)
{
    uint64_t state = sim_mix(seed);
    uint64_t *rng = &state;
    struct mood common = {0};
    if (profile == HSL_SIM_ADVERSARY)
        common = mood_draw(rng);
    else if (profile == HSL_SIM_SUBSET)
        common.subset = &seed;
    else if (profile != HSL_SIM_DROP_ALL)
        common.keep = 8;
    if (profile == HSL_SIM_TEAR_ALL)
        common.tear = 8;
    for (size_t i = 0; i < fs->inode_count; i++) {
        struct inode *node = fs->inodes[i];
        if (!node || !(node->change_count || node->entry_change_count)) {
            /* A write the disk has lost leaves no change, but the cache that showed it is gone. */
            if (node && !node->directory)
                sim_bytes_copy(&node->now, &node->durable);
            else if (node)
                entries_copy(&node->seen, &node->kept);
            continue;
        }
        struct mood mood = common;
        if (profile == HSL_SIM_ADVERSARY && draw_chance(rng, 4))
            mood = mood_draw(rng);
        if (node->directory)
            cut_directory(node, mood, rng);
        else
            cut_file(fs, node, mood, rng);
    }
}

static void process_end(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->handle_count; i++)
        if (fs->handles[i].open)
            handle_close(fs, &fs->handles[i]);
    for (size_t i = 0; i < fs->inode_count; i++) {
        struct inode *node = fs->inodes[i];
        if (!node || !node->flat)
            continue;
        struct orphan *orphan = sim_alloc(sizeof *orphan);
        *orphan = (struct orphan){node->flat, fs->orphans};
        fs->orphans = orphan;
        node->flat = NULL;
        node->maps = 0;
    }
    fs->pid++;
}

void hsl_simfs_crash(struct hsl_simfs *fs, int kind, int profile, uint64_t seed)
{
    pthread_mutex_lock(&fs->mutex);
    harvest_all(fs);
    process_end(fs);
    if (kind == HSL_SIM_POWER) {
        cut_power(fs, profile, seed);
        boot(fs, &fs->rng);
    }
    sweep(fs);
    recount(fs);
    process_begin(fs);
    pthread_mutex_unlock(&fs->mutex);
}

/* Damage */

static int damage(struct hsl_simfs *fs, const char *path, uint64_t off, const void *data,
                  uint64_t len)
{
    struct inode *node;
    int rc = find_file(fs, path, &node);
    if (rc < 0)
        return rc;
    if (off > node->now.size || len > node->now.size - off)
        return -ERANGE;
    harvest(node);
    sim_bytes_write(&node->now, off, data, len);
    if (off < node->durable.size) {
        uint64_t room = node->durable.size - off;
        sim_bytes_write(&node->durable, off, data, len < room ? len : room);
    }
    flat_refresh(node);
    recount(fs);
    return 0;
}

int hsl_simfs_flip(struct hsl_simfs *fs, const char *path, uint64_t bit)
{
    pthread_mutex_lock(&fs->mutex);
    struct inode *node;
    int rc = find_file(fs, path, &node);
    if (rc == 0 && bit / 8 >= node->now.size)
        rc = -ERANGE;
    if (rc == 0) {
        unsigned char byte;
        harvest(node);
        sim_bytes_read(&node->now, bit / 8, &byte, 1);
        byte ^= (unsigned char)(1u << bit % 8);
        rc = damage(fs, path, bit / 8, &byte, 1);
    }
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

int hsl_simfs_overwrite(struct hsl_simfs *fs, const char *path, uint64_t off, const void *data,
                        uint64_t len)
{
    pthread_mutex_lock(&fs->mutex);
    int rc = damage(fs, path, off, data, len);
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

int hsl_simfs_zero_range(struct hsl_simfs *fs, const char *path, uint64_t off, uint64_t len)
{
    return hsl_simfs_overwrite(fs, path, off, NULL, len);
}

int hsl_simfs_truncate_raw(struct hsl_simfs *fs, const char *path, uint64_t len)
{
    pthread_mutex_lock(&fs->mutex);
    struct inode *node;
    int rc = find_file(fs, path, &node);
    if (rc == 0 && len > FILE_BYTES_MAX)
        rc = -EFBIG;
    if (rc == 0) {
        harvest(node);
        changes_clear(node);
        sim_bytes_truncate(&node->now, len);
        sim_bytes_copy(&node->durable, &node->now);
        flat_refresh(node);
        recount(fs);
    }
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

static int copy_raw(struct hsl_simfs *fs, const char *from, const char *to)
{
    struct inode *source;
    struct place at;
    int rc = find_file(fs, from, &source);
    if (rc == 0)
        rc = find(fs, to, &at);
    if (rc < 0)
        return rc;
    if (at.inode == NONE) {
        create(fs, &at, false);
        entry_changes_write_out(fs->inodes[at.parent]);
    }
    struct inode *target = fs->inodes[at.inode];
    if (target->directory)
        return -EISDIR;
    harvest(source);
    changes_clear(target);
    if (target != source)
        sim_bytes_copy(&target->now, &source->now);
    sim_bytes_copy(&target->durable, &target->now);
    flat_refresh(target);
    return 0;
}

int hsl_simfs_copy_raw(struct hsl_simfs *fs, const char *from, const char *to)
{
    pthread_mutex_lock(&fs->mutex);
    int rc = copy_raw(fs, from, to);
    recount(fs);
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

static void write_out_directories(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->inode_count; i++)
        if (fs->inodes[i] && fs->inodes[i]->directory)
            entry_changes_write_out(fs->inodes[i]);
}

int hsl_simfs_rename_raw(struct hsl_simfs *fs, const char *from, const char *to)
{
    pthread_mutex_lock(&fs->mutex);
    int rc = do_rename(fs, from, to);
    write_out_directories(fs);
    sweep(fs);
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

int hsl_simfs_unlink_raw(struct hsl_simfs *fs, const char *path)
{
    pthread_mutex_lock(&fs->mutex);
    int rc = do_unlink(fs, path);
    write_out_directories(fs);
    sweep(fs);
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

void hsl_simfs_sync_all(struct hsl_simfs *fs)
{
    pthread_mutex_lock(&fs->mutex);
    harvest_all(fs);
    for (size_t i = 0; i < fs->inode_count; i++) {
        struct inode *node = fs->inodes[i];
        if (!node)
            continue;
        changes_clear(node);
        sim_bytes_copy(&node->durable, &node->now);
        entry_changes_clear(node);
        entries_copy(&node->kept, &node->seen);
    }
    sweep(fs);
    pthread_mutex_unlock(&fs->mutex);
}

/* Observation */

static uint64_t text_hash(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

static bool is_one_of(const char *text, const char *names)
{
    for (; names && *names; names += strlen(names) + 1)
        if (strcmp(text, names) == 0)
            return true;
    return false;
}

static uint64_t view_hash(const struct hsl_simfs *fs, uint32_t number, bool durable,
                          const char *except)
{
    const struct inode *node = fs->inodes[number];
    if (!node->directory)
        return sim_mix(sim_bytes_hash(durable ? &node->durable : &node->now));
    const struct entries *entries = durable ? &node->kept : &node->seen;
    uint64_t hash = sim_mix(entries->count);
    for (size_t i = 0; i < entries->count; i++) {
        const struct entry *entry = &entries->items[i];
        hash = sim_mix(hash ^ text_hash(entry->name->text));
        if (!is_one_of(entry->name->text, except))
            hash += view_hash(fs, entry->inode, durable, except);
    }
    return hash;
}

uint64_t simfs_hash_except(struct hsl_simfs *fs, const char *names)
{
    pthread_mutex_lock(&fs->mutex);
    harvest_all(fs);
    uint64_t seen = view_hash(fs, ROOT, false, names);
    uint64_t hash = sim_mix(seen) ^ view_hash(fs, ROOT, true, names);
    pthread_mutex_unlock(&fs->mutex);
    return hash;
}

uint64_t hsl_simfs_hash(struct hsl_simfs *fs)
{
    return simfs_hash_except(fs, NULL);
}

void simfs_settle(struct hsl_simfs *fs, const char *names)
{
    pthread_mutex_lock(&fs->mutex);
    harvest_all(fs);
    for (size_t i = 0; i < fs->inode_count; i++) {
        const struct inode *dir = fs->inodes[i];
        for (size_t j = 0; dir && j < dir->seen.count; j++) {
            struct inode *node = fs->inodes[dir->seen.items[j].inode];
            if (!node->directory && is_one_of(dir->seen.items[j].name->text, names))
                write_out(node);
        }
    }
    pthread_mutex_unlock(&fs->mutex);
}

void hsl_simfs_trace(struct hsl_simfs *fs, int on)
{
    pthread_mutex_lock(&fs->mutex);
    trace_clear(fs);
    fs->tracing = on != 0;
    pthread_mutex_unlock(&fs->mutex);
}

int hsl_simfs_traced(struct hsl_simfs *fs, uint64_t index, struct hsl_sim_call *call)
{
    pthread_mutex_lock(&fs->mutex);
    int there = index < fs->trace_count;
    if (there)
        *call = fs->trace[index];
    pthread_mutex_unlock(&fs->mutex);
    return there;
}
