/* A simulated disk behind the table of io_api.h: deterministic, in memory, with faults and crashes.
 *
 * A file is its durable bytes and the unsynced operations since; a directory its durable entries
 * and the unsynced entry operations. Whoever reads sees the cached view, all operations applied.
 * datasync and sync make one file's bytes durable, sync_dir one directory's entries, and nothing
 * else does. A crash decides what becomes of the rest, by a seed.
 *
 * The table belongs to a simulated process. A crash ends it: every call through its table answers
 * -EBADF from then on (its clocks run on), and hsl_simfs_io gives the table of the next process.
 * Tables and maps of dead processes stay valid memory until hsl_simfs_free.
 *
 * One mutex per disk: every function may be called from any thread, hsl_simfs_free excepted.
 * Times and counts survive as described at each function; nothing depends on the machine.
 */
struct hsl_simfs;

/* Bits, so that a fault can name several. LOCK, MAP and the rest match their table function. */
enum hsl_sim_op {
    HSL_SIM_OPEN = 1,
    HSL_SIM_CLOSE = 2,
    HSL_SIM_PREAD = 4,
    HSL_SIM_PWRITE = 8,
    HSL_SIM_DATASYNC = 16,
    HSL_SIM_SYNC = 32,
    HSL_SIM_ALLOCATE = 64,
    HSL_SIM_TRUNCATE = 128,
    HSL_SIM_SIZE = 256,
    HSL_SIM_RENAME = 512,
    HSL_SIM_UNLINK = 1024,
    HSL_SIM_MKDIR = 2048,
    HSL_SIM_SYNC_DIR = 4096,
    HSL_SIM_LIST = 8192,
    HSL_SIM_LOCK = 16384,
    HSL_SIM_MAP = 32768,
    HSL_SIM_UNMAP = 65536,
    HSL_SIM_FREE_BYTES = 131072
};

enum hsl_sim_effect {
    /* The call fails with errno arg and does nothing. */
    HSL_SIM_FAIL,
    /* pread and pwrite move at most arg bytes (0: half of them), a multiple of 512 if DIRECT. */
    HSL_SIM_SHORT,
    /* The call is interrupted and repeated by the table: only the counts show it. */
    HSL_SIM_INTERRUPT,
    /* A sync fails with errno arg, and its dirty pages count as clean: readable, never durable
     * unless written again. */
    HSL_SIM_SYNC_LOST,
    /* A sync fails with errno arg, and readers see the durable content again. */
    HSL_SIM_SYNC_REVERTED,
    /* A sync fails with errno arg, and all is durable nevertheless. */
    HSL_SIM_SYNC_SURVIVED,
    /* The call takes arg nanoseconds of simulated time. */
    HSL_SIM_DELAY
};

enum hsl_sim_crash {
    /* The process ends; the cache stays, unsynced as it was, maps included. */
    HSL_SIM_PROCESS,
    /* The machine ends. What was unsynced survives by profile; boot id and clock are new. */
    HSL_SIM_POWER
};

enum hsl_sim_profile {
    /* Each unsynced operation survives, or not, or in part, by the seed. */
    HSL_SIM_ADVERSARY,
    HSL_SIM_DROP_ALL,
    HSL_SIM_KEEP_ALL,
    /* All survive, writes in part. */
    HSL_SIM_TEAR_ALL,
    /* The n-th unsynced operation survives whole if bit n of the seed is set, and not otherwise. */
    HSL_SIM_SUBSET
};

struct hsl_sim_call {
    int op;
    int64_t result;
    uint64_t off;
    uint64_t len;
    const char *path;
};

struct hsl_sim_counts {
    /* Calls through the table of the living process, clocks and boot id excepted. */
    uint64_t calls;
    /* Those of them that may change the disk or sync it: creating open, lock, pwrite, datasync,
     * sync, allocate, truncate, rename, unlink, mkdir, sync_dir; failed ones too. */
    uint64_t mutations;
    /* Bytes charged to files, and operations that a power cut could take. */
    uint64_t used;
    uint64_t unsynced;
    /* Open handles and maps. */
    uint64_t handles;
    uint64_t maps;
};

/* An empty disk with a root directory. */
struct hsl_simfs *hsl_simfs_new(uint64_t capacity, uint64_t seed);
void hsl_simfs_free(struct hsl_simfs *fs);
/* The same disk, content, unsynced operations and times at this moment, without handles, locks,
 * maps, faults, trace, stop and counts; independent of the original. */
struct hsl_simfs *hsl_simfs_clone(struct hsl_simfs *fs);
const struct hsl_io *hsl_simfs_io(struct hsl_simfs *fs);

void hsl_simfs_set_capacity(struct hsl_simfs *fs, uint64_t capacity);
/* Alignment that DIRECT demands of buffer, offset and length, a power of two; 0 refuses DIRECT at
 * open. 512 at first. */
void hsl_simfs_set_direct(struct hsl_simfs *fs, uint32_t alignment);
void hsl_simfs_set_time(struct hsl_simfs *fs, uint64_t wall_ms, uint64_t mono_ns);
void hsl_simfs_advance(struct hsl_simfs *fs, uint64_t ns);
/* The pid the living process writes into locks; each crash makes it one higher. */
int64_t hsl_simfs_pid(struct hsl_simfs *fs);
void hsl_simfs_counts(struct hsl_simfs *fs, struct hsl_sim_counts *counts);

/* On the nth (from 1) call whose op is in ops and whose paths contain path_part (NULL: any),
 * or on that one and all later ones. Of several faults that fire at once the first set wins.
 * Returns a number for hsl_simfs_fault_hits. */
int hsl_simfs_fault(struct hsl_simfs *fs, uint32_t ops, const char *path_part, uint64_t nth,
                    int from_then_on, int effect, int64_t arg);
/* How often the fault fired; -EINVAL for an unknown one. */
int64_t hsl_simfs_fault_hits(struct hsl_simfs *fs, int fault);
void hsl_simfs_clear_faults(struct hsl_simfs *fs);
/* The power fails before mutation number index (from 0) of this process: it and all later calls
 * answer -EIO and do nothing, until hsl_simfs_crash. UINT64_MAX: never. */
void hsl_simfs_stop_at(struct hsl_simfs *fs, uint64_t index);
int hsl_simfs_stopped(struct hsl_simfs *fs);

/* Ends the process and begins the next: handles, locks and maps are gone, counts and stop reset;
 * capacity, faults and trace stay. */
void hsl_simfs_crash(struct hsl_simfs *fs, int kind, int profile, uint64_t seed);

/* Damage: changes cache and durable content alike, past counts and faults. 0 or -errno; -ERANGE
 * where the file has no such byte. */
int hsl_simfs_flip(struct hsl_simfs *fs, const char *path, uint64_t bit);
int hsl_simfs_overwrite(struct hsl_simfs *fs, const char *path, uint64_t off, const void *data,
                        uint64_t len);
int hsl_simfs_zero_range(struct hsl_simfs *fs, const char *path, uint64_t off, uint64_t len);
int hsl_simfs_truncate_raw(struct hsl_simfs *fs, const char *path, uint64_t len);
int hsl_simfs_copy_raw(struct hsl_simfs *fs, const char *from, const char *to);
int hsl_simfs_rename_raw(struct hsl_simfs *fs, const char *from, const char *to);
int hsl_simfs_unlink_raw(struct hsl_simfs *fs, const char *path);
/* Makes everything durable as it is seen. */
void hsl_simfs_sync_all(struct hsl_simfs *fs);

/* Of names, sizes and contents, visible and durable; equal for equal images on any machine. */
uint64_t hsl_simfs_hash(struct hsl_simfs *fs);

/* Recording of calls; starting again forgets the calls before. */
void hsl_simfs_trace(struct hsl_simfs *fs, int on);
/* 1 and the call of that index, 0 behind the last. call->path is valid until the next
 * hsl_simfs_trace or free. */
int hsl_simfs_traced(struct hsl_simfs *fs, uint64_t index, struct hsl_sim_call *call);
