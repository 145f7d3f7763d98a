/* The index of one segment as bytes: a directory sorted by shard, then each shard's rows.
 *
 * A shard's rows come in groups of 64. A group starts with absolute varints (LSN, offset / 8, time,
 * order); within it rows are deltas. LSNs are dense, so a row needs its count only. A shard with
 * more than one group has a table of u32 group offsets in front, for seeking.
 */
#include "log.h"

#include <stdlib.h>
#include <string.h>

#define GROUP 64u
#define ROW_MAX 45u /* count 5, length 5, offset 5, time 10, order 10, and the LSN base 10 */

size_t hsl_footer_bound(size_t rows)
{
    size_t body = rows * (sizeof(struct hsl_footer_dir) + ROW_MAX + 4) + 64;
    return body + (body / HSL_FOOTER_PAGE + 1) * 4;
}

static uint8_t *put(uint8_t *out, uint64_t v)
{
    while (v >= 0x80) {
        *out++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *out++ = (uint8_t)v;
    return out;
}

static const uint8_t *get(const uint8_t *at, const uint8_t *end, uint64_t *v)
{
    *v = 0;
    for (unsigned shift = 0; at < end && shift < 64; shift += 7) {
        uint8_t byte = *at++;
        *v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return at;
    }
    return NULL;
}

struct key {
    uint64_t shard;
    uint32_t row;
};

static int by_shard(const void *a, const void *b)
{
    const struct key *x = a, *y = b;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

static uint8_t *put_shard(const struct hsl_row *rows, const struct key *keys, uint32_t count,
                          uint8_t *out)
{
    uint32_t groups = (count + GROUP - 1) / GROUP;
    uint8_t *table = out, *start;
    if (groups > 1)
        out += groups * 4;
    start = out;
    const struct hsl_row *last = NULL;
    for (uint32_t i = 0; i < count; i++) {
        const struct hsl_row *row = &rows[keys[i].row];
        if (i % GROUP == 0) {
            if (groups > 1) {
                uint32_t off = (uint32_t)(out - start);
                memcpy(table + 4 * (i / GROUP), &off, 4);
            }
            out = put(out, row->seq);
            out = put(out, row->off8);
            out = put(out, row->time_ms);
            out = put(out, row->order);
        } else {
            out = put(out, row->off8 - last->off8);
            out = put(out, row->time_ms - last->time_ms);
            out = put(out, row->order - last->order);
        }
        out = put(out, row->len);
        out = put(out, row->count);
        last = row;
    }
    return out;
}

/* Writes directory and rows; returns their length, or 0 when out of memory or without rows. */
size_t hsl_footer_encode(const struct hsl_row *rows, size_t count, uint8_t *out, uint32_t *shards)
{
    *shards = 0;
    if (count == 0)
        return 0;
    struct key *keys = malloc(count * sizeof *keys);
    if (!keys)
        return 0;
    bool sorted = true;
    uint32_t distinct = 1;
    for (size_t i = 0; i < count; i++) {
        keys[i] = (struct key){rows[i].shard, (uint32_t)i};
        sorted &= i == 0 || keys[i - 1].shard <= keys[i].shard;
    }
    if (!sorted)
        qsort(keys, count, sizeof *keys, by_shard);
    for (size_t i = 1; i < count; i++)
        distinct += keys[i].shard != keys[i - 1].shard;
    uint8_t *base = out + distinct * sizeof(struct hsl_footer_dir), *at = base;
    for (size_t i = 0, n = 0; i < count; n++) {
        size_t j = i;
        while (j < count && keys[j].shard == keys[i].shard)
            j++;
        struct hsl_footer_dir dir = {
            .shard = keys[i].shard,
            .first_seq = rows[keys[i].row].seq,
            .data = (uint32_t)(at - base),
            .blocks = (uint32_t)(j - i),
        };
        memcpy(out + n * sizeof dir, &dir, sizeof dir);
        at = put_shard(rows, keys + i, dir.blocks, at);
        i = j;
    }
    free(keys);
    *shards = distinct;
    return (size_t)(at - out);
}

static int get_shard(const struct hsl_footer_dir *dir, const uint8_t *at, const uint8_t *end,
                     hsl_row_fn fn, void *ctx)
{
    uint32_t groups = (dir->blocks + GROUP - 1) / GROUP;
    if (groups > 1) {
        if ((size_t)(end - at) < (size_t)groups * 4)
            return HSL_DAMAGED;
        at += groups * 4;
    }
    struct hsl_row row = {.shard = dir->shard, .seq = dir->first_seq};
    for (uint32_t i = 0; i < dir->blocks; i++) {
        uint64_t seq = row.seq, off8, time_ms, order, len, count;
        bool first = i % GROUP == 0;
        if ((first && !(at = get(at, end, &seq))) || !(at = get(at, end, &off8)) ||
            !(at = get(at, end, &time_ms)) || !(at = get(at, end, &order)) ||
            !(at = get(at, end, &len)) || !(at = get(at, end, &count)))
            return HSL_DAMAGED;
        if (seq != row.seq || len > UINT32_MAX || count > UINT32_MAX || off8 > UINT32_MAX)
            return HSL_DAMAGED;
        row.off8 = first ? (uint32_t)off8 : row.off8 + (uint32_t)off8;
        row.time_ms = first ? time_ms : row.time_ms + time_ms;
        row.order = first ? order : row.order + order;
        row.len = (uint32_t)len;
        row.count = (uint32_t)count;
        int rc = fn(ctx, &row);
        if (rc != HSL_OK)
            return rc;
        row.seq += count;
    }
    return HSL_OK;
}

/* Calls fn for every row, shard by shard in LSN order. DAMAGED on anything malformed. */
int hsl_footer_decode(const uint8_t *data, size_t len, uint32_t shards, uint32_t blocks,
                      hsl_row_fn fn, void *ctx)
{
    size_t dirs = (size_t)shards * sizeof(struct hsl_footer_dir);
    if (dirs > len)
        return HSL_DAMAGED;
    uint64_t total = 0, last = 0;
    for (uint32_t i = 0; i < shards; i++) {
        struct hsl_footer_dir dir;
        memcpy(&dir, data + i * sizeof dir, sizeof dir);
        total += dir.blocks;
        if (dir.data > len - dirs || (i > 0 && dir.shard <= last) || dir.blocks == 0)
            return HSL_DAMAGED;
        last = dir.shard;
        int rc = get_shard(&dir, data + dirs + dir.data, data + len, fn, ctx);
        if (rc != HSL_OK)
            return rc;
    }
    return total == blocks ? HSL_OK : HSL_DAMAGED;
}
