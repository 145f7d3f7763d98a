/* A window over one segment file. */
#include "scan.h"

#include <errno.h>
#include <stdlib.h>

const uint8_t *hsl_reader_view(struct reader *r, uint64_t off, size_t need, int *err)
{
    *err = 0;
    if (off + need > r->size)
        return NULL;
    if (off >= r->off && off + need <= r->off + r->len)
        return r->buf + (off - r->off);
    size_t want = hsl_align_page(need > r->window ? need : r->window);
    if (want > r->cap) {
        uint8_t *grown = hsl_page_alloc(want);
        if (!grown) {
            *err = ENOMEM;
            return NULL;
        }
        free(r->buf);
        r->buf = grown;
        r->cap = want;
    }
    r->off = off;
    r->len = 0;
    uint64_t left = r->size - off;
    if (want > left)
        want = hsl_align_page(left);
    while (r->len < want && r->off + r->len < r->size) {
        int64_t n = r->log->io->pread(r->log->io->ctx, r->fd, r->buf + r->len, want - r->len,
                                      off + r->len);
        if (n < 0) {
            *err = (int)-n;
            return NULL;
        }
        if (n == 0)
            break;
        r->len += (size_t)n;
    }
    return r->len >= need ? r->buf : NULL;
}
