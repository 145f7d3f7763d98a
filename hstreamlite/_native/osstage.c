/* The mapped stage: a checked copy of every staged block that a killed process cannot lose.
 *
 * The file STAGE holds one page of header and a ring of entries, one entry per call. A position
 * counts bytes since the ring was made, so an entry of an earlier round never matches. The tail
 * word moves up when the blocks are durable in a segment; only then may their bytes be reused.
 * Stores to the mapping are ordered (tail before reuse, entry before its header), and the kernel
 * keeps them when the process dies. A reboot discards the file: its boot id no longer matches.
 *
 * Once in use, every append goes through it, whatever its level: what survives in a shard is then
 * a prefix of what was appended.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#ifdef HSL_LINUX
#include <sys/mman.h>
#endif

enum { COPY_PIECE = 4096, COPY_SMALL = 16384 };
enum { LITTLE = 1 << 20, TOUCHED = 256 << 10 };

/* Entries begin every 8 bytes, also in a file that somebody cut to an odd size. */
static uint64_t ring_bytes(const struct hsl_log *log)
{
    return (log->stage_map_len - HSL_PAGE) & ~(uint64_t)7;
}

static uint8_t *ring_at(const struct hsl_log *log, uint64_t pos)
{
    return log->stage_map + HSL_PAGE + pos % ring_bytes(log);
}

static size_t entry_bytes(size_t len) { return sizeof(struct hsl_stage_entry) + hsl_align8(len); }

/* Bytes the entry takes including a skip over the end of the ring. */
static uint64_t with_skip(const struct hsl_log *log, size_t len)
{
    uint64_t left = ring_bytes(log) - log->stage_head % ring_bytes(log);
    return entry_bytes(len) + (left < entry_bytes(len) ? left : 0);
}

bool hsl_os_stage_room(const struct hsl_log *log, size_t bytes)
{
    if (entry_bytes(bytes) > ring_bytes(log) / 2)
        return true; /* such a call waits for the sync instead */
    return log->stage_head + with_skip(log, bytes) - log->stage_tail <= ring_bytes(log);
}

bool hsl_os_stage_presses(const struct hsl_log *log)
{
    return log->os_stage && log->stage_head - log->stage_tail >= ring_bytes(log) / 4 * 3;
}

/* Only a ring that is used for more than a little. */
bool hsl_os_stage_untouched(const struct hsl_log *log)
{
    return log->os_stage && log->stage_head >= LITTLE && log->stage_touched < ring_bytes(log);
}

void hsl_os_stage_touch(struct hsl_log *log)
{
    uint64_t used = log->stage_head < ring_bytes(log) ? log->stage_head & ~(HSL_PAGE - 1ull) : 0;
    uint64_t from = used > log->stage_touched ? used : log->stage_touched;
    uint64_t left = ring_bytes(log) - from;
    size_t len = left < TOUCHED ? left : TOUCHED;
    log->stage_touched = from + len;
#ifdef MADV_POPULATE_WRITE /* others write there meanwhile */
    pthread_mutex_unlock(&log->stage_mu);
    madvise(log->stage_map + HSL_PAGE + from, len, MADV_POPULATE_WRITE);
    pthread_mutex_lock(&log->stage_mu);
#endif
}

static uint32_t entry_crc(uint64_t epoch, const uint8_t *entry, size_t len)
{
    uint32_t seed = (uint32_t)(epoch * 0x9e3779b1u);
    return hsl_crc32c(seed, entry + 8, sizeof(struct hsl_stage_entry) - 8 + len);
}

#if defined(__x86_64__)
#include <emmintrin.h>

/* Copies past the caches: the ring is read again only after a crash. */
static void copy_past_caches(uint8_t *to, const uint8_t *from, size_t len)
{
    size_t at = -(uintptr_t)to & 15;
    at = at < len ? at : len;
    memcpy(to, from, at);
    for (; at + 64 <= len; at += 64)
        for (size_t word = at; word < at + 64; word += 16)
            _mm_stream_si128((__m128i *)(void *)(to + word),
                             _mm_loadu_si128((const __m128i *)(const void *)(from + word)));
    memcpy(to + at, from + at, len - at);
}

/* Such stores are ordered by nothing else. */
static void copies_done(void) { _mm_sfence(); }
#else
static void copies_done(void) { atomic_thread_fence(memory_order_release); }

static void copy_past_caches(uint8_t *to, const uint8_t *from, size_t len)
{
    memcpy(to, from, len);
}
#endif

/* Puts blocks into an entry, unless they were made there, and goes on with the checksum. Piece by
 * piece, so that they come from memory once. */
static uint32_t copy_checked(uint8_t *to, const uint8_t *from, size_t len, uint32_t crc)
{
    for (size_t at = 0; at < len; at += COPY_PIECE) {
        size_t piece = len - at < COPY_PIECE ? len - at : COPY_PIECE;
        crc = hsl_crc32c(crc, from + at, piece);
        if (len >= COPY_SMALL && to != from)
            copy_past_caches(to + at, from + at, piece);
        else if (to != from)
            memcpy(to + at, from + at, piece);
    }
    return crc;
}

void hsl_os_stage_publish(struct hsl_log *log, uint8_t *at, const uint8_t *blocks, size_t len,
                          uint32_t count)
{
    struct hsl_stage_entry *entry = (struct hsl_stage_entry *)(void *)at;
    entry->pos = log->stage_head;
    entry->len = (uint32_t)len;
    entry->blocks = count;
    entry->crc = copy_checked(at + sizeof *entry, blocks, count ? len : 0,
                              entry_crc(log->epoch, at, 0));
    copies_done();
    entry->magic = HSL_ENTRY_MAGIC;
    log->stage_head += count ? entry_bytes(len) : sizeof *entry + len;
}

/* NULL when the entry is too large for the ring. */
uint8_t *hsl_os_stage_put(struct hsl_log *log, size_t len)
{
    if (entry_bytes(len) > ring_bytes(log) / 2)
        return NULL;
    uint64_t left = ring_bytes(log) - log->stage_head % ring_bytes(log);
    if (left < entry_bytes(len)) {
        if (left >= sizeof(struct hsl_stage_entry))
            hsl_os_stage_publish(log, ring_at(log, log->stage_head), NULL,
                                 left - sizeof(struct hsl_stage_entry), 0);
        else
            log->stage_head += left;
    }
    struct hsl_stage_entry *entry = (struct hsl_stage_entry *)(void *)ring_at(log, log->stage_head);
    entry->magic = 0;
    return (uint8_t *)entry;
}

void hsl_os_stage_release(struct hsl_log *log, uint64_t end)
{
    if (!log->os_stage || end <= log->stage_tail)
        return;
    log->stage_tail = end;
    atomic_store_explicit((_Atomic uint64_t *)(void *)(log->stage_map + HSL_STAGE_TAIL_OFFSET),
                          end, memory_order_release);
}

static void write_stage_header(struct hsl_log *log, const uint8_t boot[16])
{
    struct hsl_stage_header header = {
        .major = HSL_VERSION_MAJOR,
        .minor = HSL_VERSION_MINOR,
        .epoch = log->epoch,
        .capacity = ring_bytes(log),
        .start = log->stage_head,
    };
    memcpy(header.magic, HSL_STAGE_MAGIC, 8);
    memcpy(header.uuid, log->uuid, 16);
    memcpy(header.boot, boot, 16);
    header.crc = hsl_crc32c(0, (uint8_t *)&header + 12, sizeof header - 12);
    memset(log->stage_map, 0, 8);
    atomic_thread_fence(memory_order_release);
    atomic_store((_Atomic uint64_t *)(void *)(log->stage_map + HSL_STAGE_TAIL_OFFSET),
                 log->stage_head);
    memcpy(log->stage_map + 8, (uint8_t *)&header + 8, sizeof header - 8);
    atomic_thread_fence(memory_order_release);
    memcpy(log->stage_map, &header, 8);
    log->stage_tail = log->stage_head;
}

/* Maps STAGE. NOT_FOUND if it does not exist and create is 0. Nothing is replayed or reset yet. */
int hsl_log_os_stage_open(struct hsl_log *log, int32_t create)
{
    char path[HSL_PATH_MAX + 64];
    const struct hsl_io *io = log->io;
    hsl_path(log, path, "STAGE");
    int fd = io->open(io->ctx, path, HSL_OPEN_READ | HSL_OPEN_WRITE);
    bool fresh = fd == -ENOENT;
    if (fresh && !create)
        return HSL_NOT_FOUND;
    if (fresh)
        fd = io->open(io->ctx, path, HSL_OPEN_READ | HSL_OPEN_WRITE | HSL_OPEN_CREATE);
    if (fd < 0)
        return hsl_fail(log, "open", path, -fd);
    int64_t size = io->size(io->ctx, fd);
    int64_t wanted = (int64_t)(hsl_align_page(log->cfg.os_stage_bytes) + HSL_PAGE);
    int err = size < 0 ? (int)size : 0;
    if (err == 0 && size < 2 * (int64_t)HSL_PAGE) {
        err = io->allocate(io->ctx, fd, 0, (uint64_t)wanted);
        size = wanted;
    }
    void *map = err == 0 ? io->map_shared(io->ctx, fd, (size_t)size) : NULL;
    if (err < 0 || !map) {
        io->close(io->ctx, fd);
        if (fresh)
            io->unlink(io->ctx, path);
        return hsl_fail(log, "map", path, err < 0 ? -err : EIO);
    }
    log->stage_fd = fd;
    log->stage_map = map;
    log->stage_map_len = (size_t)size;
    return HSL_OK;
}

static bool stage_header_valid(struct hsl_log *log, struct hsl_stage_header *header)
{
    uint8_t boot[16];
    memcpy(header, log->stage_map, sizeof *header);
    if (log->io->boot_id(log->io->ctx, boot) < 0)
        return false;
    return memcmp(header->magic, HSL_STAGE_MAGIC, 8) == 0 &&
           header->crc == hsl_crc32c(0, (uint8_t *)header + 12, sizeof *header - 12) &&
           header->major == HSL_VERSION_MAJOR && header->capacity == ring_bytes(log) &&
           memcmp(header->uuid, log->uuid, 16) == 0 && memcmp(header->boot, boot, 16) == 0;
}

/* Blocks of an entry that the log lacks, in bytes of the frame; 0 = it has them. AGAIN: the entry
 * does not continue the log, so the valid prefix ends before it. */
static int missing_bytes(struct hsl_log *log, const uint8_t *block, const uint8_t *end,
                         uint32_t blocks, size_t *bytes)
{
    *bytes = 0;
    for (uint32_t i = 0; i < blocks; i++) {
        struct hsl_block_header h;
        if ((size_t)(end - block) < sizeof h)
            return HSL_DAMAGED;
        memcpy(&h, block, sizeof h);
        if (hsl_block_bytes(h.payload_len) > (size_t)(end - block) || h.ext_len != 0)
            return HSL_DAMAGED;
        const struct hsl_shard *shard = hsl_shard_get(log, h.shard);
        if (!shard && h.seq == 1 && !(shard = hsl_shard_add(log, h.shard)))
            return HSL_NO_MEMORY; /* a stream whose creation lies in the stage too */
        if (shard && h.seq > shard->next && i == 0)
            return HSL_AGAIN;
        if (shard && h.seq >= shard->next)
            *bytes += hsl_block_bytes(h.payload_len);
        block += hsl_block_bytes(h.payload_len);
    }
    return HSL_OK;
}

static void replay_block(struct hsl_log *log, const uint8_t *at, uint64_t *replayed)
{
    struct hsl_block_header h;
    memcpy(&h, at, sizeof h);
    struct hsl_shard *shard = hsl_shard_get(log, h.shard);
    if (!shard || h.seq < shard->next)
        return; /* not reached: all blocks of a call are in the log, or none; fuzzed */
    uint64_t seq;
    uint32_t index;
    uint8_t *payload = NULL;
    if (h.flags & HSL_BLOCK_CONTINUED)
        payload = hsl_stage_extend(log, shard, h.payload_len, true, &seq, &index);
    if (!payload) {
        uint64_t order = log->next_order;
        log->next_order = h.order;
        payload = hsl_stage_block(log, shard, h.codec, h.count, h.payload_len, h.decoded_len,
                                  &seq);
        if (log->next_order < order)
            log->next_order = order; /* not reached: what the stage holds is newer; fuzzed */
        uint8_t *block = payload - sizeof h;
        memcpy(block + offsetof(struct hsl_block_header, time_ms), &h.time_ms, 8);
        shard->last_time = h.time_ms;
        log->last_block = block;
        log->last_shard = shard;
    }
    memcpy(payload, at + sizeof h, h.payload_len);
    *replayed += h.count;
}

/* Blocks of one entry lie in one frame, as they did before. */
static int replay_entry(struct hsl_log *log, const uint8_t *block, const uint8_t *end,
                        uint32_t blocks, uint64_t *replayed)
{
    size_t bytes;
    int rc = missing_bytes(log, block, end, blocks, &bytes);
    if (rc != HSL_OK || bytes == 0)
        return rc;
    struct hsl_block_header h;
    memcpy(&h, block, sizeof h);
    if (!(h.flags & HSL_BLOCK_CONTINUED) && log->has_open &&
        log->open.len * 2 > log->cfg.frame_bytes)
        hsl_stage_close_frame(log); /* room for what continues this block */
    while ((rc = hsl_stage_begin(log, bytes, blocks, HSL_STAGE_SYSTEM)) == HSL_AGAIN) {
        rc = hsl_stage_room(log, bytes, blocks, HSL_STAGE_SYSTEM);
        if (rc != HSL_OK)
            return rc;
    }
    if (rc != HSL_OK)
        return rc;
    for (uint32_t i = 0; i < blocks; i++) {
        memcpy(&h, block, sizeof h);
        replay_block(log, block, replayed);
        block += hsl_block_bytes(h.payload_len);
    }
    bool safe;
    hsl_stage_commit(log, 0, true, &safe);
    return HSL_OK;
}

/* The entry at a position: its length in the ring, 0 if none is there that verifies. */
static size_t valid_entry(struct hsl_log *log, uint64_t epoch, uint64_t pos,
                          struct hsl_stage_entry *entry)
{
    uint64_t left = ring_bytes(log) - pos % ring_bytes(log);
    const uint8_t *at = ring_at(log, pos);
    if (left < sizeof *entry)
        return 0;
    memcpy(entry, at, sizeof *entry);
    size_t bytes = entry->blocks ? entry_bytes(entry->len) : sizeof *entry + (size_t)entry->len;
    bool valid = entry->magic == HSL_ENTRY_MAGIC && entry->pos == pos && bytes <= left &&
                 bytes % 8 == 0 && /* what follows begins at a whole word, also behind a skip */
                 entry->crc == entry_crc(epoch, at, entry->blocks ? entry->len : 0);
    return valid ? bytes : 0;
}

/* Entries are written one behind another, so one that verifies behind one that does not proves that
 * the latter was whole once. Returns the bytes of those. */
static uint64_t entries_behind(struct hsl_log *log, uint64_t epoch, uint64_t pos, uint64_t limit)
{
    struct hsl_stage_entry entry;
    uint64_t found = 0, at = pos % ring_bytes(log);
    for (size_t bytes; pos < limit; pos += bytes, at += bytes) {
        at = at < ring_bytes(log) ? at : 0; /* an entry ends at the end of the ring at most */
        memcpy(&entry.magic, log->stage_map + HSL_PAGE + at, sizeof entry.magic);
        bytes = entry.magic == HSL_ENTRY_MAGIC ? valid_entry(log, epoch, pos, &entry) : 0;
        found += bytes;
        bytes = bytes ? bytes : 8;
    }
    return found;
}

/* Before the log is started; nothing else runs. */
int hsl_log_os_stage_replay(struct hsl_log *log, uint64_t *replayed, uint64_t *unread)
{
    struct hsl_stage_header header;
    *replayed = *unread = 0;
    if (!stage_header_valid(log, &header))
        return HSL_OK;
    uint64_t pos;
    memcpy(&pos, log->stage_map + HSL_STAGE_TAIL_OFFSET, 8);
    uint64_t limit = pos + ring_bytes(log);
    if (log->io->announce) /* all of it is looked at, page by page */
        log->io->announce(log->io->ctx, log->stage_fd, HSL_PAGE, ring_bytes(log));
    int rc = HSL_OK;
    while (rc == HSL_OK && pos < limit) {
        uint64_t left = ring_bytes(log) - pos % ring_bytes(log);
        if (left < sizeof(struct hsl_stage_entry)) {
            pos += left;
            continue;
        }
        struct hsl_stage_entry entry;
        size_t bytes = valid_entry(log, header.epoch, pos, &entry);
        if (bytes == 0) {
            *unread = entries_behind(log, header.epoch, hsl_align8(pos + 8), limit);
            break;
        }
        const uint8_t *block = ring_at(log, pos) + sizeof entry;
        rc = replay_entry(log, block, block + entry.len, entry.blocks, replayed);
        pos += bytes;
    }
    return rc == HSL_AGAIN ? HSL_OK : rc;
}

/* Starts an empty round; what is in it must be durable in the log. */
int hsl_log_os_stage_reset(struct hsl_log *log)
{
    uint8_t boot[16];
    int err = log->io->boot_id(log->io->ctx, boot);
    if (err < 0)
        return hsl_fail(log, "read boot id for", "STAGE", -err); /* not reached: TAIL was first */
    log->stage_head = 0;
    log->stage_tail = 0;
    write_stage_header(log, boot);
    return HSL_OK;
}

/* Starts copying what is staged. stage_mu held. What is staged already has no copy: nothing more is
 * staged until that is durable. */
int hsl_os_stage_enable(struct hsl_log *log)
{
    int rc = log->stage_map ? HSL_OK : hsl_place_check(log);
    if (rc == HSL_OK && !log->stage_map)
        rc = hsl_log_os_stage_open(log, 1);
    if (rc != HSL_OK)
        return rc;
    rc = hsl_log_os_stage_reset(log);
    log->os_stage = rc == HSL_OK;
    log->stage_hole = hsl_last_ticket(log);
    return rc;
}

void hsl_os_stage_close(struct hsl_log *log)
{
    log->os_stage = false;
    if (log->stage_map)
        log->io->unmap(log->io->ctx, log->stage_map, log->stage_map_len);
    if (log->stage_fd >= 0)
        log->io->close(log->io->ctx, log->stage_fd);
    log->stage_map = NULL;
    log->stage_touched = 0;
    log->stage_fd = -1;
}
