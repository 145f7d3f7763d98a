/* What a copy of a store is made of. Each returns 0 or a negative errno, unless it says more. */

/* The slots of a superblock, each with its status: OK, DAMAGED, or VERSION with the major version
 * found in sequence. */
int hsl_super_slots(const struct hsl_io *io, const char *path, struct hsl_super *slots,
                    int32_t *status);
/* Writes and syncs the slot of super->sequence. */
int hsl_super_put(const struct hsl_io *io, const char *path, const struct hsl_super *super);
/* What the superblock would say if it were written now; *active is the number of the segment being
 * written, 0 without one. An enum hsl_status. */
int hsl_log_capture(struct hsl_log *log, struct hsl_super *out, uint64_t *active);

/* Copies bytes [off, off + len), off and len whole pages, between two open files. ENODATA if the
 * source ends before. */
int hsl_copy(const struct hsl_io *io, int32_t from, int32_t to, uint64_t off, uint64_t len);
