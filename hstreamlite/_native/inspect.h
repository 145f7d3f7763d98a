/* What inspecting a segment file keeps: inspect.c, verdict.c. */
#ifndef INSPECT_H
#define INSPECT_H

#include "log.h"

struct found {
    struct hsl_row row;
    uint8_t codec;
    bool rescued; /* outside of any valid frame: believed only if it fits in between */
    bool rejected;
};

enum phase { WALK, RESCUE, WALKED, DONE };

struct hsl_inspect {
    const struct hsl_io *io;
    int fd;
    int err;
    uint8_t *buf; /* a window of the file */
    uint64_t buf_off;
    size_t buf_len, buf_cap;
    uint64_t careful; /* up to here no more is read than asked for: the device failed near by */

    struct hsl_inspect_want want;
    struct hsl_inspect_report report;
    struct hsl_trailer trailer;
    struct hsl_segment_cover cover; /* of level 1; zeros otherwise */
    bool footer_torn; /* a trailer stands there, but the footer does not verify */
    enum phase phase;

    uint64_t off, limit, last_valid;
    bool bounded; /* frames end at limit, others say */
    bool chained; /* report.frames and last_crc are those of the frame before `off` */
    bool broken;
    uint64_t broken_from;
    size_t rescue_next;

    struct found *found;
    size_t found_len, found_cap;
    bool by_off; /* found is in file order: what was rescued came last */
    struct hsl_inspect_range *ranges;
    size_t ranges_len, ranges_cap;
    struct hsl_inspect_lost *lost;
    size_t lost_len, lost_cap;
    struct hsl_inspect_run *runs;
    size_t runs_len, runs_cap;
};

bool hsl_inspect_grow(void **items, size_t *cap, size_t len, size_t size);
int hsl_inspect_add_range(struct hsl_inspect *in, int fault, uint64_t frame, uint64_t from,
                          uint64_t to);
int hsl_inspect_add_lost(struct hsl_inspect *in, const struct hsl_inspect_lost *lost);
/* `need` bytes at a page-aligned offset; NULL past the end of the file, where the device cannot
 * read them, and on any other error (in->err). */
const uint8_t *hsl_inspect_view(struct hsl_inspect *in, uint64_t off, size_t need);

#endif
