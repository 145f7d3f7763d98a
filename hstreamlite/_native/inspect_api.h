/* What a segment file holds: read whole, believed only where it verifies, never written to.
 *
 * Opening a store stops at the first damage. An inspection goes on behind it: at the next page
 * that holds a valid frame, and inside what is damaged at the next block whose CRC matches. One
 * thread at a time; hsl_inspect_step reads a piece, so that its caller can show how far it came.
 */
enum hsl_fault {
    HSL_FAULT_SHORT = 1,    /* file shorter than a segment header */
    HSL_FAULT_HEADER = 2,   /* segment header does not verify */
    HSL_FAULT_FRAME = 3,    /* no valid frame */
    HSL_FAULT_CHAIN = 4,    /* a valid frame that does not follow the one before it */
    HSL_FAULT_BLOCK = 5,    /* block does not verify, in a frame whose header does */
    HSL_FAULT_BODY = 6,     /* CRC matches, but the records do not decode */
    HSL_FAULT_SEQUENCE = 7, /* block does not continue its log: twice there, or out of order */
    HSL_FAULT_INDEX = 8,    /* index checkpoint does not verify: no record is lost by that */
    HSL_FAULT_FOOTER = 9,   /* footer does not verify or does not list the blocks: the same */
    HSL_FAULT_CUT = 10      /* file is shorter than it was */
};

/* Bytes [start, stop) of the file that are not what they should be. */
struct hsl_inspect_range {
    uint64_t start;
    uint64_t stop;
    uint64_t frame; /* start of the frame concerned */
    int32_t fault;
};

/* Records [first, end) of a log that verify, without a hole. */
struct hsl_inspect_run {
    uint64_t shard;
    uint64_t first;
    uint64_t end;
    uint64_t blocks;
    uint64_t bytes;
    uint64_t start; /* offset of its first block in the file, and behind its last one */
    uint64_t stop;
    uint64_t min_order;
    uint64_t max_order;
    uint64_t last_time;
};

struct hsl_inspect_block {
    uint64_t shard;
    uint64_t seq;
    uint64_t order;
    uint64_t time_ms;
    uint64_t off;
    uint32_t len;
    uint32_t count;
    uint32_t codec;
};

/* Records [first, end) that were in bytes [start, stop): by the footer, or by the header of a block
 * that does not verify itself (sure = 0). */
struct hsl_inspect_lost {
    uint64_t shard;
    uint64_t first;
    uint64_t end;
    uint64_t start;
    uint64_t stop;
    int32_t sure;
};

/* What is known of the file from elsewhere. */
struct hsl_inspect_want {
    uint64_t uid;    /* for a file whose header does not verify; 0 = unknown */
    uint64_t end;    /* where the next segment says that the frames end; 0 = unknown */
    uint32_t crc;    /* and the CRC of the last one */
    uint64_t claim;  /* offset up to which the superblock says it was durable; 0 = nothing */
    int32_t tail;    /* the newest segment: it may end in frames that were never acknowledged */
    int32_t closed;  /* and it was closed cleanly: it has a footer */
};

struct hsl_inspect_report {
    uint64_t file_bytes;
    uint64_t read_bytes;
    uint64_t unreadable;  /* places at which the device gave EIO: damaged like any other */
    int32_t header;       /* the header verifies; the fields up to capacity come from it */
    uint32_t version;     /* its major version and required features, also where unsupported */
    uint32_t required;
    uint64_t number;
    uint64_t uid;
    uint64_t epoch;
    uint64_t pred_uid;
    uint64_t pred_end;
    uint32_t pred_crc;
    uint64_t capacity;
    uint64_t covers_first; /* segments of level 0 in whose place it stands; itself at level 0 */
    uint64_t covers_last;
    uint64_t covers_uid;  /* the last one of them: uid, end and CRC of the last frame; level 1 */
    uint64_t covers_end;
    uint32_t covers_crc;
    uint8_t uuid[16];
    int32_t sealed;       /* a valid footer */
    uint64_t end;         /* behind the last frame that counts */
    uint32_t last_crc;
    uint64_t frames;
    uint64_t blocks;
    uint64_t records;
    uint64_t durable;     /* highest place, of any segment, that a valid frame says was durable */
};

struct hsl_inspect;

/* Opens the file and reads its header. NULL: *err is an errno. */
struct hsl_inspect *hsl_inspect_open(const struct hsl_io *io, const char *path, int32_t direct,
                                     int32_t *err);
void hsl_inspect_free(struct hsl_inspect *inspect);
void hsl_inspect_expect(struct hsl_inspect *inspect, const struct hsl_inspect_want *want);
/* Reads on for about `bytes`: AGAIN if there is more, OK at the end, IO with *err. */
int hsl_inspect_step(struct hsl_inspect *inspect, uint64_t bytes, int32_t *err);
/* After the last step: a block whose records do not decompress or decode is none. */
void hsl_inspect_reject(struct hsl_inspect *inspect, uint64_t off);
/* After that: puts what was found in order. */
int hsl_inspect_finish(struct hsl_inspect *inspect);

void hsl_inspect_report(const struct hsl_inspect *inspect, struct hsl_inspect_report *out);
/* Each copies up to cap entries and returns how many there are. */
size_t hsl_inspect_ranges(const struct hsl_inspect *inspect, struct hsl_inspect_range *out,
                          size_t cap);
size_t hsl_inspect_runs(const struct hsl_inspect *inspect, struct hsl_inspect_run *out, size_t cap);
size_t hsl_inspect_lost(const struct hsl_inspect *inspect, struct hsl_inspect_lost *out,
                        size_t cap);
/* Valid blocks of logs from `shard` on: in file order before finish, by log and LSN after it.
 * compressed = 1: only those whose records are compressed. */
size_t hsl_inspect_blocks(const struct hsl_inspect *inspect, uint64_t shard, int32_t compressed,
                          struct hsl_inspect_block *out, size_t cap);
/* Reads `len` bytes of the file at any offset: 0, or a negative errno. */
int hsl_inspect_read(struct hsl_inspect *inspect, uint64_t off, uint32_t len, uint8_t *out);

/* Stages every block of an inspected segment that verifies, is of a shard known to the log, and not
 * there already, under the LSN, time and order it had. An enum hsl_status. */
int hsl_salvage(struct hsl_log *log, struct hsl_inspect *from);
/* Puts every block of an inspected segment that verifies, but those of the store's own logs, into
 * the index of a log that only reads, under the number its file has. Segments in the order of their
 * content. */
int hsl_log_load_inspected(struct hsl_log *log, uint64_t number, struct hsl_inspect *from);
/* Holes of a log above the first LSN kept, as the segments show them; returns how many. */
int64_t hsl_log_holes(struct hsl_log *log, uint64_t shard, struct hsl_range *out, size_t cap);
/* Number of the sealed segment that holds a record; 0 if none does. */
uint64_t hsl_log_segment_of(struct hsl_log *log, uint64_t shard, uint64_t lsn);
