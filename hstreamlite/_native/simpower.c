/* Crashes of a simulated disk: what a power cut leaves of the changes that were not durable. */
#include "platform.h"

#include <string.h>

#include "simdisk.h"

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
        sim_reserve_in(durable, change->off + change->len);
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
    sim_changes_clear(node);
    sim_bytes_copy(&node->now, &node->durable);
}

static void cut_directory(struct inode *dir, struct mood mood, uint64_t *rng)
{
    for (size_t i = 0; i < dir->entry_change_count; i++)
        if (survives(mood, rng))
            sim_entry_change_apply(&dir->entry_changes[i], &dir->kept);
    sim_entry_changes_clear(dir);
    sim_entries_copy(&dir->seen, &dir->kept);
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
                sim_entries_copy(&node->seen, &node->kept);
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
            sim_handle_close(fs, &fs->handles[i]);
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
    sim_harvest_all(fs);
    process_end(fs);
    if (kind == HSL_SIM_POWER) {
        cut_power(fs, profile, seed);
        sim_boot(fs, &fs->rng);
    }
    sim_sweep(fs);
    sim_recount(fs);
    sim_process_begin(fs);
    pthread_mutex_unlock(&fs->mutex);
}
