/* On-disk structures, format version 1. log/FORMAT.md draws the same bytes. Little-endian. */
#ifndef HSL_FORMAT_H
#define HSL_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is the memory layout");

#define HSL_PAGE 4096u
#define HSL_VERSION_MAJOR 1
#define HSL_VERSION_MINOR 0

#define HSL_SEGMENT_MAGIC "HSLSEG"
#define HSL_SUPER_MAGIC "HSLSUPER"
#define HSL_STAGE_MAGIC "HSLSTAGE"
#define HSL_FOOTER_MAGIC "HSLFOOT1"
#define HSL_TAIL_MAGIC "HSLTAIL1"
#define HSL_FRAME_MAGIC 0x4d524648u /* "HFRM" */
#define HSL_BLOCK_MAGIC 0x4248u     /* "HB" */
#define HSL_ENTRY_MAGIC 0x544e4548u /* "HENT" */

struct hsl_segment_header {
    char magic[6];
    uint8_t major, minor;
    uint32_t crc; /* of bytes 12 to 4095 */
    uint32_t required;
    uint8_t uuid[16];
    uint64_t number;
    uint64_t uid;
    uint64_t epoch;
    uint64_t pred_uid;
    uint64_t pred_end;
    uint32_t pred_crc;
    uint16_t level, retention_class;
    uint64_t created_ms;
    uint64_t capacity;
};
_Static_assert(sizeof(struct hsl_segment_header) == 96, "segment header");
_Static_assert(offsetof(struct hsl_segment_header, uuid) == 16, "segment header");
_Static_assert(offsetof(struct hsl_segment_header, pred_crc) == 72, "segment header");
_Static_assert(offsetof(struct hsl_segment_header, capacity) == 88, "segment header");

#define HSL_LEVEL_1 (1u << 31) /* set in the numbers of segments of level 1 */

/* Behind the header of a segment of level 1: what it replaces, and what it holds itself. */
struct hsl_segment_cover {
    uint64_t first; /* segments of level 0 in whose place it stands, [first, last] */
    uint64_t last;
    uint64_t last_uid; /* of segment `last`: uid, end and crc of its last frame */
    uint64_t last_end;
    uint32_t last_crc;
    uint32_t end_crc; /* of its own last frame */
    uint64_t end;     /* offset behind its own last frame */
    uint32_t frames;
    uint32_t zero;
};
_Static_assert(sizeof(struct hsl_segment_cover) == 56, "segment cover");

enum hsl_frame_flag {
    HSL_FRAME_IDLE = 1,       /* no blocks: proves that everything before it was durable */
    HSL_FRAME_CHECKPOINT = 2, /* body is an index of the segment so far */
    HSL_FRAME_CLOSE = 4       /* written by a clean close */
};

struct hsl_frame_header {
    uint32_t magic;
    uint32_t crc; /* of bytes 8 to 63 */
    uint64_t uid;
    uint32_t page; /* own offset / 4096 */
    uint32_t number;
    uint32_t body_len;
    uint32_t blocks;
    uint32_t body_crc; /* over the blocks' crc fields; over the body of a checkpoint */
    uint32_t chain;    /* crc field of the previous frame, or of the segment header */
    uint64_t durable;
    uint64_t epoch;
    uint32_t flags;
    uint32_t zero;
};
_Static_assert(sizeof(struct hsl_frame_header) == 64, "frame header");
_Static_assert(offsetof(struct hsl_frame_header, durable) == 40, "frame header");

enum hsl_block_flag {
    HSL_BLOCK_CONTINUED = 1 /* stage entries only: extends the block staged before it */
};

struct hsl_block_header {
    uint16_t magic;
    uint8_t version;
    uint8_t codec;
    uint32_t crc; /* of bytes 8 to the end of the payload */
    uint64_t shard;
    uint64_t seq;
    uint64_t time_ms;
    uint32_t payload_len;
    uint32_t decoded_len; /* 0: a client encoded the payload; see hsl_unchecked */
    uint32_t count;
    uint16_t flags;
    uint16_t ext_len;
    uint64_t order;
};
/* Whether nobody ever looked into the payload: it need not be a batch of so many records. */
static inline bool hsl_unchecked(const struct hsl_block_header *h)
{
    return h->decoded_len == 0;
}
_Static_assert(sizeof(struct hsl_block_header) == 56, "block header");
_Static_assert(offsetof(struct hsl_block_header, order) == 48, "block header");

/* Last bytes of a sealed segment. Before it: rows, directory, a CRC for each piece of the rows. */
struct hsl_trailer {
    char magic[8];
    uint32_t crc; /* of bytes 12 to 95; seeded with the uid's low half, as the other CRCs are */
    uint16_t version, flags;
    uint64_t footer_off;
    uint64_t rows_len;
    uint32_t dir_len;
    uint32_t dir_crc; /* of the directory and the CRCs of the pieces */
    uint32_t blocks;
    uint32_t shards;
    uint64_t min_time;
    uint64_t max_time;
    uint64_t min_order;
    uint64_t max_order;
    uint64_t bytes; /* of all blocks, without padding */
    uint32_t last_crc; /* crc field of the last frame */
    uint32_t frames;
};
_Static_assert(sizeof(struct hsl_trailer) == 96, "trailer");

/* Start of the body of a checkpoint frame; the index of the blocks since the last one follows. */
struct hsl_checkpoint {
    uint64_t previous; /* offset of the previous checkpoint frame, 0 = none */
    uint32_t blocks;   /* blocks in this index */
    uint32_t shards;
    uint64_t blocks_before;
    uint32_t rows_len;
    uint32_t dir_len;
};
_Static_assert(sizeof(struct hsl_checkpoint) == 32, "checkpoint");

struct hsl_super_slot {
    char magic[8];
    uint32_t crc; /* of bytes 12 to 4095 */
    uint16_t major, minor;
    uint32_t required;
    uint32_t zero;
    uint64_t sequence;
    uint8_t uuid[16];
    uint64_t epoch;
    uint64_t first_segment;
    uint64_t last_segment;
    uint64_t durable;
    uint64_t checkpoint;
    uint64_t snapshot[3];
    uint64_t flags;
};
_Static_assert(sizeof(struct hsl_super_slot) == 120, "super slot");

struct hsl_stage_header {
    char magic[8];
    uint32_t crc; /* of bytes 12 to 79 */
    uint16_t major, minor;
    uint8_t uuid[16];
    uint8_t boot[16];
    uint64_t epoch;
    uint64_t capacity; /* bytes of the ring behind this page */
    uint64_t start;    /* ring position at which this epoch began */
    uint64_t zero;
};
_Static_assert(sizeof(struct hsl_stage_header) == 80, "stage header");
/* Ring position of the first entry that may not be durable in the log; own cache line. */
#define HSL_STAGE_TAIL_OFFSET 2048u

struct hsl_stage_entry {
    uint32_t magic;
    uint32_t crc; /* seeded with the epoch; of bytes 8 to the end */
    uint64_t pos; /* own ring position: stale bytes of an earlier round cannot match */
    uint32_t len; /* of what follows: blocks, each padded to 8 */
    uint32_t blocks; /* 0 = skip to the start of the ring */
};
_Static_assert(sizeof(struct hsl_stage_entry) == 24, "stage entry");

/* How far the log is durable, for other processes. What follows `boot` is written while `sequence`
 * is odd: whoever finds another value before and after reading reads again. */
struct hsl_tail_page {
    char magic[8];
    uint32_t crc; /* of bytes 12 to 47 */
    uint16_t major, minor;
    uint8_t uuid[16];
    uint8_t boot[16];
    uint64_t ring_bytes; /* of the ring behind the page; 0 = none */
    uint64_t zero;
    uint64_t sequence;
    uint64_t state;
    uint64_t epoch;
    uint64_t durable; /* segment << 32 | offset */
    uint64_t ring_from; /* place from which on the ring holds what is durable */
};
_Static_assert(sizeof(struct hsl_tail_page) == 104, "tail page");
_Static_assert(offsetof(struct hsl_tail_page, sequence) == 64, "tail page");

static inline uint64_t hsl_align8(uint64_t n) { return (n + 7) & ~(uint64_t)7; }
static inline uint64_t hsl_align_page(uint64_t n)
{
    return (n + HSL_PAGE - 1) & ~(uint64_t)(HSL_PAGE - 1);
}

#endif
