/* What an inspected segment file holds in the end: blocks by log and LSN, without those that do not
 * fit between the others, and compared with the footer. */
#include "inspect.h"

#include <stdlib.h>

static int by_off8(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return x->row.off8 < y->row.off8 ? -1 : x->row.off8 > y->row.off8;
}

void hsl_inspect_reject(struct hsl_inspect *in, uint64_t off)
{
    if (!in->by_off && in->found_len > 0)
        qsort(in->found, in->found_len, sizeof *in->found, by_off8);
    in->by_off = true;
    size_t lo = 0, hi = in->found_len;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if ((uint64_t)in->found[mid].row.off8 * 8 < off)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < in->found_len && (uint64_t)in->found[lo].row.off8 * 8 == off; lo++) {
        struct found *f = &in->found[lo];
        if (f->rejected)
            continue;
        f->rejected = true;
        if (!f->rescued)
            hsl_inspect_add_range(in, HSL_FAULT_BODY, off, off, off + f->row.len);
    }
}

static int by_place(const void *a, const void *b)
{
    const struct hsl_row *x = &((const struct found *)a)->row, *y = &((const struct found *)b)->row;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    if (x->seq != y->seq)
        return x->seq < y->seq ? -1 : 1;
    return x->off8 < y->off8 ? -1 : x->off8 > y->off8;
}

/* Does it come behind a in its log? */
static bool follows(const struct hsl_row *a, const struct hsl_row *b)
{
    return a->shard != b->shard || (b->seq >= a->seq + a->count && b->order > a->order &&
                                    b->time_ms >= a->time_ms);
}

/* Sorted in place; drops what was rejected, rescued blocks that do not fit between the others, and
 * blocks that stand twice. */
static int order_found(struct hsl_inspect *in)
{
    size_t n = 0;
    if (in->found_len == 0)
        return HSL_OK;
    qsort(in->found, in->found_len, sizeof *in->found, by_place);
    for (size_t i = 0; i < in->found_len; i++) {
        struct found *f = &in->found[i];
        size_t next = i + 1;
        while (next < in->found_len && (in->found[next].rescued || in->found[next].rejected))
            next++;
        bool fits = n == 0 || follows(&in->found[n - 1].row, &f->row);
        if (fits && f->rescued && next < in->found_len)
            fits = follows(&f->row, &in->found[next].row);
        if (!fits && !f->rescued && !f->rejected) {
            uint64_t off = (uint64_t)f->row.off8 * 8;
            int rc = hsl_inspect_add_range(in, HSL_FAULT_SEQUENCE, off, off, off + f->row.len);
            if (rc != HSL_OK)
                return rc;
        }
        if (fits && !f->rejected)
            in->found[n++] = *f;
    }
    in->found_len = n;
    return HSL_OK;
}

static int build_runs(struct hsl_inspect *in)
{
    struct hsl_inspect_run *run = NULL;
    for (size_t i = 0; i < in->found_len; i++) {
        const struct hsl_row *row = &in->found[i].row;
        uint64_t off = (uint64_t)row->off8 * 8;
        in->report.blocks++;
        in->report.records += row->count;
        if (!run || run->shard != row->shard || run->end != row->seq) {
            if (!hsl_inspect_grow((void **)&in->runs, &in->runs_cap, in->runs_len,
                                  sizeof *in->runs))
                return HSL_NO_MEMORY;
            run = &in->runs[in->runs_len++];
            *run = (struct hsl_inspect_run){.shard = row->shard, .first = row->seq, .start = off,
                                            .min_order = row->order};
        }
        run->end = row->seq + row->count;
        run->blocks++;
        run->bytes += row->len;
        run->stop = off + row->len;
        run->max_order = row->order;
        run->last_time = row->time_ms;
    }
    return HSL_OK;
}

struct compare {
    struct hsl_inspect *in;
    const uint8_t *rows;
    size_t at;
    uint32_t unlisted, wrong;
    size_t ranges_len; /* ranges found before, by start */
    uint64_t *reach;   /* for each of them the highest end up to it */
};

/* Is any byte of [from, to) in a range found before? */
static bool in_range(const struct compare *c, uint64_t from, uint64_t to)
{
    size_t lo = 0, hi = c->ranges_len;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (c->in->ranges[mid].start < to)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo > 0 && c->reach[lo - 1] > from;
}

/* One row of the footer against the blocks found; both by log and LSN. */
static int compare_row(void *ctx, const struct hsl_row *row)
{
    struct compare *c = ctx;
    const struct found *found = c->in->found;
    while (c->at < c->in->found_len) {
        const struct hsl_row *f = &found[c->at].row;
        if (f->shard > row->shard || (f->shard == row->shard && f->seq >= row->seq))
            break;
        c->unlisted++;
        c->at++;
    }
    if (c->at < c->in->found_len && found[c->at].row.shard == row->shard &&
        found[c->at].row.seq == row->seq) {
        const struct hsl_row *f = &found[c->at++].row;
        c->wrong += f->off8 != row->off8 || f->len != row->len || f->count != row->count ||
                    f->order != row->order || f->time_ms != row->time_ms;
        return HSL_OK;
    }
    uint64_t off = (uint64_t)row->off8 * 8;
    struct hsl_inspect_lost lost = {row->shard, row->seq,       row->seq + row->count,
                                    off,        off + row->len, 1};
    int rc = hsl_inspect_add_lost(c->in, &lost);
    if (rc != HSL_OK || in_range(c, off, off + row->len))
        return rc;
    return hsl_inspect_add_range(c->in, HSL_FAULT_BLOCK, off, off, off + row->len);
}

static int compare_run(void *ctx, const struct hsl_run *run)
{
    const struct compare *c = ctx;
    return hsl_rows_decode(run, c->rows, compare_row, ctx);
}

static int by_start(const void *a, const void *b)
{
    const struct hsl_inspect_range *x = a, *y = b;
    return x->start != y->start ? (x->start < y->start ? -1 : 1) : x->fault - y->fault;
}

static void sort_ranges(struct hsl_inspect *in)
{
    if (in->ranges_len > 0)
        qsort(in->ranges, in->ranges_len, sizeof *in->ranges, by_start);
}

static int compare_footer(struct hsl_inspect *in)
{
    const struct hsl_trailer *t = &in->trailer;
    uint64_t len = in->report.file_bytes - t->footer_off;
    const uint8_t *body = hsl_inspect_view(in, t->footer_off, len);
    if (!body)
        return in->err ? HSL_IO : HSL_DAMAGED;
    struct compare c = {.in = in, .rows = body, .ranges_len = in->ranges_len};
    c.reach = malloc((c.ranges_len + 1) * sizeof *c.reach);
    if (!c.reach)
        return HSL_NO_MEMORY;
    sort_ranges(in);
    uint64_t reach = 0;
    for (size_t i = 0; i < c.ranges_len; i++) {
        reach = in->ranges[i].stop > reach ? in->ranges[i].stop : reach;
        c.reach[i] = reach;
    }
    int rc = hsl_dir_decode(body + t->rows_len, t->dir_len, t->rows_len, t->shards, t->blocks,
                            compare_run, &c);
    free(c.reach);
    c.unlisted += (uint32_t)(in->found_len - c.at);
    if (rc == HSL_OK && c.unlisted == 0 && c.wrong == 0)
        return HSL_OK;
    if (rc != HSL_OK && rc != HSL_DAMAGED)
        return rc;
    return hsl_inspect_add_range(in, HSL_FAULT_FOOTER, t->footer_off, t->footer_off,
                                 in->report.file_bytes);
}

int hsl_inspect_finish(struct hsl_inspect *in)
{
    int rc = order_found(in);
    if (rc == HSL_OK)
        rc = build_runs(in);
    if (rc == HSL_OK && in->report.sealed)
        rc = compare_footer(in);
    sort_ranges(in);
    in->phase = DONE;
    return rc;
}

void hsl_inspect_report(const struct hsl_inspect *in, struct hsl_inspect_report *out)
{
    *out = in->report;
}

size_t hsl_inspect_ranges(const struct hsl_inspect *in, struct hsl_inspect_range *out, size_t cap)
{
    for (size_t i = 0; i < in->ranges_len && i < cap; i++)
        out[i] = in->ranges[i];
    return in->ranges_len;
}

size_t hsl_inspect_runs(const struct hsl_inspect *in, struct hsl_inspect_run *out, size_t cap)
{
    for (size_t i = 0; i < in->runs_len && i < cap; i++)
        out[i] = in->runs[i];
    return in->runs_len;
}

size_t hsl_inspect_lost(const struct hsl_inspect *in, struct hsl_inspect_lost *out, size_t cap)
{
    for (size_t i = 0; i < in->lost_len && i < cap; i++)
        out[i] = in->lost[i];
    return in->lost_len;
}

size_t hsl_inspect_blocks(const struct hsl_inspect *in, uint64_t shard, int32_t compressed,
                          struct hsl_inspect_block *out, size_t cap)
{
    size_t count = 0;
    for (size_t i = 0; i < in->found_len; i++) {
        const struct found *f = &in->found[i];
        if (f->row.shard < shard || (compressed && f->codec == 0))
            continue;
        if (count < cap)
            out[count] = (struct hsl_inspect_block){
                .shard = f->row.shard,
                .seq = f->row.seq,
                .order = f->row.order,
                .time_ms = f->row.time_ms,
                .off = (uint64_t)f->row.off8 * 8,
                .len = f->row.len,
                .count = f->row.count,
                .codec = f->codec,
            };
        count++;
    }
    return count;
}
