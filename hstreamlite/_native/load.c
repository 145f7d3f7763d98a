/* What of a shard is in the hands of consumers, in bytes.
 *
 * A ring of a cell a record, by LSN modulo capacity, over the loaded records from the lowest that
 * may still be loaded; an empty cell weighs nothing. The totals are those of all shards of a
 * subscription, by owner, and under 0 of all owners.
 */
#include "hsl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CELLS 64u
#define FIRST_OWNERS 8u

struct hsl_loads {
    uint64_t *bytes;
    uint32_t len;
};

struct cell {
    uint32_t weight;
    uint32_t owner;
};

struct hsl_load {
    struct hsl_loads *totals;
    struct cell *cells;
    uint64_t mask;
    uint64_t end; /* no record from here on is loaded */
};

struct hsl_loads *hsl_loads_new(void)
{
    struct hsl_loads *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    l->len = FIRST_OWNERS;
    l->bytes = calloc(l->len, sizeof *l->bytes);
    if (!l->bytes) {
        free(l);
        return NULL;
    }
    return l;
}

void hsl_loads_free(struct hsl_loads *l)
{
    if (l) {
        free(l->bytes);
        free(l);
    }
}

int hsl_loads_reserve(struct hsl_loads *l, uint32_t owner)
{
    uint32_t len = l->len;
    while (len <= owner)
        len *= 2;
    if (len == l->len)
        return 0;
    uint64_t *bytes = realloc(l->bytes, len * sizeof *bytes);
    if (!bytes)
        return -ENOMEM;
    memset(bytes + l->len, 0, (len - l->len) * sizeof *bytes);
    l->bytes = bytes;
    l->len = len;
    return 0;
}

uint64_t hsl_loads_bytes(const struct hsl_loads *l, uint32_t owner)
{
    return owner < l->len ? l->bytes[owner] : 0;
}

struct hsl_load *hsl_load_new(struct hsl_loads *totals)
{
    struct hsl_load *load = calloc(1, sizeof *load);
    if (!load)
        return NULL;
    load->cells = calloc(FIRST_CELLS, sizeof *load->cells);
    if (!load->cells) {
        free(load);
        return NULL;
    }
    load->totals = totals;
    load->mask = FIRST_CELLS - 1;
    return load;
}

void hsl_load_free(struct hsl_load *load)
{
    if (load) {
        free(load->cells);
        free(load);
    }
}

int hsl_load_reserve(struct hsl_load *load, uint64_t low, uint64_t end)
{
    uint64_t cap = load->mask + 1;
    while (cap < end - low)
        cap *= 2;
    if (cap == load->mask + 1)
        return 0;
    struct cell *cells = calloc((size_t)cap, sizeof *cells);
    if (!cells)
        return -ENOMEM;
    for (uint64_t lsn = low; lsn < load->end; lsn++)
        cells[lsn & (cap - 1)] = load->cells[lsn & load->mask];
    free(load->cells);
    load->cells = cells;
    load->mask = cap - 1;
    return 0;
}

void hsl_load_restart(struct hsl_load *load) { load->end = 0; }

void hsl_load_put(struct hsl_load *load, uint64_t lsn, uint32_t weight, uint32_t owner)
{
    hsl_load_drop(load, lsn, 1);
    load->cells[lsn & load->mask] = (struct cell){weight, owner};
    load->totals->bytes[owner] += weight;
    load->totals->bytes[0] += weight;
    if (load->end <= lsn)
        load->end = lsn + 1;
}

void hsl_load_drop(struct hsl_load *load, uint64_t lsn, uint64_t bits)
{
    for (; bits && lsn < load->end; bits >>= 1, lsn++) {
        struct cell *c = &load->cells[lsn & load->mask];
        if ((bits & 1) && c->weight) {
            load->totals->bytes[c->owner] -= c->weight;
            load->totals->bytes[0] -= c->weight;
            c->weight = 0;
        }
    }
}
