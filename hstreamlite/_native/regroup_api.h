/* Writing a segment of level 1: one file of blocks sorted by shard and LSN, which takes the place
 * of a range of older segments. It has a name of its own only when it is complete and durable.
 *
 * Needs no open log: the store's directory may be another's, as in salvage. One thread at a time.
 */
struct hsl_regroup_config {
    uint64_t number;     /* HSL_LEVEL_1 is set in it */
    uint64_t uid;        /* random */
    uint64_t epoch;
    uint64_t bytes;      /* of the blocks, each padded to 8; space is reserved for so many */
    uint64_t blocks;
    uint64_t first;      /* segments of level 0 in whose place it stands, [first, last] */
    uint64_t last;
    uint64_t last_uid;   /* uid, end and crc of the last frame of segment `last` */
    uint64_t last_end;
    uint32_t last_crc;
    uint32_t pred_crc;   /* what the header of segment `first` names as its predecessor */
    uint64_t pred_uid;
    uint64_t pred_end;
    uint8_t uuid[16];
    int32_t direct;      /* try O_DIRECT */
};

struct hsl_regroup;

/* Reserves the file; path is the directory of a store. FULL when the disk has no room. */
int hsl_regroup_begin(const struct hsl_io *io, const char *path,
                      const struct hsl_regroup_config *config, struct hsl_regroup **out);
/* Adds the block at the start of `room` bytes. DAMAGED if it does not verify, if its shard comes
 * before that of the block before, or if it does not continue its shard: one file holds one run of
 * each shard, without holes. */
int hsl_regroup_add(struct hsl_regroup *regroup, const uint8_t *block, size_t room);
/* Footer, sync, header, sync, name. Nothing is visible before; IO after a rename that may have
 * happened: *named is then 1. */
int hsl_regroup_finish(struct hsl_regroup *regroup, int32_t *named);
uint64_t hsl_regroup_bytes(const struct hsl_regroup *regroup);
/* errno and name of the call that failed. */
int hsl_regroup_error(const struct hsl_regroup *regroup, const char **what);
/* Removes the file unless it has its name. NULL does nothing. */
void hsl_regroup_free(struct hsl_regroup *regroup);

/* Putting a segment of level 1 in the place of neighbours in an open log: begin, step until it is
 * OK, finish. Readers never notice. Whoever began made sure by then that everything staged before
 * hsl_swap_begin returned is durable: records below a trim are left out. */
struct hsl_swap;

struct hsl_swap_damage {
    uint64_t segment;
    uint64_t offset;
    uint64_t length;
    uint64_t shard;
    uint64_t first;
    uint64_t end;
};

/* Reserves the new file. NOT_FOUND if the segments are no live neighbours any more; *out is NULL
 * unless it is OK. */
int hsl_swap_begin(struct hsl_log *log, const uint64_t *numbers, size_t count, uint64_t uid,
                   uint64_t window, struct hsl_swap **out);
/* Copies about so many bytes. AGAIN until all are copied; DAMAGED: see hsl_swap_damaged. */
int hsl_swap_step(struct hsl_swap *swap, uint64_t bytes);
int hsl_swap_finish(struct hsl_swap *swap);
void hsl_swap_damaged(const struct hsl_swap *swap, struct hsl_swap_damage *out);
/* Lets go of everything; what is not finished never was. NULL does nothing. */
void hsl_swap_free(struct hsl_swap *swap);
