/* Putting one segment of level 1 in the place of neighbouring segments.
 *
 * The live blocks are copied shard by shard, a window of them at a time: within a window they are
 * read in the order in which they lie in the old files, and written in the order of the new one.
 * So memory is bounded, and each old file is passed over once a window. When the new file has its
 * name, the runs of each shard are exchanged, one shard after the other: whichever a reader meets
 * holds the same bytes. The old files are dropped later, as all in which nothing lives.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define READ_MAX (1u << 20)

struct source {
    struct hsl_segment *segment;
    int fd;
};

/* A run to be copied, from the LSN on that its shard kept when the copying began. */
struct part {
    struct hsl_run run;
    uint64_t kept;
    uint32_t source;
};

struct move {
    struct hsl_row row;
    uint32_t source;
    size_t to; /* place in the window */
};

struct hsl_swap {
    struct hsl_log *log;
    struct source *sources;
    size_t sources_len;
    struct part *parts;
    size_t parts_len, parts_cap, parts_at;
    struct move *moves; /* rows of the parts before parts_at that are still to be copied */
    size_t moves_len, moves_cap, moves_at, window_end;
    uint32_t *order; /* the moves of the window, as they lie in the files */
    size_t order_len, order_at;
    uint8_t *window, *scratch;
    size_t window_bytes, window_cap, scratch_cap;
    struct hsl_regroup *writer;
    struct hsl_swap_damage damage;
    uint64_t written;
};

static bool is_source(const struct hsl_swap *swap, uint64_t number, uint32_t *at)
{
    for (size_t i = 0; i < swap->sources_len; i++) {
        if (swap->sources[i].segment->number == number) {
            *at = (uint32_t)i;
            return true;
        }
    }
    return false;
}

static int by_cover(const void *a, const void *b)
{
    const struct source *x = a, *y = b;
    uint64_t left = hsl_segment_first(x->segment), right = hsl_segment_first(y->segment);
    return left < right ? -1 : left > right;
}

static int open_sources(struct hsl_swap *swap, const uint64_t *numbers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct source *source = &swap->sources[i];
        int rc = hsl_segment_reader(swap->log, numbers[i], &source->segment, &source->fd);
        if (rc != HSL_OK)
            return rc;
        swap->sources_len++;
        if (!source->segment->sealed)
            return HSL_NOT_FOUND;
    }
    qsort(swap->sources, count, sizeof *swap->sources, by_cover);
    return HSL_OK;
}

/* Nothing that lives stands between the sources. */
static bool neighbours(struct hsl_swap *swap)
{
    struct hsl_log *log = swap->log;
    uint64_t first = hsl_segment_first(swap->sources[0].segment);
    uint64_t last = hsl_segment_last(swap->sources[swap->sources_len - 1].segment);
    bool alone = true;
    pthread_mutex_lock(&log->index_mu);
    for (size_t i = 0; i < log->segments_len; i++) {
        const struct hsl_segment *s = log->segments[i];
        uint32_t at;
        if (hsl_segment_last(s) < first || hsl_segment_first(s) > last || s->live == 0)
            continue;
        alone &= is_source(swap, s->number, &at);
    }
    pthread_mutex_unlock(&log->index_mu);
    return alone;
}

static int add_part(struct hsl_swap *swap, const struct hsl_shard *shard, const struct hsl_run *run,
                    uint32_t source)
{
    if (swap->parts_len == swap->parts_cap) {
        size_t cap = swap->parts_cap ? swap->parts_cap * 2 : 256;
        struct part *grown = realloc(swap->parts, cap * sizeof *grown);
        if (!grown)
            return HSL_NO_MEMORY;
        swap->parts = grown;
        swap->parts_cap = cap;
    }
    swap->parts[swap->parts_len++] = (struct part){*run, shard->first, source};
    return HSL_OK;
}

static int add_parts(struct hsl_swap *swap, uint64_t id)
{
    struct hsl_log *log = swap->log;
    int rc = HSL_OK;
    uint32_t source;
    pthread_mutex_lock(&log->index_mu);
    const struct hsl_shard *shard = hsl_shard_get(log, id);
    for (uint32_t i = shard ? shard->runs_head : 0; shard && i < shard->runs_len; i++)
        if (rc == HSL_OK && is_source(swap, shard->runs[i].segment, &source))
            rc = add_part(swap, shard, &shard->runs[i], source);
    pthread_mutex_unlock(&log->index_mu);
    return rc;
}

static int by_id(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The runs to be copied, by shard and LSN. The lock is taken shard by shard: appends go on. */
static int collect_parts(struct hsl_swap *swap)
{
    int64_t count = hsl_log_shards(swap->log, NULL, 0);
    uint64_t *ids = malloc(((size_t)count + 1) * sizeof *ids);
    if (!ids)
        return HSL_NO_MEMORY;
    int64_t now = hsl_log_shards(swap->log, ids, (size_t)count);
    count = now < count ? now : count; /* shards made since have nothing in sealed segments */
    qsort(ids, (size_t)count, sizeof *ids, by_id);
    int rc = HSL_OK;
    for (int64_t i = 0; i < count && rc == HSL_OK; i++)
        rc = add_parts(swap, ids[i]);
    free(ids);
    return rc == HSL_OK && swap->parts_len == 0 ? HSL_NOT_FOUND : rc;
}

static int begin_writer(struct hsl_swap *swap, uint64_t uid)
{
    struct hsl_log *log = swap->log;
    const struct hsl_segment *first = swap->sources[0].segment;
    struct hsl_segment_cover begin = hsl_segment_covers(first);
    struct hsl_segment_cover end =
        hsl_segment_covers(swap->sources[swap->sources_len - 1].segment);
    struct hsl_regroup_config config = {
        .uid = uid,
        .epoch = log->epoch,
        .first = begin.first,
        .last = end.last,
        .last_uid = end.last_uid,
        .last_end = end.last_end,
        .last_crc = end.last_crc,
        .pred_uid = first->pred_uid,
        .pred_end = first->pred_end,
        .pred_crc = first->pred_crc,
        .direct = log->direct,
    };
    for (size_t i = 0; i < swap->parts_len; i++) {
        config.blocks += swap->parts[i].run.blocks;
        config.bytes += swap->parts[i].run.bytes + 8 * (uint64_t)swap->parts[i].run.blocks;
    }
    memcpy(config.uuid, log->uuid, 16);
    pthread_mutex_lock(&log->index_mu);
    if (log->last_regrouped < HSL_LEVEL_1)
        log->last_regrouped = HSL_LEVEL_1;
    config.number = ++log->last_regrouped;
    pthread_mutex_unlock(&log->index_mu);
    return hsl_regroup_begin(log->io, log->path, &config, &swap->writer);
}

static int state_of(struct hsl_log *log)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    pthread_mutex_lock(&log->stage_mu);
    int rc = hsl_state(log);
    if (rc == HSL_OK && log->regroup_stuck)
        rc = HSL_NOT_FOUND;
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}

static int writer_failed(struct hsl_swap *swap, int rc)
{
    const char *what;
    int err = hsl_regroup_error(swap->writer, &what);
    return err ? hsl_fail(swap->log, what, "segments/regroup", err) : rc;
}

int hsl_swap_begin(struct hsl_log *log, const uint64_t *numbers, size_t count, uint64_t uid,
                   uint64_t window, struct hsl_swap **out)
{
    *out = NULL;
    int rc = count > 0 ? state_of(log) : HSL_NOT_FOUND;
    if (rc != HSL_OK)
        return rc;
    struct hsl_swap *swap = calloc(1, sizeof *swap);
    if (!swap)
        return HSL_NO_MEMORY;
    *out = swap;
    swap->log = log;
    atomic_fetch_add(&log->holders, 1);
    swap->window_bytes = window;
    swap->sources = calloc(count, sizeof *swap->sources);
    swap->scratch = hsl_page_alloc(READ_MAX + 2 * HSL_PAGE);
    swap->scratch_cap = READ_MAX + 2 * HSL_PAGE;
    rc = swap->sources && swap->scratch ? open_sources(swap, numbers, count) : HSL_NO_MEMORY;
    if (rc == HSL_OK && !neighbours(swap))
        rc = HSL_NOT_FOUND;
    if (rc == HSL_OK)
        rc = collect_parts(swap);
    if (rc == HSL_OK)
        rc = hsl_place_check(log);
    if (rc == HSL_OK)
        rc = begin_writer(swap, uid);
    if (rc == HSL_OK)
        return HSL_OK;
    rc = swap->writer ? writer_failed(swap, rc) : rc;
    hsl_swap_free(swap);
    *out = NULL;
    return rc;
}

static int damaged(struct hsl_swap *swap, uint32_t source, const struct hsl_row *row)
{
    swap->damage = (struct hsl_swap_damage){
        .segment = swap->sources[source].segment->number,
        .offset = (uint64_t)row->off8 * 8,
        .length = row->len,
        .shard = row->shard,
        .first = row->seq,
        .end = row->seq + row->count,
    };
    return HSL_DAMAGED;
}

struct adding {
    struct hsl_swap *swap;
    const struct part *part;
    uint64_t bytes;
};

static int add_move(void *ctx, const struct hsl_row *row)
{
    struct adding *adding = ctx;
    struct hsl_swap *swap = adding->swap;
    if (row->seq + row->count <= adding->part->kept)
        return HSL_OK;
    if (swap->moves_len == swap->moves_cap) {
        size_t cap = swap->moves_cap ? swap->moves_cap * 2 : 1024;
        struct move *grown = realloc(swap->moves, cap * sizeof *grown);
        if (!grown)
            return HSL_NO_MEMORY;
        swap->moves = grown;
        swap->moves_cap = cap;
    }
    swap->moves[swap->moves_len++] = (struct move){.row = *row, .source = adding->part->source};
    adding->bytes += hsl_align8(row->len);
    return HSL_OK;
}

/* The rows of one part, from the footer of its segment. */
static int read_part(struct hsl_swap *swap, const struct part *part, uint64_t *bytes)
{
    uint8_t *rows = malloc((size_t)part->run.data_len + 1);
    if (!rows)
        return HSL_NO_MEMORY;
    struct hsl_run run = part->run;
    int rc = hsl_pieces_read(swap->log, run.segment, run.data, run.data_len, rows, true);
    if (rc == HSL_NOT_FOUND) { /* all of it was trimmed meanwhile */
        free(rows);    /* not reached: the segment went between two locks */
        return HSL_OK; /* not reached: as the line before */
    }
    run.data = 0;
    struct adding adding = {swap, part, 0};
    if (rc == HSL_OK)
        rc = hsl_rows_decode(&run, rows, add_move, &adding);
    free(rows);
    *bytes += adding.bytes;
    if (rc == HSL_DAMAGED)
        swap->damage = (struct hsl_swap_damage){
            .segment = run.segment,
            .offset = swap->sources[part->source].segment->footer_off + part->run.data,
            .length = run.data_len,
            .shard = run.shard,
            .first = run.first,
            .end = run.end,
        };
    return rc;
}

static int read_parts(struct hsl_swap *swap)
{
    uint64_t bytes = 0;
    swap->moves_len = swap->moves_at = swap->window_end = 0;
    while (swap->parts_at < swap->parts_len && bytes < swap->window_bytes) {
        int rc = read_part(swap, &swap->parts[swap->parts_at], &bytes);
        if (rc != HSL_OK)
            return rc;
        swap->parts_at++;
    }
    return HSL_OK;
}

struct place {
    uint64_t at; /* source << 40 | offset / 8 */
    uint32_t move;
};

static int by_place(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static int sort_window(struct hsl_swap *swap)
{
    size_t count = swap->window_end - swap->moves_at;
    struct place *places = malloc(count * sizeof *places);
    uint32_t *order = realloc(swap->order, count * sizeof *order);
    if (order)
        swap->order = order;
    if (!places || !order) {
        free(places);         /* not reached: memory ran out */
        return HSL_NO_MEMORY; /* not reached: as the line before */
    }
    for (size_t i = 0; i < count; i++) {
        const struct move *move = &swap->moves[swap->moves_at + i];
        places[i] = (struct place){(uint64_t)move->source << 40 | move->row.off8,
                                   (uint32_t)(swap->moves_at + i)};
    }
    qsort(places, count, sizeof *places, by_place);
    for (size_t i = 0; i < count; i++)
        order[i] = places[i].move;
    free(places);
    swap->order_len = count;
    swap->order_at = 0;
    return HSL_OK;
}

/* Takes as many moves as the window holds, at least one. */
static int open_window(struct hsl_swap *swap)
{
    size_t bytes = 0, end = swap->moves_at;
    while (end < swap->moves_len) {
        struct move *move = &swap->moves[end];
        size_t len = hsl_align8(move->row.len);
        if (end > swap->moves_at && bytes + len > swap->window_bytes)
            break;
        move->to = bytes;
        bytes += len;
        end++;
    }
    if (bytes > swap->window_cap) {
        free(swap->window);
        swap->window_cap = 0;
        swap->window = malloc(bytes);
        if (!swap->window)
            return HSL_NO_MEMORY;
        swap->window_cap = bytes;
    }
    swap->window_end = end;
    return sort_window(swap);
}

static const struct move *move_at(const struct hsl_swap *swap, size_t i)
{
    return &swap->moves[swap->order[i]];
}

/* Reads the next blocks of the window that lie close together in one piece. */
static int read_some(struct hsl_swap *swap, uint64_t *bytes)
{
    const struct move *head = move_at(swap, swap->order_at);
    uint64_t from = (uint64_t)head->row.off8 * 8 & ~(uint64_t)(HSL_PAGE - 1);
    uint64_t end = (uint64_t)head->row.off8 * 8 + head->row.len;
    size_t next = swap->order_at + 1;
    for (; next < swap->order_len; next++) {
        const struct move *move = move_at(swap, next);
        uint64_t off = (uint64_t)move->row.off8 * 8;
        if (move->source != head->source || off > end + HSL_GAP_MAX ||
            off + move->row.len > from + READ_MAX)
            break;
        end = off + move->row.len;
    }
    size_t len = hsl_align_page(end - from);
    if (!hsl_page_room(&swap->scratch, &swap->scratch_cap, len))
        return HSL_NO_MEMORY;
    const struct hsl_io *io = swap->log->io;
    int err = hsl_read_all(io, swap->sources[head->source].fd, swap->scratch, len, from);
    if (err == -ENODATA)
        return damaged(swap, head->source, &head->row);
    if (err < 0)
        return hsl_fail(swap->log, "read", "segment", -err);
    for (; swap->order_at < next; swap->order_at++) {
        const struct move *move = move_at(swap, swap->order_at);
        memcpy(swap->window + move->to, swap->scratch + ((uint64_t)move->row.off8 * 8 - from),
               move->row.len);
    }
    *bytes += len;
    return HSL_OK;
}

static int write_window(struct hsl_swap *swap, uint64_t *bytes)
{
    for (; swap->moves_at < swap->window_end; swap->moves_at++) {
        const struct move *move = &swap->moves[swap->moves_at];
        const uint8_t *block = swap->window + move->to;
        struct hsl_block_header h;
        memcpy(&h, block, sizeof h);
        if (h.shard != move->row.shard || h.seq != move->row.seq || h.count != move->row.count ||
            sizeof h + (uint64_t)h.ext_len + h.payload_len != move->row.len)
            return damaged(swap, move->source, &move->row);
        int rc = hsl_regroup_add(swap->writer, block, hsl_align8(move->row.len));
        if (rc == HSL_DAMAGED)
            return damaged(swap, move->source, &move->row);
        if (rc != HSL_OK)
            return writer_failed(swap, rc);
        *bytes += move->row.len;
    }
    return HSL_OK;
}

int hsl_swap_step(struct hsl_swap *swap, uint64_t bytes)
{
    int rc = state_of(swap->log);
    for (uint64_t done = 0; rc == HSL_OK && done < bytes;) {
        if (swap->order_at < swap->order_len)
            rc = read_some(swap, &done);
        else if (swap->moves_at < swap->window_end)
            rc = write_window(swap, &done);
        else if (swap->moves_at < swap->moves_len)
            rc = open_window(swap);
        else if (swap->parts_at < swap->parts_len)
            rc = read_parts(swap);
        else
            return HSL_OK;
    }
    return rc == HSL_OK ? HSL_AGAIN : rc;
}

struct exchange {
    struct hsl_log *log;
    struct hsl_segment *segment;
};

static int exchange_run(void *ctx, const struct hsl_run *run)
{
    struct exchange *exchange = ctx;
    pthread_mutex_lock(&exchange->log->index_mu);
    hsl_run_replace(exchange->log, exchange->segment, run);
    pthread_mutex_unlock(&exchange->log->index_mu);
    return HSL_OK;
}

/* Makes the new segment known and gives it every run. One live block more than it has keeps it from
 * being dropped until it has them all. */
static int exchange(struct hsl_log *log, struct hsl_segment *s, const struct hsl_trailer *t,
                    const uint8_t *footer)
{
    const uint8_t *dir = footer + t->rows_len;
    int rc = hsl_segment_footer(s, t, dir + t->dir_len);
    if (rc != HSL_OK)
        return rc;
    hsl_pieces_keep(log, s, footer);
    s->live = 1;
    pthread_mutex_lock(&log->stage_mu);
    pthread_mutex_lock(&log->index_mu);
    rc = hsl_segments_add(log, s);
    pthread_mutex_unlock(&log->index_mu);
    pthread_mutex_unlock(&log->stage_mu);
    if (rc != HSL_OK)
        return rc;
    struct exchange to = {log, s};
    rc = hsl_dir_decode(dir, t->dir_len, t->rows_len, t->shards, t->blocks, exchange_run, &to);
    pthread_mutex_lock(&log->index_mu);
    s->live--;
    pthread_mutex_unlock(&log->index_mu);
    return rc;
}

int hsl_swap_finish(struct hsl_swap *swap)
{
    struct hsl_log *log = swap->log;
    int rc = state_of(log);
    if (rc == HSL_OK)
        rc = hsl_place_check(log);
    if (rc != HSL_OK)
        return rc;
    int32_t named;
    rc = hsl_regroup_finish(swap->writer, &named);
    if (rc != HSL_OK) {
        rc = writer_failed(swap, rc);
    } else {
        swap->written = hsl_regroup_bytes(swap->writer);
        struct hsl_trailer trailer;
        uint8_t *footer;
        struct hsl_segment *s = hsl_regroup_take(swap->writer, &trailer, &footer);
        rc = exchange(log, s, &trailer, footer);
        free(footer);
        if (rc == HSL_NO_MEMORY)
            hsl_segment_free(log, s); /* not reached: memory ran out */
    }
    pthread_mutex_lock(&log->stage_mu);
    if (rc == HSL_OK) {
        log->stats.segments_regrouped++;
        log->stats.bytes_regrouped += swap->written;
    } else if (named) {
        /* The name may be on disk or not, and the next open goes by it: no other file may claim a
         * part of the same range before. */
        log->regroup_stuck = true;
    }
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}

void hsl_swap_damaged(const struct hsl_swap *swap, struct hsl_swap_damage *out)
{
    *out = swap->damage;
}

void hsl_swap_free(struct hsl_swap *swap)
{
    if (!swap || hsl_forked(swap->log)) /* then the file is the parent's, who still writes it */
        return; /* not reached: in a forked child, which counts nothing: test_fork */
    hsl_regroup_free(swap->writer);
    for (size_t i = 0; i < swap->sources_len; i++)
        hsl_segment_unread(swap->log, swap->sources[i].segment);
    free(swap->sources);
    free(swap->parts);
    free(swap->moves);
    free(swap->order);
    free(swap->window);
    free(swap->scratch);
    struct hsl_log *log = swap->log;
    free(swap);
    hsl_log_free(log);
}
