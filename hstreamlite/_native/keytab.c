/* See keytab.h: cells, keys, and the lists of those for which something waits. */
#include "keytab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CELLS 64u
#define SLOTS_A_CELL 4u /* most tell of nothing, so that what is new is seen at one look */

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

/* Is a record the last one of a key of which some are unacked? */
static bool is_last(struct hsl_keytab *t, uint64_t lsn)
{
    const struct cell *c = cell_at(t, lsn);
    if (c->key == NO_KEY)
        return !done(t, lsn);
    return t->keys[c->key].used && t->keys[c->key].tail == (uint32_t)lsn;
}

static void relink(struct hsl_keytab *t)
{
    for (uint64_t lsn = t->base; lsn < t->scan; lsn++) {
        struct cell *c = cell_at(t, lsn);
        if (c->tag == 0 || !is_last(t, lsn))
            continue;
        c->older = t->slots[c->tag & t->slot_mask];
        t->slots[c->tag & t->slot_mask] = (uint32_t)lsn;
    }
}

int hsl_key_reserve_cells(struct hsl_keytab *t, uint64_t end)
{
    uint64_t cap = t->cell_mask + 1;
    if (end - t->base <= cap)
        return 0;
    while (cap < end - t->base)
        cap *= 2;
    struct cell *cells = calloc((size_t)cap, sizeof *cells);
    uint32_t *slots = calloc(SLOTS_A_CELL * (size_t)cap, sizeof *slots);
    if (!cells || !slots) {
        free(cells);
        free(slots);
        return -ENOMEM;
    }
    for (uint64_t lsn = t->base; lsn < t->scan; lsn++)
        cells[lsn & (cap - 1)] = *cell_at(t, lsn);
    free(t->cells);
    free(t->slots);
    t->cells = cells;
    t->cell_mask = cap - 1;
    t->slots = slots;
    t->slot_mask = SLOTS_A_CELL * (uint32_t)cap - 1;
    relink(t);
    return 0;
}

int hsl_key_reserve_keys(struct hsl_keytab *t, uint64_t more)
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
    for (uint32_t i = t->keys_cap; i < cap; i++) {
        keys[i].used = false;
        keys[i].behind = i + 1 < cap ? i + 1 : t->free_key;
    }
    t->free_key = t->keys_cap;
    t->keys_cap = (uint32_t)cap;
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
    t->slots = calloc(SLOTS_A_CELL * FIRST_CELLS, sizeof *t->slots);
    t->slot_mask = SLOTS_A_CELL * FIRST_CELLS - 1;
    if (!t->cells || !t->keys || !t->slots || hsl_key_reserve_consumer(t, 0) < 0) {
        hsl_keytab_free(t);
        return NULL;
    }
    t->keys_cap = FIRST_CELLS;
    for (uint32_t i = 0; i < FIRST_CELLS; i++)
        t->keys[i].behind = i + 1 < FIRST_CELLS ? i + 1 : NO_KEY; /* all free, in their order */
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
    free(t->slots);
    free(t->lists);
    free(t->held);
    hsl_parcels_drop(t);
    free(t->tags);
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

/* What a slot told 2^32 records ago may seem to be in [base, scan) again: then it leads to keys of
 * other slots, but not round in a circle. */
uint32_t *hsl_key_find(struct hsl_keytab *t, uint32_t tag)
{
    uint32_t *link = &t->slots[tag & t->slot_mask];
    uint64_t above = t->scan, lsn;
    for (; (lsn = whole(t, *link)) < above; above = lsn) {
        struct cell *c = cell_at(t, lsn);
        if (c->tag == tag)
            return link;
        link = &c->older;
    }
    return NULL;
}

struct key *hsl_key_add(struct hsl_keytab *t, uint64_t lsn, uint32_t owner)
{
    uint32_t at = t->free_key;
    struct key *k = &t->keys[at];
    t->free_key = k->behind;
    t->keys_used++;
    *k = (struct key){.owner = owner, .used = true};
    k->head = k->todo = k->tail = (uint32_t)lsn;
    cell_at(t, lsn)->key = at;
    return k;
}

static void forget(struct hsl_keytab *t, struct key *k)
{
    uint32_t at = (uint32_t)(k - t->keys);
    hsl_key_unlist(t, k);
    k->used = false;
    k->behind = t->free_key;
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
    uint32_t soon = cell_at(t, t->base + KEYS_AHEAD)->key;
    if (soon < t->keys_cap)
        __builtin_prefetch(&t->keys[soon]);
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
            t->tags_len = 0;
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
                 (t->slot_mask + 1) * sizeof *t->slots + t->tags_cap * sizeof *t->tags +
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
    if (kept + n > t->tags_cap) {
        uint32_t *grown = realloc(t->tags, 2 * (kept + n) * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        t->tags = grown;
        t->tags_cap = 2 * (kept + n);
    }
    if (n == 0)
        return 0;
    memmove(t->tags, t->tags + (t->tags_len - kept), kept * sizeof *t->tags);
    for (size_t i = 0; i < n; i++)
        t->tags[kept + i] = tag_of(hashes[i]);
    t->tags_len = kept + n;
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
