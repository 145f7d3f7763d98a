/* Inside of struct hsl_log, shared by the files that implement log_api.h.
 *
 *   stage.c     appenders -> blocks in the open frame        (stage_mu)
 *   chunks.c    the memory for that, and the cache of the log's tail in it (stage_mu)
 *   group.c     frames -> one group, its bytes and writes    (`writing` while it is laid out)
 *   zeros.c     what is written ahead of small frames        (`writing`, or `minding`)
 *   writer.c    groups in flight, sync, acknowledgement      (stage_mu)
 *   wait.c      waiting for all that, and waking             (stage_mu)
 *   segment.c   which segments there are, and which are dead (index_mu)
 *   spare.c     files for the next ones, and rolling         (`alone`, or `minding`)
 *   seal.c      the footer of one that is full               (`alone`)
 *   readers.c   handles of those that are read               (index_mu)
 *   osstage.c   mapped copy of what is staged                (stage_mu)
 *   tail.c      mapped page that tells others what is durable
 *   follow.c    reading on in a log that another process writes (follow->mu)
 *   index.c     shards and where their durable blocks are    (index_mu)
 *   regroup.c   writing a segment of level 1                 (one thread)
 *   swap.c      putting one in the place of others           (one at a time)
 *   footer.c    the index of one segment as bytes            (pure)
 *   pieces.c    parts of footers, read when needed           (pieces_mu)
 *   marks.c     checksums of parts of blocks                 (marks_mu)
 *   seek.c      blocks by LSN, time, order and size
 *   scan.c      reading a segment back at open               (before any thread)
 *   intake.c    its frames and runs into the index           (stage_mu, index_mu)
 *   catchup.c   going on in one that another process writes  (follow->mu)
 *   reader.c    a window over its file
 *   cursor.c    reading one shard forward
 *   ahead.c     telling the disk what a cursor will ask for
 *   fetch.c     reading ahead of a cursor in threads     (fetch_mu)
 *   meter.c     counting what passes through
 *
 * Lock order: follow->mu, stage_mu, index_mu; pieces_mu, marks_mu, fetch_mu and text_mu are taken
 * last. None is held during file calls, except index_mu while a segment is opened for reading, and
 * follow->mu, under which a follower goes on in its log, in order. `writing` is a flag under
 * stage_mu: its holder alone gives out places in the active segment. Groups that have their place
 * are written, and synced in order, without it (writer.c). The superblock, the spare, the reserve
 * and the name of the active segment are touched by the holder of one of two more flags: `alone`,
 * of who has `writing` and waits until nothing is in flight, and `minding`, beside groups. Who
 * takes the first waits for the end of the second; the second is not taken beside the first.
 *
 * Invariants: durable < every ticket in flight < every ticket in the queue; the index holds durable
 * blocks only; claimed bytes always fit the active segment or the spare; a chunk with frames that
 * are not durable is not recycled; groups in flight lie in the active segment, one behind another;
 * no frame is taken from the queue while a caller copies into it.
 */
#ifndef HSL_LOG_H
#define HSL_LOG_H

#include "platform.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "format.h"
#include "hsl.h"
#include "meter.h"

/* Clock of the deadlines of waits. macOS waits by the wall clock only: a leap ends a wait early or
 * late, and every waiter looks again at what it waits for. */
#ifdef HSL_LINUX
#define HSL_WAIT_CLOCK CLOCK_MONOTONIC
#else
#define HSL_WAIT_CLOCK CLOCK_REALTIME
#endif

#define HSL_QUEUE_MAX 1024
#define HSL_GROUP_FRAMES 64
/* Two writes keep a disk busy; the third flight is the one that is being synced. */
#define HSL_FLIGHTS 3
#define HSL_FETCHES 2 /* reads ahead of a cursor, and threads for them */
#define HSL_BUCKETS 16
#define HSL_PATH_MAX 1024
#define HSL_SYSTEM (1ull << 63) /* shard ids of the store's own logs */
#define HSL_CACHE_LINE 64

struct hsl_chunk {
    uint8_t *mem;
    size_t cap, used;
    uint32_t refs, unwritten;
    struct hsl_chunk *next;
};

enum hsl_touch { HSL_TOUCH_NOT, HSL_TOUCH_ASKED, HSL_TOUCHING };

struct hsl_frame {
    struct hsl_chunk *chunk;
    size_t off, len; /* len: header and blocks, unpadded */
    uint32_t blocks;
    uint32_t records;
    uint64_t ticket;
    uint64_t stage_end;
    uint64_t staged_ns;
    uint64_t claim;
    uint32_t flags;
    uint32_t users; /* of the records, those of streams */
};

struct hsl_write { /* adjacent bytes that go out in one call */
    const uint8_t *from;
    size_t len;
    uint64_t at;
};

enum hsl_group_state { HSL_GROUP_WRITING, HSL_GROUP_WRITTEN, HSL_GROUP_OVER };

/* Frames that are written together and become durable with one sync. */
struct hsl_group {
    enum hsl_group_state state; /* stage_mu */
    struct hsl_segment *segment;
    struct hsl_frame frames[HSL_GROUP_FRAMES];
    uint64_t off[HSL_GROUP_FRAMES];
    uint32_t count;
    uint64_t bytes;      /* of all frames */
    uint64_t blocks;
    uint64_t end;        /* offset behind it */
    uint64_t checkpoint; /* offset of the checkpoint it begins with; 0 = none */
    uint8_t *page;       /* bytes of that checkpoint until written */
    struct hsl_write writes[HSL_GROUP_FRAMES + 1];
    uint32_t writes_len;
};

/* A durable frame that is still in memory. */
struct hsl_cached {
    struct hsl_chunk *chunk;
    uint64_t segment, off;
    size_t chunk_off, len;
};

struct hsl_entry {
    uint64_t seq, order, time_ms;
    uint32_t segment;
    uint32_t off8;
    uint32_t len;
    uint32_t count;
};

/* The blocks of one shard in one sealed segment; which they are stands in that segment's footer. */
struct hsl_run {
    uint64_t shard;
    uint64_t first, end; /* LSNs */
    uint64_t bytes;
    uint64_t last_time;
    uint32_t segment;
    uint32_t data, data_len; /* place of its rows in the footer */
    uint32_t blocks;
};

/* What an append looks at lies together, and what the index looks at when that is durable: where
 * there are thousands of shards, none of them is in a near cache, and two threads take turns. */
struct hsl_shard {
    _Alignas(HSL_CACHE_LINE) uint64_t id;
    uint64_t next, last_time, last_ticket; /* stage_mu */
    _Atomic uint64_t append_bytes, append_records, append_calls; /* of its meter */
    bool closed;                           /* stage_mu */
    _Atomic bool metered;                  /* stands in the log's list */
    _Alignas(HSL_CACHE_LINE) uint64_t durable_next; /* index_mu, as all but the meter below */
    uint64_t first;
    uint64_t bytes; /* of live runs, each counted whole, and of entries */
    struct hsl_entry *entries; /* blocks behind the runs: those of the active segment */
    uint32_t head, len, cap;
    uint32_t runs_head, runs_len, runs_cap;
    struct hsl_run *runs; /* sealed segments, ascending; dead ones before head */
    uint64_t gap_end;
    uint64_t scan_next, scan_frame; /* recovery */
    _Atomic uint64_t append_failed, read_bytes, read_batches; /* of its meter */
    struct hsl_shard *next_metered;
};
_Static_assert(offsetof(struct hsl_shard, durable_next) == HSL_CACHE_LINE, "shard");

struct hsl_row { /* an entry of the active segment, for its footer */
    uint64_t shard, seq, order, time_ms;
    uint32_t off8, len, count;
};

struct hsl_segment {
    uint64_t number, uid, capacity, overhead, end;
    _Atomic uint64_t prewritten; /* zeros.c says by whom it is moved */
    uint64_t pred_uid, pred_end;
    uint32_t pred_crc;
    uint32_t last_crc, frames;
    struct hsl_segment_cover cover; /* level 1 */
    uint64_t epoch;
    uint64_t blocks;
    uint64_t live, live_system; /* index_mu: runs, and entries while it is not sealed */
    uint64_t live_bytes;        /* index_mu: of the live runs */
    uint64_t run_bytes, run_largest; /* index_mu: of all runs it ever had, and of the largest */
    uint64_t file_bytes;
    uint64_t footer_off, footer_rows; /* sealed, as all of these; bytes of its rows */
    uint32_t *crcs;                /* of the pieces of the rows */
    uint64_t min_time, min_order, max_order;
    uint8_t *rebuilt; /* pieces_mu: the rows, found again in the frames; NULL = footer is sound */
    int fd;                /* writing; -1 when sealed */
    int fd_read;
    int fd_direct;         /* of readers that were at work when it was sealed; -1 = none */
    uint32_t readers;      /* index_mu; fd_read is not closed while > 0 */
    bool sealed, emergency, dropped;
    bool reads_direct; /* index_mu; what reads fd_read asks the disk, whatever the system has */
    struct hsl_row *rows;
    size_t rows_len, rows_cap, rows_checkpointed;
    uint64_t checkpoint, checkpoint_end;
};

struct hsl_log {
    const struct hsl_io *io;
    _Atomic uint32_t holders; /* its owner, and every cursor */
    struct hsl_log_config cfg;
    char path[HSL_PATH_MAX];
    uint64_t fork_generation;
    bool direct;

    pthread_mutex_t stage_mu;
    pthread_cond_t ticket_cv[HSL_BUCKETS]; /* wait.c says who sleeps on which */
    pthread_cond_t tail_cv, room_cv, turn_cv, writer_cv, beside_cv;
    bool writing, alone, minding, minding_asked, zeroing, syncing;
    bool closing, closed, started, interrupted;
    _Atomic int failed;
    pthread_mutex_t text_mu; /* innermost of all */
    char failed_text[256];
    uint32_t waiters, tail_waiters, turns_wanted;
    struct hsl_group groups[HSL_FLIGHTS]; /* a ring; `flying` of them from `oldest_group` on */
    uint32_t oldest_group, flying;
    uint64_t groups_given, groups_over; /* flying = their difference */
    uint64_t checkpoint_due; /* durable checkpoint that the superblock does not know of, or 0 */
    uint64_t course; /* stepped: decides what threads would leave to chance */
    uint64_t want_ticket;
    uint64_t pokes;
    _Atomic uint64_t durable_ticket;
    uint64_t next_ticket;
    uint64_t next_order;
    struct hsl_chunk *oldest, *newest;
    struct hsl_chunk *ahead; /* not yet used, but touched */
    size_t chunk_total;      /* bytes of all */
    enum hsl_touch touching;
    struct hsl_frame queue[HSL_QUEUE_MAX]; /* closed frames without a place */
    uint32_t queue_head, queue_len;
    struct hsl_frame open;
    bool has_open;
    uint8_t *last_block; /* newest block of the open frame, if it may be extended */
    struct hsl_shard *last_shard;
    uint64_t copying;    /* ticket of the frame that a caller copies into unlocked; 0 = none */
    size_t call_start;   /* where the blocks of the call in progress begin in the open frame */
    uint32_t call_blocks, call_extended; /* call_extended: payload bytes added to last_block */
    uint64_t thread_wakes_ns; /* when the sleeping writer thread wakes; 0 = it is awake */
    uint64_t claimed;    /* disk bytes promised to frames without a place */
    struct hsl_cached *cached;
    uint32_t cached_head, cached_len, cached_cap;
    uint64_t last_write_ns;
    bool idle_marked;
    pthread_t threads[HSL_FLIGHTS]; /* the writer thread first */
    uint32_t has_threads, beside_asleep;

    struct hsl_segment *active, *spare;
    bool reserve_ready;
    uint64_t last_segment, last_capacity;
    uint64_t last_regrouped; /* index_mu */
    bool regroup_stuck;      /* a new name may or may not be on disk */
    uint8_t *zeros; /* of prewrite_bytes */
    uint64_t epoch, salt;
    uint8_t uuid[16];
    int64_t lock_owner; /* whom LOCK names while this process holds it; -1 = it holds none */
    _Atomic uint64_t durable_at; /* segment << 32 | offset */
    uint64_t pred_uid, pred_end;
    uint32_t pred_crc;
    struct hsl_super super;

    int stage_fd;
    uint8_t *stage_map;
    size_t stage_map_len;
    uint64_t stage_head, stage_tail, stage_hole; /* stage_hole: ticket not in the ring */
    uint64_t stage_touched; /* bytes of the ring */
    bool os_stage;

    int tail_fd;
    struct hsl_tail_page *tail; /* one thread writes it at a time */
    size_t tail_len;            /* of the mapping: the page, and the ring behind it if any */
    uint64_t ring_bytes;        /* of the ring; 0 = none */
    uint64_t ring_end;          /* place up to which this writer filled it */
    _Atomic bool tail_valid; /* a follower found that it counts: it does until the machine boots */
    struct hsl_follow *follow;  /* a follower's place in the log; NULL before hsl_log_follow */

    pthread_mutex_t index_mu;
    struct hsl_shard **shards; /* open addressing, power of two; written under both mutexes */
    struct hsl_shard_slab *slabs; /* that hold them; the newest first */
    size_t shards_cap, shards_len;
    struct hsl_segment **segments; /* ascending number */
    size_t segments_len, segments_cap;
    uint64_t index_blocks, durable_order;
    uint32_t open_files;
    bool released; /* index_mu: closed, and files are opened no more */

    pthread_mutex_t pieces_mu;
    struct hsl_piece *pieces; /* cached parts of footers */
    size_t pieces_len;
    uint64_t pieces_clock;

    pthread_mutex_t marks_mu;
    struct hsl_marks **marks; /* sets of a few places */
    size_t marks_len;
    uint64_t marks_clock;

    struct hsl_segment *loaded;
    int loaded_fd; /* its file, in a follower and if it is not sealed; else -1 */
    pthread_mutex_t fetch_mu;
    pthread_cond_t wanted_cv, fetched_cv;
    pthread_t fetchers[HSL_FETCHES];
    uint32_t fetchers_len; /* fetch_mu */
    bool fetch_ends;       /* fetch_mu: there are to be no more */
    struct hsl_fetch *wanted;  /* fetch_mu: in the order in which they were asked for */

    uint64_t scan_frame, scan_number; /* scan_number: the segment that comes next */
    bool scan_hole;                   /* something before it is gone */
    struct hsl_range *lost;
    size_t lost_len, lost_cap;

    struct hsl_log_stats stats; /* stage_mu, except reads, bytes_read, cache_hits: index_mu */
    _Atomic uint64_t syncs, bytes_written, bytes_prewritten; /* the writer */
    _Atomic(struct hsl_shard *) used; /* meters; the one counted last first */
    struct hsl_shard *telling;        /* stage_mu: those of them that are being told */
    struct hsl_histogram append_latency, append_size; /* stage_mu */
    struct hsl_histogram read_latency;                /* index_mu */
};

extern _Atomic uint64_t hsl_fork_generation;

/* log.c */
int hsl_fail(struct hsl_log *log, const char *what, const char *path, int err); /* records text */
int hsl_status_of(int err);
int hsl_errno_of(int status);
bool hsl_forked(const struct hsl_log *log);
int hsl_state(const struct hsl_log *log); /* stage_mu held */
void hsl_path(const struct hsl_log *log, char *out, const char *name);
void hsl_segment_path(const struct hsl_log *log, char *out, uint64_t number);
uint64_t hsl_random(uint64_t *state);
int hsl_write_all(const struct hsl_io *io, int fd, const void *buf, size_t len, uint64_t off);
int hsl_read_all(const struct hsl_io *io, int fd, void *buf, size_t len, uint64_t off);
void *hsl_page_alloc(size_t len);
/* Makes a buffer of pages hold so many bytes, none of what it held; false without memory, and then
 * there is no buffer. */
bool hsl_page_room(uint8_t **buf, size_t *cap, size_t need);

/* notify.c */
void hsl_notify(int fd);

/* stage.c */
/* A row and a directory entry, in the footer and in a checkpoint, with LSNs, times and orders below
 * 2^49. Larger ones would make a footer reach beyond the space reserved for it, and no more. */
#define HSL_ROW_CLAIM 160u
enum hsl_stage_flag { HSL_STAGE_TRY = 1, HSL_STAGE_SYSTEM = 2, HSL_STAGE_OS = 4 };
int hsl_stage_begin(struct hsl_log *log, size_t bytes, uint32_t blocks, int flags);
int hsl_stage_room(struct hsl_log *log, size_t bytes, uint32_t blocks, int flags);
uint8_t *hsl_stage_block(struct hsl_log *log, struct hsl_shard *shard, int codec, uint32_t count,
                         uint32_t payload_len, uint32_t decoded_len, uint64_t *seq);
uint8_t *hsl_stage_extend(struct hsl_log *log, struct hsl_shard *shard, uint32_t payload_len,
                          bool any_time, uint64_t *first, uint32_t *index);
/* Where the payload of the next block will lie. Who writes there and gives up has done nothing. */
uint8_t *hsl_stage_next(const struct hsl_log *log);
/* May a call of so many bytes keep the lock all the time? */
bool hsl_stage_holds(const struct hsl_log *log, size_t bytes);
/* Unlocks until hsl_stage_commit, so that others go on while the caller copies into its blocks;
 * their ticket, or 0 if it may not and all is as before. */
uint64_t hsl_stage_copy(struct hsl_log *log, size_t bytes);
/* Ends the call that hsl_stage_begin started and unlocks. copied: of hsl_stage_copy, or 0; waits =
 * the caller goes on to wait; *safe = a copy is in the mapped stage. */
uint64_t hsl_stage_commit(struct hsl_log *log, uint64_t copied, bool waits, bool *safe);
void hsl_stage_abort(struct hsl_log *log);
int hsl_stage_empty_frame(struct hsl_log *log, uint32_t flags);
void hsl_stage_close_frame(struct hsl_log *log);
uint64_t hsl_last_ticket(const struct hsl_log *log); /* of what is staged; stage_mu held */
static inline size_t hsl_block_bytes(size_t payload)
{
    return hsl_align8(sizeof(struct hsl_block_header) + payload);
}

/* chunks.c */
/* A chunk with `need` free bytes at its end; NULL without memory, or when all that the stage may
 * take holds unwritten frames. stage_mu held. */
struct hsl_chunk *hsl_chunk_acquire(struct hsl_log *log, size_t need, bool *no_memory);
/* The same for a follower: what is free there is its own until hsl_chunk_keep. */
struct hsl_chunk *hsl_chunk_take(struct hsl_log *log, size_t need);
/* What was read there is checked, and whole frames of a segment from `off` on. */
void hsl_chunk_keep(struct hsl_log *log, struct hsl_chunk *chunk, uint64_t segment, uint64_t off,
                    size_t len);
void hsl_chunks_free(struct hsl_log *log);
/* Who begins a second chunk will use all that the stage may take, in turn. To touch memory for the
 * first time costs more than to copy records there, so a writer that has nothing to do does it
 * before. stage_mu held. */
bool hsl_stage_untouched(const struct hsl_log *log);
void hsl_stage_touch(struct hsl_log *log); /* one more chunk; stage_mu is released meanwhile */
/* Remembers where a durable frame lies in memory. stage_mu held. */
void hsl_cache_add(struct hsl_log *log, const struct hsl_frame *frame, uint64_t segment,
                   uint64_t off);
/* The chunk that holds [off, off + len) of the segment, pinned until unpinned; NULL if none. */
struct hsl_chunk *hsl_cache_pin(struct hsl_log *log, uint64_t segment, uint64_t off, size_t len,
                                const uint8_t **mem);
void hsl_cache_unpin(struct hsl_log *log, struct hsl_chunk *chunk);

/* zeros.c */
/* Before a frame of a group of so many bytes is laid out at `end`; `writing` held. */
int hsl_zeros_before(struct hsl_log *log, uint64_t end, uint64_t len, uint64_t group);
/* Returns when no zeros will be written below `end`; `writing` held. */
void hsl_zeros_await(struct hsl_log *log, uint64_t end);
bool hsl_zeros_due(struct hsl_log *log); /* stage_mu held */
int hsl_zeros_ahead(struct hsl_log *log); /* stage_mu held, minding; released between */

/* group.c */
/* Makes a header with body, flags and `durable` set that of the next frame of a segment. */
void hsl_frame_finish(struct hsl_segment *segment, struct hsl_frame_header *header, uint64_t off);
bool hsl_group_fits(const struct hsl_log *log, const struct hsl_frame *frame, uint64_t taken);
void hsl_group_take(struct hsl_log *log, struct hsl_group *group);
int hsl_group_build(struct hsl_log *log, struct hsl_group *group);
void hsl_group_place(struct hsl_log *log, struct hsl_group *group);
int hsl_group_write(struct hsl_log *log, struct hsl_group *group);
int hsl_group_publish(struct hsl_log *log, const struct hsl_group *group);
void hsl_group_finish(struct hsl_log *log, struct hsl_group *group);

/* writer.c; stage_mu held in all but the threads */
bool hsl_staged(const struct hsl_log *log);
bool hsl_may_submit(const struct hsl_log *log);
bool hsl_may_lead(const struct hsl_log *log);
void hsl_lead(struct hsl_log *log); /* hsl_may_lead; released between */
void hsl_get_on(struct hsl_log *log);
void hsl_turn_take(struct hsl_log *log);
void hsl_turn_give(struct hsl_log *log);
void hsl_pass_on(struct hsl_log *log); /* wakes who waits to go on */
void hsl_poison(struct hsl_log *log, int rc);
bool hsl_wants_write(struct hsl_log *log, uint64_t now);
uint64_t hsl_due(const struct hsl_log *log);
pthread_cond_t *hsl_woken_by_staging(struct hsl_log *log);
void *hsl_writer_main(void *log);
void *hsl_beside_main(void *log);

/* wait.c; stage_mu held in all but the first */
struct timespec hsl_deadline(uint64_t ns); /* from now on, by HSL_WAIT_CLOCK */
void hsl_wake_all(struct hsl_log *log);
void hsl_wake_durable(struct hsl_log *log, uint64_t before, uint64_t durable);
void hsl_wake_writer(struct hsl_log *log);

/* segment.c */
uint64_t hsl_segment_room(const struct hsl_segment *segment);
void hsl_segment_free(struct hsl_log *log, struct hsl_segment *segment);
void hsl_segments_release(struct hsl_log *log);
struct hsl_segment *hsl_segment_new(uint64_t number);
/* Both with index_mu held. */
int hsl_segments_add(struct hsl_log *log, struct hsl_segment *segment);
void hsl_segments_remove(struct hsl_log *log, const struct hsl_segment *segment);
struct hsl_segment *hsl_segment_find(struct hsl_log *log, uint64_t number);
uint64_t hsl_claim(size_t bytes, uint32_t blocks);
int hsl_segments_tidy(struct hsl_log *log);
void hsl_segments_forget(struct hsl_log *log, const uint64_t *numbers, size_t count);

/* The segments of level 0 in whose place one stands: itself, or those it replaces. */
static inline uint64_t hsl_segment_first(const struct hsl_segment *segment)
{
    return segment->number < HSL_LEVEL_1 ? segment->number : segment->cover.first;
}
static inline uint64_t hsl_segment_last(const struct hsl_segment *segment)
{
    return segment->number < HSL_LEVEL_1 ? segment->number : segment->cover.last;
}
/* The same with what the last of them ended with; sealed ones only, or by who writes it. */
struct hsl_segment_cover hsl_segment_covers(const struct hsl_segment *segment);

/* spare.c */
int hsl_spare_create(struct hsl_log *log, uint64_t need, bool system); /* alone or minding */
/* What is staged must not count on its room. stage_mu held, released meanwhile; alone or
 * minding. */
void hsl_spare_discard(struct hsl_log *log);
int hsl_roll(struct hsl_log *log);                                      /* alone */

/* seal.c */
int hsl_seal(struct hsl_log *log, struct hsl_segment *segment);
int hsl_seal_in_memory(struct hsl_log *log, struct hsl_segment *segment);
/* *out: the footer of a segment whose rows are in memory, as it goes to the file. */
int hsl_footer_build(const struct hsl_segment *segment, uint8_t **out, size_t *len,
                     struct hsl_trailer *trailer);
int hsl_segment_footer(struct hsl_segment *segment, const struct hsl_trailer *trailer,
                       const uint8_t *crcs);

/* readers.c */
int hsl_segment_reader(struct hsl_log *log, uint64_t number, struct hsl_segment **out, int *fd);
/* As hsl_segment_reader, for reads that must not wait: HSL_AGAIN where they would. */
int hsl_segment_cached_reader(struct hsl_log *log, uint64_t number, struct hsl_segment **out,
                              int *fd);
/* Of a segment that was just sealed: what reads it now need not be aligned. index_mu held. */
void hsl_segment_end_direct(struct hsl_log *log, struct hsl_segment *segment);
void hsl_segment_unread(struct hsl_log *log, struct hsl_segment *segment);
void hsl_segment_close_handle(struct hsl_log *log, int *fd);

/* regroup.c */
struct hsl_segment *hsl_regroup_take(struct hsl_regroup *regroup, struct hsl_trailer *trailer,
                                     uint8_t **footer);

/* super.c */
int hsl_super_write(struct hsl_log *log);
void hsl_place_note(struct hsl_log *log);
int hsl_place_check(struct hsl_log *log);

/* osstage.c */
bool hsl_os_stage_room(const struct hsl_log *log, size_t bytes);
bool hsl_os_stage_presses(const struct hsl_log *log); /* a quarter is left */
bool hsl_os_stage_untouched(const struct hsl_log *log);
void hsl_os_stage_touch(struct hsl_log *log); /* stage_mu held; released meanwhile */
/* Room for one checked entry of `len` bytes; hsl_os_stage_publish makes it count. */
uint8_t *hsl_os_stage_put(struct hsl_log *log, size_t len);
void hsl_os_stage_publish(struct hsl_log *log, uint8_t *entry, const uint8_t *blocks, size_t len,
                          uint32_t count);
void hsl_os_stage_release(struct hsl_log *log, uint64_t end);
int hsl_os_stage_enable(struct hsl_log *log);
void hsl_os_stage_close(struct hsl_log *log);

/* tail.c */
enum hsl_tail_state { HSL_TAIL_STARTING = 1, HSL_TAIL_OPEN = 2, HSL_TAIL_CLOSED = 3 };
/* By who syncs a group, or holds `writing` with none in flight. */
void hsl_tail_publish(struct hsl_log *log, enum hsl_tail_state state);
/* Before it: the frames of a group that became durable, for followers to take from memory. */
void hsl_tail_keep(struct hsl_log *log, const struct hsl_group *group);
/* Copies [off, off + len) of a segment, all of it durable, from there; false if it is not there. */
bool hsl_tail_copy(struct hsl_log *log, uint64_t segment, uint64_t off, size_t len, uint8_t *out);
void hsl_tail_close(struct hsl_log *log);
/* REPLACED if another page, or none, has the name of the one that a follower mapped. */
int hsl_tail_check(struct hsl_log *log);

/* follow.c */
/* Pauses, no longer than `until` (NULL = any), and looks whether there is more; false if another
 * who waits does, or this is no follower. stage_mu held, released between. */
bool hsl_follow_watch(struct hsl_log *log, const struct timespec *until);
/* How late the system may end the pauses of this thread: by itself, by as much as they last.
 * Returns what was set before. */
#define HSL_FOLLOW_SLACK_NS 1000
int hsl_follow_slack(int ns);
void hsl_follow_close(struct hsl_log *log);
void hsl_follow_free(struct hsl_log *log);

/* index.c */
struct hsl_shard *hsl_shard_get(struct hsl_log *log, uint64_t id);
struct hsl_shard *hsl_shard_add(struct hsl_log *log, uint64_t id);
int hsl_index_insert(struct hsl_log *log, struct hsl_segment *segment, uint64_t shard,
                     const struct hsl_entry *entry); /* index_mu held */
#define HSL_FETCHED 16
void hsl_index_fetch(struct hsl_log *log, const uint64_t *shards, uint32_t count);
int hsl_rows_push(struct hsl_segment *segment, const struct hsl_row *row);
int hsl_run_insert(struct hsl_log *log, struct hsl_segment *segment,
                   const struct hsl_run *run); /* index_mu held */
/* Puts a run in the place of the entries that a segment had before it was sealed. */
int hsl_run_seal(struct hsl_log *log, struct hsl_segment *segment, const struct hsl_run *run);
/* Puts a run in the place of those that have its records now. */
void hsl_run_replace(struct hsl_log *log, struct hsl_segment *segment, const struct hsl_run *run);
size_t hsl_index_find(const struct hsl_shard *shard, uint64_t lsn); /* index into entries */
/* The run that holds lsn, or the first behind it; NULL if none. */
const struct hsl_run *hsl_run_find(const struct hsl_shard *shard, uint64_t lsn);
void hsl_shards_free(struct hsl_log *log);
/* The row of a block that lies at `off`. */
static inline struct hsl_row hsl_block_row(const struct hsl_block_header *h, uint64_t off)
{
    return (struct hsl_row){
        .shard = h->shard,
        .seq = h->seq,
        .order = h->order,
        .time_ms = h->time_ms,
        .off8 = (uint32_t)(off / 8),
        .len = (uint32_t)sizeof *h + h->ext_len + h->payload_len,
        .count = h->count,
    };
}
static inline struct hsl_entry hsl_row_entry(const struct hsl_row *row, uint64_t segment)
{
    return (struct hsl_entry){
        .seq = row->seq,
        .order = row->order,
        .time_ms = row->time_ms,
        .segment = (uint32_t)segment,
        .off8 = row->off8,
        .len = row->len,
        .count = row->count,
    };
}

/* footer.c */
#define HSL_FOOTER_PIECE 16384u
#define HSL_ROW_GROUP 64u
#define HSL_ROW_MAX 45u /* count 5, length 5, offset 5, time 10, order 10, and the LSN 10 */
struct hsl_footer_size {
    size_t rows, dir;
    uint32_t shards;
};
size_t hsl_footer_bound(size_t rows);
int hsl_footer_encode(const struct hsl_row *rows, size_t count, uint8_t *out,
                      struct hsl_footer_size *size);
typedef int (*hsl_run_fn)(void *ctx, const struct hsl_run *run);
int hsl_dir_decode(const uint8_t *dir, size_t len, uint64_t rows_len, uint32_t shards,
                   uint32_t blocks, hsl_run_fn fn, void *ctx);
typedef int (*hsl_row_fn)(void *ctx, const struct hsl_row *row);
int hsl_rows_decode(const struct hsl_run *run, const uint8_t *rows, hsl_row_fn fn, void *ctx);
bool hsl_group_head(const uint8_t *at, const uint8_t *end, struct hsl_row *row);
const uint8_t *hsl_group_decode(const uint8_t *at, const uint8_t *end, uint64_t shard,
                                uint32_t count, struct hsl_row *out);
/* Bytes of the table of group offsets in front of so many rows. */
static inline size_t hsl_group_table(uint32_t blocks)
{
    return blocks > HSL_ROW_GROUP ? (size_t)(blocks + HSL_ROW_GROUP - 1) / HSL_ROW_GROUP * 4 : 0;
}

/* pieces.c */
struct hsl_piece {
    uint32_t segment, index, len;
    uint64_t used;
    uint8_t *bytes;
};
/* Copies bytes [off, off + len) of the rows of a sealed segment. AGAIN: they must be read from the
 * file and may_block is false. NOT_FOUND: the segment is gone. DAMAGED: neither footer nor frames
 * of the segment verify. */
int hsl_pieces_read(struct hsl_log *log, uint32_t segment, uint64_t off, size_t len, uint8_t *dst,
                    bool may_block);
void hsl_pieces_keep(struct hsl_log *log, const struct hsl_segment *segment, const uint8_t *rows);
void hsl_pieces_announce(struct hsl_log *log, const struct hsl_run *run);
void hsl_pieces_free(struct hsl_log *log);

/* marks.c */
#define HSL_MARKS_MAX 64u
struct hsl_mark {
    uint32_t crc;       /* of the bytes of the block in this part */
    uint32_t index, at; /* the first record that begins in it or behind, and where in the body */
};
/* A block that was checked, in parts: whole pages of the file, of which the first and the last hold
 * bytes of others too. */
struct hsl_marks {
    uint64_t used;
    uint32_t segment, off8, len;
    uint32_t part_bytes, parts;
    struct hsl_block_header header;
    struct hsl_mark mark[HSL_MARKS_MAX + 1]; /* as many as parts, and one for the end */
};
static inline size_t hsl_marks_bytes(uint32_t parts)
{
    return offsetof(struct hsl_marks, mark) + (parts + 1) * sizeof(struct hsl_mark);
}
/* Offsets in the file: of the body, and of the bytes of the block in a part. */
static inline uint64_t hsl_marks_body(const struct hsl_marks *m)
{
    return (uint64_t)m->off8 * 8 + sizeof m->header + m->header.ext_len;
}
static inline uint64_t hsl_marks_page(const struct hsl_marks *m, uint32_t part)
{
    return ((uint64_t)m->off8 * 8 & ~(uint64_t)(HSL_PAGE - 1)) + (uint64_t)part * m->part_bytes;
}
static inline uint64_t hsl_marks_from(const struct hsl_marks *m, uint32_t part)
{
    return part > 0 ? hsl_marks_page(m, part) : (uint64_t)m->off8 * 8;
}
static inline uint64_t hsl_marks_to(const struct hsl_marks *m, uint32_t part)
{
    uint64_t end = (uint64_t)m->off8 * 8 + m->len, to = hsl_marks_page(m, part + 1);
    return to < end ? to : end;
}
bool hsl_marks_get(struct hsl_log *log, const struct hsl_entry *entry, struct hsl_marks *out);
/* Of a block that verifies. */
void hsl_marks_add(struct hsl_log *log, const struct hsl_entry *entry, const uint8_t *block);
void hsl_marks_free(struct hsl_log *log);

/* seek.c */
enum hsl_key { HSL_KEY_LSN, HSL_KEY_TIME, HSL_KEY_ORDER };
/* Decodes up to HSL_ROW_GROUP rows of a run into out, from the group on that holds the first row
 * whose key is at least value (for an LSN: the row that holds it). */
int hsl_run_rows(struct hsl_log *log, const struct hsl_run *run, enum hsl_key key, uint64_t value,
                 bool may_block, struct hsl_row *out, uint32_t *count);

/* cursor.c */
struct hsl_cursor *hsl_cursor_new(struct hsl_log *log, uint64_t shard, uint64_t lsn);
void hsl_cursor_free(struct hsl_cursor *cursor);
void hsl_cursor_seek(struct hsl_cursor *cursor, uint64_t lsn);
uint64_t hsl_cursor_lsn(struct hsl_cursor *cursor);
/* Nothing from this LSN on will be asked for, unless it is UINT64_MAX: so it is not read ahead. */
void hsl_cursor_until(struct hsl_cursor *cursor, uint64_t lsn);
struct hsl_block_view {
    struct hsl_block_header header;
    const uint8_t *payload; /* bytes [from, from + len) of the payload; all, if it is compressed */
    size_t from, len;
    uint32_t first, end; /* records [first, end) are in them */
    uint32_t index; /* a record that is not behind the cursor's LSN, */
    size_t at;      /* and where that begins in the plain body */
};
#define HSL_WHOLE UINT64_MAX
/* Where to look for a block: in what the process has in memory; for a cursor that uses it, also in
 * what the system has of files; or on the disk. */
enum hsl_patience { HSL_AT_HAND, HSL_CACHED, HSL_MAY_BLOCK };
/* The block that holds the cursor's LSN, or part of it, if no more than so many records are wanted,
 * and not HSL_WHOLE; its memory stays until hsl_cursor_release. AGAIN: patience does not go as far
 * as where it is. TRIMMED, once: the cursor moved to the first kept. */
int hsl_cursor_view(struct hsl_cursor *cursor, enum hsl_patience patience, uint64_t records,
                    struct hsl_block_view *out);
void hsl_cursor_release(struct hsl_cursor *cursor);
/* Whether the cursor's LSN is in what this view of it shows, which may be none yet (count 0); the
 * view then tells where to begin. */
bool hsl_cursor_resume(const struct hsl_cursor *cursor, struct hsl_block_view *view);
/* Steps over records of the block in view, behind which the plain body goes on at byte `at`. */
void hsl_cursor_advance(struct hsl_cursor *cursor, const struct hsl_block_view *view,
                        uint64_t records, size_t at);
/* Whether the block that begins at this LSN is another one than that asked about last. */
bool hsl_cursor_enters(struct hsl_cursor *cursor, uint64_t block);
/* Counts what was read; tells what was since it was told last. */
void hsl_cursor_count(struct hsl_cursor *cursor, uint64_t bytes, uint64_t records,
                      uint64_t batches);
void hsl_cursor_tell(struct hsl_cursor *cursor, uint64_t *bytes, uint64_t *records);
/* The plain body of a compressed block, kept while the cursor stands in it; NULL if it is not. */
const uint8_t *hsl_cursor_body(struct hsl_cursor *cursor, const struct hsl_block_view *view,
                               size_t *len);
void hsl_cursor_keep_body(struct hsl_cursor *cursor, const struct hsl_block_view *view,
                          const uint8_t *body, size_t len);

/* ahead.c */
#define HSL_GAP_MAX (32u << 10) /* bytes between two blocks that are read rather than left out */
void hsl_rows_entries(const struct hsl_run *run, const struct hsl_row *rows, uint32_t count,
                      struct hsl_entry *out);
/* What lies behind offset `from` of blocks of one file, in its order, but for what is close. */
void hsl_announce_blocks(struct hsl_log *log, int fd, const struct hsl_entry *entries,
                         uint32_t len, uint64_t from);
struct hsl_pages {
    uint64_t from, end;
};
/* What lies behind a run that is read: the rows of the next runs, and the first blocks of the next
 * one as soon as its rows have had the time to come; of a large run at its end. */
struct hsl_ahead {
    uint64_t run;                /* the end of the last run whose next blocks were asked for */
    uint64_t rows;               /* LSN up to which rows were asked for */
    uint64_t blocks, blocks_end; /* LSNs of the blocks that were */
};
/* `now` is read from fd next: it is asked for before the rows, if there are any. */
void hsl_announce_behind(struct hsl_log *log, const struct hsl_run *run, int fd,
                         const struct hsl_pages *now, bool at_end, struct hsl_ahead *ahead);

/* fetch.c */
struct hsl_fetches; /* of one cursor */
/* Asks for pieces of a segment, in the place of what was asked for before and is none of these;
 * *fetches is NULL at first. Nothing comes of it while another is being read in its place, or
 * without threads or memory. At most HSL_FETCHES pieces. */
void hsl_fetch_ask(struct hsl_log *log, struct hsl_fetches **fetches, uint64_t segment,
                   const struct hsl_pages *pages, uint32_t count);
/* OK: what was asked for from there on is in *buf, as far as it could be read, and what was there
 * is the fetch's. AGAIN: it is being read. NOT_FOUND: it is not, or was not asked for. */
int hsl_fetch_take(struct hsl_log *log, struct hsl_fetches *fetches, uint64_t segment,
                   uint64_t from, bool may_block, uint8_t **buf, size_t *cap, size_t *got);
/* Waits for nothing. */
void hsl_fetch_free(struct hsl_log *log, struct hsl_fetches *fetches);
/* Ends the threads; nothing is read ahead from now on. */
void hsl_fetch_end(struct hsl_log *log);

/* intake.c */
/* The rows of a sealed segment as its footer should hold them, found again in its frames; DAMAGED
 * if those do not verify or are others than the trailer counted. The caller frees *rows. */
int hsl_segment_rows(struct hsl_log *log, const struct hsl_segment *segment, int fd,
                     uint8_t **rows);
int hsl_block_check(const uint8_t *block, size_t room, struct hsl_block_header *out);

/* scan.c */
void hsl_scan_keep(struct hsl_log *log, int fd);

/* catchup.c */
/* For a segment that is written elsewhere and read here at the same time: walks on to `upto`, all
 * of which is durable; DAMAGED with the reason in the report. */
int hsl_scan_on(struct hsl_log *log, struct hsl_segment *segment, int fd, uint64_t upto,
                struct hsl_segment_report *report);
/* The same to the end of a segment that was sealed, which is s->sealed if its footer is sound. */
int hsl_scan_seal(struct hsl_log *log, struct hsl_segment *segment, int fd,
                  struct hsl_segment_report *report);
/* Puts one of level 1 in the place of segments. Those up to number `after` are known; from
 * `unsealed` on, not to their ends. AGAIN if it begins behind the ones or reaches the others. */
int hsl_scan_adopt(struct hsl_log *log, uint64_t number, uint64_t after, uint64_t unsealed,
                   struct hsl_segment_report *report);

#endif
