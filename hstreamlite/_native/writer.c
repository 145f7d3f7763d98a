/* Group commit: staged frames become durable, strictly in order, up to three groups in flight.
 *
 * A group goes through five steps:
 *
 *   take     frames leave the queue                       stage_mu, by whoever gets `writing`
 *   build    offsets, checksums, header chain, rows       `writing`: one group at a time, in order
 *   write    its bytes go out                             its owner alone; groups may overlap
 *   sync     covers every group written before it began   `syncing`: one at a time, oldest first
 *   finish   index, durable ticket, waiters               in order
 *
 * The owner of a group is the thread that took it: a native writer, or a caller who waits anyway.
 * It stays until the group is over. An idle log's caller leads for itself, so that nobody pays a
 * hand-over for a single append; while a group is in flight later callers wait for the writer
 * thread. Only when the group in flight and the one that would follow are both large is the next
 * one taken at once: for bandwidth a disk wants two writes beside a sync, for many small commits
 * one sync that all of them share.
 *
 * Why an acknowledged ticket is durable: `settle` counts the oldest groups whose writes have all
 * returned, then syncs, then finishes just those. So the sync that a ticket waits for began after
 * the writes of all tickets up to it, whichever of the writes was the fastest.
 *
 * Whatever needs more than a place behind the last group waits until nothing is in flight, with
 * `writing` held: sealing a segment and starting the next one, and those outside who take a turn
 * (turn_take). They are `alone` at the files. So segment headers and footers state only what is
 * durable. A checkpoint is part of a group; the superblock learns of it when that group is over.
 * That, making the next segment's file, and writing zeros ahead (zeros.c) is `minding`: one thread
 * does it beside the groups, a native one where there is one, so that no caller waits for it.
 *
 * A failed write or sync poisons the log. No sync begins after that, so nothing at or above the
 * failed group is ever acknowledged; a group below it, whose sync was under way, still may be.
 *
 * Stepped (threaded = 0) the same steps run on one thread: a group may be left written and unsynced
 * while the next one is taken, be taken while a sync is under way, be synced with the one before or
 * alone. Where threads would leave it to chance, `course` decides.
 */
#include "log.h"

#define LINGER_LEAST_NS 10000000 /* to wake more often would cost more than it saves */

static struct hsl_group *flight(const struct hsl_log *log, uint32_t n)
{
    return (struct hsl_group *)&log->groups[(log->oldest_group + n) % HSL_FLIGHTS];
}

bool hsl_staged(const struct hsl_log *log) { return log->queue_len > 0 || log->has_open; }

/* May the next group be taken now? Failed: never again. */
bool hsl_may_submit(const struct hsl_log *log)
{
    if (log->writing || log->turns_wanted > 0 || log->failed || !hsl_staged(log))
        return false;
    const struct hsl_frame *first = log->queue_len > 0 ? &log->queue[log->queue_head] : &log->open;
    if (first->ticket == log->copying)
        return false;
    if (log->flying == 0)
        return true;
    return log->flying < HSL_FLIGHTS && log->claimed >= log->cfg.eager_bytes &&
           flight(log, log->flying - 1)->bytes >= log->cfg.eager_bytes;
}

bool hsl_may_lead(const struct hsl_log *log)
{
    return hsl_may_submit(log) || (!log->cfg.threaded && !log->writing && log->flying > 0);
}

/* The turn, or a group, is over. */
void hsl_pass_on(struct hsl_log *log)
{
    pthread_cond_broadcast(&log->turn_cv);
    pthread_cond_broadcast(&log->room_cv);
    hsl_wake_writer(log);
}

static uint64_t submit(struct hsl_log *log);

static void drop_over(struct hsl_log *log)
{
    while (log->flying > 0 && flight(log, 0)->state == HSL_GROUP_OVER) {
        log->oldest_group = (log->oldest_group + 1) % HSL_FLIGHTS;
        log->flying--;
        log->groups_over++;
    }
}

/* After a failure, groups leave as soon as nobody writes or syncs them. */
static void abandon(struct hsl_log *log)
{
    for (uint32_t n = 0; !log->syncing && n < log->flying; n++)
        if (flight(log, n)->state == HSL_GROUP_WRITTEN)
            flight(log, n)->state = HSL_GROUP_OVER;
    drop_over(log);
    pthread_cond_broadcast(&log->turn_cv);
    pthread_cond_broadcast(&log->room_cv);
}

/* Ends all writing for good. */
void hsl_poison(struct hsl_log *log, int rc)
{
    if (!log->failed)
        log->failed = hsl_errno_of(rc);
    abandon(log);
    hsl_wake_all(log);
    hsl_notify(log->cfg.notify_fd);
}

static uint32_t count_written(struct hsl_log *log)
{
    uint32_t count = 0;
    while (count < log->flying && flight(log, count)->state == HSL_GROUP_WRITTEN)
        count++;
    if (count > 1 && !log->cfg.threaded && hsl_random(&log->course) % 2 == 0)
        count = 1; /* the younger was written after this sync began */
    return count;
}

/* Stepped: whether to submit now, as another thread would while the sync is under way. Not what
 * needs a new segment, since that waits for the end of this very sync. */
static bool may_overlap(struct hsl_log *log)
{
    if (log->cfg.threaded || !hsl_may_submit(log) || hsl_random(&log->course) % 2 != 0)
        return false;
    hsl_stage_close_frame(log);
    return log->queue_len > 0 && hsl_group_fits(log, &log->queue[log->queue_head], 0);
}

/* Syncs and finishes the groups that are written. false: there is none, or somebody is at it. */
static bool settle(struct hsl_log *log)
{
    uint32_t count = count_written(log);
    if (count == 0 || log->syncing || log->failed)
        return false;
    const struct hsl_group *last = flight(log, count - 1);
    struct hsl_segment *segment = last->segment;
    log->syncing = true;
    pthread_mutex_unlock(&log->stage_mu);
    int err = log->io->datasync(log->io->ctx, segment->fd);
    int rc = err < 0 ? hsl_fail(log, "sync", "segment", -err) : HSL_OK;
    if (rc == HSL_OK) {
        log->syncs++;
        log->durable_at = segment->number << 32 | last->end;
        for (uint32_t n = 0; n < count; n++)
            hsl_tail_keep(log, flight(log, n));
        hsl_tail_publish(log, HSL_TAIL_OPEN);
    }
    for (uint32_t n = 0; n < count && rc == HSL_OK; n++)
        rc = hsl_group_publish(log, flight(log, n));
    pthread_mutex_lock(&log->stage_mu);
    if (may_overlap(log))
        submit(log);
    log->syncing = false;
    for (uint32_t n = 0; n < count && rc == HSL_OK; n++) {
        struct hsl_group *g = flight(log, n);
        hsl_group_finish(log, g);
        if (g->checkpoint != 0)
            log->checkpoint_due = segment->number << 32 | g->checkpoint;
        g->state = HSL_GROUP_OVER;
    }
    drop_over(log);
    if (rc != HSL_OK)
        hsl_poison(log, rc);
    else if (log->failed)
        abandon(log);
    hsl_notify(log->cfg.notify_fd);
    hsl_pass_on(log);
    return true;
}

/* Waits until nothing is in flight. */
static void drain(struct hsl_log *log)
{
    while (log->flying > 0)
        if (!settle(log))
            pthread_cond_wait(&log->turn_cv, &log->stage_mu);
}

/* Seals the active segment behind what is durable, and starts the next one. `writing` held. */
static int roll(struct hsl_log *log)
{
    log->alone = true;
    drain(log);
    while (log->minding)
        pthread_cond_wait(&log->turn_cv, &log->stage_mu);
    int rc = HSL_FAILED;
    if (!log->failed) {
        pthread_mutex_unlock(&log->stage_mu);
        rc = hsl_roll(log);
        pthread_mutex_lock(&log->stage_mu);
    }
    log->alone = false;
    return rc;
}

/* Takes the next group and writes it; its number, or 0 if nothing was staged or it failed. */
static uint64_t submit(struct hsl_log *log)
{
    hsl_stage_close_frame(log);
    if (log->queue_len == 0)
        return 0;
    log->writing = true;
    int rc = HSL_OK;
    if (!hsl_group_fits(log, &log->queue[log->queue_head], 0))
        rc = roll(log);
    struct hsl_group *g = flight(log, log->flying);
    if (rc == HSL_OK) {
        hsl_group_take(log, g);
        pthread_mutex_unlock(&log->stage_mu);
        rc = hsl_group_build(log, g);
        pthread_mutex_lock(&log->stage_mu);
    }
    log->writing = false;
    if (rc != HSL_OK) {
        hsl_poison(log, rc);
        return 0;
    }
    hsl_group_place(log, g);
    g->state = HSL_GROUP_WRITING;
    log->stats.overlapped += log->flying;
    log->flying++;
    uint64_t number = ++log->groups_given;
    pthread_cond_broadcast(&log->turn_cv);
    hsl_wake_writer(log);
    pthread_mutex_unlock(&log->stage_mu);
    rc = hsl_group_write(log, g);
    pthread_mutex_lock(&log->stage_mu);
    g->state = HSL_GROUP_WRITTEN;
    if (rc != HSL_OK)
        hsl_poison(log, rc);
    else if (log->failed)
        abandon(log);
    return rc == HSL_OK ? number : 0;
}

/* What nobody has to wait for. */
struct due {
    bool zeros;      /* are to be written ahead */
    bool checkpoint; /* the superblock is to learn of one that is durable */
    bool spare;      /* the next segment is to be made before this one is full */
};

static bool any_due(struct hsl_log *log, struct due *due)
{
    struct hsl_segment *active = log->active;
    *due = (struct due){0};
    if (log->minding || log->alone || log->turns_wanted > 0 || log->failed || log->closing ||
        !active)
        return false;
    due->zeros = hsl_zeros_due(log);
    due->checkpoint = log->checkpoint_due >> 32 == active->number;
    uint64_t room = hsl_segment_room(active);
    bool half = room < active->capacity / 2;
    bool small = room < log->cfg.stage_bytes && room < active->capacity / 4 * 3;
    due->spare = !log->spare && (half || small); /* a burst that fits the stage is to fit both */
    return due->zeros || due->checkpoint || due->spare;
}

/* Does what is due, while groups go on. If another is alone at the files, or will be, it is done
 * after the next group. */
static void look_after(struct hsl_log *log)
{
    struct due due;
    if (!any_due(log, &due))
        return;
    log->minding = true;
    int rc = HSL_OK;
    if (due.zeros) {
        rc = hsl_zeros_ahead(log);
        /* Before anybody else may sync; and who failed meanwhile left groups to who was syncing. */
        if (rc != HSL_OK || log->failed)
            hsl_poison(log, rc);
        hsl_pass_on(log);
    }
    bool goes_on = !log->failed;
    if (due.checkpoint) {
        log->super.checkpoint = log->checkpoint_due;
        log->checkpoint_due = 0;
    }
    pthread_mutex_unlock(&log->stage_mu);
    if (goes_on && due.checkpoint)
        rc = hsl_super_write(log);
    if (goes_on && due.spare && rc == HSL_OK)
        hsl_spare_create(log, 0, false); /* a full disk shows when the room is needed */
    pthread_mutex_lock(&log->stage_mu);
    log->minding = false;
    if (rc != HSL_OK)
        hsl_poison(log, rc);
    hsl_pass_on(log);
}

/* Leaves that to a native writer, if there is one besides the first. */
static void have_looked_after(struct hsl_log *log)
{
    if (log->has_threads < 2) {
        look_after(log);
        return;
    }
    struct due due;
    if (!any_due(log, &due))
        return;
    log->minding_asked = true;
    pthread_cond_signal(&log->beside_cv);
}

static void step(struct hsl_log *log)
{
    if (hsl_may_submit(log))
        submit(log);
    if (hsl_may_submit(log) && hsl_random(&log->course) % 2 == 0)
        return; /* left in flight: the next group is taken before the sync */
    settle(log);
}

/* Takes one group and sees it through. */
void hsl_lead(struct hsl_log *log)
{
    if (log->cfg.threaded) {
        uint64_t number = submit(log);
        while (log->groups_over < number)
            if (!settle(log))
                pthread_cond_wait(&log->turn_cv, &log->stage_mu);
    } else {
        step(log);
    }
    have_looked_after(log);
}

/* For those who need that what is staged gets out of the way: leads an idle log, else waits. A
 * group beside another is left to a native writer: who has something to stage goes on staging. */
void hsl_get_on(struct hsl_log *log)
{
    if (hsl_may_lead(log) && (log->flying == 0 || !log->cfg.threaded)) {
        hsl_lead(log);
        return;
    }
    log->waiters++;
    pthread_cond_wait(&log->room_cv, &log->stage_mu);
    log->waiters--;
}

/* Takes `writing` with nothing in flight and nobody else at the files. */
void hsl_turn_take(struct hsl_log *log)
{
    log->turns_wanted++;
    while (log->writing || log->minding || log->flying > 0)
        if (log->writing || !settle(log))
            pthread_cond_wait(&log->turn_cv, &log->stage_mu);
    log->turns_wanted--;
    log->writing = log->alone = true;
}

void hsl_turn_give(struct hsl_log *log)
{
    log->writing = log->alone = false;
    hsl_pass_on(log);
}

/* When the writer thread has something to do, unless a group ends before; so many staged bytes are
 * written although nobody waits for them. */
static uint64_t due(const struct hsl_log *log, uint64_t enough)
{
    if (log->writing || log->turns_wanted > 0 || log->failed)
        return UINT64_MAX;
    if (!hsl_staged(log))
        return log->flying > 0 || log->idle_marked ? UINT64_MAX
                                                   : log->last_write_ns + log->cfg.idle_mark_ns;
    if (!hsl_may_submit(log))
        return UINT64_MAX;
    if (log->waiters > 0 || log->tail_waiters > 0 || log->closing ||
        log->want_ticket > atomic_load(&log->durable_ticket) || log->claimed >= enough)
        return 0;
    const struct hsl_frame *first = log->queue_len > 0 ? &log->queue[log->queue_head] : &log->open;
    return first->staged_ns + log->cfg.linger_ns;
}

uint64_t hsl_due(const struct hsl_log *log) { return due(log, log->cfg.eager_bytes); }

/* The staged bytes for which a caller wakes a writer: to be woken and then to share a processor
 * with it costs him more than what he stages, so a burst that fits half of what takes it in is left
 * alone until `linger` is over. */
static uint64_t pressing(const struct hsl_log *log)
{
    uint64_t most = log->cfg.stage_bytes / 2;
    uint64_t room = log->active ? hsl_segment_room(log->active) / 2 : 0;
    most = room < most ? room : most;
    return most > log->cfg.eager_bytes ? most : log->cfg.eager_bytes;
}

/* Something was staged that nobody waits for: what to signal, or NULL. */
pthread_cond_t *hsl_woken_by_staging(struct hsl_log *log)
{
    bool full = log->queue_len > HSL_QUEUE_MAX / 2 || hsl_os_stage_presses(log);
    uint64_t enough = full ? 0 : pressing(log);
    if (log->thread_wakes_ns != 0 && due(log, enough) < log->thread_wakes_ns) {
        log->thread_wakes_ns = 0;
        return &log->writer_cv;
    }
    if (log->beside_asleep == 0)
        return NULL;
    if (log->thread_wakes_ns == 0 && log->flying > 0 && hsl_may_submit(log) &&
        (log->waiters > 0 || log->claimed >= enough))
        return &log->beside_cv;
    if (!hsl_stage_untouched(log))
        return NULL;
    log->touching = HSL_TOUCH_ASKED;
    return &log->beside_cv;
}

bool hsl_wants_write(struct hsl_log *log, uint64_t now)
{
    if (hsl_due(log) > now)
        return false;
    if (!hsl_staged(log) && hsl_stage_empty_frame(log, HSL_FRAME_IDLE) != HSL_OK) {
        log->idle_marked = true;
        return false;
    }
    return true;
}

static void sleep_until(struct hsl_log *log, uint64_t at, uint64_t now)
{
    log->thread_wakes_ns = at;
    if (at == UINT64_MAX) {
        pthread_cond_wait(&log->writer_cv, &log->stage_mu);
    } else {
        struct timespec deadline = hsl_deadline(at > now ? at - now : 0);
        pthread_cond_timedwait(&log->writer_cv, &log->stage_mu, &deadline);
    }
    log->thread_wakes_ns = 0;
}

/* While the log is in use, no later than what is staged from now on is due: so who stages it need
 * not wake the thread for that. */
static uint64_t wakes_at(const struct hsl_log *log, uint64_t now)
{
    uint64_t at = hsl_due(log), next = now + log->cfg.linger_ns;
    bool in_use = !hsl_staged(log) && !log->idle_marked && log->cfg.linger_ns >= LINGER_LEAST_NS;
    return in_use && at != UINT64_MAX && next < at ? next : at;
}

/* The writer thread: leads whatever is due. */
void *hsl_writer_main(void *arg)
{
    struct hsl_log *log = arg;
    pthread_mutex_lock(&log->stage_mu);
    while (!log->closing && !log->failed) {
        uint64_t now = log->io->mono_ns(log->io->ctx);
        if (hsl_wants_write(log, now))
            hsl_lead(log);
        else
            sleep_until(log, wakes_at(log, now), now);
    }
    pthread_mutex_unlock(&log->stage_mu);
    return NULL;
}

/* The other writer threads: they only take groups beside one in flight, and mind the files. */
void *hsl_beside_main(void *arg)
{
    struct hsl_log *log = arg;
    pthread_mutex_lock(&log->stage_mu);
    while (!log->closing && !log->failed) {
        if (log->minding_asked) {
            log->minding_asked = false;
            look_after(log);
            continue;
        }
        if (log->flying > 0 && hsl_may_submit(log)) {
            hsl_lead(log);
            continue;
        }
        if (log->touching == HSL_TOUCH_ASKED) {
            hsl_stage_touch(log);
            continue;
        }
        log->beside_asleep++;
        pthread_cond_wait(&log->beside_cv, &log->stage_mu);
        log->beside_asleep--;
    }
    pthread_mutex_unlock(&log->stage_mu);
    return NULL;
}
