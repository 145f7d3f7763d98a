/* See keytab.h: cells, keys, and the lists of those for which something waits. */
#include "keytab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CELLS 64u
#define BUCKETS_A_KEY 4u /* most are empty, so that what is new is seen without a look at a key */

uint64_t hsl_key_late(const struct hsl_keytab *t, uint64_t records)
{
    return t->late_acks ? records : 0;
}

/* In mode late_acks a record that was handed out may be acked all the same, and that is to be
 * noticed, for it counts as waiting. */
void hsl_key_hold_behind(struct hsl_keytab *t, uint64_t lsn)
{
    if (t->late_acks && cell_at(t, lsn)->attempts > 0)
        hsl_ackmap_watch(t->acks, lsn);
    else
        hsl_ackmap_hold(t->acks, lsn, lsn + 1, 1);
}

/* ---- memory ---- */

int hsl_key_reserve_cells(struct hsl_keytab *t, uint64_t end)
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

int hsl_key_reserve_keys(struct hsl_keytab *t, uint64_t more)
{
    uint64_t need = t->keys_used + more, cap = t->keys_cap;
    if (need <= cap)
        return 0;
    while (cap < need)
        cap *= 2;
    if (cap >= NO_KEY / BUCKETS_A_KEY)
        return -ENOMEM;
    struct key *keys = realloc(t->keys, (size_t)cap * sizeof *keys);
    if (!keys)
        return -ENOMEM;
    t->keys = keys;
    uint32_t *buckets = malloc(BUCKETS_A_KEY * (size_t)cap * sizeof *buckets);
    if (!buckets)
        return -ENOMEM;
    free(t->buckets);
    t->buckets = buckets;
    t->bucket_mask = BUCKETS_A_KEY * (uint32_t)cap - 1;
    memset(buckets, 0xff, BUCKETS_A_KEY * (size_t)cap * sizeof *buckets);
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

/* Lists from one item on begin empty. */
static int reserve_lists(struct list **lists, uint32_t *len, uint32_t number)
{
    if (number < *len)
        return 0;
    uint32_t cap = 2 * (number + 1);
    struct list *more = realloc(*lists, cap * sizeof *more);
    if (!more)
        return -ENOMEM;
    memset(more + *len, 0xff, (cap - *len) * sizeof *more);
    *lists = more;
    *len = cap;
    return 0;
}

int hsl_key_reserve_consumer(struct hsl_keytab *t, uint32_t consumer)
{
    if (reserve_lists(&t->lists, &t->lists_len, MINE + consumer) < 0)
        return -ENOMEM;
    return reserve_lists(&t->held, &t->held_len, consumer);
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
    t->buckets = malloc(BUCKETS_A_KEY * FIRST_CELLS * sizeof *t->buckets);
    if (!t->cells || !t->keys || !t->buckets || hsl_key_reserve_consumer(t, 0) < 0) {
        hsl_keytab_free(t);
        return NULL;
    }
    memset(t->buckets, 0xff, BUCKETS_A_KEY * FIRST_CELLS * sizeof *t->buckets);
    t->bucket_mask = BUCKETS_A_KEY * FIRST_CELLS - 1;
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
    free(t->held);
    hsl_parcels_drop(t);
    free(t->hashes);
    free(t->restored);
    free(t);
}

/* ---- lists and keys ---- */

void hsl_key_unlist(struct hsl_keytab *t, struct key *k)
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

struct key *hsl_key_find(struct hsl_keytab *t, uint64_t hash)
{
    uint32_t at = t->buckets[hash & t->bucket_mask];
    while (at != NO_KEY && t->keys[at].hash != hash)
        at = t->keys[at].bucket;
    return at == NO_KEY ? NULL : &t->keys[at];
}

struct key *hsl_key_add(struct hsl_keytab *t, uint64_t hash, uint64_t lsn, uint32_t owner)
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
    hsl_key_unlist(t, k);
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

void hsl_key_uncount(struct hsl_keytab *t, struct cell *c)
{
    if (c->state != WAITING)
        return;
    c->state = OUT;
    if (c->attempts == 0)
        t->fresh--;
    else
        t->again--;
}

void hsl_key_place(struct hsl_keytab *t, struct key *k)
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
    hsl_key_unlist(t, k);
    k->list = where;
    if (where >= AGAIN)
        enlist(t, k, where, again && where != AGAIN);
}

void hsl_key_step(struct hsl_keytab *t, struct key *k)
{
    const struct cell *c = cell_at(t, whole(t, k->todo));
    k->waits = c->next != 0;
    k->todo += c->next;
}

bool hsl_key_refresh(struct hsl_keytab *t, struct key *k)
{
    while (k->waits && done(t, whole(t, k->todo))) {
        hsl_key_uncount(t, cell_at(t, whole(t, k->todo)));
        hsl_key_step(t, k);
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
    hsl_key_place(t, k);
    return true;
}

/* Keys lie anywhere in memory: what is looked at soon is asked for now. A call that does no more
 * than that is dropped by GCC, unless it is in line. */
static inline __attribute__((always_inline)) void fetch_ahead(struct hsl_keytab *t)
{
    uint32_t later = cell_at(t, t->base + 2 * KEYS_AHEAD)->key;
    uint32_t soon = cell_at(t, t->base + KEYS_AHEAD)->key;
    if (later < t->keys_cap)
        __builtin_prefetch(&t->keys[later]);
    if (soon < t->keys_cap)
        __builtin_prefetch(&t->buckets[t->keys[soon].hash & t->bucket_mask]);
}

void hsl_key_sync(struct hsl_keytab *t)
{
    const uint64_t *woken;
    size_t n = hsl_ackmap_woken(t->acks, &woken);
    uint64_t low = hsl_ackmap_low(t->acks);
    for (size_t i = 0; i < n; i++) {
        if (woken[i] < t->base || woken[i] >= t->scan)
            continue;
        struct key *k = key_of(t, cell_at(t, woken[i]));
        if (k && (k->head == (uint32_t)woken[i] || k->todo == (uint32_t)woken[i]))
            hsl_key_refresh(t, k);
        else
            hsl_key_uncount(t, cell_at(t, woken[i]));
    }
    for (; t->base < low && t->base < t->scan; t->base++) {
        fetch_ahead(t);
        struct key *k = key_of(t, cell_at(t, t->base));
        if (k && k->tail == (uint32_t)t->base && !k->waits)
            forget(t, k);
        else if (k && k->head == (uint32_t)t->base)
            hsl_key_refresh(t, k);
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
    hsl_key_sync(t);
    *out = (struct hsl_key_state){
        .scan = t->scan,
        .described = t->described,
        .fresh = t->fresh + t->fresh_ahead,
        .again = t->again + hsl_ackmap_count(t->acks, t->scan, t->restored_end) - t->fresh_ahead,
        .window = t->scan - t->base,
        .owned = t->owned,
        .handed = t->handed_len,
        .keys = t->keys_used,
        .bytes = (t->cell_mask + 1) * sizeof *t->cells + t->keys_cap * sizeof *t->keys +
                 (t->bucket_mask + 1) * sizeof *t->buckets + t->hashes_cap * sizeof *t->hashes +
                 (t->lists_len + t->held_len) * sizeof *t->lists +
                 t->parcels_len * (sizeof *t->parcels + sizeof *t->deadlines) +
                 t->handed_cap * sizeof *t->handed +
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
    hsl_key_sync(t);
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

/* ---- what waits ---- */

int hsl_keytab_delay(struct hsl_keytab *t, uint64_t lsn)
{
    hsl_key_sync(t);
    if (lsn < t->base || lsn >= t->scan || done(t, lsn))
        return 0;
    struct cell *c = cell_at(t, lsn);
    struct key *k = key_of(t, c);
    if (!k || c->state != WAITING)
        return 0;
    c->delayed = 1;
    hsl_key_place(t, k);
    return 1;
}

int hsl_keytab_expose(struct hsl_keytab *t, uint64_t lsn)
{
    hsl_key_sync(t);
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
    hsl_key_sync(t);
    if (lsn < t->base || lsn >= t->scan || done(t, lsn))
        return;
    struct cell *c = cell_at(t, lsn);
    struct key *k = key_of(t, c);
    c->delayed = 0;
    if (k)
        hsl_key_refresh(t, k);
}

int hsl_keytab_ready(struct hsl_keytab *t, uint32_t consumer, uint64_t fresh, uint64_t end)
{
    hsl_key_sync(t);
    if (t->lists[AGAIN].first != NO_KEY || t->scan < min_u64(t->restored_end, end))
        return 1;
    uint32_t mine = MINE + consumer < t->lists_len ? t->lists[MINE + consumer].first : NO_KEY;
    if (mine != NO_KEY && cell_at(t, whole(t, t->keys[mine].todo))->attempts > 0)
        return 1;
    return fresh > 0 && (mine != NO_KEY || t->lists[FRESH].first != NO_KEY || t->scan < end);
}
