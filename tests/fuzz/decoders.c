/* Feeds any bytes to whatever reads bytes from a disk or from a client. Built by `./run fuzz`.
 *
 * The first byte of an input says which decoder reads the rest; its highest bit has the checksums
 * made right first, so that what lies behind them is reached too. Segments, the superblock, the
 * mapped stage and the tail page are files of a store on a simulated disk, opened as recovery opens
 * them and then read to the end. Whatever the bytes: no crash, no hang, no error of a sanitizer, no
 * memory and no handle left over, and what decodes is encoded to what decodes alike.
 */
#include <stdio.h>

#include "log.h"

enum { SEGMENT, SUPER, STAGE, TAIL, BLOCK, RECORDS, DECODERS };
enum { FIX = 0x80, DISK_BYTES = 16 << 20, READ_MAX = 4096, NUMBER = 1 };

#define CHECK(holds)                                                      \
    do {                                                                  \
        if (!(holds)) {                                                   \
            fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #holds); \
            __builtin_trap();                                             \
        }                                                                 \
    } while (0)

/* ---- making checksums right ---- */

static void fix_block(uint8_t *block, size_t room)
{
    struct hsl_block_header h;
    if (room < sizeof h)
        return;
    memcpy(&h, block, sizeof h);
    size_t len = sizeof h + h.ext_len + (size_t)h.payload_len;
    if (len > room)
        return;
    h.crc = hsl_crc32c(0, block + 8, len - 8);
    memcpy(block + 4, &h.crc, 4);
}

/* The frame at `off`, its blocks, and its place in the chain; returns its checksum. */
static uint32_t fix_frame(uint8_t *data, size_t size, size_t off, uint64_t uid, uint32_t chain)
{
    struct hsl_frame_header h;
    memcpy(&h, data + off, sizeof h);
    size_t room = size - off - sizeof h;
    size_t body = h.body_len < room ? h.body_len : room;
    uint8_t *at = data + off + sizeof h;
    h.uid = uid;
    h.page = (uint32_t)(off / HSL_PAGE);
    h.chain = chain;
    h.body_crc = 0;
    if (h.flags & HSL_FRAME_CHECKPOINT) {
        h.body_crc = hsl_crc32c(0, at, body);
    } else {
        for (uint32_t i = 0; i < h.blocks && body >= sizeof(struct hsl_block_header); i++) {
            struct hsl_block_header block;
            fix_block(at, body);
            memcpy(&block, at, sizeof block);
            h.body_crc = hsl_crc32c(h.body_crc, at + 4, 4);
            size_t len = hsl_align8(sizeof block + block.ext_len + (size_t)block.payload_len);
            if (len > body)
                break;
            at += len;
            body -= len;
        }
    }
    h.crc = hsl_crc32c(0, (uint8_t *)&h + 8, sizeof h - 8);
    memcpy(data + off, &h, sizeof h);
    return h.crc;
}

static void fix_trailer(uint8_t *data, size_t size, uint32_t seed)
{
    struct hsl_trailer t;
    uint8_t *at = data + size - sizeof t;
    memcpy(&t, at, sizeof t);
    size_t left = size - sizeof t;
    if (t.footer_off > left || t.rows_len > left - t.footer_off)
        return;
    uint8_t *rows = data + t.footer_off, *dir = rows + t.rows_len;
    size_t pieces = (t.rows_len + HSL_FOOTER_PIECE - 1) / HSL_FOOTER_PIECE;
    if (t.dir_len + 4 * pieces > left - t.footer_off - t.rows_len)
        return;
    for (size_t i = 0; i < pieces; i++) {
        size_t from = i * HSL_FOOTER_PIECE;
        size_t n = t.rows_len - from < HSL_FOOTER_PIECE ? t.rows_len - from : HSL_FOOTER_PIECE;
        uint32_t crc = hsl_crc32c(seed, rows + from, n);
        memcpy(dir + t.dir_len + 4 * i, &crc, 4);
    }
    t.dir_crc = hsl_crc32c(seed, dir, t.dir_len + 4 * pieces);
    t.crc = hsl_crc32c(seed, (uint8_t *)&t + 12, sizeof t - 12);
    memcpy(at, &t, sizeof t);
}

static void fix_segment(uint8_t *data, size_t size)
{
    struct hsl_segment_header h;
    if (size < HSL_PAGE)
        return;
    memcpy(&h, data, sizeof h);
    memcpy(h.magic, HSL_SEGMENT_MAGIC, 6);
    h.major = HSL_VERSION_MAJOR;
    h.required = 0;
    h.number = NUMBER;
    memcpy(data, &h, sizeof h);
    h.crc = hsl_crc32c(0, data + 12, HSL_PAGE - 12);
    memcpy(data + offsetof(struct hsl_segment_header, crc), &h.crc, 4);
    uint32_t chain = h.crc;
    for (size_t off = HSL_PAGE; off + sizeof(struct hsl_frame_header) <= size;) {
        struct hsl_frame_header frame;
        memcpy(&frame, data + off, sizeof frame);
        if (frame.magic != HSL_FRAME_MAGIC)
            break;
        chain = fix_frame(data, size, off, h.uid, chain);
        off += hsl_align_page(sizeof frame + (uint64_t)frame.body_len);
    }
    if (size >= 2 * HSL_PAGE && size % HSL_PAGE == 0)
        fix_trailer(data, size, (uint32_t)h.uid);
}

static void fix_super(uint8_t *data, size_t size)
{
    for (size_t off = 0; off + HSL_PAGE <= size && off < 2 * HSL_PAGE; off += HSL_PAGE) {
        uint32_t crc = hsl_crc32c(0, data + off + 12, HSL_PAGE - 12);
        memcpy(data + off + offsetof(struct hsl_super_slot, crc), &crc, 4);
    }
}

static void fix_stage(uint8_t *data, size_t size, const uint8_t boot[16])
{
    struct hsl_stage_header h;
    if (size < 2 * HSL_PAGE)
        return;
    memcpy(&h, data, sizeof h);
    memcpy(h.magic, HSL_STAGE_MAGIC, 8);
    h.major = HSL_VERSION_MAJOR;
    h.capacity = size - HSL_PAGE;
    memset(h.uuid, 0, 16);
    memcpy(h.boot, boot, 16);
    h.crc = hsl_crc32c(0, (uint8_t *)&h + 12, sizeof h - 12);
    memcpy(data, &h, sizeof h);
    uint64_t pos;
    memcpy(&pos, data + HSL_STAGE_TAIL_OFFSET, 8);
    struct hsl_stage_entry entry;
    for (size_t off = HSL_PAGE + pos % h.capacity; off + sizeof entry <= size;) {
        memcpy(&entry, data + off, sizeof entry);
        entry.magic = HSL_ENTRY_MAGIC;
        entry.pos = pos;
        memcpy(data + off, &entry, sizeof entry);
        size_t len = entry.blocks ? entry.len : 0, bytes = sizeof entry + hsl_align8(entry.len);
        if (bytes > size - off)
            break;
        uint32_t seed = (uint32_t)(h.epoch * 0x9e3779b1u);
        uint32_t crc = hsl_crc32c(seed, data + off + 8, sizeof entry - 8 + len);
        memcpy(data + off + offsetof(struct hsl_stage_entry, crc), &crc, 4);
        off += bytes;
        pos += bytes;
    }
}

static void fix_tail(uint8_t *data, size_t size, const uint8_t boot[16])
{
    struct hsl_tail_page page;
    if (size < sizeof page)
        return;
    memcpy(&page, data, sizeof page);
    memcpy(page.magic, HSL_TAIL_MAGIC, 8);
    page.major = HSL_VERSION_MAJOR;
    memcpy(page.boot, boot, 16);
    page.crc = hsl_crc32c(0, (uint8_t *)&page + 12, offsetof(struct hsl_tail_page, zero) - 12);
    memcpy(data, &page, sizeof page);
}

/* ---- records ---- */

static bool same(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    return a_len == b_len && (a_len == 0 || memcmp(a, b, a_len) == 0);
}

static void walk_attributes(const struct hsl_record_ref *ref)
{
    struct hsl_attr_walk walk;
    struct hsl_attr attr;
    size_t bytes = 0;
    int rc;
    hsl_attr_begin(&walk, ref);
    while ((rc = hsl_attr_next(&walk, &attr)) == 1)
        bytes += attr.field_len;
    CHECK(rc == 0);
    CHECK(bytes == hsl_attrs_size(ref));
}

/* What was decoded, encoded and decoded again, is the same record. */
static void round_trip(const struct hsl_record_ref *ref)
{
    size_t size = hsl_codec_size(ref);
    uint8_t *buf = malloc(size + 1);
    CHECK(buf);
    CHECK(hsl_codec_encode(buf, ref) == buf + size);
    const uint8_t *pos = buf;
    struct hsl_record_ref again;
    CHECK(hsl_codec_next(&pos, buf + size, &again) == 1);
    CHECK(pos == buf + size);
    CHECK(same(ref->payload, ref->payload_len, again.payload, again.payload_len));
    CHECK(same(ref->key, ref->key_len, again.key, again.key_len));
    CHECK(ref->raw == again.raw);
    CHECK(hsl_attrs_size(ref) == hsl_attrs_size(&again));
    CHECK(hsl_codec_count(buf, size) == 1);
    free(buf);
}

static void decode_records(const uint8_t *body, size_t len)
{
    const uint8_t *pos = body, *end = body + len;
    struct hsl_record_ref ref;
    int64_t count = 0, whole = hsl_codec_count(body, len);
    int rc;
    while ((rc = hsl_codec_next(&pos, end, &ref)) == 1) {
        count++;
        walk_attributes(&ref);
        round_trip(&ref);
    }
    CHECK(whole == (rc == 0 ? count : -1));
    if (whole >= 0) {
        pos = body;
        CHECK(hsl_codec_skip(&pos, end, (uint32_t)count) == 1);
        CHECK(hsl_codec_skip(&pos, end, 1) == 0);
    }
    struct hsl_wire_field field;
    pos = body;
    while (hsl_wire_next(&pos, end, &field) == 1)
        CHECK(pos > body && pos <= end);
}

static void decode_block(const uint8_t *data, size_t size)
{
    struct hsl_block_header header;
    if (hsl_block_check(data, size, &header) != HSL_OK)
        return;
    size_t start = sizeof header + header.ext_len;
    CHECK(start + header.payload_len <= size);
    decode_records(data + start, header.payload_len);
}

/* ---- files of a store ---- */

static void write_file(const struct hsl_io *io, const char *path, const uint8_t *data, size_t size)
{
    int fd = io->open(io->ctx, path, HSL_OPEN_WRITE | HSL_OPEN_CREATE);
    CHECK(fd >= 0);
    CHECK(hsl_write_all(io, fd, data, size, 0) == 0);
    io->close(io->ctx, fd);
}

static void read_shard(struct hsl_log *log, uint64_t id)
{
    struct hsl_shard_info info;
    uint64_t lsn;
    if (hsl_log_shard_info(log, id, &info) != HSL_OK)
        return;
    hsl_log_seek_time(log, id, info.last_time, &lsn);
    hsl_log_seek_order(log, id, 2, &lsn);
    hsl_log_seek_bytes(log, id, 100, &lsn);
    struct hsl_cursor *cursor = hsl_cursor_new(log, id, info.first);
    CHECK(cursor);
    for (int i = 0; i < READ_MAX; i++) {
        struct hsl_block_view view;
        uint64_t lsn = hsl_cursor_lsn(cursor);
        int rc = hsl_cursor_view(cursor, HSL_MAY_BLOCK, i % 2 == 0 ? HSL_WHOLE : 3, &view);
        if (rc == HSL_TRIMMED)
            continue;
        if (rc != HSL_OK)
            break;
        const uint8_t *pos = view.payload, *end = pos + view.len;
        struct hsl_record_ref ref;
        while (hsl_codec_next(&pos, end, &ref) == 1)
            walk_attributes(&ref);
        hsl_cursor_release(cursor);
        hsl_cursor_advance(cursor, &view, view.header.seq + view.end - lsn, 0);
    }
    hsl_cursor_release(cursor);
    hsl_cursor_free(cursor);
}

static void read_all(struct hsl_log *log)
{
    uint64_t ids[64];
    int64_t count = hsl_log_shards(log, ids, 64);
    for (int64_t i = 0; i < count && i < 64; i++)
        read_shard(log, ids[i]);
}

/* As recovery does: load, look, seal behind what is valid, start, append nothing, close. */
static void load_segment(struct hsl_log *log, uint8_t hint)
{
    struct hsl_segment_report report;
    struct hsl_range lost[8];
    uint64_t checkpoint = hint & 1 ? HSL_PAGE * (uint64_t)(hint >> 1 & 15) : 0;
    if (hsl_log_load_segment(log, NUMBER, checkpoint, &report) != HSL_OK)
        return;
    CHECK(report.end <= report.file_bytes || report.damage == HSL_DAMAGE_SHORT);
    hsl_log_lost(log, lost, 8);
    if (report.damage == HSL_DAMAGE_SHORT || report.damage == HSL_DAMAGE_HEADER ||
        report.damage == HSL_DAMAGE_VERSION || report.damage == HSL_DAMAGE_SEQUENCE ||
        report.number != NUMBER)
        return;
    if (!report.sealed &&
        (report.file_bytes < report.end || report.capacity > DISK_BYTES ||
         hsl_log_seal_loaded(log, hint >> 5 & 1) != HSL_OK))
        return;
    hsl_log_set_next(log, NUMBER, report.epoch + 1, 1, report.uid, report.end, report.last_crc);
    read_all(log);
}

static void load_stage(struct hsl_log *log)
{
    uint64_t replayed, unread;
    hsl_log_set_next(log, 0, 1, 1, 0, 0, 0);
    if (hsl_log_os_stage_open(log, 0) != HSL_OK)
        return;
    if (hsl_log_os_stage_replay(log, &replayed, &unread) != HSL_OK)
        return;
    if (replayed && hsl_log_wait(log, hsl_log_staged(log), -1) != HSL_OK)
        return;
    if (hsl_log_os_stage_reset(log) == HSL_OK && hsl_log_start(log) == HSL_OK)
        read_all(log);
}

static void open_store(int decoder, bool fix, uint8_t hint, uint8_t *data, size_t size)
{
    struct hsl_simfs *fs = hsl_simfs_new(DISK_BYTES, 1);
    const struct hsl_io *io = hsl_simfs_io(fs);
    static const char *const paths[] = {
        [SEGMENT] = "/s/segments/0000000000000001.seg",
        [SUPER] = "/s/SUPER",
        [STAGE] = "/s/STAGE",
        [TAIL] = "/s/TAIL",
    };
    uint8_t boot[16];
    io->boot_id(io->ctx, boot);
    if (fix && decoder == SEGMENT)
        fix_segment(data, size);
    else if (fix && decoder == SUPER)
        fix_super(data, size);
    else if (fix && decoder == STAGE)
        fix_stage(data, size, boot);
    else if (fix)
        fix_tail(data, size, boot);
    io->mkdir(io->ctx, "/s");
    io->mkdir(io->ctx, "/s/segments");
    write_file(io, paths[decoder], data, size);
    struct hsl_log_config config = {
        .segment_bytes_min = 64 << 10, .segment_bytes_max = 256 << 10, .stage_bytes = 1 << 20,
        .chunk_bytes = 256 << 10, .frame_bytes = 64 << 10, .eager_bytes = 64 << 10,
        .linger_ns = 1000000, .idle_mark_ns = 1000000, .prewrite_bytes = 16 << 10,
        .checkpoint_bytes = 64 << 10, .os_stage_bytes = 64 << 10, .block_bytes = 64 << 10,
        .transaction_bytes = 128 << 10, .direct = hint >> 6 & 1, .notify_fd = -1,
    };
    struct hsl_log *log = hsl_log_new(io, &config, "/s");
    struct hsl_super super;
    CHECK(log);
    if (decoder == SEGMENT)
        load_segment(log, hint);
    else if (decoder == SUPER)
        hsl_log_super_load(log, &super);
    else if (decoder == STAGE)
        load_stage(log);
    else
        hsl_log_tail_open(log);
    hsl_log_close(log, 0);
    hsl_log_free(log);
    struct hsl_sim_counts counts;
    hsl_simfs_counts(fs, &counts);
    CHECK(counts.handles == 0 && counts.maps == 0);
    hsl_simfs_free(fs);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t len)
{
    if (len < 2)
        return 0;
    int decoder = (input[0] & ~FIX) % DECODERS;
    bool fix = (input[0] & FIX) != 0;
    size_t size = len - 2;
    uint8_t *data = malloc(size > 0 ? size : 1); /* of that size, so that a byte too far shows */
    CHECK(data);
    memcpy(data, input + 2, size);
    int64_t before = hsl_alloc_live();
    if (decoder == BLOCK) {
        if (fix)
            fix_block(data, size);
        decode_block(data, size);
    } else if (decoder == RECORDS) {
        decode_records(data, size);
    } else {
        open_store(decoder, fix, input[1], data, size);
    }
    CHECK(hsl_alloc_live() == before);
    free(data);
    return 0;
}
