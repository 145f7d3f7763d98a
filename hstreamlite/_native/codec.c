/* Codec of block bodies; see codec_api.h for the messages and what the reader tolerates. */
#include <stdbool.h>

#include "codec.h"

enum { TAG_BYTES_MAX = 5, VARINT_BYTES_MAX = 10, GROUP_DEPTH_MAX = 32 };
#define LENGTH_MAX 0x7fffffffu /* of any field, as in every protobuf parser */

/* ---- wire format ---- */

size_t hsl_wire_varint_size(uint64_t value) { return varint_size(value); }

uint8_t *hsl_wire_varint(uint8_t *out, uint64_t value) { return put_varint(out, value); }

static const uint8_t *read_long_varint(const uint8_t *p, const uint8_t *end, int bytes_max,
                                       uint64_t *value)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes_max && p < end; i++) {
        uint64_t byte = *p++; /* of the tenth, protobuf drops the bits beyond 64 */
        v |= (byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            *value = v;
            return p;
        }
    }
    return NULL;
}

static inline const uint8_t *read_varint(const uint8_t *p, const uint8_t *end, int bytes_max,
                                         uint64_t *value)
{
    if (p < end && *p < 0x80) {
        *value = *p;
        return p + 1;
    }
    return read_long_varint(p, end, bytes_max, value);
}

static const uint8_t *read_fixed(const uint8_t *p, const uint8_t *end, int bytes, uint64_t *value)
{
    uint64_t v = 0;
    if (end - p < bytes)
        return NULL;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    *value = v;
    return p + bytes;
}

static const uint8_t *read_field(const uint8_t *p, const uint8_t *end, int depth,
                                 struct hsl_wire_field *out);

/* Reads to the end mark of the group; out->data and out->len become what lies before it. */
static const uint8_t *read_group(const uint8_t *p, const uint8_t *end, int depth,
                                 struct hsl_wire_field *out)
{
    struct hsl_wire_field inner;
    if (depth >= GROUP_DEPTH_MAX)
        return NULL;
    for (;;) {
        const uint8_t *at = p;
        p = read_field(p, end, depth + 1, &inner);
        if (p == NULL)
            return NULL;
        if (inner.type == GROUP_END) {
            out->len = (size_t)(at - out->data);
            return inner.number == out->number ? p : NULL;
        }
    }
}

static const uint8_t *read_field(const uint8_t *p, const uint8_t *end, int depth,
                                 struct hsl_wire_field *out)
{
    uint64_t tag, len;
    p = read_varint(p, end, TAG_BYTES_MAX, &tag);
    if (p == NULL || tag > UINT32_MAX || tag < TAG(1, 0))
        return NULL;
    out->number = (uint32_t)(tag >> 3);
    out->type = (uint32_t)(tag & 7);
    out->data = p;
    out->len = 0;
    switch (out->type) {
    case VARINT:
        return read_varint(p, end, VARINT_BYTES_MAX, &out->value);
    case BYTES:
        p = read_varint(p, end, TAG_BYTES_MAX, &len);
        if (p == NULL || len > LENGTH_MAX || len > (size_t)(end - p))
            return NULL;
        out->data = p;
        out->len = (size_t)len;
        return p + len;
    case FIXED64:
        return read_fixed(p, end, 8, &out->value);
    case FIXED32:
        return read_fixed(p, end, 4, &out->value);
    case GROUP:
        return read_group(p, end, depth, out);
    case GROUP_END:
        return depth > 0 ? p : NULL;
    default:
        return NULL;
    }
}

/* Inlined, so that the field stays in registers; short string and number fields are read here. */
static inline __attribute__((always_inline)) int
next_field(const uint8_t **pos, const uint8_t *end, struct hsl_wire_field *out)
{
    const uint8_t *p = *pos;
    struct hsl_wire_field slow;
    if (p == end)
        return 0;
    if (end - p >= 2 && p[0] < 0x80 && p[0] >= TAG(1, 0) && p[1] < 0x80) {
        out->number = p[0] >> 3;
        out->type = p[0] & 7;
        out->value = out->len = p[1];
        out->data = p + 2;
        if (out->type == VARINT) {
            *pos = p + 2;
            return 1;
        }
        if (out->type == BYTES) {
            if (out->len > (size_t)(end - p - 2))
                return -1;
            *pos = p + 2 + out->len;
            return 1;
        }
    }
    p = read_field(p, end, 0, &slow);
    *out = slow;
    if (p == NULL)
        return -1;
    *pos = p;
    return 1;
}

int hsl_wire_next(const uint8_t **pos, const uint8_t *end, struct hsl_wire_field *out)
{
    return next_field(pos, end, out);
}

/* ---- attributes ---- */

static int read_attribute(const uint8_t *entry, size_t len, struct hsl_attr *out)
{
    const uint8_t *pos = entry, *end = entry + len;
    struct hsl_wire_field f;
    int got;
    out->name = out->value = end;
    out->name_len = out->value_len = 0;
    while ((got = next_field(&pos, end, &f)) > 0) {
        if (f.type == BYTES && f.number == 1) {
            out->name = f.data;
            out->name_len = f.len;
        } else if (f.type == BYTES && f.number == 2) {
            out->value = f.data;
            out->value_len = f.len;
        }
    }
    return got;
}

void hsl_attr_begin(struct hsl_attr_walk *walk, const struct hsl_record_ref *ref)
{
    const uint8_t *start = ref->attrs, *end = ref->attrs_len ? start + ref->attrs_len : start;
    walk->pos = ref->attrs_scattered ? end : start;
    walk->end = end;
    walk->rest = ref->attrs_scattered ? start : end;
    walk->rest_end = end;
}

int hsl_attr_next(struct hsl_attr_walk *walk, struct hsl_attr *out)
{
    struct hsl_wire_field f;
    int got;
    for (;;) {
        const uint8_t *at = walk->pos;
        got = next_field(&walk->pos, walk->end, &f);
        if (got < 0)
            return -1; /* not reached: a record is checked before it is walked; fuzzed */
        if (got > 0) {
            if (f.number != 2 || f.type != BYTES)
                continue;
            out->field = at;
            out->field_len = (size_t)(walk->pos - at);
            return read_attribute(f.data, f.len, out) < 0 ? -1 : 1;
        }
        do {
            got = next_field(&walk->rest, walk->rest_end, &f);
            if (got <= 0)
                return got;
        } while (f.number != 1 || f.type != BYTES);
        walk->pos = f.data;
        walk->end = f.data + f.len;
    }
}

size_t hsl_attrs_size(const struct hsl_record_ref *ref)
{
    struct hsl_attr_walk walk;
    struct hsl_attr attr;
    size_t size = 0;
    if (!ref->attrs_scattered)
        return ref->attrs_len;
    hsl_attr_begin(&walk, ref);
    while (hsl_attr_next(&walk, &attr) > 0)
        size += attr.field_len;
    return size;
}

static uint8_t *put(uint8_t *out, const uint8_t *bytes, size_t len)
{
    if (len == 0)
        return out;
    memcpy(out, bytes, len);
    return out + len;
}

uint8_t *hsl_attrs_copy(uint8_t *out, const struct hsl_record_ref *ref)
{
    struct hsl_attr_walk walk;
    struct hsl_attr attr;
    if (!ref->attrs_scattered)
        return put(out, ref->attrs, ref->attrs_len);
    hsl_attr_begin(&walk, ref);
    while (hsl_attr_next(&walk, &attr) > 0)
        out = put(out, attr.field, attr.field_len);
    return out;
}

/* ---- writing ---- */

static inline size_t header_size(const struct hsl_record_ref *ref)
{
    size_t size = ref->raw ? 2 : 0;
    if (ref->attrs_len)
        size += hsl_attrs_size(ref);
    if (ref->key_len)
        size += bytes_field_size(ref->key_len);
    return size;
}

static inline size_t record_size(const struct hsl_record_ref *ref, size_t header)
{
    return bytes_field_size(header) + (ref->payload_len ? bytes_field_size(ref->payload_len) : 0);
}

size_t hsl_codec_size(const struct hsl_record_ref *ref)
{
    return bytes_field_size(record_size(ref, header_size(ref)));
}

uint8_t *hsl_codec_encode(uint8_t *out, const struct hsl_record_ref *ref)
{
    size_t header = header_size(ref);
    *out++ = TAG_RECORD;
    out = put_varint(out, record_size(ref, header));
    *out++ = TAG_HEADER;
    out = put_varint(out, header);
    if (ref->raw) {
        *out++ = TAG_FLAG;
        *out++ = 1;
    }
    if (ref->attrs_len)
        out = hsl_attrs_copy(out, ref);
    if (ref->key_len) {
        *out++ = TAG_KEY;
        out = put_varint(out, ref->key_len);
        out = put(out, ref->key, ref->key_len);
    }
    if (ref->payload_len) {
        *out++ = TAG_PAYLOAD;
        out = put_varint(out, ref->payload_len);
        out = put(out, ref->payload, ref->payload_len);
    }
    return out;
}

/* ---- writing: many records of the same form ---- */

static struct hsl_record_ref payload_ref(const struct hsl_payload *payload, const uint8_t *key,
                                         size_t key_len)
{
    return (struct hsl_record_ref){
        .payload = payload->data,
        .payload_len = payload->len,
        .key = key,
        .key_len = key_len,
        .raw = 1,
    };
}

size_t hsl_codec_run_size(const struct hsl_payload *run, size_t count, size_t key_len,
                          size_t *largest)
{
    size_t size = 0, longest = 0, header_len = hsl_codec_run_header_len(key_len);
    for (size_t i = 0; i < count; i++) {
        size_t record = hsl_codec_run_record_size(header_len, run[i].len);
        size += record;
        longest = record > longest ? record : longest;
    }
    *largest = longest;
    return size;
}

uint8_t *hsl_codec_run_begin(uint8_t *out, const struct hsl_payload *first, const uint8_t *key,
                             size_t key_len, struct hsl_codec_run_form *form)
{
    struct hsl_record_ref ref = payload_ref(first, key, key_len);
    form->header_len = hsl_codec_run_header_len(key_len);
    form->header = out + 1 + varint_size(hsl_codec_run_record_len(form->header_len, first->len));
    return hsl_codec_encode(out, &ref);
}

uint8_t *hsl_codec_encode_run(uint8_t *out, const struct hsl_payload *run, size_t count,
                              const uint8_t *key, size_t key_len)
{
    struct hsl_codec_run_form form;
    if (count == 0)
        return out;
    out = hsl_codec_run_begin(out, run, key, key_len, &form);
    for (size_t i = 1; i < count; i++) {
        __builtin_prefetch(run[i + 8 < count ? i + 8 : i].data + 64);
        __builtin_prefetch(out + 768, 1);
        out = hsl_codec_run_put(out, &form, run[i].data, run[i].len);
    }
    return out;
}

/* ---- reading ---- */

static int read_header(const uint8_t *pos, const uint8_t *end, struct hsl_record_ref *out)
{
    struct hsl_wire_field f;
    struct hsl_attr attr;
    int got;
    for (;;) {
        const uint8_t *at = pos;
        got = next_field(&pos, end, &f);
        if (got <= 0)
            return got;
        if (f.number == 1 && f.type == VARINT) {
            /* An unknown flag of a later protocol says nothing about the payload but its bytes. */
            out->raw = (uint32_t)f.value != 0;
        } else if (f.number == 3 && f.type == BYTES) {
            out->key = f.data;
            out->key_len = f.len;
        } else if (f.number == 2 && f.type == BYTES) {
            if (read_attribute(f.data, f.len, &attr) < 0)
                return -1;
            if (out->attrs_len == 0)
                out->attrs = at;
            else if (out->attrs + out->attrs_len != at)
                out->attrs_scattered = 1;
            out->attrs_len = (size_t)(pos - out->attrs);
        }
    }
}

/* A raw record without key and attributes as the writer writes it, which is most of them. */
static bool read_plain(const uint8_t *data, size_t len, struct hsl_record_ref *out)
{
    static const uint8_t header[4] = {TAG_HEADER, 2, TAG_FLAG, 1};
    if (len < 6 || memcmp(data, header, 4) != 0 || data[4] != TAG_PAYLOAD || data[5] >= 0x80 ||
        data[5] + 6u != len)
        return false;
    *out = (struct hsl_record_ref){
        .payload = data + 6,
        .payload_len = data[5],
        .key = data,
        .attrs = data,
        .raw = 1,
    };
    return true;
}

static int read_record(const uint8_t *data, size_t len, struct hsl_record_ref *out)
{
    if (read_plain(data, len, out))
        return 0;
    const uint8_t *pos = data, *end = data + len;
    struct hsl_wire_field f;
    int got;
    memset(out, 0, sizeof *out);
    out->payload = out->key = out->attrs = data;
    while ((got = next_field(&pos, end, &f)) > 0) {
        if (f.type != BYTES)
            continue;
        if (f.number == 2) {
            out->payload = f.data;
            out->payload_len = f.len;
        } else if (f.number == 1 && read_header(f.data, f.data + f.len, out) < 0) {
            return -1;
        }
    }
    if (out->attrs_scattered) {
        out->attrs = data;
        out->attrs_len = len;
    }
    return got;
}

static inline int next_record(const uint8_t **pos, const uint8_t *end, struct hsl_wire_field *out)
{
    int got;
    do {
        got = next_field(pos, end, out);
    } while (got > 0 && (out->number != 1 || out->type != BYTES));
    return got;
}

int hsl_codec_next(const uint8_t **pos, const uint8_t *end, struct hsl_record_ref *out)
{
    const uint8_t *p = *pos;
    struct hsl_wire_field f;
    int got = next_record(&p, end, &f);
    if (got > 0 && read_record(f.data, f.len, out) < 0)
        return -1;
    if (got > 0)
        *pos = p;
    return got;
}

int hsl_codec_skip(const uint8_t **pos, const uint8_t *end, uint32_t n)
{
    struct hsl_wire_field f;
    for (uint32_t i = 0; i < n; i++) {
        int got = next_record(pos, end, &f);
        if (got <= 0)
            return got;
    }
    return 1;
}

int64_t hsl_codec_count(const uint8_t *body, size_t len)
{
    const uint8_t *pos = body, *end = len ? body + len : body;
    struct hsl_record_ref ref;
    int64_t n = 0;
    int got;
    while ((got = hsl_codec_next(&pos, end, &ref)) > 0)
        n++;
    return got < 0 ? -1 : n;
}

/* ---- hash ---- */

static inline uint64_t load_le(const uint8_t *p, size_t bytes)
{
    uint64_t v = 0;
    for (size_t i = 0; i < bytes; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Multiply and fold 16 bytes at a time, after wyhash. */
uint64_t hsl_codec_key_hash(const uint8_t *key, size_t len, uint64_t seed)
{
    const uint64_t p0 = 0xa0761d6478bd642fu, p2 = 0x8ebc6af09c88c6e3u;
    /* What a key is combined with must not be known: with it all can be made zero. */
    const uint64_t p1 = 0xe7037ed1a0b428dbu ^ fold(seed ^ p0, p2 ^ (seed << 1));
    uint64_t h = p0 ^ seed, a = 0, b = 0;
    size_t left = len;
    if (len == 0)
        return 0;
    for (; left > 16; left -= 16, key += 16)
        h = fold(load_le(key, 8) ^ p1, load_le(key + 8, 8) ^ h);
    if (left > 8) {
        a = load_le(key, 8);
        b = load_le(key + 8, left - 8);
    } else {
        a = load_le(key, left);
    }
    h = fold(p1 ^ (uint64_t)len, fold(a ^ p1, b ^ h) ^ p2);
    return h ? h : 1;
}
