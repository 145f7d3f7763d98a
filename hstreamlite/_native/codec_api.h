/* The body of a block: a serialized BatchHStreamRecords, HStreamDB's own batch message.
 *
 *   BatchHStreamRecords   1 records: repeated HStreamRecord
 *   HStreamRecord         1 header: HStreamRecordHeader   2 payload: bytes
 *   HStreamRecordHeader   1 flag: JSON = 0, RAW = 1   2 attributes: map<string, string>  3 key
 *
 * The writer emits canonical proto3, the header always present, as HStreamDB's clients do. The
 * reader takes whatever a protobuf parser takes: unknown fields, any order, fields given twice (the
 * last one counts, headers merge), long varints. It checks structure only: neither UTF-8 nor the
 * Struct inside a JSON payload. Nothing here allocates or keeps state, so every function may run in
 * any thread; all reads stay inside the given range.
 */

/* One record by reference. A decoded one points into the body it was read from. */
struct hsl_record_ref {
    const uint8_t *payload;
    size_t payload_len;
    const uint8_t *key; /* UTF-8 as given; an empty key is no key */
    size_t key_len;
    const uint8_t *attrs; /* attribute fields of the header, encoded one after the other */
    size_t attrs_len;
    int raw;             /* 0: the payload is a serialized google.protobuf.Struct */
    int attrs_scattered; /* attrs is the whole record, and the fields have to be picked out of it;
                          * only the decoder sets it, and the encoder understands it */
};

/* Bytes that hsl_codec_encode writes for the record, tag and length included. */
size_t hsl_codec_size(const struct hsl_record_ref *ref);
/* Returns the end of what it wrote. */
uint8_t *hsl_codec_encode(uint8_t *out, const struct hsl_record_ref *ref);

/* The payload of a raw record without attributes. */
struct hsl_payload {
    const uint8_t *data;
    size_t len;
};

/* Bytes that hsl_codec_encode_run writes; in *largest those of the longest record. */
size_t hsl_codec_run_size(const struct hsl_payload *run, size_t count, size_t key_len,
                          size_t *largest);
/* Writes the records of a run, which share a key, as hsl_codec_encode would. */
uint8_t *hsl_codec_encode_run(uint8_t *out, const struct hsl_payload *run, size_t count,
                              const uint8_t *key, size_t key_len);

/* 1 and the next record, 0 at the end, -1 where the bytes are malformed; *pos moves on 1 only. */
int hsl_codec_next(const uint8_t **pos, const uint8_t *end, struct hsl_record_ref *out);
/* Steps over n records without looking into them: 1, 0 if there are fewer, -1 as above. *pos is
 * then behind the last one that was there. */
int hsl_codec_skip(const uint8_t **pos, const uint8_t *end, uint32_t n);
/* Number of records in a body that is well-formed throughout, else -1. */
int64_t hsl_codec_count(const uint8_t *body, size_t len);

/* Walk over the attributes of a record; a key may come twice, then the later value counts. */
struct hsl_attr_walk {
    const uint8_t *pos; /* the header being read */
    const uint8_t *end;
    const uint8_t *rest; /* what follows it in a record with scattered attributes */
    const uint8_t *rest_end;
};
struct hsl_attr {
    const uint8_t *field; /* the whole field, tag included */
    size_t field_len;
    const uint8_t *name;
    size_t name_len;
    const uint8_t *value;
    size_t value_len;
};
void hsl_attr_begin(struct hsl_attr_walk *walk, const struct hsl_record_ref *ref);
/* 1, 0 at the end, -1 where the bytes are malformed (never for a record that was decoded). */
int hsl_attr_next(struct hsl_attr_walk *walk, struct hsl_attr *out);
/* Bytes of the attribute fields without what lies between them, and their copy to out. */
size_t hsl_attrs_size(const struct hsl_record_ref *ref);
uint8_t *hsl_attrs_copy(uint8_t *out, const struct hsl_record_ref *ref);

/* One field of any protobuf message. data and len hold the content of a string, bytes, message or
 * group; value that of a number (little-endian for the fixed ones). */
struct hsl_wire_field {
    uint32_t number;
    uint32_t type; /* 0 varint, 1 fixed 64, 2 length and bytes, 3 group, 5 fixed 32 */
    uint64_t value;
    const uint8_t *data;
    size_t len;
};
/* As hsl_codec_next. */
int hsl_wire_next(const uint8_t **pos, const uint8_t *end, struct hsl_wire_field *out);
size_t hsl_wire_varint_size(uint64_t value);
uint8_t *hsl_wire_varint(uint8_t *out, uint64_t value);

/* Hash of a key for tables in memory: 0 for an empty key and for no other. Never stored. Who does
 * not know the seed cannot choose keys whose hashes are equal. */
uint64_t hsl_codec_key_hash(const uint8_t *key, size_t len, uint64_t seed);
