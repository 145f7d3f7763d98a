/* Telling the disk what a cursor that reads on will ask for, so that it waits once, not each time.
 *
 * Blocks of a log lie scattered where many logs share a segment, and its runs are spread over many
 * segments: block by block and run by run every read would wait for the one before. Where blocks
 * lie together the system reads ahead by itself, in larger pieces and at half the cost.
 */
#include "log.h"

#define RUNS_AHEAD 8u
#define BYTES_AHEAD (1u << 20)
#define FETCH_AHEAD (4u << 20) /* of a file, with what lies between the blocks */

void hsl_rows_entries(const struct hsl_run *run, const struct hsl_row *rows, uint32_t count,
                      struct hsl_entry *out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = hsl_row_entry(&rows[i], run->segment);
}

/* Bytes of a file that are announced in one call, as long as the next ones follow closely. */
struct span {
    uint64_t start, end;
};

static void announce(const struct hsl_io *io, int fd, uint64_t start, uint64_t end)
{
    if (end > start)
        io->announce(io->ctx, fd, start, end - start);
}

static void span_add(struct span *span, const struct hsl_io *io, int fd, uint64_t off, uint64_t to)
{
    if (off > span->end + HSL_GAP_MAX) {
        announce(io, fd, span->start, span->end);
        span->start = off;
    }
    span->end = to;
}

void hsl_announce_blocks(struct hsl_log *log, int fd, const struct hsl_entry *entries,
                         uint32_t len, uint64_t from)
{
    const struct hsl_io *io = log->io;
    struct span span = {from, from};
    if (!io->announce)
        return;
    for (uint32_t i = 0; i < len; i++) {
        uint64_t off = (uint64_t)entries[i].off8 * 8, to = off + entries[i].len;
        if (to > from)
            span_add(&span, io, fd, off, to);
    }
    if (span.start > from)
        announce(io, fd, span.start, span.end);
}

/* The runs behind LSN `lsn` in memory; their number. */
static uint32_t runs_behind(struct hsl_log *log, uint64_t id, uint64_t lsn,
                            struct hsl_run runs[RUNS_AHEAD])
{
    uint32_t count = 0;
    pthread_mutex_lock(&log->index_mu);
    const struct hsl_shard *shard = hsl_shard_get(log, id);
    const struct hsl_run *run = shard ? hsl_run_find(shard, lsn) : NULL;
    for (; run && run < shard->runs + shard->runs_len && count < RUNS_AHEAD; run++)
        runs[count++] = *run;
    pthread_mutex_unlock(&log->index_mu);
    return count;
}

/* Bytes that the disk fetches for a block: whole pages, and what lies between it and the one before
 * if that is announced too. *end moves behind it. */
static uint64_t fetched(const struct hsl_row *row, uint64_t *end)
{
    uint64_t off = (uint64_t)row->off8 * 8, to = hsl_align_page(off + row->len);
    uint64_t from = off > *end + HSL_GAP_MAX ? off & ~(uint64_t)(HSL_PAGE - 1) : *end;
    *end = to;
    return to > from ? to - from : 0;
}

static void announce_first_blocks(struct hsl_log *log, const struct hsl_run *run,
                                  struct hsl_ahead *ahead)
{
    struct hsl_row rows[HSL_ROW_GROUP];
    struct hsl_segment *segment;
    struct span span = {0, 0};
    uint64_t lsn = run->first, bytes = 0, end = 0;
    uint32_t len;
    int fd;
    if (hsl_segment_reader(log, run->segment, &segment, &fd) != HSL_OK)
        return; /* whoever gets there will hear why */
    while (lsn < run->end && bytes < FETCH_AHEAD &&
           hsl_run_rows(log, run, HSL_KEY_LSN, lsn, true, rows, &len) == HSL_OK) {
        for (uint32_t i = 0; i < len && bytes < FETCH_AHEAD; i++) {
            uint64_t off = (uint64_t)rows[i].off8 * 8;
            bytes += fetched(&rows[i], &end);
            span_add(&span, log->io, fd, off, off + rows[i].len);
            lsn = rows[i].seq + rows[i].count;
        }
    }
    announce(log->io, fd, span.start, span.end);
    hsl_segment_unread(log, segment);
    ahead->blocks = run->first;
    ahead->blocks_end = lsn;
}

void hsl_announce_behind(struct hsl_log *log, const struct hsl_run *run, int fd,
                         const struct hsl_pages *now, bool at_end, struct hsl_ahead *ahead)
{
    struct hsl_run runs[RUNS_AHEAD];
    bool small = run->bytes <= BYTES_AHEAD;
    bool begins = small && ahead->rows <= run->end;
    bool ends = (small || at_end) && ahead->run != run->end;
    if ((!begins && !ends) || !log->io->announce)
        return;
    uint32_t count = runs_behind(log, run->shard, run->end, runs);
    if (count > 0 && runs[count - 1].end > ahead->rows)
        announce(log->io, fd, now->from, now->end);
    bool has_rows = count > 0 && runs[0].first < ahead->rows;
    if (ends && has_rows)
        announce_first_blocks(log, &runs[0], ahead);
    if (has_rows || count == 0)
        ahead->run = run->end;
    for (uint32_t i = 0; i < count; i++) {
        if (runs[i].first < ahead->rows)
            continue;
        hsl_pieces_announce(log, &runs[i]);
        ahead->rows = runs[i].end;
    }
}
