/* What an excerpt is, for the batches of deliveries that are made of one. */
#ifndef PY_EXCERPT_H
#define PY_EXCERPT_H

#include "hsl_py.h"

/* Records that follow one another in one batch of the log. */
struct piece {
    uint64_t shard, batch, append_ms;
    uint32_t index, attempt;
    uint32_t number; /* of the first one in the excerpt */
};

struct excerpt {
    PyObject_HEAD
    uint8_t *bytes;
    uint32_t *at; /* where each record begins, and where the last one ends */
    struct piece *pieces;
    uint64_t *hashes; /* of their keys, if hashing */
    size_t len, bytes_cap, at_cap, pieces_cap, piece_count, hashes_cap;
    uint64_t seed;
    uint32_t count;
    bool hashing;
};

/* The number of the piece that holds a record. */
static inline size_t piece_of(const struct excerpt *e, uint32_t number)
{
    size_t low = 0, high = e->piece_count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (e->pieces[middle].number <= number)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static inline uint32_t piece_end(const struct excerpt *e, size_t piece)
{
    return piece + 1 < e->piece_count ? e->pieces[piece + 1].number : e->count;
}

static inline uint64_t lsn_of(const struct piece *p, uint32_t number)
{
    return p->batch + p->index + (number - p->number);
}

/* Its records from number to before end as a list, as deliveries if there is an owner. The caller
 * holds the excerpt: a collection on the way may run code that lets it go elsewhere. */
PyObject *hsl_py_excerpt_decode(const struct excerpt *e, uint32_t number, uint32_t end,
                                PyObject *owner);
/* Writes the runs of records, if there are no more than cap; returns how many. */
size_t hsl_py_excerpt_runs(const struct excerpt *e, uint32_t number, uint32_t count,
                           struct hsl_key_run *runs, size_t cap);

#endif
