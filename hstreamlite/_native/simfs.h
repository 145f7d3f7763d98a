/* What simfs.c offers to the files beside it. */
#ifndef SIMFS_H
#define SIMFS_H

#include "hsl.h"

/* Called before every mutation, with the disk as it is and its mutex held. */
typedef void simfs_watcher(void *ctx, struct hsl_simfs *fs, const struct hsl_sim_call *call);

/* NULL: nobody watches. */
void simfs_watch(struct hsl_simfs *fs, simfs_watcher *watcher, void *ctx);
/* hsl_simfs_clone for who holds the mutex. */
struct hsl_simfs *simfs_clone_held(struct hsl_simfs *fs);
/* Keeps the disk until one more hsl_simfs_free. */
void simfs_hold(struct hsl_simfs *fs);
/* Names are NUL-terminated, one behind the other, with an empty one at the end, or NULL for none;
 * a file is meant by its name in any directory. Settling makes its content durable as seen. */
void simfs_settle(struct hsl_simfs *fs, const char *names);
uint64_t simfs_hash_except(struct hsl_simfs *fs, const char *names);

#endif
