/* The part of the codec that is inlined where lists of payloads are encoded: a call for each record
 * would cost as much as the copy of a short one. */
#ifndef HSL_CODEC_H
#define HSL_CODEC_H

#include <stdbool.h>
#include <string.h>

#include "hsl.h"

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, GROUP = 3, GROUP_END = 4, FIXED32 = 5 };

#define TAG(number, type) ((number) << 3 | (type))
enum {
    TAG_RECORD = TAG(1, BYTES),
    TAG_HEADER = TAG(1, BYTES),
    TAG_PAYLOAD = TAG(2, BYTES),
    TAG_FLAG = TAG(1, VARINT),
    TAG_ATTRIBUTE = TAG(2, BYTES),
    TAG_KEY = TAG(3, BYTES)
};

static inline size_t varint_size(uint64_t value)
{
    return value < 0x80 ? 1 : (size_t)(70 - __builtin_clzll(value)) / 7;
}

static inline uint8_t *put_varint(uint8_t *out, uint64_t value)
{
    while (value >= 0x80) {
        *out++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *out++ = (uint8_t)value;
    return out;
}

static inline size_t bytes_field_size(size_t len)
{
    return 1 + varint_size(len) + len;
}

/* What raw records of one key without attributes have in common: their header field, which is
 * written once and copied from there. */
struct hsl_codec_run_form {
    const uint8_t *header;
    size_t header_len;
};

/* Writes the first record of such, as hsl_codec_encode would. */
uint8_t *hsl_codec_run_begin(uint8_t *out, const struct hsl_payload *first, const uint8_t *key,
                             size_t key_len, struct hsl_codec_run_form *form);

static inline size_t hsl_codec_run_header_len(size_t key_len)
{
    return bytes_field_size(2 + (key_len ? bytes_field_size(key_len) : 0));
}

/* Without its own tag and length. */
static inline size_t hsl_codec_run_record_len(size_t header_len, size_t len)
{
    return header_len + (len ? bytes_field_size(len) : 0);
}

/* No key, and all lengths of the record take one byte. */
static inline bool hsl_codec_run_is_short(size_t header_len, size_t len)
{
    return header_len == 4 && len > 0 && len < 0x80 - 6;
}

static inline size_t hsl_codec_run_record_size(size_t header_len, size_t len)
{
    return hsl_codec_run_is_short(header_len, len)
               ? 8 + len
               : bytes_field_size(hsl_codec_run_record_len(header_len, len));
}

/* Copies a short payload without a call; from may end before a whole word does. */
static inline void copy_short(uint8_t *to, const uint8_t *from, size_t len)
{
    if (len < 16) {
        memcpy(to, from, len);
        return;
    }
    for (size_t at = 0; at + 16 < len; at += 16)
        memcpy(to + at, from + at, 16);
    memcpy(to + len - 16, from + len - 16, 16);
}

/* Writes a record behind the first. */
static inline uint8_t *hsl_codec_run_put(uint8_t *out, const struct hsl_codec_run_form *form,
                                         const uint8_t *data, size_t len)
{
    if (hsl_codec_run_is_short(form->header_len, len)) {
        uint8_t start[8] = {TAG_RECORD, (uint8_t)(len + 6), [6] = TAG_PAYLOAD, (uint8_t)len};
        memcpy(start + 2, form->header, 4);
        memcpy(out, start, 8);
        copy_short(out + 8, data, len);
        return out + 8 + len;
    }
    *out++ = TAG_RECORD;
    out = put_varint(out, hsl_codec_run_record_len(form->header_len, len));
    memcpy(out, form->header, form->header_len);
    out += form->header_len;
    if (len) {
        *out++ = TAG_PAYLOAD;
        out = put_varint(out, len);
        memcpy(out, data, len);
        out += len;
    }
    return out;
}

#endif
