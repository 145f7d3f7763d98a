/* See keytab.h: coming back. */
#include "keytab.h"

#include <errno.h>
#include <string.h>

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
    if (!k) { /* it has met no other of its key, and was handed out at once */
        k = hsl_key_add(t, lsn, 0);
        k->waits = true;
    }
    for (uint64_t at = lsn;; at += c->next) {
        c = cell_at(t, at);
        if (!done(t, at) && c->state != WAITING) {
            hsl_ackmap_unload(t->acks, at, at + 1);
            c->state = WAITING;
            c->parcel = 0;
            if (at != lsn)
                hsl_key_hold_behind(t, at);
            if (c->attempts == 0)
                t->fresh++;
            else
                t->again++;
        } else if (k->waits && k->todo == (uint32_t)at && at != lsn) {
            if (!done(t, at))
                hsl_key_hold_behind(t, at);
            break; /* from here on they wait already */
        }
        if (c->next == 0)
            break;
    }
    k->todo = (uint32_t)lsn;
    k->waits = true;
    hsl_key_unlist(t, k); /* it may stand among what is new, and comes before that now */
    hsl_key_refresh(t, k);
}

static int reserve_back(struct hsl_keytab *t, uint64_t records)
{
    hsl_key_sync(t);
    if (hsl_key_reserve_keys(t, records) < 0)
        return -ENOMEM;
    uint64_t late = hsl_key_late(t, t->scan - t->base);
    return hsl_ackmap_may_watch(t->acks, (size_t)(2 * records + late));
}

int64_t hsl_keytab_confirm(struct hsl_keytab *t, uint32_t parcel, uint64_t count, int64_t due)
{
    uint64_t records = hsl_keytab_records(t, parcel), at = 0, out = 0;
    if (reserve_back(t, records) < 0 || hsl_parcel_widen(t, parcel, records) < 0)
        return -ENOMEM;
    struct parcel *p = &t->parcels[parcel];
    struct hsl_key_run *kept = p->runs + p->len;
    uint32_t len = 0;
    for (size_t i = 0; i < p->len; i++) {
        for (uint64_t lsn = p->runs[i].first; lsn < p->runs[i].first + p->runs[i].count; lsn++) {
            bool given = at++ < count;
            if (!in_parcel(t, lsn, parcel))
                continue;
            if (!given) {
                back(t, lsn, false);
                continue;
            }
            struct cell *c = cell_at(t, lsn);
            c->state = OUT;
            c->attempts += c->attempts < UINT16_MAX;
            add_run(kept, &len, lsn, c->attempts);
            out++;
        }
    }
    memmove(p->runs, kept, len * sizeof *kept);
    p->len = len;
    hsl_parcel_close(t, parcel);
    if (len > 0)
        hsl_parcel_start(t, parcel, due);
    return (int64_t)out;
}

void hsl_keytab_start(struct hsl_keytab *t, uint32_t parcel, int64_t due)
{
    const struct parcel *p = &t->parcels[parcel];
    for (size_t i = 0; i < p->len; i++) {
        for (uint64_t lsn = p->runs[i].first; lsn < p->runs[i].first + p->runs[i].count; lsn++) {
            struct cell *c = cell_at(t, lsn);
            c->state = OUT;
            c->attempts += c->attempts < UINT16_MAX;
        }
    }
    hsl_parcel_start(t, parcel, due);
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

int64_t hsl_keytab_take_back(struct hsl_keytab *t, uint32_t parcel, struct hsl_key_head *out,
                             uint64_t *count)
{
    int64_t taken = 0;
    *count = 0;
    if (reserve_back(t, hsl_keytab_records(t, parcel)) < 0)
        return -ENOMEM;
    const struct parcel *p = &t->parcels[parcel];
    for (size_t i = 0; i < p->len; i++)
        for (uint64_t lsn = p->runs[i].first; lsn < p->runs[i].first + p->runs[i].count; lsn++)
            *count += in_parcel(t, lsn, parcel) && cell_at(t, lsn)->state == OUT;
    for (size_t i = 0; i < p->len; i++) {
        for (uint64_t lsn = p->runs[i].first; lsn < p->runs[i].first + p->runs[i].count; lsn++) {
            if (!in_parcel(t, lsn, parcel))
                continue; /* or it was taken along with one before it */
            back(t, lsn, cell_at(t, lsn)->state == OUT);
            out[taken++].lsn = lsn;
        }
    }
    hsl_parcel_free(t, parcel);
    return heads_of(t, out, taken);
}

static int64_t take_of(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end,
                       bool sent, struct hsl_key_head *out, uint64_t *count)
{
    int64_t taken = 0;
    hsl_key_sync(t);
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
