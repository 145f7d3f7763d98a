/* What reading segments back shares: reader.c, intake.c, scan.c, catchup.c, salvage.c. */
#ifndef SCAN_H
#define SCAN_H

#include "log.h"

#define FRAME_MAX (40u << 20)

struct reader { /* a window over one file, aligned for direct reads */
    struct hsl_log *log;
    int fd;
    uint64_t size, off;
    size_t len, cap;
    size_t window; /* read at least so much at a time: a page to look at, more to walk */
    uint8_t *buf;
};

struct insert {
    struct hsl_log *log;
    struct hsl_segment *segment;
    struct hsl_segment_report *report;
    uint64_t durable; /* up to this offset everything was, as is known from elsewhere */
    bool hole; /* some segment before this one is gone: a shard may continue higher */
    bool seal;  /* runs take the place of entries that the segment has */
    bool adopt; /* runs take the place of those of other segments */
};

static inline bool header_valid(const struct hsl_frame_header *h, uint64_t uid, uint64_t off)
{
    return h->magic == HSL_FRAME_MAGIC && h->uid == uid && h->page == off / HSL_PAGE &&
           h->crc == hsl_crc32c(0, (const uint8_t *)h + 8, sizeof *h - 8);
}

static inline void note_claim(struct hsl_segment_report *report, const struct hsl_frame_header *h)
{
    if (h->durable > report->durable_claim)
        report->durable_claim = h->durable;
}

/* A follower's readers are at work while it goes on. */
static inline void lock_index(struct hsl_log *log)
{
    pthread_mutex_lock(&log->stage_mu);
    pthread_mutex_lock(&log->index_mu);
}

static inline void unlock_index(struct hsl_log *log)
{
    pthread_mutex_unlock(&log->index_mu);
    pthread_mutex_unlock(&log->stage_mu);
}

bool hsl_intake_blocks_valid(const uint8_t *body, const struct hsl_frame_header *h);
/* `need` bytes at a page-aligned offset, or NULL past the end or on error (*err). */
const uint8_t *hsl_reader_view(struct reader *r, uint64_t off, size_t need, int *err);
/* Raises what is known of a shard, and of the log, to an entry that went into the index. */
void hsl_intake_newest(struct hsl_log *log, struct hsl_shard *shard, uint64_t time_ms,
                       uint64_t order);
/* One frame at `off`; *len is its padded length when accepted. */
int hsl_intake_frame(struct reader *r, struct insert *in, uint64_t off, bool from_checkpoint,
                     size_t *len);
int hsl_intake_checkpoint(struct insert *in, const uint8_t *body, size_t len);
hsl_run_fn hsl_intake_runs(const struct insert *in);
/* Reads trailer and directory; the rows are left in the file. */
int hsl_scan_load_footer(struct reader *r, struct insert *in, bool *loaded);
int hsl_scan_open_segment(struct hsl_log *log, uint64_t number, struct reader *r,
                          struct hsl_segment **out, struct hsl_segment_report *report);
void hsl_scan_close_segment(struct reader *r);
void hsl_scan_take_out(struct hsl_log *log, const struct hsl_segment *s);

#endif
