/* Calls to a simulated disk that name a path. */
#include "platform.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simdisk.h"

int sim_find(const struct hsl_simfs *fs, const char *path, struct place *at)
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
            at->inode = sim_entries_get(&dir->seen, at->name);
        }
        path += len;
    }
}

int sim_find_file(const struct hsl_simfs *fs, const char *path, struct inode **node)
{
    struct place at;
    int rc = sim_find(fs, path, &at);
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
    int rc = sim_find(fs, path, &at);
    if (rc < 0)
        return rc;
    if (at.inode == NONE)
        return -ENOENT;
    *node = fs->inodes[at.inode];
    return (*node)->directory ? 0 : -ENOTDIR;
}

void sim_create(struct hsl_simfs *fs, struct place *at, bool directory)
{
    at->inode = sim_inode_new(fs, directory);
    fs->inodes[at->inode]->links = 1;
    struct name *name = sim_name_new(at->name);
    sim_entry_changes_push(fs->inodes[at->parent], LINK, name, NULL, at->inode);
    sim_name_drop(name);
}

static void unlink_inode(struct hsl_simfs *fs, uint32_t number)
{
    struct inode *node = fs->inodes[number];
    uint64_t before = sim_charged(node);
    node->links--;
    sim_charge(fs, node, before);
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

int sim_move(struct hsl_simfs *fs, const char *from_path, const char *to_path)
{
    struct place from;
    struct place to;
    int rc = sim_find(fs, from_path, &from);
    if (rc == 0)
        rc = sim_find(fs, to_path, &to);
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
    struct name *old_name = sim_name_new(from.name);
    struct name *new_name = sim_name_new(to.name);
    if (from.parent == to.parent) {
        sim_entry_changes_push(fs->inodes[from.parent], MOVE, old_name, new_name, from.inode);
    } else {
        sim_entry_changes_push(fs->inodes[to.parent], LINK, new_name, NULL, from.inode);
        sim_entry_changes_push(fs->inodes[from.parent], UNLINK, old_name, NULL, from.inode);
    }
    sim_name_drop(old_name);
    sim_name_drop(new_name);
    return 0;
}

static int sim_rename(void *ctx, const char *from, const char *to)
{
    struct call c;
    int rc = sim_begin(&c, ctx, HSL_SIM_RENAME, from, 0, 0);
    if (rc == 0)
        rc = sim_admit(&c, to, true);
    if (rc == 0)
        rc = sim_move(c.fs, from, to);
    return (int)sim_end(&c, rc);
}

int sim_remove(struct hsl_simfs *fs, const char *path)
{
    struct place at;
    int rc = sim_find(fs, path, &at);
    if (rc < 0)
        return rc;
    if (at.inode == NONE)
        return -ENOENT;
    if (fs->inodes[at.inode]->directory && fs->inodes[at.inode]->seen.count)
        return -ENOTEMPTY;
    if (at.parent == NONE)
        return -EBUSY;
    struct name *name = sim_name_new(at.name);
    sim_entry_changes_push(fs->inodes[at.parent], UNLINK, name, NULL, at.inode);
    sim_name_drop(name);
    unlink_inode(fs, at.inode);
    return 0;
}

static int sim_unlink(void *ctx, const char *path)
{
    struct call c;
    int rc = sim_begin(&c, ctx, HSL_SIM_UNLINK, path, 0, 0);
    if (rc == 0)
        rc = sim_admit(&c, NULL, true);
    if (rc == 0)
        rc = sim_remove(c.fs, path);
    return (int)sim_end(&c, rc);
}

static int do_mkdir(struct hsl_simfs *fs, const char *path)
{
    struct place at;
    int rc = sim_find(fs, path, &at);
    if (rc < 0)
        return rc;
    if (at.inode != NONE)
        return -EEXIST;
    sim_create(fs, &at, true);
    return 0;
}

static int sim_mkdir(void *ctx, const char *path)
{
    struct call c;
    int rc = sim_begin(&c, ctx, HSL_SIM_MKDIR, path, 0, 0);
    if (rc == 0)
        rc = sim_admit(&c, NULL, true);
    if (rc == 0)
        rc = do_mkdir(c.fs, path);
    return (int)sim_end(&c, rc);
}

static int do_sync_dir(struct call *c, const char *path)
{
    struct inode *dir;
    int rc = find_directory(c->fs, path, &dir);
    if (rc < 0)
        return rc;
    /* A directory has no content to show again: reverted is lost. */
    if (c->effect == HSL_SIM_SYNC_LOST || c->effect == HSL_SIM_SYNC_REVERTED)
        sim_entry_changes_clear(dir);
    else
        sim_entry_changes_write_out(dir);
    sim_sweep(c->fs);
    bool failed = c->effect == HSL_SIM_SYNC_LOST || c->effect == HSL_SIM_SYNC_REVERTED ||
                  c->effect == HSL_SIM_SYNC_SURVIVED;
    return failed ? (int)-c->arg : 0;
}

static int sim_sync_dir(void *ctx, const char *path)
{
    struct call c;
    int rc = sim_begin(&c, ctx, HSL_SIM_SYNC_DIR, path, 0, 0);
    if (rc == 0)
        rc = sim_admit(&c, NULL, true);
    if (rc == 0)
        rc = do_sync_dir(&c, path);
    return (int)sim_end(&c, rc);
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
    int64_t rc = sim_begin(&c, ctx, HSL_SIM_LIST, path, 0, cap);
    if (rc == 0)
        rc = sim_admit(&c, NULL, false);
    if (rc == 0)
        rc = do_list(c.fs, path, names, cap);
    return sim_end(&c, rc);
}

static int do_lock(struct call *c, const char *path, int64_t *owner)
{
    struct hsl_simfs *fs = c->fs;
    struct place at;
    int rc = sim_find(fs, path, &at);
    if (rc < 0)
        return rc;
    if (at.inode == NONE)
        sim_create(fs, &at, false);
    struct inode *node = fs->inodes[at.inode];
    if (node->directory)
        return -EISDIR;
    char text[PID_TEXT + 1] = {0};
    if (node->locked) {
        sim_bytes_read(&node->now, 0, text, PID_TEXT);
        *owner = strtoll(text, NULL, 10);
        return -EAGAIN;
    }
    int fd = sim_handle_new(fs, at.inode, HSL_OPEN_READ | HSL_OPEN_WRITE, path);
    if (fd < 0)
        return fd;
    fs->handles[fd & (HANDLES_MAX - 1)].holds_lock = true;
    node->locked = true;
    snprintf(text, sizeof text, "%-20" PRId64 "\n", fs->pid);
    if (sim_reachable_end(fs, node) >= PID_TEXT)
        sim_write_node(fs, node, 0, text, PID_TEXT, false);
    return fd;
}

static int sim_lock(void *ctx, const char *path, int64_t *owner)
{
    struct call c;
    *owner = 0;
    int rc = sim_begin(&c, ctx, HSL_SIM_LOCK, path, 0, 0);
    if (rc == 0)
        rc = sim_admit(&c, NULL, true);
    if (rc == 0)
        rc = do_lock(&c, path, owner);
    return (int)sim_end(&c, rc);
}

static int do_locked(struct hsl_simfs *fs, const char *path, int64_t *owner)
{
    struct place at;
    int rc = sim_find(fs, path, &at);
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
    int rc = sim_begin(&c, ctx, HSL_SIM_LOCK, path, 0, 0);
    if (rc == 0)
        rc = sim_admit(&c, NULL, false);
    if (rc == 0)
        rc = do_locked(c.fs, path, owner);
    return (int)sim_end(&c, rc);
}

static int64_t sim_free_bytes(void *ctx, const char *path)
{
    struct call c;
    struct place at;
    int64_t rc = sim_begin(&c, ctx, HSL_SIM_FREE_BYTES, path, 0, 0);
    if (rc == 0)
        rc = sim_admit(&c, NULL, false);
    if (rc == 0)
        rc = sim_find(c.fs, path, &at);
    if (rc == 0 && at.inode == NONE)
        rc = -ENOENT;
    if (rc == 0)
        rc = c.fs->capacity > c.fs->used ? (int64_t)(c.fs->capacity - c.fs->used) : 0;
    return sim_end(&c, rc);
}

void sim_path_calls(struct hsl_io *io)
{
    io->rename = sim_rename;
    io->unlink = sim_unlink;
    io->mkdir = sim_mkdir;
    io->sync_dir = sim_sync_dir;
    io->list = sim_list;
    io->lock = sim_lock;
    io->locked = sim_locked;
    io->free_bytes = sim_free_bytes;
}
