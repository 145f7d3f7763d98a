/* Copying files in large pieces, from memory that direct I/O takes. */
#include "log.h"

#include <errno.h>
#include <stdlib.h>

#define PIECE (4u << 20)

int hsl_copy(const struct hsl_io *io, int32_t from, int32_t to, uint64_t off, uint64_t len)
{
    uint8_t *buf = hsl_page_alloc(PIECE);
    int err = buf ? 0 : -ENOMEM;
    for (uint64_t end = off + len; err == 0 && off < end;) {
        size_t n = end - off < PIECE ? (size_t)(end - off) : PIECE;
        err = hsl_read_all(io, from, buf, n, off);
        if (err == 0)
            err = hsl_write_all(io, to, buf, n, off);
        off += n;
    }
    free(buf);
    return err;
}
