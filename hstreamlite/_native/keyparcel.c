/* See keytab.h: parcels, those of each consumer in a list, and a heap of those that are out by
 * their deadlines. */
#include "keytab.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_PARCELS 16u
#define SWEEP_PARCELS 2
#define SWEEP_LOOKS 16

static bool reserved(const struct parcel *p) { return p->place == NO_PLACE; }

/* ---- deadlines ---- */

static bool sooner(const struct hsl_keytab *t, uint32_t a, uint32_t b)
{
    const struct parcel *x = &t->parcels[a], *y = &t->parcels[b];
    return x->due != y->due ? x->due < y->due : x->serial < y->serial;
}

static void put(struct hsl_keytab *t, uint32_t place, uint32_t parcel)
{
    t->deadlines[place] = parcel;
    t->parcels[parcel].place = place;
}

/* Moves a parcel from an empty place to where it belongs. */
static void settle(struct hsl_keytab *t, uint32_t place, uint32_t parcel)
{
    while (place > 0 && sooner(t, parcel, t->deadlines[(place - 1) / 2])) {
        put(t, place, t->deadlines[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child + 1 < t->deadlines_len && sooner(t, t->deadlines[child + 1], t->deadlines[child]))
            child++;
        if (child >= t->deadlines_len || !sooner(t, t->deadlines[child], parcel))
            break;
        put(t, place, t->deadlines[child]);
        place = child;
    }
    put(t, place, parcel);
}

static void drop_deadline(struct hsl_keytab *t, struct parcel *p)
{
    uint32_t place = p->place, last = t->deadlines[--t->deadlines_len];
    if (place < t->deadlines_len)
        settle(t, place, last);
    p->place = NO_PLACE;
}

/* ---- memory ---- */

/* There is a free one, and a place for its deadline. */
static int reserve_parcels(struct hsl_keytab *t)
{
    if (t->free_parcel != 0)
        return 0;
    uint32_t len = t->parcels_len ? 2 * t->parcels_len : FIRST_PARCELS;
    uint32_t *deadlines = realloc(t->deadlines, len * sizeof *deadlines);
    if (!deadlines)
        return -ENOMEM;
    t->deadlines = deadlines;
    struct parcel *parcels = realloc(t->parcels, len * sizeof *parcels);
    if (!parcels)
        return -ENOMEM;
    t->parcels = parcels;
    uint32_t from = t->parcels_len ? t->parcels_len : 1; /* 0 is none */
    memset(parcels + t->parcels_len, 0, (len - t->parcels_len) * sizeof *parcels);
    for (uint32_t i = len; i-- > from;) {
        parcels[i].behind = t->free_parcel;
        t->free_parcel = i;
    }
    t->parcels_len = len;
    return 0;
}

static int reserve_handed(struct hsl_keytab *t, uint64_t runs)
{
    size_t cap = t->handed_len + (size_t)runs;
    if (cap <= t->handed_cap)
        return 0;
    struct hsl_key_run *handed = realloc(t->handed, 2 * cap * sizeof *handed);
    if (!handed)
        return -ENOMEM;
    t->handed = handed;
    t->handed_cap = 2 * cap;
    return 0;
}

/* There must be a free one. */
static uint32_t add_parcel(struct hsl_keytab *t, uint32_t consumer, struct hsl_key_run *runs)
{
    uint32_t number = t->free_parcel;
    struct parcel *p = &t->parcels[number];
    struct list *list = &t->held[consumer];
    t->free_parcel = p->behind;
    *p = (struct parcel){.runs = runs, .consumer = consumer, .place = NO_PLACE};
    p->due = HSL_KEY_RESERVED;
    p->serial = ++t->serial;
    p->before = list->last;
    p->behind = NO_KEY;
    if (list->last != NO_KEY)
        t->parcels[list->last].behind = number;
    else
        list->first = number;
    list->last = number;
    return number;
}

uint32_t hsl_parcel_open(struct hsl_keytab *t, uint32_t consumer, uint64_t len)
{
    struct hsl_key_run *runs;
    if (reserve_handed(t, len) < 0 || reserve_parcels(t) < 0)
        return 0;
    runs = malloc((size_t)(len + 1) * sizeof *runs);
    return runs ? add_parcel(t, consumer, runs) : 0;
}

int hsl_parcel_widen(struct hsl_keytab *t, uint32_t number, uint64_t more)
{
    struct parcel *p = &t->parcels[number];
    struct hsl_key_run *runs;
    uint64_t len = p->len + more;
    if (reserve_handed(t, len) < 0)
        return -ENOMEM;
    runs = realloc(p->runs, (size_t)(len + 1) * sizeof *runs);
    if (!runs)
        return -ENOMEM;
    p->runs = runs;
    return 0;
}

void hsl_parcel_close(struct hsl_keytab *t, uint32_t number)
{
    struct parcel *p = &t->parcels[number];
    if (p->len == 0) {
        hsl_parcel_free(t, number);
        return;
    }
    struct hsl_key_run *fitting = realloc(p->runs, p->len * sizeof *fitting);
    p->runs = fitting ? fitting : p->runs;
}

void hsl_parcel_start(struct hsl_keytab *t, uint32_t number, int64_t due)
{
    struct parcel *p = &t->parcels[number];
    for (uint32_t i = 0; i < p->len; i++)
        hsl_ackmap_hold(t->acks, p->runs[i].first, p->runs[i].first + p->runs[i].count, 0);
    memcpy(t->handed + t->handed_len, p->runs, p->len * sizeof *p->runs);
    t->handed_len += p->len;
    p->due = due;
    settle(t, t->deadlines_len++, number);
}

void hsl_parcel_free(struct hsl_keytab *t, uint32_t number)
{
    struct parcel *p = &t->parcels[number];
    struct list *list = &t->held[p->consumer];
    if (!reserved(p))
        drop_deadline(t, p);
    if (p->before != NO_KEY)
        t->parcels[p->before].behind = p->behind;
    else
        list->first = p->behind;
    if (p->behind != NO_KEY)
        t->parcels[p->behind].before = p->before;
    else
        list->last = p->before;
    free(p->runs);
    *p = (struct parcel){.behind = t->free_parcel};
    t->free_parcel = number;
}

void hsl_parcels_drop(struct hsl_keytab *t)
{
    for (uint32_t i = 1; i < t->parcels_len; i++)
        free(t->parcels[i].runs);
    free(t->parcels);
    free(t->deadlines);
    free(t->handed);
}

/* ---- what is unacked ---- */

/* The first record of a parcel that is unacked, or 0. What is found to be done before it need not
 * be looked at again. */
static uint64_t first_open(struct hsl_keytab *t, uint32_t number)
{
    struct parcel *p = &t->parcels[number];
    for (; p->at < p->len; p->at++) {
        struct hsl_key_run *run = &p->runs[p->at];
        for (uint64_t end = run->first + run->count; run->first < end;) {
            uint64_t lsn = hsl_ackmap_next_unacked(t->acks, run->first);
            lsn = min_u64(lsn, end);
            run->count = (uint32_t)(end - lsn);
            run->first = lsn;
            if (lsn == end)
                break;
            if (in_parcel(t, lsn, number))
                return lsn;
            run->first++;
            run->count--;
        }
    }
    return 0;
}

bool hsl_parcel_has(struct hsl_keytab *t, uint32_t number) { return first_open(t, number) != 0; }

void hsl_parcel_sweep(struct hsl_keytab *t)
{
    uint32_t seen = 0;
    for (uint32_t look = 0; look < SWEEP_LOOKS && seen < SWEEP_PARCELS; look++) {
        t->sweep = t->sweep + 1 < t->parcels_len ? t->sweep + 1 : 1;
        const struct parcel *p = t->parcels_len ? &t->parcels[t->sweep] : NULL;
        if (!p || p->consumer == 0 || reserved(p))
            continue;
        seen++;
        if (!hsl_parcel_has(t, t->sweep))
            hsl_parcel_free(t, t->sweep);
    }
}

int hsl_keytab_has(const struct hsl_keytab *t, uint64_t parcel)
{
    return parcel < t->parcels_len && t->parcels[parcel].consumer != 0;
}

uint64_t hsl_keytab_records(struct hsl_keytab *t, uint32_t parcel)
{
    uint64_t records = 0;
    const struct parcel *p = &t->parcels[parcel];
    for (uint32_t i = p->at; i < p->len; i++)
        records += p->runs[i].count;
    return records;
}

const struct hsl_key_run *hsl_keytab_runs(struct hsl_keytab *t, uint32_t parcel, size_t *len)
{
    *len = t->parcels[parcel].len;
    return t->parcels[parcel].runs;
}

/* Unacked records of a run that belong to the parcel, and the first of them. */
static uint64_t open_of(struct hsl_keytab *t, uint32_t parcel, const struct hsl_key_run *run,
                        uint64_t *first)
{
    uint64_t open = 0;
    for (uint64_t lsn = run->first; lsn < run->first + run->count; lsn++) {
        if (!in_parcel(t, lsn, parcel))
            continue;
        if (open++ == 0)
            *first = lsn;
    }
    return open;
}

uint64_t hsl_keytab_open(struct hsl_keytab *t, uint32_t parcel)
{
    uint64_t open = 0, first;
    const struct parcel *p = &t->parcels[parcel];
    for (uint32_t i = p->at; i < p->len; i++)
        open += open_of(t, parcel, &p->runs[i], &first);
    return open;
}

uint64_t hsl_keytab_fresh_in(struct hsl_keytab *t, uint32_t parcel)
{
    uint64_t fresh = 0, first;
    const struct parcel *p = &t->parcels[parcel];
    for (uint32_t i = p->at; i < p->len; i++)
        if (p->runs[i].attempt == 1)
            fresh += open_of(t, parcel, &p->runs[i], &first);
    return fresh;
}

uint32_t hsl_keytab_next_held(struct hsl_keytab *t, uint32_t consumer, uint32_t parcel)
{
    if (consumer >= t->held_len)
        return 0;
    uint32_t next = parcel ? t->parcels[parcel].behind : t->held[consumer].first;
    return next == NO_KEY ? 0 : next;
}

size_t hsl_keytab_out(struct hsl_keytab *t, uint32_t parcel, struct hsl_key_out *out)
{
    size_t n = 0;
    const struct parcel *p = &t->parcels[parcel];
    for (uint32_t i = p->at; i < p->len && !reserved(p); i++) {
        struct hsl_key_out *o = &out[n];
        o->open = open_of(t, parcel, &p->runs[i], &o->first);
        o->end = p->runs[i].first + p->runs[i].count;
        o->due = p->due;
        n += o->open > 0;
    }
    return n;
}

/* ---- deadlines, from outside ---- */

uint32_t hsl_keytab_next_due(struct hsl_keytab *t, int64_t *due)
{
    hsl_key_sync(t);
    while (t->deadlines_len > 0 && !hsl_parcel_has(t, t->deadlines[0]))
        hsl_parcel_free(t, t->deadlines[0]);
    *due = t->deadlines_len > 0 ? t->parcels[t->deadlines[0]].due : HSL_KEY_RESERVED;
    return t->deadlines_len > 0 ? t->deadlines[0] : 0;
}

struct part {
    uint64_t serial;
    uint32_t parcel, records, moved_to;
};

static int by_serial(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    return x->serial < y->serial ? -1 : x->serial > y->serial;
}

/* The parcels that are due before a time, of which the consumer has records of [first, end), those
 * first that it has held longest; each is told its place among them. *held counts all that it has
 * there. */
static size_t parts_in(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end,
                       int64_t due, struct part *parts, int64_t *held)
{
    size_t n = 0;
    for (uint64_t lsn = first; lsn < end; lsn++) {
        if (!consumer_has(t, consumer, lsn))
            continue;
        ++*held;
        uint32_t parcel = cell_at(t, lsn)->parcel;
        struct parcel *p = &t->parcels[parcel];
        if (p->part == 0 && p->due < due) {
            parts[n++] = (struct part){p->serial, parcel, 0, 0};
            p->part = (uint32_t)n;
        }
        if (p->part != 0)
            parts[p->part - 1].records++;
    }
    qsort(parts, n, sizeof *parts, by_serial);
    for (size_t i = 0; i < n; i++)
        t->parcels[parts[i].parcel].part = (uint32_t)i + 1;
    return n;
}

/* A parcel with room for what moves to it; 0: no memory. */
static uint32_t part_off(struct hsl_keytab *t, uint32_t consumer, const struct part *part)
{
    struct hsl_key_run *runs = malloc(part->records * sizeof *runs);
    if (!runs || reserve_parcels(t) < 0) {
        free(runs);
        return 0;
    }
    return add_parcel(t, consumer, runs);
}

/* 0, or -ENOMEM: then there are no new parcels. */
static int part_all_off(struct hsl_keytab *t, uint32_t consumer, struct part *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        parts[i].moved_to = part_off(t, consumer, &parts[i]);
        if (parts[i].moved_to != 0)
            continue;
        while (i-- > 0)
            hsl_parcel_free(t, parts[i].moved_to);
        return -ENOMEM;
    }
    return 0;
}

int64_t hsl_keytab_extend(struct hsl_keytab *t, uint32_t consumer, uint64_t first, uint64_t end,
                          int64_t due)
{
    int64_t held = 0;
    hsl_key_sync(t);
    first = max_u64(first, t->base);
    end = min_u64(end, t->scan);
    if (first >= end || consumer >= t->held_len)
        return 0;
    struct part *parts = malloc((size_t)(end - first) * sizeof *parts);
    if (!parts)
        return -ENOMEM;
    size_t n = parts_in(t, consumer, first, end, due, parts, &held);
    int rc = part_all_off(t, consumer, parts, n);
    for (uint64_t lsn = first; lsn < end && n > 0 && rc == 0; lsn++) {
        struct cell *c = cell_at(t, lsn);
        uint32_t part = consumer_has(t, consumer, lsn) ? t->parcels[c->parcel].part : 0;
        if (part == 0)
            continue;
        struct parcel *p = &t->parcels[parts[part - 1].moved_to];
        add_run(p->runs, &p->len, lsn, c->attempts);
        c->parcel = parts[part - 1].moved_to;
    }
    for (size_t i = 0; i < n; i++)
        t->parcels[parts[i].parcel].part = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        t->parcels[parts[i].moved_to].due = due;
        settle(t, t->deadlines_len++, parts[i].moved_to);
        if (!hsl_parcel_has(t, parts[i].parcel))
            hsl_parcel_free(t, parts[i].parcel);
    }
    free(parts);
    return rc < 0 ? rc : held;
}

/* ---- what was handed out ---- */

size_t hsl_keytab_handed(struct hsl_keytab *t, uint64_t low, const struct hsl_key_run **runs)
{
    if (t->handed_len > 0)
        t->handed_len = hsl_key_runs_join(t->handed, t->handed_len, low);
    *runs = t->handed;
    return t->handed_len;
}

void hsl_keytab_told(struct hsl_keytab *t) { t->handed_len = 0; }

/* ---- the check ---- */

int hsl_parcels_check(struct hsl_keytab *t)
{
    uint32_t used = 0, free_ones = 0, out = 0, listed = 0;
    for (uint32_t i = 1; i < t->parcels_len; i++) {
        const struct parcel *p = &t->parcels[i];
        used += p->consumer != 0;
        if (p->consumer == 0 || reserved(p))
            continue;
        out++;
        if (p->place >= t->deadlines_len || t->deadlines[p->place] != i)
            return -1;
        if (p->place > 0 && sooner(t, i, t->deadlines[(p->place - 1) / 2]))
            return -1;
    }
    for (uint32_t i = t->free_parcel; i != 0; i = t->parcels[i].behind)
        free_ones++;
    for (uint32_t consumer = 0; consumer < t->held_len; consumer++) {
        uint64_t serial = 0;
        for (uint32_t i = t->held[consumer].first; i != NO_KEY; i = t->parcels[i].behind) {
            if (t->parcels[i].consumer != consumer || t->parcels[i].serial <= serial)
                return -1;
            serial = t->parcels[i].serial;
            listed++;
        }
    }
    if (out != t->deadlines_len || listed != used)
        return -1;
    if (t->parcels_len > 0 && used + free_ones != t->parcels_len - 1)
        return -1;
    for (uint64_t lsn = t->base; lsn < t->scan; lsn++) {
        const struct cell *c = cell_at(t, lsn);
        if (done(t, lsn) || c->state == WAITING)
            continue;
        const struct parcel *p = &t->parcels[c->parcel];
        if (p->consumer == 0 || (c->state == RESERVED) != reserved(p))
            return -1;
    }
    return 0;
}
