/* Calls to a simulated disk: counted, traced, stopped and failed.
 *
 * Each of them begins, works and ends; between beginning and end the mutex is held. */
#include "platform.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "simdisk.h"

static void advance(struct hsl_simfs *fs, uint64_t ns)
{
    fs->mono_ns += ns;
    fs->wall_ns_rest += ns;
    fs->wall_ms += fs->wall_ns_rest / 1000000;
    fs->wall_ns_rest %= 1000000;
}

int sim_begin(struct call *c, void *ctx, int op, const char *path, uint64_t off, uint64_t len)
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

int64_t sim_end(struct call *c, int64_t result)
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

int sim_admit(struct call *c, const char *other, bool mutation)
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

int sim_begin_handle(struct call *c, void *ctx, int op, int fd, uint64_t off, uint64_t len,
                     bool mutation)
{
    int rc = sim_begin(c, ctx, op, NULL, off, len);
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
    return sim_admit(c, NULL, mutation);
}

void sim_faults_clear(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->fault_count; i++)
        free(fs->faults[i].path_part);
    fs->fault_count = 0;
}

void sim_trace_clear(struct hsl_simfs *fs)
{
    for (size_t i = 0; i < fs->trace_count; i++)
        free((char *)fs->trace[i].path);
    fs->trace_count = 0;
}

void hsl_simfs_advance(struct hsl_simfs *fs, uint64_t ns)
{
    pthread_mutex_lock(&fs->mutex);
    advance(fs, ns);
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
    sim_faults_clear(fs);
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

void hsl_simfs_trace(struct hsl_simfs *fs, int on)
{
    pthread_mutex_lock(&fs->mutex);
    sim_trace_clear(fs);
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
