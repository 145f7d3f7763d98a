/* See keytab_api.h. A circular array of cells, one a record of [base, scan); a table of keys found
 * by hash; and lists of the keys for which something waits.
 *
 *   cell   key, distance to the next record of the key, parcel, attempts, failures
 *   key    head (first unacked record), todo (first that waits), tail, owner; the list it is in
 *
 *   head ..... todo ..... tail        [head, todo) is in the hands of `owner`, some of it acked;
 *    owner's    waiting               without todo nothing waits; head == todo: nobody has any
 *
 * A key is forgotten when all of its records are acked, which is noticed when somebody asks, or
 * when low passes its tail. Acks that something waits for are noticed through the map's watched
 * bits: of a key for which something waits, head and todo are watched.
 */
#include "hsl.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define NO_KEY UINT32_MAX
#define FIRST_CELLS 64u
#define SCAN_MAX 4096u
#define FAILURES_MAX 8191u

enum { NOWHERE, DELAYED, AGAIN, FRESH, MINE }; /* MINE + consumer */
enum { WAITING, RESERVED, OUT };

struct cell {
    uint32_t key;
    uint32_t next; /* LSNs to the next record of the key; 0 = the last */
    uint32_t parcel;
    uint16_t attempts;
    uint16_t failures : 13;
    uint16_t state : 2;
    uint16_t delayed : 1;
};

struct key {
    uint64_t hash; /* 0: of one record without a key */
    uint32_t head, todo, tail; /* low halves of LSNs */
    uint32_t owner;
    uint32_t list;
    uint32_t before, behind; /* in its list */
    uint32_t bucket;         /* next of the same bucket, or of the free ones */
    bool used, waits;        /* waits: todo counts */
};

struct list {
    uint32_t first, last;
};

struct hsl_keytab {
    struct hsl_ackmap *acks;
    uint64_t base, scan;
    struct cell *cells;
    uint64_t cell_mask;
    struct key *keys;
    uint32_t keys_cap, keys_used, free_key;
    uint32_t *buckets;
    uint32_t bucket_mask;
    struct list *lists;
    uint32_t lists_len;
    uint32_t *owners; /* of parcels */
    uint32_t owners_len;
    uint64_t *hashes; /* of [described - hashes_len, described) */
    size_t hashes_len, hashes_cap;
    uint64_t described;
    uint32_t *restored; /* attempts of [restored_at, restored_end) */
    uint64_t restored_at, restored_end;
    uint32_t doom_at;
    uint64_t fresh, again, fresh_ahead, owned;
    bool late_acks;
};

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

static struct cell *cell_at(struct hsl_keytab *t, uint64_t lsn)
{
    return &t->cells[lsn & t->cell_mask];
}

static uint64_t whole(const struct hsl_keytab *t, uint32_t low_half)
{
    return t->base + (uint32_t)(low_half - (uint32_t)t->base);
}

static bool done(const struct hsl_keytab *t, uint64_t lsn)
{
    return hsl_ackmap_done(t->acks, lsn) != 0;
}

/* A record waits behind another of its key. In mode late_acks one that was handed out may be acked
 * all the same, and that is to be noticed, for it counts as waiting. There must be room for a
 * watch. */
static void hold_behind(struct hsl_keytab *t, uint64_t lsn)
{
    if (t->late_acks && cell_at(t, lsn)->attempts > 0)
        hsl_ackmap_watch(t->acks, lsn);
    else
        hsl_ackmap_hold(t->acks, lsn, lsn + 1, 1);
}

/* ---- memory ---- */

static int reserve_cells(struct hsl_keytab *t, uint64_t end)
{
    uint64_t cap = t->cell_mask + 1;
    if (end - t->base <= cap)
        return 0;
    while (cap < end - t->base)
        cap *= 2;
    struct cell *cells = calloc((size_t)cap, sizeof *cells);
    if (!cells)
        return -ENOMEM;
    for (uint64_t lsn = t->base; lsn < t->scan; lsn++)
        cells[lsn & (cap - 1)] = *cell_at(t, lsn);
    free(t->cells);
    t->cells = cells;
    t->cell_mask = cap - 1;
    return 0;
}

static int reserve_keys(struct hsl_keytab *t, uint64_t more)
{
    uint64_t need = t->keys_used + more, cap = t->keys_cap;
    if (need <= cap)
        return 0;
    while (cap < need)
        cap *= 2;
    if (cap >= NO_KEY)
        return -ENOMEM;
    struct key *keys = realloc(t->keys, (size_t)cap * sizeof *keys);
    if (!keys)
        return -ENOMEM;
    t->keys = keys;
    uint32_t *buckets = malloc((size_t)cap * sizeof *buckets);
    if (!buckets)
        return -ENOMEM;
    free(t->buckets);
    t->buckets = buckets;
    t->bucket_mask = (uint32_t)cap - 1;
    memset(buckets, 0xff, (size_t)cap * sizeof *buckets);
    for (uint32_t i = t->keys_cap; i < cap; i++) {
        keys[i].used = false;
        keys[i].bucket = i + 1 < cap ? i + 1 : t->free_key;
    }
    t->free_key = t->keys_cap;
    t->keys_cap = (uint32_t)cap;
    for (uint32_t i = 0; i < cap; i++) {
        if (!keys[i].used || keys[i].hash == 0)
            continue;
        uint32_t *bucket = &buckets[keys[i].hash & t->bucket_mask];
        keys[i].bucket = *bucket;
        *bucket = i;
    }
    return 0;
}

static int reserve_numbers(struct hsl_keytab *t, uint32_t consumer, uint32_t parcel)
{
    if (MINE + consumer >= t->lists_len) {
        uint32_t len = 2 * (MINE + consumer + 1);
        struct list *lists = realloc(t->lists, len * sizeof *lists);
        if (!lists)
            return -ENOMEM;
        t->lists = lists;
        memset(lists + t->lists_len, 0xff, (len - t->lists_len) * sizeof *lists);
        t->lists_len = len;
    }
    if (parcel >= t->owners_len) {
        uint32_t len = 2 * (parcel + 1);
        uint32_t *owners = realloc(t->owners, len * sizeof *owners);
        if (!owners)
            return -ENOMEM;
        t->owners = owners;
        memset(owners + t->owners_len, 0, (len - t->owners_len) * sizeof *owners);
        t->owners_len = len;
    }
    return 0;
}

struct hsl_keytab *hsl_keytab_new(struct hsl_ackmap *acks)
{
    struct hsl_keytab *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->acks = acks;
    t->cells = calloc(FIRST_CELLS, sizeof *t->cells);
    t->cell_mask = FIRST_CELLS - 1;
    t->keys = calloc(FIRST_CELLS, sizeof *t->keys);
    t->buckets = malloc(FIRST_CELLS * sizeof *t->buckets);
    if (!t->cells || !t->keys || !t->buckets || reserve_numbers(t, 0, 0) < 0) {
        hsl_keytab_free(t);
        return NULL;
    }
    memset(t->buckets, 0xff, FIRST_CELLS * sizeof *t->buckets);
    t->bucket_mask = FIRST_CELLS - 1;
    t->keys_cap = FIRST_CELLS;
    for (uint32_t i = 0; i < FIRST_CELLS; i++)
        t->keys[i].bucket = i + 1 < FIRST_CELLS ? i + 1 : NO_KEY; /* all free, in their order */
    const uint64_t *woken;
    hsl_ackmap_woken(acks, &woken); /* what was noted before is news for nobody */
    t->base = t->scan = t->described = hsl_ackmap_low(acks);
    return t;
}

void hsl_keytab_free(struct hsl_keytab *t)
{
    if (!t)
        return;
    free(t->cells);
    free(t->keys);
    free(t->buckets);
    free(t->lists);
    free(t->owners);
    free(t->hashes);
    free(t->restored);
    free(t);
}

/* ---- lists and keys ---- */

static void unlist(struct hsl_keytab *t, struct key *k)
{
    t->owned -= k->list >= MINE;
    if (k->list >= AGAIN) {
        struct list *list = &t->lists[k->list];
        if (k->before != NO_KEY)
            t->keys[k->before].behind = k->behind;
        else
            list->first = k->behind;
        if (k->behind != NO_KEY)
            t->keys[k->behind].before = k->before;
        else
            list->last = k->before;
    }
    k->list = NOWHERE;
}

static void enlist(struct hsl_keytab *t, struct key *k, uint32_t where, bool first)
{
    uint32_t at = (uint32_t)(k - t->keys);
    struct list *list = &t->lists[where];
    k->list = where;
    t->owned += where >= MINE;
    k->before = first ? NO_KEY : list->last;
    k->behind = first ? list->first : NO_KEY;
    if (k->before != NO_KEY)
        t->keys[k->before].behind = at;
    else
        list->first = at;
    if (k->behind != NO_KEY)
        t->keys[k->behind].before = at;
    else
        list->last = at;
}

static struct key *find(struct hsl_keytab *t, uint64_t hash)
{
    uint32_t at = t->buckets[hash & t->bucket_mask];
    while (at != NO_KEY && t->keys[at].hash != hash)
        at = t->keys[at].bucket;
    return at == NO_KEY ? NULL : &t->keys[at];
}

/* There must be room. */
static struct key *add_key(struct hsl_keytab *t, uint64_t hash, uint64_t lsn, uint32_t owner)
{
    uint32_t at = t->free_key;
    struct key *k = &t->keys[at];
    t->free_key = k->bucket;
    t->keys_used++;
    *k = (struct key){.hash = hash, .owner = owner, .used = true, .bucket = NO_KEY};
    k->head = k->todo = k->tail = (uint32_t)lsn;
    if (hash != 0) {
        k->bucket = t->buckets[hash & t->bucket_mask];
        t->buckets[hash & t->bucket_mask] = at;
    }
    cell_at(t, lsn)->key = at;
    return k;
}

static void forget(struct hsl_keytab *t, struct key *k)
{
    uint32_t at = (uint32_t)(k - t->keys);
    unlist(t, k);
    if (k->hash != 0) {
        uint32_t *bucket = &t->buckets[k->hash & t->bucket_mask];
        while (*bucket != at)
            bucket = &t->keys[*bucket].bucket;
        *bucket = k->bucket;
    }
    k->used = false;
    k->bucket = t->free_key;
    t->free_key = at;
    t->keys_used--;
}

/* A record waits no more. Acked ones among those that came back never did. */
static void uncount(struct hsl_keytab *t, struct cell *c)
{
    if (c->state != WAITING)
        return;
    c->state = OUT;
    if (c->attempts == 0)
        t->fresh--;
    else
        t->again--;
}

/* Puts a key where it belongs, and has acks noticed that would change that. */
static void place(struct hsl_keytab *t, struct key *k)
{
    uint32_t where = NOWHERE;
    bool again = false;
    if (k->waits) {
        uint64_t todo = whole(t, k->todo);
        const struct cell *c = cell_at(t, todo);
        again = c->attempts > 0;
        where = c->delayed ? DELAYED : k->owner != 0 ? MINE + k->owner : again ? AGAIN : FRESH;
        hsl_ackmap_watch(t->acks, whole(t, k->head));
        hsl_ackmap_watch(t->acks, todo);
    }
    if (k->list == where)
        return;
    unlist(t, k);
    k->list = where;
    if (where >= AGAIN)
        enlist(t, k, where, again && where != AGAIN);
}

static void step_todo(struct hsl_keytab *t, struct key *k)
{
    const struct cell *c = cell_at(t, whole(t, k->todo));
    k->waits = c->next != 0;
    k->todo += c->next;
}

/* Notices what is acked; false if that is all of the key, which is forgotten. */
static bool refresh(struct hsl_keytab *t, struct key *k)
{
    while (k->waits && done(t, whole(t, k->todo))) {
        uncount(t, cell_at(t, whole(t, k->todo)));
        step_todo(t, k);
    }
    while (done(t, whole(t, k->head))) {
        uint32_t next = cell_at(t, whole(t, k->head))->next;
        if (next == 0) {
            forget(t, k);
            return false;
        }
        k->head += next;
    }
    if (k->waits && k->head == k->todo)
        k->owner = 0;
    place(t, k);
    return true;
}

static struct key *key_of(struct hsl_keytab *t, const struct cell *c)
{
    return c->key != NO_KEY && t->keys[c->key].used ? &t->keys[c->key] : NULL;
}

/* Notices acks, and lets go of cells below low. */
static void sync_acks(struct hsl_keytab *t)
{
    const uint64_t *woken;
    size_t n = hsl_ackmap_woken(t->acks, &woken);
    uint64_t low = hsl_ackmap_low(t->acks);
    for (size_t i = 0; i < n; i++) {
        if (woken[i] < t->base || woken[i] >= t->scan)
            continue;
        struct key *k = key_of(t, cell_at(t, woken[i]));
        if (k && (k->head == (uint32_t)woken[i] || k->todo == (uint32_t)woken[i]))
            refresh(t, k);
        else
            uncount(t, cell_at(t, woken[i]));
    }
    for (; t->base < low && t->base < t->scan; t->base++) {
        struct key *k = key_of(t, cell_at(t, t->base));
        if (k && k->head == (uint32_t)t->base)
            refresh(t, k);
    }
    if (t->scan < low) { /* passed by a gap, before it was looked at */
        for (uint64_t lsn = t->scan; lsn < min_u64(low, t->restored_end); lsn++)
            t->fresh_ahead -= t->restored && t->restored[lsn - t->restored_at] == 0;
        t->base = t->scan = low;
        if (t->described < low) {
            t->described = low;
            t->hashes_len = 0;
        }
    }
}

void hsl_keytab_state(struct hsl_keytab *t, struct hsl_key_state *out)
{
    sync_acks(t);
    *out = (struct hsl_key_state){
        .scan = t->scan,
        .described = t->described,
        .fresh = t->fresh + t->fresh_ahead,
        .again = t->again + hsl_ackmap_count(t->acks, t->scan, t->restored_end) - t->fresh_ahead,
        .window = t->scan - t->base,
        .owned = t->owned,
        .keys = t->keys_used,
        .bytes = (t->cell_mask + 1) * sizeof *t->cells + t->keys_cap * sizeof *t->keys +
                 (t->bucket_mask + 1) * sizeof *t->buckets + t->hashes_cap * sizeof *t->hashes +
                 t->lists_len * sizeof *t->lists + t->owners_len * sizeof *t->owners +
                 (t->restored_end - t->restored_at) * sizeof *t->restored,
    };
}

int hsl_keytab_restore(struct hsl_keytab *t, const uint32_t *attempts, size_t n, uint32_t doom_at)
{
    uint32_t *copy = malloc((n + 1) * sizeof *copy);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, attempts, n * sizeof *copy);
    free(t->restored);
    t->restored = copy;
    t->restored_at = t->scan;
    t->restored_end = t->scan + n;
    t->doom_at = doom_at;
    for (size_t i = 0; i < n; i++) {
        if (done(t, t->scan + i))
            copy[i] = 1;
        t->fresh_ahead += copy[i] == 0;
    }
    return 0;
}

void hsl_keytab_late_acks(struct hsl_keytab *t) { t->late_acks = true; }

int hsl_keytab_describe(struct hsl_keytab *t, uint64_t first, const uint64_t *hashes, size_t n)
{
    sync_acks(t);
    if (first != t->described)
        return -ERANGE;
    size_t kept = (size_t)(t->described - t->scan);
    if (kept + n > t->hashes_cap) {
        uint64_t *grown = realloc(t->hashes, 2 * (kept + n) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        t->hashes = grown;
        t->hashes_cap = 2 * (kept + n);
    }
    if (n == 0)
        return 0;
    memmove(t->hashes, t->hashes + (t->hashes_len - kept), kept * sizeof *hashes);
    memcpy(t->hashes + kept, hashes, n * sizeof *hashes);
    t->hashes_len = kept + n;
    t->described += n;
    return 0;
}

/* ---- handing out ---- */

struct taking {
    uint32_t consumer, parcel;
    uint64_t left, fresh;
    struct hsl_key_run *out;
    int64_t runs;
};

static void add_run(struct hsl_key_run *out, int64_t *n, uint64_t lsn, uint32_t attempt)
{
    struct hsl_key_run *last = *n > 0 ? &out[*n - 1] : NULL;
    if (last && last->first + last->count == lsn && last->attempt == attempt)
        last->count++;
    else
        out[(*n)++] = (struct hsl_key_run){lsn, 1, attempt};
}

static bool may_hand(const struct taking *g, const struct cell *c)
{
    return g->left > 0 && (c->attempts > 0 || g->fresh > 0);
}

static void hand(struct hsl_keytab *t, struct taking *g, uint64_t lsn)
{
    struct cell *c = cell_at(t, lsn);
    uncount(t, c);
    c->state = RESERVED;
    c->parcel = g->parcel;
    g->left--;
    g->fresh -= c->attempts == 0;
    add_run(g->out, &g->runs, lsn, c->attempts + 1u);
}

/* Hands out what waits of a key, as far as that goes. */
static void hand_waiting(struct hsl_keytab *t, struct taking *g, struct key *k)
{
    while (k->waits) {
        uint64_t lsn = whole(t, k->todo);
        struct cell *c = cell_at(t, lsn);
        if (done(t, lsn)) {
            uncount(t, c);
        } else {
            if (c->delayed || !may_hand(g, c))
                break;
            k->owner = g->consumer;
            hand(t, g, lsn);
        }
        step_todo(t, k);
    }
    unlist(t, k); /* what is left may have to stand behind what comes again of others */
    place(t, k);
}

static void hand_list(struct hsl_keytab *t, struct taking *g, uint32_t list)
{
    uint32_t at;
    while (g->left > 0 && (at = t->lists[list].first) != NO_KEY) {
        struct key *k = &t->keys[at];
        if (!refresh(t, k) || k->list != list)
            continue;
        if (!may_hand(g, cell_at(t, whole(t, k->todo))))
            return;
        hand_waiting(t, g, k);
    }
}

/* Gives the record at `scan` its cell. */
static struct cell *enter(struct hsl_keytab *t, uint64_t lsn)
{
    struct cell *c = cell_at(t, lsn);
    *c = (struct cell){.key = NO_KEY};
    if (lsn < t->restored_end && !done(t, lsn)) {
        uint32_t was = t->restored[lsn - t->restored_at];
        c->attempts = was < UINT16_MAX ? (uint16_t)was : UINT16_MAX;
        c->failures = was < FAILURES_MAX ? (uint16_t)was : FAILURES_MAX;
        c->delayed = t->doom_at != 0 && was >= t->doom_at;
        t->fresh_ahead -= was == 0;
    }
    return c;
}

/* Hands out the record at `scan`, or has it wait. false: it stays where it is. */
static bool scan_one(struct hsl_keytab *t, struct taking *g, uint64_t hash)
{
    uint64_t lsn = t->scan;
    bool old = lsn < t->restored_end;
    if (old && done(t, lsn)) {
        enter(t, lsn);
        t->scan++;
        return true;
    }
    uint32_t was = old ? t->restored[lsn - t->restored_at] : 0;
    bool doomed = t->doom_at != 0 && was >= t->doom_at;
    bool may = g->left > 0 && (was > 0 || g->fresh > 0) && !doomed;
    if (!may && (g->left == 0 || !old))
        return false;
    struct cell *c = enter(t, lsn);
    if (c->attempts == 0)
        t->fresh++;
    else
        t->again++;
    t->scan++;
    struct key *k = hash != 0 ? find(t, hash) : NULL;
    if (k && !refresh(t, k))
        k = NULL;
    if (k) {
        cell_at(t, whole(t, k->tail))->next = (uint32_t)lsn - k->tail;
        k->tail = (uint32_t)lsn;
        c->key = (uint32_t)(k - t->keys);
    } else if (hash != 0 || !may) {
        k = add_key(t, hash, lsn, may ? g->consumer : 0);
    }
    if (may && (!k || (!k->waits && k->owner == g->consumer))) {
        hand(t, g, lsn);
    } else {
        if (k->head != (uint32_t)lsn)
            hold_behind(t, lsn);
        if (!k->waits)
            k->todo = (uint32_t)lsn;
        k->waits = true;
        place(t, k);
    }
    return true;
}

/* Watches that so many records may need in mode late_acks. */
static uint64_t late(const struct hsl_keytab *t, uint64_t records)
{
    return t->late_acks ? records : 0;
}

static int reserve_scan(struct hsl_keytab *t, uint64_t stop, uint64_t max)
{
    uint64_t n = stop - t->scan, waiting = min_u64(t->again + t->fresh, max);
    if (reserve_cells(t, stop) < 0 || reserve_keys(t, n) < 0 ||
        hsl_ackmap_may_watch(t->acks, (size_t)(2 * (n + waiting) + late(t, n))) < 0)
        return -ENOMEM;
    return stop > t->restored_end ? hsl_ackmap_reserve(t->acks, stop) : 0;
}

int64_t hsl_keytab_take(struct hsl_keytab *t, uint32_t consumer, uint32_t parcel, uint64_t max,
                        uint64_t fresh, uint64_t end, struct hsl_key_run *out)
{
    struct taking g = {consumer, parcel, max, fresh, out, 0};
    sync_acks(t);
    uint64_t stop = min_u64(min_u64(end, t->described), t->scan + SCAN_MAX);
    stop = stop > t->scan ? stop : t->scan;
    if (reserve_numbers(t, consumer, parcel) < 0 || reserve_scan(t, stop, max) < 0)
        return -ENOMEM;
    t->owners[parcel] = consumer;
    hand_list(t, &g, AGAIN);
    hand_list(t, &g, MINE + consumer);
    hand_list(t, &g, FRESH);
    const uint64_t *hashes = t->hashes + (t->hashes_len - (size_t)(t->described - t->scan));
    while (t->scan < stop && scan_one(t, &g, *hashes))
        hashes++;
    struct hsl_ack_state state;
    hsl_ackmap_state(t->acks, &state);
    if (t->scan > state.next)
        hsl_ackmap_advance(t->acks, t->scan, 1);
    return g.runs;
}

/* ---- coming back ---- */

static void fail(struct cell *c)
{
    if (c->failures < FAILURES_MAX)
        c->failures++;
}

/* A record that is reserved or out waits again, and those of its key behind it. There must be room
 * for a key and two watches. */
static void back(struct hsl_keytab *t, uint64_t lsn, bool failed)
{
    struct cell *c = cell_at(t, lsn);
    c->delayed = 0;
    if (failed)
        fail(c);
    struct key *k = key_of(t, c);
    if (!k) { /* it has no key, and was handed out at once */
        k = add_key(t, 0, lsn, 0);
        k->waits = true;
    }
    for (uint64_t at = lsn;; at += c->next) {
        c = cell_at(t, at);
        if (!done(t, at) && c->state != WAITING) {
            hsl_ackmap_unload(t->acks, at, at + 1);
            c->state = WAITING;
            c->parcel = 0;
            if (at != lsn)
                hold_behind(t, at);
            if (c->attempts == 0)
                t->fresh++;
            else
                t->again++;
        } else if (k->waits && k->todo == (uint32_t)at && at != lsn) {
            if (!done(t, at))
                hold_behind(t, at);
            break; /* from here on they wait already */
        }
        if (c->next == 0)
            break;
    }
    k->todo = (uint32_t)lsn;
    k->waits = true;
    unlist(t, k); /* it may stand among what is new, and comes before that now */
    refresh(t, k);
}

static bool in_parcel(struct hsl_keytab *t, uint64_t lsn, uint32_t parcel)
{
    if (lsn < t->base || lsn >= t->scan || done(t, lsn))
        return false;
    const struct cell *c = cell_at(t, lsn);
    return c->parcel == parcel && c->state != WAITING;
}

static int reserve_back(struct hsl_keytab *t, uint64_t records)
{
    sync_acks(t);
    if (reserve_keys(t, records) < 0)
        return -ENOMEM;
    return hsl_ackmap_may_watch(t->acks, (size_t)(2 * records + late(t, t->scan - t->base)));
}

static uint64_t records_of(const struct hsl_key_run *runs, size_t n)
{
    uint64_t records = 0;
    for (size_t i = 0; i < n; i++)
        records += runs[i].count;
    return records;
}

int64_t hsl_keytab_confirm(struct hsl_keytab *t, uint32_t parcel, const struct hsl_key_run *runs,
                           size_t n, uint64_t count, struct hsl_key_run *out)
{
    int64_t confirmed = 0;
    uint64_t place_in = 0;
    if (reserve_back(t, records_of(runs, n)) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        for (uint64_t lsn = runs[i].first; lsn < runs[i].first + runs[i].count; lsn++) {
            bool given = place_in++ < count;
            if (!in_parcel(t, lsn, parcel) || cell_at(t, lsn)->state != RESERVED)
                continue;
            if (!given) {
                back(t, lsn, false);
                continue;
            }
            struct cell *c = cell_at(t, lsn);
            c->state = OUT;
            c->attempts += c->attempts < UINT16_MAX;
            add_run(out, &confirmed, lsn, c->attempts);
        }
    }
    for (int64_t i = 0; i < confirmed; i++)
        hsl_ackmap_hold(t->acks, out[i].first, out[i].first + out[i].count, 0);
    return confirmed;
}

/* Of the records that were taken back, those at the head of what waits. */
static int64_t heads_of(struct hsl_keytab *t, struct hsl_key_head *out, int64_t n)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        const struct cell *c = cell_at(t, out[i].lsn);
        const struct key *k = key_of(t, c);
        if (k && k->waits && k->todo == (uint32_t)out[i].lsn)
            out[kept++] = (struct hsl_key_head){out[i].lsn, c->failures, c->attempts};
    }
    return kept;
}

int64_t hsl_keytab_take_back(struct hsl_keytab *t, uint32_t parcel, const struct hsl_key_run *runs,
                             size_t n, struct hsl_key_head *out, uint64_t *count)
{
    int64_t taken = 0;
    *count = 0;
    if (reserve_back(t, records_of(runs, n)) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        for (uint64_t lsn = runs[i].first; lsn < runs[i].first + runs[i].count; lsn++)
            *count += in_parcel(t, lsn, parcel) && cell_at(t, lsn)->state == OUT;
    for (size_t i = 0; i < n; i++) {
        for (uint64_t lsn = runs[i].first; lsn < runs[i].first + runs[i].count; lsn++) {
            if (!in_parcel(t, lsn, parcel))
                continue; /* or it was taken along with one before it */
            back(t, lsn, cell_at(t, lsn)->state == OUT);
            out[taken++].lsn = lsn;
        }
    }
    return heads_of(t, out, taken);
}

static bool consumer_has(struct hsl_keytab *t, uint32_t consumer, uint64_t lsn)
{
    if (lsn < t->base || lsn >= t->scan || done(t, lsn))
        return false;
    const struct cell *c = cell_at(t, lsn);
    return c->state == OUT && t->owners[c->parcel] == consumer;
}

static int64_t take_of(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end,
                       bool sent, struct hsl_key_head *out, uint64_t *count)
{
    int64_t taken = 0;
    sync_acks(t);
    first = first > t->base ? first : t->base;
    end = min_u64(end, t->scan);
    *count = 0;
    if (first >= end)
        return 0;
    if (reserve_back(t, end - first) < 0)
        return -ENOMEM;
    for (uint64_t lsn = first; lsn < end; lsn++) {
        struct cell *c = cell_at(t, lsn);
        if (!consumer_has(t, consumer, lsn))
            continue;
        if (sent)
            fail(c);
        else
            c->attempts--;
        out[taken++] = (struct hsl_key_head){lsn, c->failures, c->attempts};
    }
    for (int64_t i = 0; i < taken; i++) {
        if (cell_at(t, out[i].lsn)->state == OUT) /* not taken along with one before it */
            back(t, out[i].lsn, false);
        if (out[i].attempts == 0)
            hsl_ackmap_hold(t->acks, out[i].lsn, out[i].lsn + 1, 1);
    }
    *count = (uint64_t)taken;
    return taken;
}

int64_t hsl_keytab_release(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end,
                           struct hsl_key_head *out, uint64_t *count)
{
    return take_of(t, consumer, first, end, true, out, count);
}

int64_t hsl_keytab_unsend(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end,
                          struct hsl_key_head *out, uint64_t *count)
{
    return take_of(t, consumer, first, end, false, out, count);
}

uint64_t hsl_keytab_move(struct hsl_keytab *t, uint32_t from, uint32_t to, uint64_t first,
                         uint64_t end)
{
    uint64_t moved = 0;
    sync_acks(t);
    if (reserve_numbers(t, 0, to) < 0)
        return UINT64_MAX;
    t->owners[to] = t->owners[from];
    for (uint64_t lsn = first > t->base ? first : t->base; lsn < min_u64(end, t->scan); lsn++) {
        if (in_parcel(t, lsn, from) && cell_at(t, lsn)->state == OUT) {
            cell_at(t, lsn)->parcel = to;
            moved++;
        }
    }
    return moved;
}

int hsl_keytab_holds(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end)
{
    sync_acks(t);
    for (uint64_t lsn = first; lsn < end; lsn++)
        if (!consumer_has(t, consumer, lsn))
            return 0;
    return 1;
}

uint64_t hsl_keytab_open(struct hsl_keytab *t, uint32_t parcel, const struct hsl_key_run *runs,
                         size_t n, uint64_t *first)
{
    uint64_t open = 0;
    *first = UINT64_MAX;
    for (size_t i = 0; i < n; i++) {
        for (uint64_t lsn = runs[i].first; lsn < runs[i].first + runs[i].count; lsn++) {
            if (!in_parcel(t, lsn, parcel))
                continue;
            open++;
            *first = min_u64(*first, lsn);
        }
    }
    return open;
}

uint32_t hsl_keytab_next_parcel(struct hsl_keytab *t, uint32_t consumer, uint64_t *at,
                                uint64_t end)
{
    uint32_t parcel = 0;
    sync_acks(t);
    *at = *at > t->base ? *at : t->base;
    for (end = min_u64(end, t->scan); *at < end; (*at)++) {
        bool has = consumer_has(t, consumer, *at);
        if (parcel != 0 && (!has || cell_at(t, *at)->parcel != parcel))
            break;
        if (has)
            parcel = cell_at(t, *at)->parcel;
    }
    return parcel;
}

int hsl_keytab_delay(struct hsl_keytab *t, uint64_t lsn)
{
    sync_acks(t);
    if (lsn < t->base || lsn >= t->scan || done(t, lsn))
        return 0;
    struct cell *c = cell_at(t, lsn);
    struct key *k = key_of(t, c);
    if (!k || c->state != WAITING)
        return 0;
    c->delayed = 1;
    place(t, k);
    return 1;
}

int hsl_keytab_expose(struct hsl_keytab *t, uint64_t lsn)
{
    sync_acks(t);
    if (lsn < t->base || lsn >= max_u64(t->scan, t->restored_end) || done(t, lsn))
        return 0;
    if (lsn < t->scan) {
        if (hsl_ackmap_may_watch(t->acks, 1) < 0)
            return -ENOMEM;
        hsl_ackmap_watch(t->acks, lsn);
    }
    hsl_ackmap_hold(t->acks, lsn, lsn + 1, 0);
    return 1;
}

void hsl_keytab_wake(struct hsl_keytab *t, uint64_t lsn)
{
    sync_acks(t);
    if (lsn < t->base || lsn >= t->scan || done(t, lsn))
        return;
    struct cell *c = cell_at(t, lsn);
    struct key *k = key_of(t, c);
    c->delayed = 0;
    if (k)
        refresh(t, k);
}

void hsl_keytab_leave(struct hsl_keytab *t, uint32_t consumer)
{
    uint32_t at;
    sync_acks(t);
    while (MINE + consumer < t->lists_len && (at = t->lists[MINE + consumer].first) != NO_KEY) {
        t->keys[at].owner = 0;
        refresh(t, &t->keys[at]);
    }
}

int hsl_keytab_ready(struct hsl_keytab *t, uint32_t consumer, uint64_t fresh, uint64_t end)
{
    sync_acks(t);
    if (t->lists[AGAIN].first != NO_KEY || t->scan < min_u64(t->restored_end, end))
        return 1;
    uint32_t mine = MINE + consumer < t->lists_len ? t->lists[MINE + consumer].first : NO_KEY;
    if (mine != NO_KEY && cell_at(t, whole(t, t->keys[mine].todo))->attempts > 0)
        return 1;
    return fresh > 0 && (mine != NO_KEY || t->lists[FRESH].first != NO_KEY || t->scan < end);
}

size_t hsl_keytab_attempts(struct hsl_keytab *t, uint64_t *lsn, struct hsl_key_run *out,
                           size_t cap)
{
    int64_t n = 0;
    sync_acks(t);
    uint64_t at = *lsn > t->base ? *lsn : t->base;
    uint64_t end = t->scan > t->restored_end ? t->scan : t->restored_end;
    for (; at < end; at++) {
        uint32_t attempts = at < t->scan ? cell_at(t, at)->attempts
                                         : t->restored[at - t->restored_at];
        if (attempts == 0 || done(t, at))
            continue;
        const struct hsl_key_run *last = n > 0 ? &out[n - 1] : NULL;
        bool joins = last && last->first + last->count == at && last->attempt == attempts;
        if (!joins && (size_t)n == cap)
            break;
        add_run(out, &n, at, attempts);
    }
    *lsn = at;
    return (size_t)n;
}

static int check_key(struct hsl_keytab *t, struct key *k, uint64_t *fresh, uint64_t *again)
{
    uint64_t lsn = whole(t, k->head), todo = k->waits ? whole(t, k->todo) : UINT64_MAX;
    bool met = !k->waits;
    if (k->waits && done(t, lsn))
        return 1; /* nobody noticed an ack that something waits for */
    for (;; lsn += cell_at(t, lsn)->next) {
        const struct cell *c = cell_at(t, lsn);
        if (lsn < t->base || lsn >= t->scan)
            return 2;
        if (key_of(t, c) != k)
            return 3;
        met |= lsn == todo;
        if (!done(t, lsn)) {
            bool waits = k->waits && lsn >= todo;
            if (waits != (c->state == WAITING))
                return 4;
            if (!waits && t->owners[c->parcel] != k->owner)
                return 5; /* two consumers have records of one key */
            bool counts = c->delayed || (t->late_acks && c->attempts > 0);
            if (waits && lsn != todo && !counts && !hsl_ackmap_is_held(t->acks, lsn))
                return 6;
            *fresh += waits && c->attempts == 0;
            *again += waits && c->attempts > 0;
        }
        if (c->next == 0)
            break;
    }
    if (!met || (uint32_t)lsn != k->tail)
        return 7;
    if (!k->waits)
        return k->list != NOWHERE ? 8 : 0;
    const struct cell *c = cell_at(t, todo);
    uint32_t where = c->delayed ? DELAYED : c->attempts ? AGAIN : FRESH;
    if (k->head != k->todo && !c->delayed)
        where = MINE + k->owner;
    return k->list != where ? 8 : 0;
}

/* What comes again of a consumer's keys stands before what is new. */
static bool in_order(struct hsl_keytab *t, uint32_t list)
{
    bool fresh = false;
    for (uint32_t at = t->lists[list].first; at != NO_KEY; at = t->keys[at].behind) {
        bool again = cell_at(t, whole(t, t->keys[at].todo))->attempts > 0;
        if (again && fresh)
            return false;
        fresh |= !again;
    }
    return true;
}

int hsl_keytab_check(struct hsl_keytab *t)
{
    uint64_t fresh = 0, again = 0;
    uint32_t used = 0;
    sync_acks(t);
    for (uint32_t i = 0; i < t->keys_cap; i++) {
        struct key *k = &t->keys[i];
        if (!k->used)
            continue;
        used++;
        int rule = check_key(t, k, &fresh, &again);
        if (rule)
            return rule;
        if (k->hash != 0 && find(t, k->hash) != k)
            return 9;
    }
    if (used != t->keys_used)
        return 10;
    if (fresh != t->fresh || again != t->again)
        return 11;
    for (uint32_t list = MINE; list < t->lists_len; list++) {
        if (!in_order(t, list))
            return 12;
    }
    return 0;
}
