/* Recorded runs over a simulated disk; what they promise stands in simcrash_api.h. */
#define _GNU_SOURCE

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "hsl.h"
#include "simbytes.h"
#include "simfs.h"

struct step {
    struct hsl_simfs *disk;
    struct hsl_sim_call call;
};

struct hsl_sim_recording {
    pthread_mutex_t mutex;
    struct hsl_simfs *fs; /* NULL: stopped */
    char *aside;
    struct step *steps;
    size_t count;
    size_t capacity;
};

static void push(struct hsl_sim_recording *recording, struct hsl_simfs *disk,
                 const struct hsl_sim_call *call)
{
    simfs_settle(disk, recording->aside);
    pthread_mutex_lock(&recording->mutex);
    recording->steps = sim_grow(recording->steps, &recording->capacity, recording->count,
                                sizeof *recording->steps);
    struct step *step = &recording->steps[recording->count++];
    *step = (struct step){.disk = disk};
    if (call) {
        step->call = *call;
        step->call.path = call->path ? strdup(call->path) : NULL;
    }
    pthread_mutex_unlock(&recording->mutex);
}

static void watch(void *ctx, struct hsl_simfs *fs, const struct hsl_sim_call *call)
{
    push(ctx, simfs_clone_held(fs), call);
}

struct hsl_sim_recording *hsl_sim_record(struct hsl_simfs *fs, const char *aside)
{
    struct hsl_sim_recording *recording = sim_alloc(sizeof *recording);
    pthread_mutex_init(&recording->mutex, NULL);
    size_t len = 0;
    while (aside[len])
        len += strlen(aside + len) + 1;
    recording->aside = sim_alloc(len + 1);
    memcpy(recording->aside, aside, len);
    recording->fs = fs;
    simfs_hold(fs);
    simfs_watch(fs, watch, recording);
    return recording;
}

void hsl_sim_record_stop(struct hsl_sim_recording *recording)
{
    struct hsl_simfs *fs = recording->fs;
    if (!fs)
        return;
    recording->fs = NULL;
    simfs_watch(fs, NULL, NULL);
    push(recording, hsl_simfs_clone(fs), NULL);
    hsl_simfs_free(fs);
}

void hsl_sim_record_free(struct hsl_sim_recording *recording)
{
    if (!recording)
        return;
    if (recording->fs) {
        simfs_watch(recording->fs, NULL, NULL);
        hsl_simfs_free(recording->fs);
    }
    for (size_t i = 0; i < recording->count; i++) {
        hsl_simfs_free(recording->steps[i].disk);
        free((char *)recording->steps[i].call.path);
    }
    free(recording->steps);
    free(recording->aside);
    pthread_mutex_destroy(&recording->mutex);
    free(recording);
}

uint64_t hsl_sim_recorded(struct hsl_sim_recording *recording)
{
    pthread_mutex_lock(&recording->mutex);
    uint64_t count = recording->count;
    pthread_mutex_unlock(&recording->mutex);
    return count;
}

static bool step_at(struct hsl_sim_recording *recording, uint64_t index, struct step *step)
{
    pthread_mutex_lock(&recording->mutex);
    bool there = index < recording->count;
    if (there)
        *step = recording->steps[index];
    pthread_mutex_unlock(&recording->mutex);
    return there;
}

int hsl_sim_recorded_call(struct hsl_sim_recording *recording, uint64_t index,
                          struct hsl_sim_call *call)
{
    struct step step;
    if (!step_at(recording, index, &step))
        return 0;
    *call = step.call;
    return 1;
}

uint64_t hsl_sim_recorded_unsynced(struct hsl_sim_recording *recording, uint64_t index)
{
    struct step step;
    struct hsl_sim_counts counts = {0};
    if (step_at(recording, index, &step))
        hsl_simfs_counts(step.disk, &counts);
    return counts.unsynced;
}

struct hsl_simfs *hsl_sim_recorded_crash(struct hsl_sim_recording *recording, uint64_t index,
                                         int kind, int profile, uint64_t seed, uint64_t *hash)
{
    struct step step;
    if (!step_at(recording, index, &step))
        return NULL;
    struct hsl_simfs *disk = hsl_simfs_clone(step.disk);
    hsl_simfs_crash(disk, kind, profile, seed);
    *hash = simfs_hash_except(disk, recording->aside);
    return disk;
}
