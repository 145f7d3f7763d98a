/* What passes through a store, counted from its opening on.
 *
 * Every shard has a meter. Those that were used since they were last asked for stand in a list, so
 * that looking at what goes on costs nothing for the shards where nothing does.
 */
struct hsl_meter {
    uint64_t shard;
    uint64_t append_bytes;   /* of bodies of blocks */
    uint64_t append_records;
    uint64_t append_calls;   /* failed ones included */
    uint64_t append_failed;
    uint64_t read_bytes;     /* of bodies of blocks; of those read in part, in proportion */
    uint64_t read_batches;   /* blocks begun */
};

/* The meters of n shards; what is asked of an unknown one is 0. */
void hsl_log_meters(struct hsl_log *log, const uint64_t *shards, size_t n, struct hsl_meter *out);
/* The meters used since they were last returned here, cap at most; their number. */
size_t hsl_log_meters_used(struct hsl_log *log, struct hsl_meter *out, size_t cap);
/* Counts an append to a shard that was refused before it came to the log. */
void hsl_log_append_refused(struct hsl_log *log, uint64_t shard);

/* Counts of values in buckets whose width is an eighth of the power of two that they lie behind, or
 * 1. Values of 2^40 and more are counted as the largest below. */
enum hsl_histogram_buckets { HSL_HISTOGRAM_BUCKETS = 304 };

enum hsl_measure {
    HSL_APPEND_LATENCY = 0, /* ns from the begin of a frame to its durability, for each record */
    HSL_APPEND_SIZE = 1,    /* bytes of what one call appends to one shard */
    HSL_READ_LATENCY = 2    /* ns of a read of a segment file */
};

struct hsl_histogram;

/* NULL without memory. */
struct hsl_histogram *hsl_histogram_new(void);
void hsl_histogram_free(struct hsl_histogram *h);
/* From any thread. */
void hsl_histogram_add(struct hsl_histogram *h, uint64_t value, uint64_t times);
/* The sum of all values, and HSL_HISTOGRAM_BUCKETS counts. */
void hsl_histogram_read(const struct hsl_histogram *h, uint64_t *sum, uint64_t *counts);
/* The smallest value of a bucket. */
uint64_t hsl_histogram_floor(uint32_t bucket);
void hsl_log_histogram_read(const struct hsl_log *log, int32_t measure, uint64_t *sum,
                            uint64_t *counts);
