/* Changes to a simulated disk behind the back of its user: durable at once, never counted. */
#include "platform.h"

#include <errno.h>

#include "simdisk.h"

static int damage(struct hsl_simfs *fs, const char *path, uint64_t off, const void *data,
                  uint64_t len)
{
    struct inode *node;
    int rc = sim_find_file(fs, path, &node);
    if (rc < 0)
        return rc;
    if (off > node->now.size || len > node->now.size - off)
        return -ERANGE;
    sim_harvest(node);
    sim_bytes_write(&node->now, off, data, len);
    if (off < node->durable.size) {
        uint64_t room = node->durable.size - off;
        sim_bytes_write(&node->durable, off, data, len < room ? len : room);
    }
    sim_flat_refresh(node);
    sim_recount(fs);
    return 0;
}

int hsl_simfs_flip(struct hsl_simfs *fs, const char *path, uint64_t bit)
{
    pthread_mutex_lock(&fs->mutex);
    struct inode *node;
    int rc = sim_find_file(fs, path, &node);
    if (rc == 0 && bit / 8 >= node->now.size)
        rc = -ERANGE;
    if (rc == 0) {
        unsigned char byte;
        sim_harvest(node);
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
    int rc = sim_find_file(fs, path, &node);
    if (rc == 0 && len > FILE_BYTES_MAX)
        rc = -EFBIG;
    if (rc == 0) {
        sim_harvest(node);
        sim_changes_clear(node);
        sim_bytes_truncate(&node->now, len);
        sim_bytes_copy(&node->durable, &node->now);
        sim_flat_refresh(node);
        sim_recount(fs);
    }
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

static int copy_raw(struct hsl_simfs *fs, const char *from, const char *to)
{
    struct inode *source;
    struct place at;
    int rc = sim_find_file(fs, from, &source);
    if (rc == 0)
        rc = sim_find(fs, to, &at);
    if (rc < 0)
        return rc;
    if (at.inode == NONE) {
        sim_create(fs, &at, false);
        sim_entry_changes_write_out(fs->inodes[at.parent]);
    }
    struct inode *target = fs->inodes[at.inode];
    if (target->directory)
        return -EISDIR;
    sim_harvest(source);
    sim_changes_clear(target);
    if (target != source)
        sim_bytes_copy(&target->now, &source->now);
    sim_bytes_copy(&target->durable, &target->now);
    sim_flat_refresh(target);
    return 0;
}

int hsl_simfs_copy_raw(struct hsl_simfs *fs, const char *from, const char *to)
{
    pthread_mutex_lock(&fs->mutex);
    int rc = copy_raw(fs, from, to);
    sim_recount(fs);
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

static void write_out_directories(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->inode_count; i++)
        if (fs->inodes[i] && fs->inodes[i]->directory)
            sim_entry_changes_write_out(fs->inodes[i]);
}

int hsl_simfs_rename_raw(struct hsl_simfs *fs, const char *from, const char *to)
{
    pthread_mutex_lock(&fs->mutex);
    int rc = sim_move(fs, from, to);
    write_out_directories(fs);
    sim_sweep(fs);
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

int hsl_simfs_unlink_raw(struct hsl_simfs *fs, const char *path)
{
    pthread_mutex_lock(&fs->mutex);
    int rc = sim_remove(fs, path);
    write_out_directories(fs);
    sim_sweep(fs);
    pthread_mutex_unlock(&fs->mutex);
    return rc;
}

void hsl_simfs_sync_all(struct hsl_simfs *fs)
{
    pthread_mutex_lock(&fs->mutex);
    sim_harvest_all(fs);
    for (size_t i = 0; i < fs->inode_count; i++) {
        struct inode *node = fs->inodes[i];
        if (!node)
            continue;
        sim_changes_clear(node);
        sim_bytes_copy(&node->durable, &node->now);
        sim_entry_changes_clear(node);
        sim_entries_copy(&node->kept, &node->seen);
    }
    sim_sweep(fs);
    pthread_mutex_unlock(&fs->mutex);
}
