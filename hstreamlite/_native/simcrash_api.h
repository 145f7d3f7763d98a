/* Recorded runs over a simulated disk: the disk as it was before each mutation, to be crashed there
 * in as many ways as one likes. A step costs what changed since the one before it.
 *
 * A recording follows one disk, over crashes of it too, until it is stopped; a disk has at most one
 * recording at a time. Recorded steps may be crashed from any thread.
 */
struct hsl_sim_recording;

/* aside: names of files, NUL-terminated, one behind the other, with an empty one at the end. What
 * is written to them survives every crash, and does not tell states apart. */
struct hsl_sim_recording *hsl_sim_record(struct hsl_simfs *fs, const char *aside);
/* The last step is the disk as it is now. Stopping again does nothing. */
void hsl_sim_record_stop(struct hsl_sim_recording *recording);
void hsl_sim_record_free(struct hsl_sim_recording *recording);
/* Mutations seen so far: the number of the next step. */
uint64_t hsl_sim_recorded(struct hsl_sim_recording *recording);
/* The mutation before which step index was taken; 0 behind the last. call->path is valid until
 * hsl_sim_record_free. */
int hsl_sim_recorded_call(struct hsl_sim_recording *recording, uint64_t index,
                          struct hsl_sim_call *call);
/* Operations that a power cut at this step could take. */
uint64_t hsl_sim_recorded_unsynced(struct hsl_sim_recording *recording, uint64_t index);
/* A disk of its own: the step, crashed as hsl_simfs_crash does. *hash as hsl_simfs_hash, without
 * the content of the files set aside. */
struct hsl_simfs *hsl_sim_recorded_crash(struct hsl_sim_recording *recording, uint64_t index,
                                         int kind, int profile, uint64_t seed, uint64_t *hash);
