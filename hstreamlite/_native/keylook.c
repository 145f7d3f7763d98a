/* See keytab.h: looking, and the check of all rules. */
#include "keytab.h"

int hsl_keytab_holds(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end)
{
    hsl_key_sync(t);
    for (uint64_t lsn = first; lsn < end; lsn++)
        if (!consumer_has(t, consumer, lsn))
            return 0;
    return 1;
}

int64_t hsl_keytab_due_of(struct hsl_keytab *t, uint64_t lsn)
{
    hsl_key_sync(t);
    if (lsn < t->base || lsn >= t->scan || done(t, lsn) || cell_at(t, lsn)->state != OUT)
        return HSL_KEY_RESERVED;
    return t->parcels[cell_at(t, lsn)->parcel].due;
}

uint64_t hsl_keytab_first_out(struct hsl_keytab *t, uint64_t end)
{
    hsl_key_sync(t);
    end = min_u64(end, t->scan);
    for (uint64_t lsn = t->base; lsn < end; lsn++)
        if (cell_at(t, lsn)->state == OUT && !done(t, lsn))
            return lsn;
    return 0;
}

size_t hsl_keytab_attempts(struct hsl_keytab *t, uint64_t *lsn, struct hsl_key_run *out,
                           size_t cap)
{
    uint32_t n = 0;
    hsl_key_sync(t);
    uint64_t at = *lsn > t->base ? *lsn : t->base;
    uint64_t end = t->scan > t->restored_end ? t->scan : t->restored_end;
    for (; at < end; at++) {
        uint32_t attempts = at < t->scan ? cell_at(t, at)->attempts
                                         : t->restored[at - t->restored_at];
        if (attempts == 0 || done(t, at))
            continue;
        const struct hsl_key_run *last = n > 0 ? &out[n - 1] : NULL;
        bool joins = last && last->first + last->count == at && last->attempt == attempts;
        if (!joins && n == cap)
            break;
        add_run(out, &n, at, attempts);
    }
    *lsn = at;
    return n;
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
            if (!waits && t->parcels[c->parcel].consumer != k->owner)
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

/* A record leads to its key, or is handed out; and its slot leads to the last one of its key. */
static bool is_found(struct hsl_keytab *t, uint64_t lsn)
{
    const struct cell *c = cell_at(t, lsn);
    const struct key *k = key_of(t, c);
    if (!k && (c->key != NO_KEY || c->state == WAITING))
        return false;
    const uint32_t *link = c->tag != 0 ? hsl_key_find(t, c->tag) : NULL;
    return c->tag == 0 || (link && *link == (k ? k->tail : (uint32_t)lsn));
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
    hsl_key_sync(t);
    for (uint32_t i = 0; i < t->keys_cap; i++) {
        struct key *k = &t->keys[i];
        if (!k->used)
            continue;
        used++;
        int rule = check_key(t, k, &fresh, &again);
        if (rule)
            return rule;
    }
    for (uint64_t lsn = t->base; lsn < t->scan; lsn++)
        if (!done(t, lsn) && !is_found(t, lsn))
            return 9;
    if (used != t->keys_used)
        return 10;
    if (fresh != t->fresh || again != t->again)
        return 11;
    if (hsl_parcels_check(t) < 0)
        return 13;
    for (uint32_t list = MINE; list < t->lists_len; list++) {
        if (!in_order(t, list))
            return 12;
    }
    return 0;
}
