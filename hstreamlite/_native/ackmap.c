/* Three circular bitmaps (acked, dirty, held) over [low, next), indexed by LSN modulo capacity, and
 * a fourth (watched) once somebody asks for it.
 *
 * Every bit outside [low, next) is zero, so advancing next needs no clearing. The capacity exceeds
 * the span by a word, so no word is shared by both ends and growth copies whole words. An acked bit
 * is never held; a dirty bit is always acked; a watched bit never is. Records below low need no
 * dirty bit: low itself is part of every checkpoint. There is always room in `woken` for all that
 * are watched, so that an ack never has to allocate.
 */
#include "hsl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BITS 64u
#define FIRST_WORDS 8u
#define LSN_MAX ((uint64_t)1 << 62)
#define SPAN_LIMIT ((uint64_t)1 << 40)

struct hsl_ackmap {
    uint64_t low;
    uint64_t next;
    uint64_t *acked;
    uint64_t word_mask;
    uint64_t held_count;
    uint64_t acked_count;
    uint64_t acked_since;
    uint64_t acked_ever;
    uint64_t attention_at;
    uint64_t dirty_first;
    uint64_t dirty_end;
    uint64_t *dirty;
    uint64_t *held;
    uint64_t *watched; /* NULL until the first watch */
    uint64_t watch_count;
    uint64_t *woken;
    size_t woken_len, woken_cap;
    struct hsl_load *load; /* NULL until bytes are counted */
    void *saver;
    uint64_t origin;
    uint64_t span_max;
};

static uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

static uint64_t *word_at(uint64_t *words, const struct hsl_ackmap *m, uint64_t lsn)
{
    return &words[(lsn / WORD_BITS) & m->word_mask];
}

static uint64_t bit_of(uint64_t lsn) { return (uint64_t)1 << (lsn % WORD_BITS); }

/* Bits of lsn's word that lie in [lsn, end). */
static uint64_t mask_from(uint64_t lsn, uint64_t end)
{
    uint64_t mask = ~(uint64_t)0 << (lsn % WORD_BITS);
    if (end / WORD_BITS == lsn / WORD_BITS)
        mask &= ~(~(uint64_t)0 << (end % WORD_BITS));
    return mask;
}

static uint64_t next_word(uint64_t lsn) { return (lsn / WORD_BITS + 1) * WORD_BITS; }

static unsigned bits_of(uint64_t word) { return (unsigned)__builtin_popcountll(word); }

/* First lsn in [lsn, end) whose bit, after flipping, is set; end if none. */
static uint64_t find_bit(const struct hsl_ackmap *m, uint64_t *words, uint64_t flip, uint64_t lsn,
                         uint64_t end)
{
    while (lsn < end) {
        uint64_t word = (*word_at(words, m, lsn) ^ flip) & mask_from(lsn, end);
        if (word)
            return lsn / WORD_BITS * WORD_BITS + (unsigned)__builtin_ctzll(word);
        lsn = next_word(lsn);
    }
    return end;
}

struct hsl_ackmap *hsl_ackmap_new(uint64_t low, uint64_t span_max)
{
    struct hsl_ackmap *m;
    if (low < 1 || low > LSN_MAX || span_max < 1 || span_max > SPAN_LIMIT)
        return NULL;
    m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->acked = calloc(3 * FIRST_WORDS, sizeof *m->acked);
    if (!m->acked) {
        free(m);
        return NULL;
    }
    m->dirty = m->acked + FIRST_WORDS;
    m->held = m->dirty + FIRST_WORDS;
    m->word_mask = FIRST_WORDS - 1;
    m->attention_at = UINT64_MAX;
    m->span_max = span_max;
    m->origin = m->low = m->next = low;
    return m;
}

void hsl_ackmap_free(struct hsl_ackmap *m)
{
    if (m) {
        hsl_load_free(m->load);
        free(m->acked);
        free(m->watched);
        free(m->woken);
        free(m);
    }
}

void hsl_ackmap_state(const struct hsl_ackmap *m, struct hsl_ack_state *out)
{
    out->origin = m->origin;
    out->low = m->low;
    out->next = m->next;
    out->acked = m->acked_count;
    out->held = m->held_count;
    out->acked_since = m->acked_since;
}

uint64_t hsl_ackmap_acked_ever(const struct hsl_ackmap *m) { return m->acked_ever; }

void hsl_ackmap_reset(struct hsl_ackmap *m, uint64_t low)
{
    hsl_ackmap_unload(m, m->low, m->next);
    if (m->load)
        hsl_load_restart(m->load);
    memset(m->acked, 0, 3 * (m->word_mask + 1) * sizeof *m->acked);
    m->origin = m->low = m->next = low;
    m->acked_count = m->held_count = m->acked_since = 0;
    m->dirty_first = m->dirty_end = 0;
    if (m->watched)
        memset(m->watched, 0, (m->word_mask + 1) * sizeof *m->watched);
    m->watch_count = m->woken_len = 0;
}

/* Pages of which no bit was ever set cost no memory. */
static void copy(uint64_t *to, uint64_t word)
{
    if (word)
        *to = word;
}

static int grow(struct hsl_ackmap *m, uint64_t span)
{
    uint64_t words = m->word_mask + 1, mask, lsn;
    uint64_t *acked, *dirty, *held, *watched = NULL;
    while (words * WORD_BITS < span + WORD_BITS)
        words *= 2;
    if (words == m->word_mask + 1)
        return 0;
    acked = calloc((size_t)(3 * words), sizeof *acked);
    if (m->watched)
        watched = calloc((size_t)words, sizeof *watched);
    if (!acked || (m->watched && !watched)) {
        free(acked);
        free(watched);
        return -ENOMEM;
    }
    dirty = acked + words;
    held = dirty + words;
    mask = words - 1;
    for (lsn = m->low; lsn < m->next; lsn = next_word(lsn)) {
        uint64_t to = (lsn / WORD_BITS) & mask;
        copy(&acked[to], *word_at(m->acked, m, lsn));
        copy(&dirty[to], *word_at(m->dirty, m, lsn));
        copy(&held[to], *word_at(m->held, m, lsn));
        if (watched)
            copy(&watched[to], *word_at(m->watched, m, lsn));
    }
    free(m->acked);
    free(m->watched);
    m->watched = watched;
    m->acked = acked;
    m->dirty = dirty;
    m->held = held;
    m->word_mask = mask;
    return 0;
}

int hsl_ackmap_reserve(struct hsl_ackmap *m, uint64_t next)
{
    if (next - m->low > m->span_max || next > LSN_MAX)
        return -ERANGE;
    return grow(m, next - m->low);
}

int hsl_ackmap_advance(struct hsl_ackmap *m, uint64_t next, int hold)
{
    uint64_t from = m->next;
    int rc;
    if (next < from)
        return -ERANGE;
    rc = hsl_ackmap_reserve(m, next);
    if (rc < 0)
        return rc;
    m->next = next;
    if (hold)
        hsl_ackmap_hold(m, from, next, 1);
    return 0;
}

void hsl_ackmap_hold(struct hsl_ackmap *m, uint64_t first, uint64_t end, int hold)
{
    uint64_t lsn = max_u64(first, m->low);
    end = min_u64(end, m->next);
    for (; lsn < end; lsn = next_word(lsn)) {
        uint64_t mask = mask_from(lsn, end);
        uint64_t *held = word_at(m->held, m, lsn);
        if (hold) {
            uint64_t add = mask & ~*held & ~*word_at(m->acked, m, lsn);
            *held |= add;
            m->held_count += bits_of(add);
        } else {
            m->held_count -= bits_of(*held & mask);
            *held &= ~mask;
        }
    }
}

int hsl_ackmap_may_watch(struct hsl_ackmap *m, size_t more)
{
    size_t need = (size_t)m->watch_count + m->woken_len + more;
    if (!m->watched)
        m->watched = calloc((size_t)(m->word_mask + 1), sizeof *m->watched);
    if (!m->watched)
        return -ENOMEM;
    if (need > m->woken_cap) {
        uint64_t *woken = realloc(m->woken, 2 * need * sizeof *woken);
        if (!woken)
            return -ENOMEM;
        m->woken = woken;
        m->woken_cap = 2 * need;
    }
    return 0;
}

void hsl_ackmap_watch(struct hsl_ackmap *m, uint64_t lsn)
{
    uint64_t *watched = word_at(m->watched, m, lsn);
    m->watch_count += (*watched & bit_of(lsn)) == 0;
    *watched |= bit_of(lsn);
}

/* Records whose bits are given, in the word of lsn, are acked or passed over. */
static void wake(struct hsl_ackmap *m, uint64_t lsn, uint64_t bits)
{
    uint64_t *watched = word_at(m->watched, m, lsn);
    for (bits &= *watched; bits; bits &= bits - 1) {
        m->woken[m->woken_len++] = lsn / WORD_BITS * WORD_BITS + (unsigned)__builtin_ctzll(bits);
        m->watch_count--;
        *watched &= ~(bits & -bits);
    }
}

size_t hsl_ackmap_woken(struct hsl_ackmap *m, const uint64_t **lsns)
{
    size_t n = m->woken_len;
    *lsns = m->woken;
    m->woken_len = 0;
    return n;
}

/* The same records are in nobody's hands any more. */
static void unload(struct hsl_ackmap *m, uint64_t lsn, uint64_t bits)
{
    hsl_load_drop(m->load, lsn / WORD_BITS * WORD_BITS, bits);
}

int hsl_ackmap_weigh(struct hsl_ackmap *m, struct hsl_loads *totals)
{
    if (!m->load)
        m->load = hsl_load_new(totals);
    return m->load ? 0 : -ENOMEM;
}

int hsl_ackmap_reserve_load(struct hsl_ackmap *m, uint64_t end)
{
    return m->load && end > m->low ? hsl_load_reserve(m->load, m->low, end) : 0;
}

void hsl_ackmap_load(struct hsl_ackmap *m, uint64_t first, const uint32_t *weights, size_t n,
                     uint32_t owner)
{
    for (size_t i = 0; m->load && i < n; i++)
        if (first + i >= m->low && first + i < m->next &&
            !(*word_at(m->acked, m, first + i) & bit_of(first + i)))
            hsl_load_put(m->load, first + i, weights[i], owner);
}

void hsl_ackmap_unload(struct hsl_ackmap *m, uint64_t first, uint64_t end)
{
    uint64_t lsn = max_u64(first, m->low);
    end = min_u64(end, m->next);
    for (; m->load && lsn < end; lsn = next_word(lsn))
        unload(m, lsn, mask_from(lsn, end));
}

/* Moves low up to lsn, which must not pass next, forgetting what lies between. */
static void pass(struct hsl_ackmap *m, uint64_t to)
{
    uint64_t lsn = m->low;
    for (; lsn < to; lsn = next_word(lsn)) {
        uint64_t mask = mask_from(lsn, to);
        uint64_t *acked = word_at(m->acked, m, lsn);
        uint64_t *held = word_at(m->held, m, lsn);
        m->acked_count -= bits_of(*acked & mask);
        m->held_count -= bits_of(*held & mask);
        if (m->watch_count)
            wake(m, lsn, mask);
        if (m->load)
            unload(m, lsn, mask);
        *acked &= ~mask;
        *held &= ~mask;
        *word_at(m->dirty, m, lsn) &= ~mask;
    }
    m->low = to;
}

static void settle(struct hsl_ackmap *m)
{
    uint64_t to = find_bit(m, m->acked, ~(uint64_t)0, m->low, m->next);
    if (to != m->low)
        pass(m, to);
}

static void mark_dirty(struct hsl_ackmap *m, uint64_t first, uint64_t end)
{
    if (m->dirty_first >= m->dirty_end) {
        m->dirty_first = first;
        m->dirty_end = end;
        return;
    }
    if (first < m->dirty_first)
        m->dirty_first = first;
    if (end > m->dirty_end)
        m->dirty_end = end;
}

static unsigned attention(const struct hsl_ackmap *m)
{
    return m->acked_since >= m->attention_at ? HSL_ACK_ATTENTION : 0;
}

int hsl_ackmap_known(const struct hsl_ackmap *m, uint64_t lsn)
{
    return lsn >= m->origin && lsn < m->next;
}

/* 1 if lsn needs no delivery any more: acked, or below low. */
static int is_done(const struct hsl_ackmap *m, uint64_t lsn)
{
    if (lsn < m->low || lsn >= m->next)
        return lsn < m->low;
    return (*word_at(m->acked, m, lsn) & bit_of(lsn)) != 0;
}

uint64_t hsl_ackmap_low(const struct hsl_ackmap *m) { return m->low; }

int hsl_ackmap_done(const struct hsl_ackmap *m, uint64_t lsn) { return is_done(m, lsn); }

int hsl_ackmap_is_held(const struct hsl_ackmap *m, uint64_t lsn)
{
    return lsn - m->low < m->next - m->low && (*word_at(m->held, m, lsn) & bit_of(lsn)) != 0;
}

unsigned hsl_ackmap_ack(struct hsl_ackmap *m, uint64_t lsn)
{
    uint64_t bit = bit_of(lsn);
    uint64_t *word;
    if (lsn - m->low >= m->next - m->low)
        return lsn < m->low && lsn >= m->origin ? HSL_ACK_DUPLICATE : HSL_ACK_UNKNOWN;
    word = word_at(m->acked, m, lsn);
    if (*word & bit)
        return HSL_ACK_DUPLICATE;
    if (m->held_count && *word_at(m->held, m, lsn) & bit)
        return HSL_ACK_VOID;
    m->acked_since++;
    m->acked_ever++;
    if (m->watch_count)
        wake(m, lsn, bit);
    if (m->load)
        unload(m, lsn, bit);
    if (lsn == m->low && !is_done(m, lsn + 1)) {
        m->low = lsn + 1;
        return HSL_ACK_NEW | attention(m);
    }
    *word |= bit;
    m->acked_count++;
    if (lsn == m->low) {
        settle(m);
    } else {
        *word_at(m->dirty, m, lsn) |= bit;
        mark_dirty(m, lsn, lsn + 1);
    }
    return HSL_ACK_NEW | attention(m);
}

void hsl_ackmap_ack_range(struct hsl_ackmap *m, uint64_t first, uint64_t end,
                          struct hsl_ack_counts *out)
{
    uint64_t lsn = max_u64(first, m->low);
    memset(out, 0, sizeof *out);
    if (first >= end || first < m->origin || end > m->next) {
        out->flags = HSL_ACK_UNKNOWN;
        return;
    }
    for (; lsn < end; lsn = next_word(lsn)) {
        uint64_t *acked = word_at(m->acked, m, lsn);
        uint64_t open = mask_from(lsn, end) & ~*acked;
        uint64_t fresh = open & ~*word_at(m->held, m, lsn);
        if (m->watch_count)
            wake(m, lsn, fresh);
        if (m->load)
            unload(m, lsn, fresh);
        *acked |= fresh;
        *word_at(m->dirty, m, lsn) |= fresh;
        out->fresh += bits_of(fresh);
        out->voided += bits_of(open & ~fresh);
    }
    out->duplicate = end - first - out->fresh - out->voided;
    if (out->fresh) {
        m->acked_count += out->fresh;
        m->acked_since += out->fresh;
        m->acked_ever += out->fresh;
        mark_dirty(m, max_u64(first, m->low), end);
        settle(m);
    }
    out->flags = (out->fresh ? HSL_ACK_NEW : 0) | (out->duplicate ? HSL_ACK_DUPLICATE : 0) |
                 (out->voided ? HSL_ACK_VOID : 0) | attention(m);
}

static void add_counts(struct hsl_ack_counts *to, const struct hsl_ack_counts *from)
{
    to->fresh += from->fresh;
    to->duplicate += from->duplicate;
    to->voided += from->voided;
    to->flags |= from->flags;
}

static void count_one(struct hsl_ack_counts *to, unsigned flags)
{
    to->fresh += (flags & HSL_ACK_NEW) != 0;
    to->duplicate += (flags & HSL_ACK_DUPLICATE) != 0;
    to->voided += (flags & HSL_ACK_VOID) != 0;
    to->flags |= flags;
}

void hsl_ackmap_ack_list(struct hsl_ackmap *m, const uint64_t *lsns, size_t n,
                         struct hsl_ack_counts *out)
{
    size_t i;
    memset(out, 0, sizeof *out);
    for (i = 0; i < n; i++) {
        if (!hsl_ackmap_known(m, lsns[i])) {
            out->flags = HSL_ACK_UNKNOWN;
            return;
        }
    }
    for (i = 0; i < n;) {
        size_t from = i;
        do
            i++;
        while (i < n && lsns[i] == lsns[i - 1] + 1);
        if (i - from > 1) {
            struct hsl_ack_counts run;
            hsl_ackmap_ack_range(m, lsns[from], lsns[from] + (i - from), &run);
            add_counts(out, &run);
        } else {
            count_one(out, hsl_ackmap_ack(m, lsns[from]));
        }
    }
}

void hsl_ackmap_attention(struct hsl_ackmap *m, uint64_t at) { m->attention_at = at; }

uint64_t hsl_ackmap_skip(struct hsl_ackmap *m, uint64_t lsn)
{
    uint64_t passed, to = min_u64(lsn, m->next);
    if (lsn <= m->low)
        return 0;
    passed = hsl_ackmap_count(m, m->low, to);
    pass(m, to);
    if (lsn > m->next)
        m->low = m->next = lsn;
    settle(m);
    return passed;
}

uint64_t hsl_ackmap_next_unacked(const struct hsl_ackmap *m, uint64_t lsn)
{
    return find_bit(m, m->acked, ~(uint64_t)0, max_u64(lsn, m->low), m->next);
}

uint64_t hsl_ackmap_count(const struct hsl_ackmap *m, uint64_t first, uint64_t end)
{
    uint64_t lsn = max_u64(first, m->low), n = 0;
    end = min_u64(end, m->next);
    for (; lsn < end; lsn = next_word(lsn))
        n += bits_of(~*word_at(m->acked, m, lsn) & mask_from(lsn, end));
    return n;
}

static size_t runs_of(const struct hsl_ackmap *m, uint64_t *words, uint64_t flip, uint64_t first,
                      uint64_t end, struct hsl_ack_run *out, size_t cap)
{
    uint64_t lsn = max_u64(first, m->low);
    size_t n = 0;
    end = min_u64(end, m->next);
    while (n < cap) {
        lsn = find_bit(m, words, flip, lsn, end);
        if (lsn >= end)
            break;
        out[n].first = lsn;
        lsn = find_bit(m, words, ~flip, lsn, end);
        out[n++].end = lsn;
    }
    return n;
}

size_t hsl_ackmap_runs(const struct hsl_ackmap *m, int kind, uint64_t first, uint64_t end,
                       struct hsl_ack_run *out, size_t cap)
{
    uint64_t *words = kind == HSL_ACK_KIND_HELD ? m->held : m->acked;
    uint64_t flip = kind == HSL_ACK_KIND_UNACKED ? ~(uint64_t)0 : 0;
    return runs_of(m, words, flip, first, end, out, cap);
}

size_t hsl_ackmap_unsaved(const struct hsl_ackmap *m, struct hsl_ack_run *out, size_t cap)
{
    return runs_of(m, m->dirty, 0, m->dirty_first, m->dirty_end, out, cap);
}

void hsl_ackmap_save_by(struct hsl_ackmap *m, void *saver) { m->saver = saver; }

void *hsl_ackmap_saver(const struct hsl_ackmap *m) { return m->saver; }

size_t hsl_ackmap_drain(struct hsl_ackmap *m, struct hsl_ack_run *out, size_t cap)
{
    size_t i, n = hsl_ackmap_unsaved(m, out, cap);
    for (i = 0; i < n; i++) {
        uint64_t lsn = out[i].first, end = out[i].end;
        for (; lsn < end; lsn = next_word(lsn))
            *word_at(m->dirty, m, lsn) &= ~mask_from(lsn, end);
        m->dirty_first = end;
    }
    if (n < cap) {
        m->dirty_first = m->dirty_end = 0;
        m->acked_since = 0;
    }
    return n;
}

int hsl_ackmap_check(const struct hsl_ackmap *m)
{
    uint64_t acked = 0, held = 0, words = m->word_mask + 1, i, lsn;
    if (m->origin < 1 || m->low < m->origin || m->next < m->low)
        return 1;
    if (m->next - m->low > m->span_max || words * WORD_BITS < m->next - m->low + WORD_BITS)
        return 2;
    for (i = 0; i < words; i++) {
        acked += bits_of(m->acked[i]);
        held += bits_of(m->held[i]);
        if (m->dirty[i] & ~m->acked[i] || m->held[i] & m->acked[i])
            return 3;
    }
    if (acked != m->acked_count || held != m->held_count)
        return 4;
    for (i = 0, lsn = m->watch_count; m->watched && i < words; i++) {
        lsn -= bits_of(m->watched[i]);
        if (m->watched[i] & m->acked[i])
            return 7;
    }
    if (lsn != 0 && m->watched)
        return 8;
    for (lsn = m->low; lsn < m->next; lsn = next_word(lsn)) {
        uint64_t mask = mask_from(lsn, m->next);
        acked -= bits_of(*word_at(m->acked, m, lsn) & mask);
        held -= bits_of(*word_at(m->held, m, lsn) & mask);
    }
    if (acked || held)
        return 5;
    if (m->low < m->next && is_done(m, m->low))
        return 6; /* not reached: whatever acks settles what is done */
    return 0;
}
