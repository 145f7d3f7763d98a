/* Meters of shards, and histograms (meter_api.h). */
#include "log.h"

#include <stdlib.h>

#define EIGHTHS 3u
#define LIMIT (1ull << 40)
#define GROUP 256u /* meters returned under one lock */

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    uint64_t before = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, before + n, memory_order_relaxed);
}

static void list(struct hsl_log *log, struct hsl_shard *shard)
{
    struct hsl_shard *head = atomic_load(&log->used);
    do
        shard->next_metered = head;
    while (!atomic_compare_exchange_weak(&log->used, &head, shard));
}

/* Counted under stage_mu, under which the flag is taken back too: to look at it is enough. */
static void note_append(struct hsl_log *log, struct hsl_shard *shard)
{
    if (!atomic_load_explicit(&shard->metered, memory_order_relaxed) &&
        !atomic_exchange(&shard->metered, true))
        list(log, shard);
}

void hsl_meter_append(struct hsl_log *log, struct hsl_shard *shard, uint64_t bytes,
                      uint64_t records)
{
    if (shard->id >= HSL_SYSTEM)
        return;
    count(&shard->append_bytes, bytes);
    count(&shard->append_records, records);
    count(&shard->append_calls, 1);
    hsl_histogram_count(&log->append_size, bytes, 1);
    note_append(log, shard);
}

void hsl_meter_failed(struct hsl_log *log, uint64_t shard_id, bool staged)
{
    if (shard_id >= HSL_SYSTEM || hsl_forked(log))
        return;
    pthread_mutex_lock(&log->stage_mu);
    struct hsl_shard *shard = hsl_shard_get(log, shard_id);
    if (shard) {
        count(&shard->append_calls, staged ? 0 : 1);
        count(&shard->append_failed, 1);
        note_append(log, shard);
    }
    pthread_mutex_unlock(&log->stage_mu);
}

void hsl_log_append_refused(struct hsl_log *log, uint64_t shard)
{
    hsl_meter_failed(log, shard, false);
}

/* Without a lock: the exchange comes behind what is counted, and sees whether that will be seen. */
void hsl_meter_read(struct hsl_log *log, struct hsl_shard *shard, uint64_t bytes, uint64_t batches)
{
    if (!shard || shard->id >= HSL_SYSTEM)
        return;
    atomic_fetch_add_explicit(&shard->read_bytes, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&shard->read_batches, batches, memory_order_relaxed);
    if (!atomic_exchange(&shard->metered, true))
        list(log, shard);
}

static void tell(const struct hsl_shard *shard, struct hsl_meter *out)
{
    out->append_bytes = atomic_load_explicit(&shard->append_bytes, memory_order_relaxed);
    out->append_records = atomic_load_explicit(&shard->append_records, memory_order_relaxed);
    out->append_calls = atomic_load_explicit(&shard->append_calls, memory_order_relaxed);
    out->append_failed = atomic_load_explicit(&shard->append_failed, memory_order_relaxed);
    out->read_bytes = atomic_load_explicit(&shard->read_bytes, memory_order_relaxed);
    out->read_batches = atomic_load_explicit(&shard->read_batches, memory_order_relaxed);
}

void hsl_log_meters(struct hsl_log *log, const uint64_t *shards, size_t n, struct hsl_meter *out)
{
    bool forked = hsl_forked(log);
    for (size_t i = 0; i < n; i++)
        out[i] = (struct hsl_meter){.shard = shards[i]};
    for (size_t from = 0; from < n && !forked; from += GROUP) {
        pthread_mutex_lock(&log->index_mu);
        for (size_t i = from; i < n && i < from + GROUP; i++) {
            const struct hsl_shard *shard = hsl_shard_get(log, shards[i]);
            if (shard)
                tell(shard, &out[i]);
        }
        pthread_mutex_unlock(&log->index_mu);
    }
}

size_t hsl_log_meters_used(struct hsl_log *log, struct hsl_meter *out, size_t cap)
{
    size_t done = 0;
    if (hsl_forked(log))
        return 0;
    while (done < cap) {
        size_t before = done;
        pthread_mutex_lock(&log->stage_mu);
        if (!log->telling)
            log->telling = atomic_exchange(&log->used, NULL);
        for (; log->telling && done < cap && done - before < GROUP; done++) {
            struct hsl_shard *shard = log->telling;
            log->telling = shard->next_metered;
            atomic_exchange(&shard->metered, false);
            out[done].shard = shard->id;
            tell(shard, &out[done]);
        }
        pthread_mutex_unlock(&log->stage_mu);
        if (done - before < GROUP)
            break;
    }
    return done;
}

static uint32_t bucket_of(uint64_t value)
{
    if (value >= LIMIT)
        value = LIMIT - 1;
    if (value < 1u << EIGHTHS)
        return (uint32_t)value;
    uint32_t over = 63u - (uint32_t)__builtin_clzll(value) - EIGHTHS;
    return (over << EIGHTHS) + (uint32_t)(value >> over);
}

uint64_t hsl_histogram_floor(uint32_t bucket)
{
    if (bucket < 2u << EIGHTHS)
        return bucket;
    uint32_t over = (bucket >> EIGHTHS) - 1;
    return (uint64_t)(bucket - (over << EIGHTHS)) << over;
}

struct hsl_histogram *hsl_histogram_new(void)
{
    return calloc(1, sizeof(struct hsl_histogram));
}

void hsl_histogram_free(struct hsl_histogram *h) { free(h); }

void hsl_histogram_add(struct hsl_histogram *h, uint64_t value, uint64_t times)
{
    atomic_fetch_add_explicit(&h->sum, value * times, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->counts[bucket_of(value)], times, memory_order_relaxed);
}

void hsl_histogram_count(struct hsl_histogram *h, uint64_t value, uint64_t times)
{
    count(&h->sum, value * times);
    count(&h->counts[bucket_of(value)], times);
}

void hsl_histogram_read(const struct hsl_histogram *h, uint64_t *sum, uint64_t *counts)
{
    *sum = atomic_load_explicit(&h->sum, memory_order_relaxed);
    for (size_t i = 0; i < HSL_HISTOGRAM_BUCKETS; i++)
        counts[i] = atomic_load_explicit(&h->counts[i], memory_order_relaxed);
}

void hsl_log_histogram_read(const struct hsl_log *log, int32_t measure, uint64_t *sum,
                            uint64_t *counts)
{
    const struct hsl_histogram *h = measure == HSL_APPEND_LATENCY ? &log->append_latency
                                    : measure == HSL_APPEND_SIZE  ? &log->append_size
                                                                  : &log->read_latency;
    hsl_histogram_read(h, sum, counts);
}
