/* What a simulated disk is made of, for the files that make it: sim*.c. */
#ifndef SIMDISK_H
#define SIMDISK_H

#include <pthread.h>
#include <stdatomic.h>

#define HSL_ALLOC_PLAIN /* a simulated disk has no honest answer to lack of memory */
#include "hsl.h"
#include "simbytes.h"
#include "simfs.h"

enum {
    ROOT = 0,
    NAME_BYTES_MAX = 255,
    DEPTH_MAX = 64,
    HANDLE_BITS = 12,
    HANDLES_MAX = 1 << HANDLE_BITS,
    GENERATION_MAX = (1 << (31 - HANDLE_BITS)) - 1,
    PID_TEXT = 21
};
static const uint32_t NONE = UINT32_MAX;
static const uint64_t FILE_BYTES_MAX = (uint64_t)1 << 40;

struct name {
    atomic_uint references;
    char text[];
};

struct entry {
    struct name *name;
    uint32_t inode;
};

/* Sorted by name. */
struct entries {
    struct entry *items;
    size_t count;
    size_t capacity;
};

enum entry_change_kind { LINK, UNLINK, MOVE };

struct entry_change {
    enum entry_change_kind kind;
    struct name *name;
    struct name *target; /* of a MOVE */
    uint32_t inode;
};

enum change_kind { WRITE, TRUNCATE, RESERVE };

/* Never changed once made; clones share it. */
struct change {
    atomic_uint references;
    enum change_kind kind;
    bool direct;
    bool mapped;
    bool zero; /* a WRITE of zeros carries no data */
    uint64_t off;
    uint64_t len;
    unsigned char data[];
};

struct inode {
    bool directory;
    bool locked;
    uint32_t links; /* seen entries that name it */
    uint32_t handles;
    uint32_t maps;

    struct sim_bytes now;
    struct sim_bytes durable;
    struct change **changes;
    size_t change_count;
    size_t change_capacity;
    unsigned char *flat;
    size_t flat_len;

    struct entries seen;
    struct entries kept;
    struct entry_change *entry_changes;
    size_t entry_change_count;
    size_t entry_change_capacity;
};

struct handle {
    bool open;
    bool holds_lock;
    int flags;
    uint32_t generation;
    uint32_t inode;
    struct name *path;
};

struct fault {
    uint32_t ops;
    int effect;
    int64_t arg;
    uint64_t nth;
    bool from_then_on;
    uint64_t seen;
    int64_t hits;
    char *path_part;
};

struct process {
    struct hsl_io io;
    struct hsl_simfs *fs;
    uint64_t life;
    struct process *previous;
};

/* Map of a dead process, which may still hold pointers into it. */
struct orphan {
    void *memory;
    struct orphan *next;
};

struct hsl_simfs {
    pthread_mutex_t mutex;
    _Atomic uint32_t holders; /* its owner, and every log over it */
    uint64_t capacity;
    uint64_t used;
    uint32_t direct_alignment;
    uint64_t rng;
    uint64_t wall_ms;
    uint64_t wall_ns_rest;
    uint64_t mono_ns;
    uint8_t boot_id[16];
    int64_t pid;

    struct inode **inodes;
    size_t inode_count;
    size_t inode_capacity;
    struct sim_bytes ghost; /* of the file freed last: what stale blocks may hold */

    struct handle *handles;
    size_t handle_count;
    size_t handle_capacity;

    struct process *process;
    uint64_t life;
    struct orphan *orphans;

    uint64_t calls;
    uint64_t mutations;
    uint64_t stop_at;
    bool stopped;
    struct fault *faults;
    size_t fault_count;
    size_t fault_capacity;
    simfs_watcher *watcher;
    void *watching;

    bool tracing;
    struct hsl_sim_call *trace;
    size_t trace_count;
    size_t trace_capacity;
};

/* ---- chance ---- */

static inline uint64_t draw(uint64_t *rng)
{
    *rng += 0x9e3779b97f4a7c15u;
    return sim_mix(*rng);
}

static inline uint64_t draw_below(uint64_t *rng, uint64_t bound)
{
    return draw(rng) % bound;
}

/* True in eighths of all cases out of 8. */
static inline bool draw_chance(uint64_t *rng, unsigned eighths)
{
    return draw_below(rng, 8) < eighths;
}

/* ---- simnames.c ---- */

struct name *sim_name_new(const char *text);
struct name *sim_name_share(struct name *name);
void sim_name_drop(struct name *name);
uint32_t sim_entries_get(const struct entries *entries, const char *text);
void sim_entries_clear(struct entries *entries);
void sim_entries_copy(struct entries *dst, const struct entries *src);
void sim_entry_change_apply(const struct entry_change *change, struct entries *entries);
void sim_entry_changes_push(struct inode *dir, enum entry_change_kind kind, struct name *name,
                            struct name *target, uint32_t inode);
void sim_entry_changes_clear(struct inode *dir);
void sim_entry_changes_write_out(struct inode *dir);

/* ---- siminode.c ---- */

struct change *sim_change_new(enum change_kind kind, uint64_t off, uint64_t len,
                              const void *data);
void sim_changes_push(struct inode *node, struct change *change);
void sim_changes_clear(struct inode *node);
void sim_changes_clear_writes(struct inode *node);
uint32_t sim_inode_new(struct hsl_simfs *fs, bool directory);
void sim_inode_free(struct inode *node);
struct inode *sim_inode_clone(const struct inode *node);
/* To be called with what the inode was charged for after its space or its holders changed. */
void sim_charge(struct hsl_simfs *fs, const struct inode *node, uint64_t before);
uint64_t sim_charged(const struct inode *node);
/* Frees the inodes that neither view, nor a pending change, nor a holder can reach. */
void sim_sweep(struct hsl_simfs *fs);
/* After holders of all inodes changed at once. */
void sim_recount(struct hsl_simfs *fs);
void sim_flat_refresh(struct inode *node);
/* Turns what was written by pointer into changes, one per run of sectors. */
void sim_harvest(struct inode *node);
void sim_harvest_all(struct hsl_simfs *fs);
void sim_write_node(struct hsl_simfs *fs, struct inode *node, uint64_t off, const void *data,
                    size_t len, bool direct);
void sim_reserve_in(struct sim_bytes *bytes, uint64_t end_off);
void sim_write_out(struct inode *node);
void sim_revert_writes(struct hsl_simfs *fs, struct inode *node);

/* ---- simcall.c ---- */

struct call {
    struct hsl_simfs *fs;
    struct hsl_sim_call trace;
    int effect; /* of the fault that fired, -1 for none */
    int64_t arg;
    struct handle *handle;
    struct inode *node;
};

int sim_begin(struct call *c, void *ctx, int op, const char *path, uint64_t off, uint64_t len);
int64_t sim_end(struct call *c, int64_t result);
/* Counts the call and lets the power switch and the faults at it. */
int sim_admit(struct call *c, const char *other, bool mutation);
int sim_begin_handle(struct call *c, void *ctx, int op, int fd, uint64_t off, uint64_t len,
                     bool mutation);
void sim_faults_clear(struct hsl_simfs *fs);
void sim_trace_clear(struct hsl_simfs *fs);

/* ---- simpath.c ---- */

struct place {
    uint32_t parent;
    uint32_t inode;
    char name[NAME_BYTES_MAX + 1];
};

/* Finds what the path names. A last name that does not exist gives inode NONE, not an error. */
int sim_find(const struct hsl_simfs *fs, const char *path, struct place *at);
int sim_find_file(const struct hsl_simfs *fs, const char *path, struct inode **node);
void sim_create(struct hsl_simfs *fs, struct place *at, bool directory);
int sim_move(struct hsl_simfs *fs, const char *from_path, const char *to_path);
int sim_remove(struct hsl_simfs *fs, const char *path);
/* Fills in what a table has for paths. */
void sim_path_calls(struct hsl_io *io);

/* ---- simfile.c ---- */

int sim_handle_new(struct hsl_simfs *fs, uint32_t inode, int flags, const char *path);
void sim_handle_close(struct hsl_simfs *fs, struct handle *handle);
/* End of the space the inode may fill: its own and what is free. */
uint64_t sim_reachable_end(const struct hsl_simfs *fs, const struct inode *node);
/* Fills in what a table has for files that are open. */
void sim_file_calls(struct hsl_io *io);

/* ---- simfs.c ---- */

void sim_process_begin(struct hsl_simfs *fs);
void sim_boot(struct hsl_simfs *fs, uint64_t *rng);

#endif
