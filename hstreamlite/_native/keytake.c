/* See keytab.h: handing out. */
#include "keytab.h"

#include <errno.h>
#include <stdlib.h>

#define SCAN_MAX 4096u

struct taking {
    uint32_t consumer, parcel;
    uint64_t left, fresh;
    struct hsl_key_run *runs;
    uint32_t len;
};

static bool may_hand(const struct taking *g, const struct cell *c)
{
    return g->left > 0 && (c->attempts > 0 || g->fresh > 0);
}

static void hand(struct hsl_keytab *t, struct taking *g, uint64_t lsn)
{
    struct cell *c = cell_at(t, lsn);
    hsl_key_uncount(t, c);
    c->state = RESERVED;
    c->parcel = g->parcel;
    g->left--;
    g->fresh -= c->attempts == 0;
    add_run(g->runs, &g->len, lsn, c->attempts + 1u);
}

/* Hands out what waits of a key, as far as that goes. */
static void hand_waiting(struct hsl_keytab *t, struct taking *g, struct key *k)
{
    while (k->waits) {
        uint64_t lsn = whole(t, k->todo);
        struct cell *c = cell_at(t, lsn);
        if (done(t, lsn)) {
            hsl_key_uncount(t, c);
        } else {
            if (c->delayed || !may_hand(g, c))
                break;
            k->owner = g->consumer;
            hand(t, g, lsn);
        }
        hsl_key_step(t, k);
    }
    hsl_key_unlist(t, k); /* what is left may have to stand behind what comes again of others */
    hsl_key_place(t, k);
}

static void hand_list(struct hsl_keytab *t, struct taking *g, uint32_t list)
{
    uint32_t at;
    while (g->left > 0 && (at = t->lists[list].first) != NO_KEY) {
        struct key *k = &t->keys[at];
        if (!hsl_key_refresh(t, k) || k->list != list)
            continue; /* not reached: an ack since hsl_key_sync, where Python has no GIL */
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

/* Keys lie anywhere in memory: what is looked at soon is asked for now. A call that does no more
 * than that is dropped by GCC, unless it is in line. */
static inline __attribute__((always_inline)) void
fetch_ahead(struct hsl_keytab *t, const uint32_t *tags, uint64_t left)
{
    if (left > 2 * KEYS_AHEAD)
        __builtin_prefetch(&t->slots[tags[2 * KEYS_AHEAD] & t->slot_mask]);
    if (left > KEYS_AHEAD) {
        uint64_t last = whole(t, t->slots[tags[KEYS_AHEAD] & t->slot_mask]);
        if (last < t->scan)
            __builtin_prefetch(cell_at(t, last));
    }
}

/* Has the slot of a record tell of it; returns the one before it of its key, 0: there is none. */
static uint64_t link_in(struct hsl_keytab *t, struct cell *c, uint64_t lsn, uint32_t tag)
{
    uint32_t *slot = &t->slots[tag & t->slot_mask], *link = NULL;
    uint64_t last = 0;
    if (whole(t, *slot) < t->scan)
        link = hsl_key_find(t, tag);
    if (link) {
        last = whole(t, *link);
        *link = cell_at(t, last)->older;
    }
    c->tag = tag;
    c->older = *slot;
    *slot = (uint32_t)lsn;
    return last;
}

/* The key of a record that enters, as its last one; NULL: no other of its key is unacked. */
static struct key *join_key(struct hsl_keytab *t, struct cell *c, uint64_t lsn, uint32_t tag)
{
    uint64_t last = link_in(t, c, lsn, tag);
    if (last == 0)
        return NULL;
    struct cell *before = cell_at(t, last);
    struct key *k = key_of(t, before);
    if (k && k->tail == (uint32_t)last) {
        if (!hsl_key_refresh(t, k))
            return NULL;
    } else if (done(t, last)) {
        return NULL;
    } else {
        k = hsl_key_add(t, last, t->parcels[before->parcel].consumer);
    }
    before->next = (uint32_t)(lsn - last);
    k->tail = (uint32_t)lsn;
    c->key = (uint32_t)(k - t->keys);
    return k;
}

/* Hands out the record at `scan`, or has it wait. false: it stays where it is. */
static bool scan_one(struct hsl_keytab *t, struct taking *g, uint32_t tag)
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
    struct key *k = tag != 0 ? join_key(t, c, lsn, tag) : NULL;
    t->scan++;
    if (!k && !may)
        k = hsl_key_add(t, lsn, 0);
    if (may && (!k || (!k->waits && k->owner == g->consumer))) {
        hand(t, g, lsn);
    } else {
        if (k->head != (uint32_t)lsn)
            hsl_key_hold_behind(t, lsn);
        if (!k->waits)
            k->todo = (uint32_t)lsn;
        k->waits = true;
        hsl_key_place(t, k);
    }
    return true;
}

static int reserve_scan(struct hsl_keytab *t, uint64_t stop, uint64_t max)
{
    uint64_t n = stop - t->scan, waiting = min_u64(t->again + t->fresh, max);
    if (hsl_key_reserve_cells(t, stop) < 0 || hsl_key_reserve_keys(t, n) < 0 ||
        hsl_ackmap_may_watch(t->acks, (size_t)(2 * (n + waiting) + hsl_key_late(t, n))) < 0)
        return -ENOMEM;
    return stop > t->restored_end ? hsl_ackmap_reserve(t->acks, stop) : 0;
}

int64_t hsl_keytab_take(struct hsl_keytab *t, uint32_t consumer, uint32_t *parcel, uint64_t max,
                        uint64_t fresh, uint64_t end)
{
    hsl_key_sync(t);
    hsl_parcel_sweep(t);
    uint64_t stop = max_u64(t->scan, min_u64(min_u64(end, t->described), t->scan + SCAN_MAX));
    uint64_t most = min_u64(max, t->again + t->fresh + (stop - t->scan));
    if (hsl_key_reserve_consumer(t, consumer) < 0 || reserve_scan(t, stop, max) < 0)
        return -ENOMEM;
    uint32_t number = *parcel ? *parcel : hsl_parcel_open(t, consumer, most);
    if (number == 0 || (*parcel && hsl_parcel_widen(t, number, most) < 0))
        return -ENOMEM;
    struct parcel *p = &t->parcels[number];
    struct taking g = {consumer, number, most, fresh, p->runs, p->len};
    hand_list(t, &g, AGAIN);
    hand_list(t, &g, MINE + consumer);
    hand_list(t, &g, FRESH);
    const uint32_t *tags = t->tags + (t->tags_len - (size_t)(t->described - t->scan));
    for (; t->scan < stop; tags++) {
        fetch_ahead(t, tags, stop - t->scan);
        if (!scan_one(t, &g, *tags))
            break;
    }
    struct hsl_ack_state state;
    hsl_ackmap_state(t->acks, &state);
    if (t->scan > state.next)
        hsl_ackmap_advance(t->acks, t->scan, 1);
    p->len = g.len;
    hsl_parcel_close(t, number);
    *parcel = g.len > 0 ? number : 0;
    return (int64_t)(most - g.left);
}
