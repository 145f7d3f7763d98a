/* What the files of the key table share; the rules are in keytab_api.h.
 *
 *   keytab.c     cells, keys and the lists of those for which something waits
 *   keytake.c    handing out
 *   keyback.c    coming back
 *   keyparcel.c  parcels and their deadlines
 *   keylook.c    looking, and the check of all rules
 *
 * A circular array of cells, one a record of [base, scan); slots that tell by hash the last record
 * of a key; keys, of those of which several records meet or something waits; and lists of the keys
 * for which something waits.
 *
 *   cell   tag, key, distance to the next record of the key, parcel, attempts, failures
 *   key    head (first unacked record), todo (first that waits), tail, owner; the list it is in
 *
 *   head ..... todo ..... tail        [head, todo) is in the hands of `owner`, some of it acked;
 *    owner's    waiting               without todo nothing waits; head == todo: nobody has any
 *
 * Most records meet no other of their key: a slot that tells of none in [base, scan) says so at one
 * look, and nothing has to be taken out of it when they are acked. Of a slot the last records of
 * its keys are linked, later ones first. A record that meets an unacked one of its key makes a key
 * of them.
 *
 * A key is forgotten when all of its records are acked, which is noticed when somebody asks, or
 * when low passes its tail. Acks that something waits for are noticed through the map's watched
 * bits: of a key for which something waits, head and todo are watched.
 */
#ifndef HSL_KEYTAB_H
#define HSL_KEYTAB_H

#include "hsl.h"

#include <stdbool.h>

#define NO_KEY UINT32_MAX
#define NO_PLACE UINT32_MAX
#define FAILURES_MAX 8191u
#define KEYS_AHEAD 8u /* how soon memory is asked for that is looked at next */

enum { NOWHERE, DELAYED, AGAIN, FRESH, MINE }; /* MINE + consumer */
enum { WAITING, RESERVED, OUT };

struct cell {
    uint32_t tag;   /* of its key; 0: it has none */
    uint32_t older; /* low half of the LSN of the next of its slot; below base it is none */
    uint32_t key;   /* NO_KEY: it has met no other */
    uint32_t next;  /* LSNs to the next record of the key; 0 = the last */
    uint32_t parcel;
    uint16_t attempts;
    uint16_t failures : 13;
    uint16_t state : 2;
    uint16_t delayed : 1;
};

struct key {
    uint32_t head, todo, tail; /* low halves of LSNs */
    uint32_t owner;
    uint32_t list;
    uint32_t before, behind; /* in its list, or behind: of the free ones */
    bool used, waits;        /* waits: todo counts */
};

struct list {
    uint32_t first, last;
};

struct parcel {
    struct hsl_key_run *runs;
    uint32_t len, at; /* nothing is unacked in the runs before `at` */
    uint32_t consumer; /* 0: it is free */
    uint32_t before, behind; /* of the same consumer, or behind: of the free ones */
    uint32_t place;          /* among the deadlines; NO_PLACE: it is only reserved */
    uint32_t part;           /* while something is extended; 0: nothing of it */
    int64_t due;
    uint64_t serial;
};

struct hsl_keytab {
    struct hsl_ackmap *acks;
    uint64_t base, scan;
    struct cell *cells;
    uint64_t cell_mask;
    struct key *keys;
    uint32_t keys_cap, keys_used, free_key;
    uint32_t *slots; /* by tag the low half of the LSN of the last record */
    uint32_t slot_mask;
    struct list *lists;
    uint32_t lists_len;
    struct parcel *parcels; /* 0 is none */
    uint32_t parcels_len, free_parcel, sweep;
    struct list *held; /* parcels of consumers, longest held first */
    uint32_t held_len;
    uint32_t *deadlines; /* a heap of parcels, those first that are due first */
    uint32_t deadlines_len;
    uint64_t serial;
    struct hsl_key_run *handed; /* what went out since somebody asked */
    size_t handed_len, handed_cap;
    uint32_t *tags; /* of [described - tags_len, described) */
    size_t tags_len, tags_cap;
    uint64_t described;
    uint32_t *restored; /* attempts of [restored_at, restored_end) */
    uint64_t restored_at, restored_end;
    uint32_t doom_at;
    uint64_t fresh, again, fresh_ahead, owned;
    bool late_acks;
};

static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

static inline struct cell *cell_at(struct hsl_keytab *t, uint64_t lsn)
{
    return &t->cells[lsn & t->cell_mask];
}

static inline uint64_t whole(const struct hsl_keytab *t, uint32_t low_half)
{
    return t->base + (uint32_t)(low_half - (uint32_t)t->base);
}

static inline bool done(const struct hsl_keytab *t, uint64_t lsn)
{
    return hsl_ackmap_done(t->acks, lsn) != 0;
}

static inline struct key *key_of(struct hsl_keytab *t, const struct cell *c)
{
    return c->key != NO_KEY && t->keys[c->key].used ? &t->keys[c->key] : NULL;
}

/* Tells keys apart, as their hashes do but for a few; 0 is none. */
static inline uint32_t tag_of(uint64_t hash)
{
    uint32_t tag = (uint32_t)(hash ^ hash >> 32);
    return tag != 0 || hash == 0 ? tag : 1;
}

/* Is a record unacked, and in the hands of who has the parcel, or reserved for it? */
static inline bool in_parcel(struct hsl_keytab *t, uint64_t lsn, uint32_t parcel)
{
    if (lsn < t->base || lsn >= t->scan || done(t, lsn))
        return false;
    const struct cell *c = cell_at(t, lsn);
    return c->parcel == parcel && c->state != WAITING;
}

static inline bool consumer_has(struct hsl_keytab *t, uint32_t consumer, uint64_t lsn)
{
    if (lsn < t->base || lsn >= t->scan || done(t, lsn))
        return false;
    const struct cell *c = cell_at(t, lsn);
    return c->state == OUT && t->parcels[c->parcel].consumer == consumer;
}

static inline void add_run(struct hsl_key_run *out, uint32_t *n, uint64_t lsn, uint32_t attempt)
{
    struct hsl_key_run *last = *n > 0 ? &out[*n - 1] : NULL;
    if (last && last->first + last->count == lsn && last->attempt == attempt)
        last->count++;
    else
        out[(*n)++] = (struct hsl_key_run){lsn, 1, attempt};
}

/* ---- keytab.c; what reserves returns 0, or -ENOMEM ---- */

int hsl_key_reserve_cells(struct hsl_keytab *t, uint64_t end);
int hsl_key_reserve_keys(struct hsl_keytab *t, uint64_t more);
int hsl_key_reserve_consumer(struct hsl_keytab *t, uint32_t consumer);
/* Watches that so many records may need in mode late_acks. */
uint64_t hsl_key_late(const struct hsl_keytab *t, uint64_t records);
/* What links to the last record of a key; NULL: there is none in [base, scan). */
uint32_t *hsl_key_find(struct hsl_keytab *t, uint32_t tag);
/* A key of one record. There must be room. */
struct key *hsl_key_add(struct hsl_keytab *t, uint64_t lsn, uint32_t owner);
void hsl_key_unlist(struct hsl_keytab *t, struct key *k);
/* Puts a key where it belongs, and has acks noticed that would change that. */
void hsl_key_place(struct hsl_keytab *t, struct key *k);
/* What waits of a key begins with the next record now. */
void hsl_key_step(struct hsl_keytab *t, struct key *k);
/* Notices what is acked; false if that is all of the key, which is forgotten. */
bool hsl_key_refresh(struct hsl_keytab *t, struct key *k);
/* A record waits no more. Acked ones among those that came back never did. */
void hsl_key_uncount(struct hsl_keytab *t, struct cell *c);
/* A record waits behind another of its key. There must be room for a watch. */
void hsl_key_hold_behind(struct hsl_keytab *t, uint64_t lsn);
/* Notices acks, and lets go of cells below low. */
void hsl_key_sync(struct hsl_keytab *t);

/* ---- keyparcel.c ---- */

/* A new parcel of the consumer, with room for so many runs, for as many to be told as handed out,
 * and for its deadline. 0: no memory. */
uint32_t hsl_parcel_open(struct hsl_keytab *t, uint32_t consumer, uint64_t runs);
/* The same for so many runs more of one that there is; 0, or -ENOMEM. */
int hsl_parcel_widen(struct hsl_keytab *t, uint32_t parcel, uint64_t runs);
/* Its runs are those that it has now; without any it is free. */
void hsl_parcel_close(struct hsl_keytab *t, uint32_t parcel);
/* What it has is out, until a time; there must be room to tell it. */
void hsl_parcel_start(struct hsl_keytab *t, uint32_t parcel, int64_t due);
void hsl_parcel_free(struct hsl_keytab *t, uint32_t parcel);
/* Lets go of some parcels without anything unacked, so that not all wait for their end. */
void hsl_parcel_sweep(struct hsl_keytab *t);
/* Of one that is out, whether anything is unacked. */
bool hsl_parcel_has(struct hsl_keytab *t, uint32_t parcel);
void hsl_parcels_drop(struct hsl_keytab *t);
/* 0, or -1 where parcels are not what they are to be. */
int hsl_parcels_check(struct hsl_keytab *t);

#endif
