/* What is known of blocks that were checked whole: a checksum of each part of them, and which
 * record begins where. So whoever seeks into one again reads and checks a few pages of it instead
 * of all.
 *
 * Kept for blocks that were sought, while there is room: a quarter of index_cache_bytes. A part
 * that does not match says nothing of the block: the caller reads all of it, and the block's own
 * CRC decides.
 */
#include "log.h"

#include <stdlib.h>
#include <string.h>

#define WAYS 4u
#define PLACE_BYTES 1024u /* an entry takes no more, with what the allocator adds */
#define LEAST_BYTES (16u << 10)

static struct hsl_marks **set_of(struct hsl_log *log, uint32_t segment, uint32_t off8)
{
    if (!log->marks) {
        size_t sets = log->cfg.index_cache_bytes / 4 / PLACE_BYTES / WAYS;
        log->marks_len = sets > 0 ? sets : 1;
        log->marks = calloc(log->marks_len * WAYS, sizeof *log->marks);
        if (!log->marks)
            return NULL;
    }
    uint64_t h = ((uint64_t)segment << 32 | off8) * 0x9e3779b97f4a7c15u;
    return &log->marks[(h >> 32) % log->marks_len * WAYS];
}

bool hsl_marks_get(struct hsl_log *log, const struct hsl_entry *e, struct hsl_marks *out)
{
    bool found = false;
    if (e->len < LEAST_BYTES)
        return false;
    pthread_mutex_lock(&log->marks_mu);
    struct hsl_marks **set = set_of(log, e->segment, e->off8);
    for (unsigned i = 0; set && i < WAYS && !found; i++) {
        struct hsl_marks *m = set[i];
        found = m && m->segment == e->segment && m->off8 == e->off8;
        if (found) {
            m->used = ++log->marks_clock;
            memcpy(out, m, hsl_marks_bytes(m->parts));
        }
    }
    pthread_mutex_unlock(&log->marks_mu);
    return found;
}

static void keep(struct hsl_log *log, struct hsl_marks *added)
{
    pthread_mutex_lock(&log->marks_mu);
    struct hsl_marks **set = set_of(log, added->segment, added->off8), **place = set;
    for (unsigned i = 0; set && i < WAYS; i++) {
        struct hsl_marks *m = set[i];
        if (!m || (m->segment == added->segment && m->off8 == added->off8)) {
            place = &set[i];
            break;
        }
        if (m->used < (*place)->used)
            place = &set[i];
    }
    if (place) {
        free(*place);
        added->used = ++log->marks_clock;
        *place = added;
    } else {
        free(added); /* not reached: memory lacked for the sets twice in a row */
    }
    pthread_mutex_unlock(&log->marks_mu);
}

/* The first record that begins in each part, or behind it; false if the body is malformed. */
static bool mark_records(struct hsl_marks *m, const uint8_t *body)
{
    const uint8_t *pos = body, *end = body + m->header.payload_len;
    uint32_t index = 0;
    uint64_t start = hsl_marks_body(m);
    for (uint32_t part = 0; part < m->parts; part++) {
        uint64_t from = hsl_marks_from(m, part);
        while (start + (uint64_t)(pos - body) < from && index < m->header.count) {
            if (hsl_codec_skip(&pos, end, 1) <= 0)
                return false;
            index++;
        }
        m->mark[part].index = index;
        m->mark[part].at = (uint32_t)(pos - body);
    }
    m->mark[m->parts] = (struct hsl_mark){0, m->header.count, m->header.payload_len};
    return true;
}

void hsl_marks_add(struct hsl_log *log, const struct hsl_entry *e, const uint8_t *block)
{
    struct hsl_block_header h;
    memcpy(&h, block, sizeof h);
    if (e->len < LEAST_BYTES || h.codec != 0 || hsl_unchecked(&h))
        return;
    uint64_t off = (uint64_t)e->off8 * 8, first = off & ~(uint64_t)(HSL_PAGE - 1);
    uint64_t pages = (off + e->len - first + HSL_PAGE - 1) / HSL_PAGE;
    uint64_t pages_each = (pages + HSL_MARKS_MAX - 1) / HSL_MARKS_MAX;
    uint32_t parts = (uint32_t)((pages + pages_each - 1) / pages_each);
    struct hsl_marks *m = malloc(hsl_marks_bytes(parts));
    if (!m)
        return;
    m->segment = e->segment;
    m->off8 = e->off8;
    m->len = e->len;
    m->header = h;
    m->part_bytes = (uint32_t)(pages_each * HSL_PAGE);
    m->parts = parts;
    for (uint32_t part = 0; part < parts; part++) {
        uint64_t from = hsl_marks_from(m, part);
        m->mark[part].crc = hsl_crc32c(0, block + (from - off), hsl_marks_to(m, part) - from);
    }
    if (mark_records(m, block + sizeof h + h.ext_len))
        keep(log, m);
    else
        free(m);
}

void hsl_marks_free(struct hsl_log *log)
{
    for (size_t i = 0; log->marks && i < log->marks_len * WAYS; i++)
        free(log->marks[i]);
    free(log->marks);
}
