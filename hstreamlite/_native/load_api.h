/* How many bytes of a subscription are in the hands of consumers: in all, and at each.
 *
 * A record is loaded when it is handed out, and dropped when it is acked, passed over, or taken
 * back; the ack map sees to the first two. Not thread-safe, as the map is not (ackmap_api.h).
 */
struct hsl_loads; /* the totals of a subscription */
struct hsl_load;  /* what of one shard is loaded */

/* NULL: no memory. */
struct hsl_loads *hsl_loads_new(void);
void hsl_loads_free(struct hsl_loads *l);
/* Makes room for an owner (from 1 on). -ENOMEM: nothing changed. */
int hsl_loads_reserve(struct hsl_loads *l, uint32_t owner);
/* Bytes that an owner has; owner 0: that all have. */
uint64_t hsl_loads_bytes(const struct hsl_loads *l, uint32_t owner);

/* The totals must outlive it. NULL: no memory. */
struct hsl_load *hsl_load_new(struct hsl_loads *totals);
void hsl_load_free(struct hsl_load *load);
/* Makes room for records below end, if none below low is loaded. -ENOMEM: nothing changed. */
int hsl_load_reserve(struct hsl_load *load, uint64_t low, uint64_t end);
/* Loads a record, in place of what was loaded of it. There must be room for it and its owner. */
/* Nothing is loaded; the next records may be any. */
void hsl_load_restart(struct hsl_load *load);
void hsl_load_put(struct hsl_load *load, uint64_t lsn, uint32_t weight, uint32_t owner);
/* Drops those records from lsn on whose bits are set. */
void hsl_load_drop(struct hsl_load *load, uint64_t lsn, uint64_t bits);
