/* Order by key over the window of one shard of one subscription: who may get which record.
 *
 * Records of one key form a chain in log order. Of a chain, a prefix is in the hands of one
 * consumer at most; what follows waits. It may follow to that consumer at any time, and to any
 * other once all of the prefix is acked. A record that comes back takes all later ones of its key
 * with it, so that what is handed out of a key always is a prefix; those that were taken along are
 * held in the ack map: their acks are void until they are handed out again. Records without a key
 * are chains of their own. Keys are told apart by hash: two that collide are one, which costs speed
 * and no order.
 *
 * What goes out together is a parcel: the runs of a lease, with one deadline.
 *
 * A record is waiting (nobody has it), reserved, or out. `scan` is where handing out goes on in the
 * log: records from there on have no place in any chain yet; their keys must be described first.
 *
 * Not thread-safe: called with the GIL held throughout, as acks of the same map are (ackmap_api.h).
 * What may have to allocate does so before it changes anything.
 */
struct hsl_keytab;

/* Records [first, first + count) as the given attempt. */
struct hsl_key_run {
    uint64_t first;
    uint32_t count;
    uint32_t attempt;
};

/* Joins runs that follow one another, and cuts off what lies below low; returns how many are left.
 */
size_t hsl_key_runs_join(struct hsl_key_run *runs, size_t n, uint64_t low);

/* A record that came back, and how often it did by itself so far. */
struct hsl_key_head {
    uint64_t lsn;
    uint32_t failures;
    uint32_t attempts;
};

/* Unacked records of [first, end) that are out until a time. */
struct hsl_key_out {
    int64_t due;
    uint64_t first, end, open;
};

enum hsl_key_due { HSL_KEY_RESERVED = -1 };

struct hsl_key_state {
    uint64_t scan;
    uint64_t described;
    uint64_t fresh;   /* unacked records below next that were never handed out or reserved */
    uint64_t again;   /* unacked ones that were, and nobody has */
    uint64_t window;  /* records that have a place */
    uint64_t owned;   /* keys whose owner may have more of them */
    uint64_t handed;  /* runs that hsl_keytab_handed would return */
    uint64_t keys;
    uint64_t bytes;   /* of memory */
};

/* The map must outlive it. Scanning begins at its low. NULL: no memory. */
struct hsl_keytab *hsl_keytab_new(struct hsl_ackmap *acks);
void hsl_keytab_free(struct hsl_keytab *t);
void hsl_keytab_state(struct hsl_keytab *t, struct hsl_key_state *out);
/* From now on records that were handed out and wait again are not held: acks of them count, which
 * come late. Before anything is taken. */
void hsl_keytab_late_acks(struct hsl_keytab *t);
/* Takes over how often each record of [low, next) was handed out, before anything is. The acked
 * ones do not count; those of doom_at times and more (0: none) are delayed. -ENOMEM: nothing
 * changed. */
int hsl_keytab_restore(struct hsl_keytab *t, const uint32_t *attempts, size_t n, uint32_t doom_at);
/* Appends hashes (0 = no key) of the records from `first` on. -ERANGE unless first is `described`;
 * -ENOMEM. */
int hsl_keytab_describe(struct hsl_keytab *t, uint64_t first, const uint64_t *hashes, size_t n);

/* Reserves up to max records for a consumer (from 1 on), of which at most `fresh` were never handed
 * out before; scans up to `end` at most. They go to *parcel, which is reserved, or for 0 to a new
 * one; *parcel is 0 then if there are none. Returns how many there are; hsl_keytab_runs are in the
 * order to be sent in. -ENOMEM. */
int64_t hsl_keytab_take(struct hsl_keytab *t, uint32_t consumer, uint32_t *parcel, uint64_t max,
                        uint64_t fresh, uint64_t end);
/* The first `count` records of a reserved parcel are out until `due`; the others, and their
 * followers, wait again as if they had not been reserved. Leaves out what is acked or gone. Returns
 * how many are out: the parcel's runs are what they are now, and without any it is gone.
 * -ENOMEM. */
int64_t hsl_keytab_confirm(struct hsl_keytab *t, uint32_t parcel, uint64_t count, int64_t due);
/* All records of a parcel are out until `due` that were reserved a moment ago: nothing was acked,
 * taken back or passed by since. */
void hsl_keytab_start(struct hsl_keytab *t, uint32_t parcel, int64_t due);
/* Takes back what of a parcel is unacked; *count how many were out. In out, which takes
 * hsl_keytab_records, those behind which others of their key wait, or which have no key: each may
 * be delayed. Returns their number, and the parcel is gone; or -ENOMEM. */
int64_t hsl_keytab_take_back(struct hsl_keytab *t, uint32_t parcel, struct hsl_key_head *out,
                             uint64_t *count);
/* The same for what the consumer has out of [first, end); out gets all of it. */
int64_t hsl_keytab_release(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end,
                           struct hsl_key_head *out, uint64_t *count);
/* The same, as if it had never been handed out: it has one attempt less. */
int64_t hsl_keytab_unsend(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end,
                          struct hsl_key_head *out, uint64_t *count);
/* Has what the consumer has out of [first, end) due at a time, unless it is due later, as parcels
 * of their own; returns how many records it has there, or -ENOMEM. */
int64_t hsl_keytab_extend(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end,
                          int64_t due);

/* A parcel that is out and of which nothing is unacked may be gone after any take. */

/* Whether there is a parcel of this number; the others ask for one that there is. */
int hsl_keytab_has(const struct hsl_keytab *t, uint64_t parcel);
/* Records of a parcel, those that are done included, but for some. */
uint64_t hsl_keytab_records(struct hsl_keytab *t, uint32_t parcel);
/* Its runs, until the table is changed. */
const struct hsl_key_run *hsl_keytab_runs(struct hsl_keytab *t, uint32_t parcel, size_t *len);
/* Its unacked records, and those of them that it is the first attempt of. */
uint64_t hsl_keytab_open(struct hsl_keytab *t, uint32_t parcel);
uint64_t hsl_keytab_fresh_in(struct hsl_keytab *t, uint32_t parcel);
/* The parcel that a consumer has held next longest, behind one or (0) first; 0: there is none. */
uint32_t hsl_keytab_next_held(struct hsl_keytab *t, uint32_t consumer, uint32_t parcel);
/* The parcel that is due first, and when; 0: nothing unacked is out. */
uint32_t hsl_keytab_next_due(struct hsl_keytab *t, int64_t *due);
/* Writes what is unacked of a parcel that is out, run by run; out takes as many as it has runs. */
size_t hsl_keytab_out(struct hsl_keytab *t, uint32_t parcel, struct hsl_key_out *out);
/* When an unacked record is due; HSL_KEY_RESERVED: it is not out. */
int64_t hsl_keytab_due_of(struct hsl_keytab *t, uint64_t lsn);
/* The first unacked record below an LSN that is out; 0: there is none. */
uint64_t hsl_keytab_first_out(struct hsl_keytab *t, uint64_t end);
/* 1 if the consumer has all of [first, end) out, none of it acked. */
int hsl_keytab_holds(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end);
/* The runs that went out since hsl_keytab_told, in that order, without what is below low; good
 * until the table is changed. */
size_t hsl_keytab_handed(struct hsl_keytab *t, uint64_t low, const struct hsl_key_run **runs);
void hsl_keytab_told(struct hsl_keytab *t);

/* This waiting record does not go out before `wake`, nor do those behind it. 0 if it is none. */
int hsl_keytab_delay(struct hsl_keytab *t, uint64_t lsn);
/* Has the ack of a waiting record count, though others of its key come before it, until one of
 * those comes back. 0 if it is acked or gone; -ENOMEM. */
int hsl_keytab_expose(struct hsl_keytab *t, uint64_t lsn);
void hsl_keytab_wake(struct hsl_keytab *t, uint64_t lsn);

/* Whether take would hand out something, or scan. */
int hsl_keytab_ready(struct hsl_keytab *t, uint32_t consumer, uint64_t fresh, uint64_t end);
/* Writes the runs of unacked records that were handed out, with the number of times, from *lsn on
 * and moves it on; returns how many, less than cap at the end. */
size_t hsl_keytab_attempts(struct hsl_keytab *t, uint64_t *lsn, struct hsl_key_run *out,
                           size_t cap);
/* 0, or the number of the first rule that is broken. Linear in the window; for tests. */
int hsl_keytab_check(struct hsl_keytab *t);
