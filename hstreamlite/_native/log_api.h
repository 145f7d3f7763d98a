/* The shared log: staging, group commit, segments, index, recovery and cursors.
 *
 * One struct hsl_log owns one store directory. Appenders encode blocks into staged frames under
 * one mutex; whoever finds no write in flight writes and syncs the staged frames itself, and a
 * writer thread takes over under load. With threaded = 0 no thread is started: waiting calls do
 * the writing on the caller's thread and hsl_log_step() does what the thread would do.
 * Every function may be called from any thread unless its comment says otherwise.
 */
enum hsl_status {
    HSL_OK = 0,
    HSL_AGAIN = -1,
    HSL_FULL = -2,
    HSL_FAILED = -3,
    HSL_CLOSED = -4,
    HSL_FORKED = -5,
    HSL_TIMEOUT = -6,
    HSL_TOO_LARGE = -7,
    HSL_NO_MEMORY = -8,
    HSL_NOT_FOUND = -9,
    HSL_DAMAGED = -10,
    HSL_IO = -11,
    HSL_VERSION = -12,
    HSL_TRIMMED = -13,
    HSL_MALFORMED = -14,
    HSL_READ_ONLY = -15,
    HSL_REPLACED = -16,
    HSL_UNREADABLE = -17 /* a batch as a client sent it does not hold what was said */
};

struct hsl_log_config {
    uint64_t segment_bytes_min;
    uint64_t segment_bytes_max;
    uint64_t stage_bytes;       /* memory for staged and recently written frames */
    uint64_t chunk_bytes;       /* one piece of that memory */
    uint64_t frame_bytes;       /* an open frame is closed at this size */
    uint64_t eager_bytes;       /* staged bytes for which writers that are awake go on */
    uint64_t linger_ns;         /* staged records are written after this time anyway */
    uint64_t idle_mark_ns;      /* idle time after which a marker frame proves the last one */
    uint64_t prewrite_bytes;    /* zeros written ahead of small frames */
    uint64_t checkpoint_bytes;  /* distance of index checkpoints in a segment */
    uint64_t os_stage_bytes;    /* size of the mapped stage file */
    uint64_t tail_bytes;        /* newest frames that followers find in memory; 0 = none */
    uint64_t index_cache_bytes; /* parts of footers kept in memory */
    uint64_t block_bytes;       /* largest block body */
    uint64_t transaction_bytes; /* largest sum of blocks staged in one call */
    uint64_t salt;              /* random seed of segment uids */
    uint8_t uuid[16];           /* identity of a store created by this open */
    int32_t threaded;
    int32_t direct;             /* try O_DIRECT */
    int32_t follower;           /* another process writes: nothing is changed, only followed */
    int32_t notify_fd;          /* written when durability advances; -1 = none */
};

struct hsl_super {
    uint64_t sequence;
    uint8_t uuid[16];
    uint64_t epoch;
    uint64_t first_segment;
    uint64_t last_segment;      /* highest segment number ever given to a file; 0 = none */
    uint64_t durable;           /* segment << 32 | offset that was durable when written */
    uint64_t checkpoint;        /* segment << 32 | offset of the newest checkpoint; 0 = none */
    uint64_t snapshot[3];       /* first LSN of the newest snapshot in each system log; 0 = none */
    uint64_t flags;             /* 1 = closed cleanly */
};

/* How far the log is durable, as its writer tells other processes. */
struct hsl_tail {
    uint64_t sequence;          /* another one: something was written since */
    uint64_t state;             /* 1 = a writer opens for the first time since boot, 2 = open,
                                 * 3 = closed */
    uint64_t epoch;
    uint64_t durable;           /* segment << 32 | offset */
};

/* What hsl_log_load_segment found. */
struct hsl_segment_report {
    uint64_t number;
    uint64_t uid;
    uint64_t epoch;
    uint64_t pred_uid;
    uint64_t pred_end;
    uint32_t pred_crc;
    uint32_t last_crc;          /* CRC of the last accepted frame header, or the segment's */
    uint64_t covers_first;      /* segments of level 0 in whose place it stands; itself */
    uint64_t covers_last;
    uint64_t covers_uid;        /* of segment covers_last: uid, end, crc of its last frame */
    uint64_t covers_end;
    uint32_t covers_crc;
    uint32_t stated_crc;        /* level 1: what the header says that its own frames end with */
    uint64_t stated_end;
    uint32_t stated_frames;
    uint64_t file_bytes;
    uint64_t capacity;          /* size the file had until it was sealed */
    uint64_t end;               /* offset behind the last accepted frame */
    uint64_t frames;
    uint64_t blocks;
    uint64_t scanned;           /* offset the frame walk started from; 0 = footer was trusted */
    uint64_t durable_claim;     /* highest durable-up-to that any valid frame of this uid states */
    uint64_t next_valid;        /* offset of the first valid frame behind end; 0 = none */
    uint64_t bad_checkpoints;   /* walked over: they do not verify, and no record is lost by that */
    int32_t sealed;             /* a valid footer was found */
    int32_t damage;             /* enum hsl_damage */
    uint8_t uuid[16];
    uint32_t version;           /* major version found */
    uint32_t required;          /* unknown required-feature flags found */
};

enum hsl_damage {
    HSL_DAMAGE_NONE = 0,
    HSL_DAMAGE_SHORT = 1,       /* file shorter than a segment header */
    HSL_DAMAGE_HEADER = 2,      /* segment header does not verify */
    HSL_DAMAGE_FRAME = 3,       /* no valid frame header at end */
    HSL_DAMAGE_BLOCK = 4,       /* frame header valid, a block in it is not */
    HSL_DAMAGE_SEQUENCE = 5,    /* blocks valid but do not continue their logs */
    HSL_DAMAGE_FOOTER = 6,      /* footer present but does not verify */
    HSL_DAMAGE_VERSION = 7      /* written by a newer format */
};

/* Records [first, end) of a log. */
struct hsl_range {
    uint64_t shard;
    uint64_t first;
    uint64_t end;
};

struct hsl_shard_info {
    uint64_t id;
    uint64_t first;             /* first LSN kept (readable, if below durable_next) */
    uint64_t durable_next;      /* one past the last durable LSN */
    uint64_t next;              /* next LSN to be given */
    uint64_t last_time;         /* ms of the newest block */
    uint64_t last_ticket;       /* ticket of the newest staged block */
    uint64_t bytes;             /* of kept blocks; in the oldest segment in proportion to records */
    uint64_t gap_end;           /* highest first LSN behind a hole in the log; 0 = no hole */
};

struct hsl_segment_facts {
    uint64_t number;
    uint64_t first;             /* segments of level 0 in whose place it stands; itself */
    uint64_t last;
    uint64_t bytes;             /* of the file */
    uint64_t live;              /* of its live blocks */
    uint64_t shards;            /* that have live blocks in it */
    uint64_t written;           /* bytes of all blocks it ever had */
    uint64_t largest;           /* of them, of the shard with the most */
    int32_t sealed;
};

struct hsl_log_stats {
    uint64_t frames;
    uint64_t syncs;
    uint64_t overlapped;        /* groups taken while the one before was not durable */
    uint64_t blocks;
    uint64_t records;
    uint64_t bytes_staged;
    uint64_t bytes_written;
    uint64_t bytes_prewritten;
    uint64_t segments;
    uint64_t segments_rolled;
    uint64_t segments_dropped;
    uint64_t segments_regrouped; /* files of level 1 written, and their bytes */
    uint64_t bytes_regrouped;
    uint64_t disk_bytes;
    uint64_t staged_now;
    uint64_t durable_ticket;
    uint64_t open_ticket;
    uint64_t index_blocks;
    uint64_t shards;
    uint64_t reads;
    uint64_t bytes_read;
    uint64_t cache_hits;
    uint64_t full;              /* appends refused for want of disk space */
    uint64_t footers_rebuilt;   /* that did not verify and were found again in the frames */
    int32_t direct;
    int32_t failed;             /* errno that poisoned the log; 0 = healthy */
    int32_t os_stage;
};

struct hsl_log;
struct hsl_cursor;

/* path is the store directory. NULL when out of memory. */
struct hsl_log *hsl_log_new(const struct hsl_io *io, const struct hsl_log_config *config,
                            const char *path);
/* Closes; the memory goes with the last cursor. */
void hsl_log_free(struct hsl_log *log);

/* Recovery, in this order, by one thread, before any append. */
int hsl_log_super_load(struct hsl_log *log, struct hsl_super *out);
int hsl_log_super_store(struct hsl_log *log, const struct hsl_super *super);
int hsl_log_load_segment(struct hsl_log *log, uint64_t number, uint64_t checkpoint,
                         struct hsl_segment_report *report);
int hsl_log_read_segment(struct hsl_log *log, uint64_t number, struct hsl_segment_report *report);
int hsl_log_add_replaced(struct hsl_log *log, uint64_t number);
/* Ids that valid frames behind the damage of the last loaded segment show to be missing. */
int64_t hsl_log_lost(struct hsl_log *log, struct hsl_range *out, size_t cap);
/* Seals the last loaded segment behind its last accepted frame; rewrite = 1 copies it first. */
int hsl_log_seal_loaded(struct hsl_log *log, int32_t rewrite);
int hsl_log_set_next(struct hsl_log *log, uint64_t segment, uint64_t epoch, uint64_t order,
                     uint64_t pred_uid, uint64_t pred_end, uint32_t pred_crc);
/* Maps the page that tells other processes how far the log is durable; before anything changes. */
int hsl_log_tail_open(struct hsl_log *log);
/* What that page says, to a follower. NOT_FOUND: nothing that counts. REPLACED: it is of another
 * store. */
int hsl_log_tail_read(struct hsl_log *log, struct hsl_tail *out);
/* Loads the segment being written up to `limit`, which is durable, and looks at nothing behind. */
int hsl_log_load_active(struct hsl_log *log, uint64_t number, uint64_t checkpoint, uint64_t limit,
                        struct hsl_segment_report *report);
/* A follower goes on from the last loaded segment. */
int hsl_log_follow(struct hsl_log *log);
/* Takes in what became durable since. DAMAGED: see hsl_log_follow_damage; AGAIN: below. */
int hsl_log_refresh(struct hsl_log *log);
/* REPLACED if what is followed has its place no more: the directory was removed, renamed, or made
 * anew. hsl_log_refresh looks too, but seldom. */
int hsl_log_follow_check(struct hsl_log *log);
int hsl_log_follow_damage(struct hsl_log *log, struct hsl_segment_report *report);
/* After AGAIN: the number of the segment that is gone. It was dropped, or one of level 1 stands in
 * its place, which the caller finds out: then comes one of the next two. */
uint64_t hsl_log_follow_gone(struct hsl_log *log);
int hsl_log_follow_skip(struct hsl_log *log, uint64_t number);
/* Takes a segment of level 1 in the place of what it covers. NOT_FOUND: there is no such file;
 * AGAIN: refresh first. */
int hsl_log_follow_adopt(struct hsl_log *log, uint64_t number);
/* The last segment that was gone before its end was read; 0 = none. */
uint64_t hsl_log_abandoned_segment(struct hsl_log *log);
/* Forgets segments that the writer has dropped. */
int hsl_log_forget_segments(struct hsl_log *log, const uint64_t *numbers, size_t count);
/* The next segment of level 1 gets a number above this one: followers know a file by its number. */
void hsl_log_number_regrouped(struct hsl_log *log, uint64_t above);
int hsl_log_os_stage_open(struct hsl_log *log, int32_t create);
/* Stages the entries of the mapped stage that are not in the log; how many records in *replayed.
 * It ends at the first that does not verify; the bytes of those behind it that do in *unread. */
int hsl_log_os_stage_replay(struct hsl_log *log, uint64_t *replayed, uint64_t *unread);
int hsl_log_os_stage_reset(struct hsl_log *log);
int hsl_log_start(struct hsl_log *log);

/* Shards. */
int hsl_log_shard_restore(struct hsl_log *log, uint64_t shard, uint64_t next, uint64_t last_time,
                          uint64_t first);
int hsl_log_shard_close(struct hsl_log *log, uint64_t shard);
int hsl_log_shard_info(struct hsl_log *log, uint64_t shard, struct hsl_shard_info *out);
int64_t hsl_log_shards(struct hsl_log *log, uint64_t *ids, size_t cap);
int hsl_log_trim(struct hsl_log *log, uint64_t shard, uint64_t first);
/* First LSN whose block was appended at or after time_ms; the next LSN if there is none. */
int hsl_log_seek_time(struct hsl_log *log, uint64_t shard, uint64_t time_ms, uint64_t *lsn);
/* First LSN whose block has an order number of at least `order`. */
int hsl_log_seek_order(struct hsl_log *log, uint64_t shard, uint64_t order, uint64_t *lsn);
/* Every durable block up to this order number is readable. */
uint64_t hsl_log_order(struct hsl_log *log);
/* First LSN such that the kept blocks from it on have at most max_bytes. */
int hsl_log_seek_bytes(struct hsl_log *log, uint64_t shard, uint64_t max_bytes, uint64_t *lsn);
/* Bytes stored from lsn on: exact at the bounds of sealed segments, and within one as if all its
 * records of the shard were alike. Reads no file; costs O(segments). */
int hsl_log_bytes_from(struct hsl_log *log, uint64_t shard, uint64_t lsn, uint64_t *bytes);
struct hsl_block_place {
    uint64_t first, order, time_ms;
};
/* First LSN, order number and append time of the block that holds lsn; NOT_FOUND if not kept. */
int hsl_log_block_of(struct hsl_log *log, uint64_t shard, uint64_t lsn,
                     struct hsl_block_place *out);

/* Waits until a call that stages `bytes` of records for the system logs, at level "os" or not, need
 * not wait. FULL if the disk has no room. */
int hsl_log_make_room(struct hsl_log *log, uint64_t bytes, int os);

/* Durability. Tickets grow; a ticket is durable when durable_ticket >= ticket. */
int hsl_log_wait(struct hsl_log *log, uint64_t ticket, int64_t timeout_ns);
int hsl_log_kick(struct hsl_log *log, uint64_t ticket);
uint64_t hsl_log_durable(struct hsl_log *log);
uint64_t hsl_log_staged(struct hsl_log *log);
/* Waits until the durable ticket is above `seen`; the caller counts as a waiter for the sync. */
int hsl_log_wait_tail(struct hsl_log *log, uint64_t seen, int64_t timeout_ns);
/* Wakes every hsl_log_wait_tail and keeps later calls from sleeping through it: they compare the
 * pokes they have seen. */
uint64_t hsl_log_pokes(struct hsl_log *log);
void hsl_log_poke(struct hsl_log *log);
/* Two ends, perhaps of one descriptor: the log writes to ends[1], its notify_fd, with every group
 * and every poke; ends[0] becomes readable then. 0 or -errno. */
int hsl_notify_open(int32_t ends[2]);
void hsl_notify_drain(int32_t end);
void hsl_notify_close(const int32_t ends[2]);
int hsl_log_wait_change(struct hsl_log *log, uint64_t seen, uint64_t pokes, int64_t timeout_ns);
int hsl_log_step(struct hsl_log *log);

/* Segments. */
/* Sealed segments without live blocks; with system = 1 also those in which only blocks of the
 * system logs live, which a snapshot would free. */
int64_t hsl_log_dead_segments(struct hsl_log *log, int32_t system, uint64_t *numbers, size_t cap);
int hsl_log_drop_segments(struct hsl_log *log, const uint64_t *numbers, size_t count);
/* The lowest segment of level 0 for which some file stands; 0 = none. */
uint64_t hsl_log_first_segment(struct hsl_log *log);
int64_t hsl_log_segment_facts(struct hsl_log *log, struct hsl_segment_facts *out, size_t cap);

/* Stops the writer thread, writes what is staged and, if clean, seals. Later calls get CLOSED. */
int hsl_log_close(struct hsl_log *log, int32_t clean);
/* Tells waiters to give up: every blocked call returns CLOSED. */
void hsl_log_interrupt(struct hsl_log *log);
void hsl_log_stats(struct hsl_log *log, struct hsl_log_stats *out);
/* errno and text of the call that failed or poisoned the log. */
int hsl_log_error(struct hsl_log *log, char *text, size_t cap);
int hsl_log_check(struct hsl_log *log);

/* A cursor reads one shard forward; it must be used by one thread at a time. */
/* Order number, time and end LSN of the next durable block; NOT_FOUND at the tail. AGAIN: the index
 * must be read from a file and may_block is 0. */
int hsl_cursor_peek(struct hsl_cursor *cursor, int32_t may_block, uint64_t *order,
                    uint64_t *time_ms, uint64_t *end);
/* Lets what the system has of files count as memory for the cursor. Whoever reads so on a loop has
 * it turn now and then: much may be read before anything has to be waited for. */
void hsl_cursor_use_cache(struct hsl_cursor *cursor);
/* After TRIMMED: records [*from, *to) were skipped. */
void hsl_cursor_gap(struct hsl_cursor *cursor, uint64_t *from, uint64_t *to);
/* After DAMAGED: where. */
struct hsl_cursor_damage {
    uint64_t segment;
    uint64_t offset, length; /* of a block in the file; of rows behind the frames if in_footer */
    uint64_t first, end;     /* LSNs */
    uint32_t expected, found; /* CRCs */
    int32_t in_footer;
};
void hsl_cursor_damage(struct hsl_cursor *cursor, struct hsl_cursor_damage *out);
