/* Counting on the paths that every record takes: a few additions, and no lock of its own. Appends
 * are counted under stage_mu, reads by whoever reads. */
#ifndef HSL_METER_H
#define HSL_METER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct hsl_log;
struct hsl_shard;

struct hsl_histogram {
    _Atomic uint64_t sum;
    _Atomic uint64_t counts[HSL_HISTOGRAM_BUCKETS];
};

/* stage_mu held. */
void hsl_meter_append(struct hsl_log *log, struct hsl_shard *shard, uint64_t bytes,
                      uint64_t records);
/* Of a call that raised; staged = it was counted before. */
void hsl_meter_failed(struct hsl_log *log, uint64_t shard, bool staged);
void hsl_meter_read(struct hsl_log *log, struct hsl_shard *shard, uint64_t bytes,
                    uint64_t batches);
/* As hsl_histogram_add, by who holds the lock under which all others add. */
void hsl_histogram_count(struct hsl_histogram *h, uint64_t value, uint64_t times);

#endif
