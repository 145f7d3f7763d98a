/* Sparse bytes with copy on write: the content of a simulated file.
 *
 * Pages of 4 KiB hang in chunks of 64; both are counted and shared between copies, so that a copy
 * costs a pointer per 256 KiB, a write costs the pages it touches, and a hash is computed once per
 * page content. Bytes never written are zero and take no memory; bytes beyond the size are zero
 * always, so that growing never uncovers old content.
 *
 * Copies may live in different threads (the counts are atomic); one struct sim_bytes may not.
 * Memory that cannot be had ends the process: a simulated disk has no honest answer to that.
 */
#ifndef SIMBYTES_H
#define SIMBYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIM_PAGE = 4096, SIM_SECTOR = 512 };

struct sim_chunk;

struct sim_bytes {
    uint64_t size;
    uint64_t reserved; /* end of the space charged to the file, a multiple of SIM_PAGE */
    struct sim_chunk **chunks;
    size_t count;
};

void *sim_alloc(size_t size); /* zeroed */
void *sim_grow(void *items, size_t *capacity, size_t count, size_t item_size);
bool sim_all_zero(const void *data, size_t len);
uint64_t sim_mix(uint64_t x);

void sim_bytes_clear(struct sim_bytes *b);
/* What dst held is released. */
void sim_bytes_copy(struct sim_bytes *dst, const struct sim_bytes *src);
void sim_bytes_read(const struct sim_bytes *b, uint64_t off, void *buf, size_t len);
/* Extends the size; data NULL writes zeros. */
void sim_bytes_write(struct sim_bytes *b, uint64_t off, const void *data, uint64_t len);
void sim_bytes_truncate(struct sim_bytes *b, uint64_t len);
/* Charges the space up to end. */
void sim_bytes_reserve(struct sim_bytes *b, uint64_t end);
/* Every page of dst that touches the range becomes that of src; the sizes stay. */
void sim_bytes_share(struct sim_bytes *dst, const struct sim_bytes *src, uint64_t off,
                     uint64_t len);
uint64_t sim_bytes_hash(const struct sim_bytes *b);

#endif
