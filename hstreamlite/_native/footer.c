/* The index of one segment as bytes: the rows of each shard, then a directory sorted by shard.
 *
 * A shard's rows come in groups of 64. A group starts with absolute varints (LSN, offset / 8, time,
 * order); within it rows are deltas. LSNs are dense, so a row needs its count only. A shard with
 * more than one group has a table of u32 group offsets in front, for seeking.
 *
 * The directory is a sequence of varints, so that it stays small where many shards share a segment:
 * it is all that opening a store reads of a sealed segment.
 */
#include "log.h"

#include <stdlib.h>
#include <string.h>

#define DIR_MAX 80u /* eight varints */

size_t hsl_footer_bound(size_t rows)
{
    size_t body = rows * (HSL_ROW_MAX + 4 + DIR_MAX) + 64;
    return body + (body / HSL_FOOTER_PIECE + 1) * 4;
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

#define DIGIT_BITS 11u
#define DIGITS (1u << DIGIT_BITS)

/* Sorts by shard and leaves the rows of each in order, digit by digit of the ids: the few in which
 * they differ at all, since ids are given out one after another. The result is in one of the
 * two. */
static struct key *sort_keys(struct key *keys, struct key *other, size_t count)
{
    uint64_t differ = 0;
    for (size_t i = 1; i < count; i++)
        differ |= keys[i].shard ^ keys[0].shard;
    for (unsigned shift = 0; shift < 64; shift += DIGIT_BITS) {
        size_t starts[DIGITS] = {0}, at = 0;
        if ((differ >> shift) % DIGITS == 0)
            continue;
        for (size_t i = 0; i < count; i++)
            starts[(keys[i].shard >> shift) % DIGITS]++;
        for (size_t digit = 0; digit < DIGITS; digit++) {
            size_t of_digit = starts[digit];
            starts[digit] = at;
            at += of_digit;
        }
        for (size_t i = 0; i < count; i++)
            other[starts[(keys[i].shard >> shift) % DIGITS]++] = keys[i];
        struct key *sorted = other;
        other = keys;
        keys = sorted;
    }
    return keys;
}

static uint8_t *put_rows(const struct hsl_row *rows, const struct key *keys, uint32_t count,
                         uint8_t *out)
{
    uint32_t groups = (count + HSL_ROW_GROUP - 1) / HSL_ROW_GROUP;
    uint8_t *table = out, *start;
    if (groups > 1)
        out += groups * 4;
    start = out;
    const struct hsl_row *last = NULL;
    for (uint32_t i = 0; i < count; i++) {
        const struct hsl_row *row = &rows[keys[i].row];
        if (i % HSL_ROW_GROUP == 0) {
            if (groups > 1) {
                uint32_t off = (uint32_t)(out - start);
                memcpy(table + 4 * (i / HSL_ROW_GROUP), &off, 4);
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

static uint8_t *put_dir(const struct hsl_row *rows, const struct key *keys, uint32_t count,
                        uint64_t shard_before, size_t rows_len, uint8_t *out)
{
    const struct hsl_row *first = &rows[keys[0].row], *last = &rows[keys[count - 1].row];
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += rows[keys[i].row].len;
    out = put(out, first->shard - shard_before);
    out = put(out, first->seq);
    out = put(out, last->seq + last->count - first->seq);
    out = put(out, count);
    out = put(out, bytes);
    out = put(out, last->time_ms);
    return put(out, rows_len);
}

static uint32_t run_length(const struct key *keys, size_t at, size_t count)
{
    size_t end = at;
    while (end < count && keys[end].shard == keys[at].shard)
        end++;
    return (uint32_t)(end - at);
}

/* Writes rows, then directory. The directory is collected behind the rows' bound first, since its
 * place is known only when they are written. */
int hsl_footer_encode(const struct hsl_row *rows, size_t count, uint8_t *out,
                      struct hsl_footer_size *size)
{
    *size = (struct hsl_footer_size){0};
    if (count == 0)
        return HSL_OK;
    struct key *memory = malloc(2 * count * sizeof *memory), *keys = memory;
    uint8_t *dir = malloc(count * DIR_MAX);
    if (!memory || !dir) {
        free(memory);
        free(dir);
        return HSL_NO_MEMORY;
    }
    bool sorted = true;
    for (size_t i = 0; i < count; i++) {
        keys[i] = (struct key){rows[i].shard, (uint32_t)i};
        sorted &= i == 0 || keys[i - 1].shard <= keys[i].shard;
    }
    if (!sorted)
        keys = sort_keys(memory, memory + count, count);
    uint8_t *at = out, *dir_at = dir;
    uint64_t shard = 0;
    for (size_t i = 0; i < count;) {
        uint32_t blocks = run_length(keys, i, count);
        uint8_t *start = at;
        at = put_rows(rows, keys + i, blocks, at);
        dir_at = put_dir(rows, keys + i, blocks, shard, (size_t)(at - start), dir_at);
        shard = keys[i].shard;
        size->shards++;
        i += blocks;
    }
    size->rows = (size_t)(at - out);
    size->dir = (size_t)(dir_at - dir);
    memcpy(at, dir, size->dir);
    free(memory);
    free(dir);
    return HSL_OK;
}

static const uint8_t *get_dir(const uint8_t *at, const uint8_t *end, struct hsl_run *run)
{
    uint64_t shard, first, records, blocks, bytes, last_time, rows_len;
    if (!(at = get(at, end, &shard)) || !(at = get(at, end, &first)) ||
        !(at = get(at, end, &records)) || !(at = get(at, end, &blocks)) ||
        !(at = get(at, end, &bytes)) || !(at = get(at, end, &last_time)) ||
        !(at = get(at, end, &rows_len)))
        return NULL; /* not reached: under a valid CRC; fuzzed */
    if (records == 0 || blocks == 0 || blocks > UINT32_MAX || rows_len > UINT32_MAX ||
        first + records < first)
        return NULL; /* not reached: under a valid CRC; fuzzed */
    run->shard += shard;
    run->data += run->data_len;
    run->first = first;
    run->end = first + records;
    run->blocks = (uint32_t)blocks;
    run->bytes = bytes;
    run->last_time = last_time;
    run->data_len = (uint32_t)rows_len;
    return at;
}

/* Calls fn for every shard, ascending. DAMAGED on anything malformed. */
int hsl_dir_decode(const uint8_t *dir, size_t len, uint64_t rows_len, uint32_t shards,
                   uint32_t blocks, hsl_run_fn fn, void *ctx)
{
    const uint8_t *at = dir, *end = dir + len;
    struct hsl_run run = {0};
    uint64_t total = 0;
    for (uint32_t i = 0; i < shards; i++) {
        uint64_t before = run.shard;
        at = get_dir(at, end, &run);
        if (!at || (i > 0 && run.shard <= before) ||
            (uint64_t)run.data + run.data_len > rows_len)
            return HSL_DAMAGED;
        total += run.blocks;
        int rc = fn(ctx, &run);
        if (rc != HSL_OK)
            return rc;
    }
    if (at != end || total != blocks || (uint64_t)run.data + run.data_len != rows_len)
        return HSL_DAMAGED; /* not reached: under a valid CRC; fuzzed */
    return HSL_OK;
}

/* Whoever reads a block trusts that its header lies within it. */
static bool block_like(uint64_t len, uint64_t count)
{
    return len >= sizeof(struct hsl_block_header) && len <= UINT32_MAX && count > 0 &&
           count <= UINT32_MAX;
}

/* The first row of a group; NULL if it is malformed. */
static const uint8_t *get_head(const uint8_t *at, const uint8_t *end, struct hsl_row *row)
{
    uint64_t off8, len, count;
    if (!(at = get(at, end, &row->seq)) || !(at = get(at, end, &off8)) ||
        !(at = get(at, end, &row->time_ms)) || !(at = get(at, end, &row->order)) ||
        !(at = get(at, end, &len)) || !(at = get(at, end, &count)))
        return NULL; /* not reached: under a valid CRC; fuzzed */
    if (off8 > UINT32_MAX || !block_like(len, count))
        return NULL; /* not reached: under a valid CRC; fuzzed */
    row->off8 = (uint32_t)off8;
    row->len = (uint32_t)len;
    row->count = (uint32_t)count;
    return at;
}

bool hsl_group_head(const uint8_t *at, const uint8_t *end, struct hsl_row *row)
{
    return get_head(at, end, row) != NULL;
}

static const uint8_t *get_next(const uint8_t *at, const uint8_t *end, struct hsl_row *row)
{
    uint64_t off8, time_ms, order, len, count;
    if (!(at = get(at, end, &off8)) || !(at = get(at, end, &time_ms)) ||
        !(at = get(at, end, &order)) || !(at = get(at, end, &len)) ||
        !(at = get(at, end, &count)))
        return NULL; /* not reached: under a valid CRC; fuzzed */
    if (off8 > UINT32_MAX - row->off8 || !block_like(len, count))
        return NULL; /* not reached: under a valid CRC; fuzzed */
    row->seq += row->count;
    row->off8 += (uint32_t)off8;
    row->time_ms += time_ms;
    row->order += order;
    row->len = (uint32_t)len;
    row->count = (uint32_t)count;
    return at;
}

/* Decodes `count` rows of one group into out; NULL if they are malformed, else where they end. */
const uint8_t *hsl_group_decode(const uint8_t *at, const uint8_t *end, uint64_t shard,
                                uint32_t count, struct hsl_row *out)
{
    struct hsl_row row = {.shard = shard};
    for (uint32_t i = 0; i < count; i++) {
        at = i == 0 ? get_head(at, end, &row) : get_next(at, end, &row);
        if (!at)
            return NULL;
        out[i] = row;
    }
    return at;
}

/* Calls fn for every row of a shard, in LSN order. */
int hsl_rows_decode(const struct hsl_run *run, const uint8_t *rows, hsl_row_fn fn, void *ctx)
{
    const uint8_t *at = rows + run->data, *end = at + run->data_len;
    size_t table = hsl_group_table(run->blocks);
    if (table > run->data_len)
        return HSL_DAMAGED;
    at += table;
    uint64_t next = run->first;
    for (uint32_t done = 0; done < run->blocks;) {
        struct hsl_row group[HSL_ROW_GROUP];
        uint32_t n = run->blocks - done < HSL_ROW_GROUP ? run->blocks - done : HSL_ROW_GROUP;
        at = hsl_group_decode(at, end, run->shard, n, group);
        if (!at)
            return HSL_DAMAGED;
        for (uint32_t i = 0; i < n; i++) {
            if (group[i].seq != next)
                return HSL_DAMAGED;
            next += group[i].count;
            int rc = fn(ctx, &group[i]);
            if (rc != HSL_OK)
                return rc;
        }
        done += n;
    }
    return at == end && next == run->end ? HSL_OK : HSL_DAMAGED;
}
