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

#include <stdlib.h>
#include <string.h>

#include "simdisk.h"

static const uint64_t BOOT_NS = 1000000000;

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

void sim_process_begin(struct hsl_simfs *fs)
{
    struct process *process = sim_alloc(sizeof *process);
    process->fs = fs;
    process->life = ++fs->life;
    process->previous = fs->process;
    process->io = (struct hsl_io){
        .ctx = process,
        .boot_id = sim_boot_id,
        .wall_ms = sim_wall_ms,
        .mono_ns = sim_mono_ns,
        .retain = sim_retain,
        .release = sim_release,
    };
    sim_file_calls(&process->io);
    sim_path_calls(&process->io);
    fs->process = process;
    fs->calls = 0;
    fs->mutations = 0;
    fs->stop_at = UINT64_MAX;
    fs->stopped = false;
}

void sim_boot(struct hsl_simfs *fs, uint64_t *rng)
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
    sim_boot(fs, &fs->rng);
    sim_inode_new(fs, true);
    fs->inodes[ROOT]->links = 1;
    sim_process_begin(fs);
    return fs;
}

void hsl_simfs_free(struct hsl_simfs *fs)
{
    if (!fs || atomic_fetch_sub(&fs->holders, 1) > 1)
        return;
    for (size_t i = 0; i < fs->handle_count; i++)
        sim_name_drop(fs->handles[i].path);
    free(fs->handles);
    for (size_t i = 0; i < fs->inode_count; i++)
        if (fs->inodes[i])
            sim_inode_free(fs->inodes[i]);
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
    sim_faults_clear(fs);
    free(fs->faults);
    sim_trace_clear(fs);
    free(fs->trace);
    pthread_mutex_destroy(&fs->mutex);
    free(fs);
}

struct hsl_simfs *simfs_clone_held(struct hsl_simfs *fs)
{
    sim_harvest_all(fs);
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
        copy->inodes[i] = fs->inodes[i] ? sim_inode_clone(fs->inodes[i]) : NULL;
    sim_bytes_copy(&copy->ghost, &fs->ghost);
    sim_process_begin(copy);
    sim_sweep(copy);
    sim_recount(copy);
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
    sim_harvest_all(fs);
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
    sim_harvest_all(fs);
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
    sim_harvest_all(fs);
    for (size_t i = 0; i < fs->inode_count; i++) {
        const struct inode *dir = fs->inodes[i];
        for (size_t j = 0; dir && j < dir->seen.count; j++) {
            struct inode *node = fs->inodes[dir->seen.items[j].inode];
            if (!node->directory && is_one_of(dir->seen.items[j].name->text, names))
                sim_write_out(node);
        }
    }
    pthread_mutex_unlock(&fs->mutex);
}
