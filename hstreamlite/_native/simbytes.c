/* Sparse bytes with copy on write; see simbytes.h. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simbytes.h"

enum { CHUNK_PAGES = 64, CHUNK_BYTES = CHUNK_PAGES * SIM_PAGE };

/* Value of a hash that is not known; the hash of zero content is HASH_ZERO, so that a page of
 * zeros and a page never written look the same. */
enum { HASH_UNKNOWN = 0, HASH_ZERO = 1 };

struct sim_page {
    atomic_uint references;
    _Atomic uint64_t hash;
    unsigned char data[SIM_PAGE];
};

struct sim_chunk {
    atomic_uint references;
    _Atomic uint64_t hash;
    struct sim_page *pages[CHUNK_PAGES];
};

static const unsigned char zero_page[SIM_PAGE];

void *sim_alloc(size_t size)
{
    void *memory = calloc(1, size ? size : 1);
    if (!memory) {
        fputs("hstreamlite simulation: out of memory\n", stderr); /* not reached: lacks memory */
        abort(); /* not reached: as the line before */
    }
    return memory;
}

void *sim_grow(void *items, size_t *capacity, size_t count, size_t item_size)
{
    if (count < *capacity)
        return items;
    *capacity = *capacity ? 2 * *capacity : 8;
    items = realloc(items, *capacity * item_size);
    if (!items) {
        fputs("hstreamlite simulation: out of memory\n", stderr); /* not reached: lacks memory */
        abort(); /* not reached: as the line before */
    }
    return items;
}

bool sim_all_zero(const void *data, size_t len)
{
    const unsigned char *at = data;
    while (len > SIM_PAGE) {
        if (memcmp(at, zero_page, SIM_PAGE) != 0)
            return false;
        at += SIM_PAGE;
        len -= SIM_PAGE;
    }
    return memcmp(at, zero_page, len) == 0;
}

/* Finaliser of splitmix64. */
uint64_t sim_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static size_t least(uint64_t a, uint64_t b)
{
    return (size_t)(a < b ? a : b);
}

static void page_drop(struct sim_page *page)
{
    if (page && atomic_fetch_sub(&page->references, 1) == 1)
        free(page);
}

static struct sim_page *page_share(struct sim_page *page)
{
    if (page)
        atomic_fetch_add(&page->references, 1);
    return page;
}

static void chunk_drop(struct sim_chunk *chunk)
{
    if (!chunk || atomic_fetch_sub(&chunk->references, 1) != 1)
        return;
    for (int i = 0; i < CHUNK_PAGES; i++)
        page_drop(chunk->pages[i]);
    free(chunk);
}

static struct sim_chunk *chunk_share(struct sim_chunk *chunk)
{
    if (chunk)
        atomic_fetch_add(&chunk->references, 1);
    return chunk;
}

/* The chunk at a place, this file's alone. */
static struct sim_chunk *chunk_own(struct sim_chunk **place)
{
    struct sim_chunk *chunk = *place;
    if (chunk && atomic_load(&chunk->references) == 1) {
        atomic_store(&chunk->hash, HASH_UNKNOWN);
        return chunk;
    }
    struct sim_chunk *own = sim_alloc(sizeof *own);
    atomic_store(&own->references, 1);
    if (chunk)
        for (int i = 0; i < CHUNK_PAGES; i++)
            own->pages[i] = page_share(chunk->pages[i]);
    chunk_drop(chunk);
    return *place = own;
}

static struct sim_page *page_own(struct sim_page **place)
{
    struct sim_page *page = *place;
    if (page && atomic_load(&page->references) == 1) {
        atomic_store(&page->hash, HASH_UNKNOWN);
        return page;
    }
    struct sim_page *own = malloc(sizeof *own);
    if (!own)
        own = sim_alloc(sizeof *own); /* not reached: lacks memory, and ends the process */
    atomic_init(&own->references, 1);
    atomic_init(&own->hash, HASH_UNKNOWN);
    memcpy(own->data, page ? page->data : zero_page, SIM_PAGE);
    page_drop(page);
    return *place = own;
}

static void cover(struct sim_bytes *b, uint64_t end)
{
    size_t count = (size_t)((end + CHUNK_BYTES - 1) / CHUNK_BYTES);
    if (count <= b->count)
        return;
    struct sim_chunk **chunks = sim_alloc(count * sizeof *chunks);
    if (b->count)
        memcpy(chunks, b->chunks, b->count * sizeof *chunks);
    free(b->chunks);
    b->chunks = chunks;
    b->count = count;
}

void sim_bytes_clear(struct sim_bytes *b)
{
    for (size_t i = 0; i < b->count; i++)
        chunk_drop(b->chunks[i]);
    free(b->chunks);
    *b = (struct sim_bytes){0};
}

void sim_bytes_copy(struct sim_bytes *dst, const struct sim_bytes *src)
{
    struct sim_bytes copy = {.size = src->size, .reserved = src->reserved};
    if (src->count) {
        copy.count = src->count;
        copy.chunks = sim_alloc(src->count * sizeof *copy.chunks);
        for (size_t i = 0; i < src->count; i++)
            copy.chunks[i] = chunk_share(src->chunks[i]);
    }
    sim_bytes_clear(dst);
    *dst = copy;
}

static const struct sim_page *page_at(const struct sim_bytes *b, uint64_t off)
{
    size_t index = (size_t)(off / CHUNK_BYTES);
    if (index >= b->count || !b->chunks[index])
        return NULL;
    return b->chunks[index]->pages[off / SIM_PAGE % CHUNK_PAGES];
}

void sim_bytes_read(const struct sim_bytes *b, uint64_t off, void *buf, size_t len)
{
    unsigned char *out = buf;
    while (len) {
        size_t within = (size_t)(off % SIM_PAGE);
        size_t n = least(len, SIM_PAGE - within);
        const struct sim_page *page = page_at(b, off);
        memcpy(out, page ? page->data + within : zero_page, n);
        out += n;
        off += n;
        len -= n;
    }
}

void sim_bytes_reserve(struct sim_bytes *b, uint64_t end)
{
    uint64_t reserved = (end + SIM_PAGE - 1) / SIM_PAGE * SIM_PAGE;
    if (reserved > b->reserved)
        b->reserved = reserved;
}

void sim_bytes_write(struct sim_bytes *b, uint64_t off, const void *data, uint64_t len)
{
    const unsigned char *in = data;
    if (!len)
        return;
    cover(b, off + len);
    sim_bytes_reserve(b, off + len);
    if (off + len > b->size)
        b->size = off + len;
    while (len) {
        size_t within = (size_t)(off % SIM_PAGE);
        size_t n = least(len, SIM_PAGE - within);
        if (page_at(b, off) || (in && !sim_all_zero(in, n))) {
            struct sim_chunk *chunk = chunk_own(&b->chunks[off / CHUNK_BYTES]);
            struct sim_page **place = &chunk->pages[off / SIM_PAGE % CHUNK_PAGES];
            if (!in && n == SIM_PAGE) {
                page_drop(*place);
                *place = NULL;
            } else {
                struct sim_page *page = page_own(place);
                memcpy(page->data + within, in ? in : zero_page, n);
            }
        }
        if (in)
            in += n;
        off += n;
        len -= n;
    }
}

void sim_bytes_truncate(struct sim_bytes *b, uint64_t len)
{
    if (len < b->size) {
        uint64_t reserved = (len + SIM_PAGE - 1) / SIM_PAGE * SIM_PAGE;
        if (reserved > b->reserved)
            reserved = b->reserved;
        size_t keep = (size_t)((len + CHUNK_BYTES - 1) / CHUNK_BYTES);
        for (size_t i = keep; i < b->count; i++)
            chunk_drop(b->chunks[i]);
        if (keep < b->count)
            b->count = keep;
        uint64_t held = least(b->size, (uint64_t)b->count * CHUNK_BYTES);
        if (held > len)
            sim_bytes_write(b, len, NULL, held - len);
        b->reserved = reserved;
    }
    b->size = len;
}

void sim_bytes_share(struct sim_bytes *dst, const struct sim_bytes *src, uint64_t off,
                     uint64_t len)
{
    if (!len)
        return;
    uint64_t at = off / SIM_PAGE * SIM_PAGE;
    uint64_t end = off + len;
    cover(dst, end);
    while (at < end) {
        size_t index = (size_t)(at / CHUNK_BYTES);
        size_t slot = (size_t)(at / SIM_PAGE % CHUNK_PAGES);
        struct sim_chunk *from = index < src->count ? src->chunks[index] : NULL;
        uint64_t chunk_end = ((uint64_t)index + 1) * CHUNK_BYTES;
        if (from == dst->chunks[index]) {
            at = chunk_end;
        } else if (slot == 0 && end >= chunk_end) {
            chunk_drop(dst->chunks[index]);
            dst->chunks[index] = chunk_share(from);
            at = chunk_end;
        } else {
            struct sim_page *page = from ? from->pages[slot] : NULL;
            if (page_at(dst, at) != page) {
                struct sim_chunk *own = chunk_own(&dst->chunks[index]);
                page_drop(own->pages[slot]);
                own->pages[slot] = page_share(page);
            }
            at += SIM_PAGE;
        }
    }
}

static uint64_t page_hash(struct sim_page *page)
{
    uint64_t hash = atomic_load_explicit(&page->hash, memory_order_relaxed);
    if (hash != HASH_UNKNOWN)
        return hash;
    if (memcmp(page->data, zero_page, SIM_PAGE) == 0) {
        hash = HASH_ZERO;
    } else {
        uint64_t lanes[4] = {1, 2, 3, 4};
        for (size_t i = 0; i < SIM_PAGE; i += 32)
            for (size_t lane = 0; lane < 4; lane++) {
                uint64_t word;
                memcpy(&word, page->data + i + 8 * lane, 8);
                lanes[lane] = (lanes[lane] ^ word) * 0x9e3779b97f4a7c15u;
                lanes[lane] ^= lanes[lane] >> 32;
            }
        for (size_t lane = 0; lane < 4; lane++)
            hash = sim_mix(hash ^ lanes[lane]);
        if (hash <= HASH_ZERO)
            hash += 2; /* not reached: one hash of 2^63 is so small */
    }
    atomic_store_explicit(&page->hash, hash, memory_order_relaxed);
    return hash;
}

static uint64_t chunk_hash(struct sim_chunk *chunk)
{
    uint64_t hash = atomic_load_explicit(&chunk->hash, memory_order_relaxed);
    if (hash != HASH_UNKNOWN)
        return hash;
    for (uint64_t i = 0; i < CHUNK_PAGES; i++) {
        uint64_t page = chunk->pages[i] ? page_hash(chunk->pages[i]) : HASH_ZERO;
        if (page != HASH_ZERO)
            hash += sim_mix(page + i * 0xd1342543de82ef95u);
    }
    if (hash <= HASH_ZERO)
        hash = HASH_ZERO;
    atomic_store_explicit(&chunk->hash, hash, memory_order_relaxed);
    return hash;
}

uint64_t sim_bytes_hash(const struct sim_bytes *b)
{
    uint64_t hash = sim_mix(b->size);
    for (uint64_t i = 0; i < b->count; i++) {
        uint64_t chunk = b->chunks[i] ? chunk_hash(b->chunks[i]) : HASH_ZERO;
        if (chunk != HASH_ZERO)
            hash += sim_mix(chunk + i * 0xaef17502108ef2d9u);
    }
    return hash;
}
