/* Inodes of a simulated disk: what they hold, what changed since it was durable, what they cost. */
#include "platform.h"

#include <stdlib.h>
#include <string.h>

#include "simdisk.h"

struct change *sim_change_new(enum change_kind kind, uint64_t off, uint64_t len,
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

void sim_changes_push(struct inode *node, struct change *change)
{
    node->changes = sim_grow(node->changes, &node->change_capacity, node->change_count,
                             sizeof *node->changes);
    node->changes[node->change_count++] = change;
}

void sim_changes_clear(struct inode *node)
{
    for (size_t i = 0; i < node->change_count; i++)
        change_drop(node->changes[i]);
    node->change_count = 0;
}

void sim_changes_clear_writes(struct inode *node)
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

uint32_t sim_inode_new(struct hsl_simfs *fs, bool directory)
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

void sim_inode_free(struct inode *node)
{
    sim_changes_clear(node);
    free(node->changes);
    sim_entry_changes_clear(node);
    free(node->entry_changes);
    sim_entries_clear(&node->seen);
    sim_entries_clear(&node->kept);
    sim_bytes_clear(&node->now);
    sim_bytes_clear(&node->durable);
    free(node->flat);
    free(node);
}

struct inode *sim_inode_clone(const struct inode *node)
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
    sim_entries_copy(&copy->seen, &node->seen);
    sim_entries_copy(&copy->kept, &node->kept);
    if (node->entry_change_count) {
        size_t count = node->entry_change_count;
        copy->entry_changes = sim_alloc(count * sizeof *copy->entry_changes);
        copy->entry_change_count = copy->entry_change_capacity = count;
        for (size_t i = 0; i < count; i++) {
            copy->entry_changes[i] = node->entry_changes[i];
            sim_name_share(copy->entry_changes[i].name);
            sim_name_share(copy->entry_changes[i].target);
        }
    }
    return copy;
}

static bool inode_is_held(const struct inode *node)
{
    return node->links || node->handles || node->maps;
}

void sim_charge(struct hsl_simfs *fs, const struct inode *node, uint64_t before)
{
    fs->used += (inode_is_held(node) ? node->now.reserved : 0) - before;
}

uint64_t sim_charged(const struct inode *node)
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

void sim_sweep(struct hsl_simfs *fs)
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
        sim_inode_free(fs->inodes[i]);
        fs->inodes[i] = NULL;
    }
    free(marks);
}

void sim_recount(struct hsl_simfs *fs)
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
            fs->used += sim_charged(fs->inodes[i]);
}

void sim_flat_refresh(struct inode *node)
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

void sim_harvest(struct inode *node)
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
        struct change *change = sim_change_new(WRITE, start, len, node->flat + start);
        change->mapped = true;
        sim_changes_push(node, change);
        sim_bytes_write(&node->now, start, node->flat + start, len);
    }
}

void sim_harvest_all(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->inode_count; i++) {
        struct inode *node = fs->inodes[i];
        if (!node || !node->flat)
            continue;
        uint64_t before = sim_charged(node);
        sim_harvest(node);
        sim_charge(fs, node, before);
    }
}

void sim_write_node(struct hsl_simfs *fs, struct inode *node, uint64_t off, const void *data,
                    size_t len, bool direct)
{
    uint64_t before = sim_charged(node);
    struct change *change = sim_change_new(WRITE, off, len, sim_all_zero(data, len) ? NULL : data);
    change->direct = direct;
    sim_changes_push(node, change);
    sim_bytes_write(&node->now, off, data, len);
    if (node->flat && off < node->flat_len) {
        uint64_t room = node->flat_len - off;
        memcpy(node->flat + off, data, len < room ? len : (size_t)room);
    }
    sim_charge(fs, node, before);
}

void sim_reserve_in(struct sim_bytes *bytes, uint64_t end_off)
{
    sim_bytes_reserve(bytes, end_off);
    if (bytes->size < end_off)
        sim_bytes_truncate(bytes, end_off);
}

void sim_write_out(struct inode *node)
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
    sim_changes_clear(node);
}

void sim_revert_writes(struct hsl_simfs *fs, struct inode *node)
{
    uint64_t before = sim_charged(node);
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
    sim_changes_clear_writes(node);
    sim_flat_refresh(node);
    sim_charge(fs, node, before);
}
