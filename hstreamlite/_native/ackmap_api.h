/* Ack bitmap: which records of one shard one subscription has still to see acked.
 *
 * Sequence numbers (LSNs) are dense from 1. `low` is the smallest unacked one, `next` the first
 * that was never handed out; between them every record is acked, unacked, or unacked and held. An
 * ack of a held record is void: it is reserved but not yet delivered, or was taken back from its
 * consumer.
 * Storage is circular over [low, next), grows by doubling and never shrinks. Only
 * hsl_ackmap_advance and hsl_ackmap_new allocate; an ack never fails for memory.
 *
 * Not thread-safe. The functions of py_ack.c hold the GIL from entry to return and run no Python
 * code while they touch a map, which makes each of them atomic. A caller from cffi drops the GIL,
 * so there only new and free may be used on a map that other threads can reach.
 */
enum hsl_ack_flag {
    HSL_ACK_NEW = 1,
    HSL_ACK_DUPLICATE = 2,
    HSL_ACK_UNKNOWN = 4,
    HSL_ACK_VOID = 8,
    HSL_ACK_ATTENTION = 16
};

enum hsl_ack_kind {
    HSL_ACK_KIND_UNACKED = 0,
    HSL_ACK_KIND_ACKED = 1,
    HSL_ACK_KIND_HELD = 2
};

struct hsl_ack_run {
    uint64_t first;
    uint64_t end;
};

struct hsl_ack_counts {
    uint64_t fresh;
    uint64_t duplicate;
    uint64_t voided;
    unsigned flags;
};

struct hsl_ack_state {
    uint64_t origin;       /* below it nothing was ever delivered */
    uint64_t low;
    uint64_t next;
    uint64_t acked;        /* acked records in [low, next) */
    uint64_t held;         /* held records in [low, next) */
    uint64_t acked_since;  /* newly acked since the last drain */
};

struct hsl_ackmap;

/* NULL when memory is short or low is not in 1..2^62 or span_max not in 1..2^40. */
struct hsl_ackmap *hsl_ackmap_new(uint64_t low, uint64_t span_max);
void hsl_ackmap_free(struct hsl_ackmap *m);
void hsl_ackmap_state(const struct hsl_ackmap *m, struct hsl_ack_state *out);
/* Records newly acked since the map was made; hsl_ackmap_reset leaves that as it is. */
uint64_t hsl_ackmap_acked_ever(const struct hsl_ackmap *m);

/* Forgets everything and starts at low; keeps the storage. */
void hsl_ackmap_reset(struct hsl_ackmap *m, uint64_t low);
/* Raises next; the new records are unacked, and held if hold is set. 0; -ERANGE when next would
 * fall back or exceed low + span_max; -ENOMEM. On failure the map is unchanged. */
int hsl_ackmap_advance(struct hsl_ackmap *m, uint64_t next, int hold);
/* Makes room for advancing to next, which then cannot fail for memory. */
int hsl_ackmap_reserve(struct hsl_ackmap *m, uint64_t next);
/* Holds (or frees) the unacked records of [first, end) within [low, next). */
void hsl_ackmap_hold(struct hsl_ackmap *m, uint64_t first, uint64_t end, int hold);

/* Acks one record: NEW, DUPLICATE, VOID or UNKNOWN, plus ATTENTION when the records acked since the
 * last drain have reached the threshold. */
unsigned hsl_ackmap_ack(struct hsl_ackmap *m, uint64_t lsn);
/* Acks [first, end). If any of it is unknown, or it is empty: flags = UNKNOWN, nothing done. */
void hsl_ackmap_ack_range(struct hsl_ackmap *m, uint64_t first, uint64_t end,
                          struct hsl_ack_counts *out);
/* Acks a list, all or nothing like ack_range; an empty list does nothing. */
void hsl_ackmap_ack_list(struct hsl_ackmap *m, const uint64_t *lsns, size_t n,
                         struct hsl_ack_counts *out);
/* 1 if ack would say anything but UNKNOWN. */
int hsl_ackmap_known(const struct hsl_ackmap *m, uint64_t lsn);
void hsl_ackmap_attention(struct hsl_ackmap *m, uint64_t at);

/* Makes room for watching so many records more; -ENOMEM: nothing changed. */
int hsl_ackmap_may_watch(struct hsl_ackmap *m, size_t more);
/* Asks to be told when an unacked record is acked, or passed over. There must be room for it. */
void hsl_ackmap_watch(struct hsl_ackmap *m, uint64_t lsn);
/* Returns how many watched records were acked since the last call; *lsns until the next change. */
size_t hsl_ackmap_woken(struct hsl_ackmap *m, const uint64_t **lsns);
uint64_t hsl_ackmap_low(const struct hsl_ackmap *m);
/* 1 if a record is acked or below low. */
int hsl_ackmap_done(const struct hsl_ackmap *m, uint64_t lsn);
int hsl_ackmap_is_held(const struct hsl_ackmap *m, uint64_t lsn);

/* From now on the bytes of what is handed out can be counted, in totals, which must outlive the
 * map; a second call does nothing. -ENOMEM: nothing changed. */
int hsl_ackmap_weigh(struct hsl_ackmap *m, struct hsl_loads *totals);
/* Makes room for loading records below end, which then cannot fail. -ENOMEM: nothing changed. */
int hsl_ackmap_reserve_load(struct hsl_ackmap *m, uint64_t end);
/* Loads the unacked ones of n records from first on, for an owner that the totals have room for. */
void hsl_ackmap_load(struct hsl_ackmap *m, uint64_t first, const uint32_t *weights, size_t n,
                     uint32_t owner);
/* Drops what is loaded of [first, end). */
void hsl_ackmap_unload(struct hsl_ackmap *m, uint64_t first, uint64_t end);

/* Passes over records that no longer exist: everything below lsn counts as done, held or not; next
 * rises to lsn if it was below. Returns how many unacked records of [low, next) were passed. */
uint64_t hsl_ackmap_skip(struct hsl_ackmap *m, uint64_t lsn);

/* First unacked record at or after lsn and below next; next if there is none. */
uint64_t hsl_ackmap_next_unacked(const struct hsl_ackmap *m, uint64_t lsn);
/* Number of unacked records (held ones included) in [first, end) within [low, next). */
uint64_t hsl_ackmap_count(const struct hsl_ackmap *m, uint64_t first, uint64_t end);
/* Writes the maximal runs of the kind in [first, end) within [low, next), ascending, at most cap;
 * returns their number. Call again from the end of the last one when it equals cap. */
size_t hsl_ackmap_runs(const struct hsl_ackmap *m, int kind, uint64_t first, uint64_t end,
                       struct hsl_ack_run *out, size_t cap);
/* Writes runs acked above low since they were last drained, at most cap. */
size_t hsl_ackmap_unsaved(const struct hsl_ackmap *m, struct hsl_ack_run *out, size_t cap);
/* Keeps who stores what is acked, for whoever acks; NULL at first. */
void hsl_ackmap_save_by(struct hsl_ackmap *m, void *saver);
void *hsl_ackmap_saver(const struct hsl_ackmap *m);
/* Writes and forgets runs acked above low since they were last drained; resets acked_since once
 * fewer than cap are returned. */
size_t hsl_ackmap_drain(struct hsl_ackmap *m, struct hsl_ack_run *out, size_t cap);

/* 0, or the number of the first rule that the map breaks. Linear in the span; for tests. */
int hsl_ackmap_check(const struct hsl_ackmap *m);
