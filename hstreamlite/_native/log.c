/* Life of a log: creation, errors, closing. */
#include "log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef HSL_LINUX
#include <sys/mman.h>

#define HUGE_PAGE (2u << 20)
#endif

/* So many writes of less than a page, and the disk counts as failed. */
#define FRUITLESS_WRITES 100

_Atomic uint64_t hsl_fork_generation;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void in_forked_child(void) { atomic_fetch_add(&hsl_fork_generation, 1); }

static void watch_forks(void) { pthread_atfork(NULL, NULL, in_forked_child); }

int hsl_status_of(int err)
{
    if (err == ENOSPC || err == EDQUOT)
        return HSL_FULL;
    if (err == ENOMEM)
        return HSL_NO_MEMORY;
    return HSL_IO;
}

/* Keeps the text of the newest failure; the first one that poisons is kept for good. */
int hsl_fail(struct hsl_log *log, const char *what, const char *path, int err)
{
    pthread_mutex_lock(&log->text_mu);
    if (!log->failed)
        snprintf(log->failed_text, sizeof log->failed_text, "%d %s %s", err, what, path);
    pthread_mutex_unlock(&log->text_mu);
    return hsl_status_of(err);
}

/* The errno that a status poisons the log with. */
int hsl_errno_of(int status)
{
    return status == HSL_FULL ? ENOSPC : status == HSL_NO_MEMORY ? ENOMEM : EIO;
}

/* In a forked child the locks may be held by threads that do not exist there: asked before any. */
bool hsl_forked(const struct hsl_log *log)
{
    return atomic_load_explicit(&hsl_fork_generation, memory_order_relaxed) != log->fork_generation;
}

int hsl_state(const struct hsl_log *log)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    if (log->failed)
        return HSL_FAILED;
    if (log->closed || log->closing)
        return HSL_CLOSED;
    return log->cfg.follower ? HSL_READ_ONLY : HSL_OK;
}

void hsl_path(const struct hsl_log *log, char *out, const char *name)
{
    snprintf(out, HSL_PATH_MAX + 64, "%s/%s", log->path, name);
}

void hsl_segment_path(const struct hsl_log *log, char *out, uint64_t number)
{
    snprintf(out, HSL_PATH_MAX + 64, "%s/segments/%016llx.seg", log->path,
             (unsigned long long)number);
}

/* splitmix64 over what the environment gave: uids need to differ, not to be secret. */
uint64_t hsl_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t hsl_wall_ms(const struct hsl_io *io)
{
    const uint64_t behind_9999 = 253402300800000;
    uint64_t now = io->wall_ms(io->ctx);
    return now < behind_9999 ? now : 0;
}

int hsl_write_all(const struct hsl_io *io, int fd, const void *buf, size_t len, uint64_t off)
{
    const uint8_t *p = buf;
    int fruitless = 0;
    while (len > 0) {
        int64_t n = io->pwrite(io->ctx, fd, p, len, off);
        if (n < 0)
            return (int)n;
        /* A direct write may only go on from a page boundary. */
        if ((size_t)n < len)
            n -= n % HSL_PAGE;
        if (n == 0 && ++fruitless == FRUITLESS_WRITES)
            return -EIO;
        p += n;
        off += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

int hsl_read_all(const struct hsl_io *io, int fd, void *buf, size_t len, uint64_t off)
{
    uint8_t *p = buf;
    while (len > 0) {
        int64_t n = io->pread(io->ctx, fd, p, len, off);
        if (n < 0)
            return (int)n;
        if (n == 0)
            return -ENODATA;
        p += n;
        off += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* Whole pages. What a disk reads in one piece it is asked for in fewer requests if it lies in huge
 * ones: a fifth more bandwidth. */
void *hsl_page_alloc(size_t len)
{
    size_t bytes = hsl_align_page(len ? len : 1);
#ifdef HSL_LINUX
    if (bytes >= HUGE_PAGE) {
        size_t whole = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE; /* as C asks for */
        void *large = aligned_alloc(HUGE_PAGE, whole);
        if (large)
            madvise(large, bytes, MADV_HUGEPAGE); /* a wish: small pages do as well */
        return large;
    }
#endif
    return aligned_alloc(HSL_PAGE, bytes);
}

bool hsl_page_room(uint8_t **buf, size_t *cap, size_t need)
{
    if (need > *cap) {
        free(*buf);
        *buf = hsl_page_alloc(need);
        *cap = *buf ? need : 0;
    }
    return *buf != NULL;
}

static void init_conditions(struct hsl_log *log)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
#ifdef HSL_LINUX
    pthread_condattr_setclock(&attr, HSL_WAIT_CLOCK);
#endif
    for (int i = 0; i < HSL_BUCKETS; i++)
        pthread_cond_init(&log->ticket_cv[i], &attr);
    pthread_cond_init(&log->tail_cv, &attr);
    pthread_cond_init(&log->room_cv, &attr);
    pthread_cond_init(&log->turn_cv, &attr);
    pthread_cond_init(&log->writer_cv, &attr);
    pthread_cond_init(&log->beside_cv, &attr);
    pthread_cond_init(&log->wanted_cv, &attr);
    pthread_cond_init(&log->fetched_cv, &attr);
    pthread_condattr_destroy(&attr);
}

static void destroy_conditions(struct hsl_log *log)
{
    for (int i = 0; i < HSL_BUCKETS; i++)
        pthread_cond_destroy(&log->ticket_cv[i]);
    pthread_cond_destroy(&log->tail_cv);
    pthread_cond_destroy(&log->room_cv);
    pthread_cond_destroy(&log->turn_cv);
    pthread_cond_destroy(&log->writer_cv);
    pthread_cond_destroy(&log->beside_cv);
    pthread_cond_destroy(&log->wanted_cv);
    pthread_cond_destroy(&log->fetched_cv);
}

struct hsl_log *hsl_log_new(const struct hsl_io *io, const struct hsl_log_config *config,
                            const char *path)
{
    if (strlen(path) >= HSL_PATH_MAX)
        return NULL;
    struct hsl_log *log = calloc(1, sizeof *log);
    if (!log)
        return NULL;
    pthread_once(&fork_once, watch_forks);
    log->io = io;
    if (io->retain)
        io->retain(io->ctx);
    log->holders = 1;
    log->cfg = *config;
    /* Past the page cache whole pages are read and written. */
    log->cfg.chunk_bytes = hsl_align_page(config->chunk_bytes);
    log->cfg.prewrite_bytes = hsl_align_page(config->prewrite_bytes);
    log->salt = config->salt;
    log->course = config->salt;
    log->direct = config->direct != 0;
    strcpy(log->path, path);
    log->fork_generation = atomic_load(&hsl_fork_generation);
    log->next_ticket = 1;
    log->next_order = 1;
    log->lock_owner = -1;
    log->stage_fd = -1;
    log->tail_fd = log->loaded_fd = -1;
    pthread_mutex_init(&log->stage_mu, NULL);
    pthread_mutex_init(&log->index_mu, NULL);
    pthread_mutex_init(&log->pieces_mu, NULL);
    pthread_mutex_init(&log->marks_mu, NULL);
    pthread_mutex_init(&log->fetch_mu, NULL);
    pthread_mutex_init(&log->text_mu, NULL);
    init_conditions(log);
    return log;
}

int hsl_log_set_next(struct hsl_log *log, uint64_t segment, uint64_t epoch, uint64_t order,
                     uint64_t pred_uid, uint64_t pred_end, uint32_t pred_crc)
{
    log->last_segment = segment;
    log->epoch = epoch;
    if (order > log->next_order)
        log->next_order = order;
    log->pred_uid = pred_uid;
    log->pred_end = pred_end;
    log->pred_crc = pred_crc;
    log->durable_at = segment << 32 | pred_end;
    return HSL_OK;
}

int hsl_log_start(struct hsl_log *log)
{
    hsl_place_note(log);
    int rc = hsl_segments_tidy(log);
    if (rc != HSL_OK)
        return rc;
    /* A large store goes on with large segments. */
    uint64_t bytes = 0, capacity = log->cfg.segment_bytes_min;
    for (size_t i = 0; i < log->segments_len; i++)
        bytes += log->segments[i]->file_bytes;
    while (capacity < bytes / 8 && capacity < log->cfg.segment_bytes_max)
        capacity *= 2;
    if (bytes / 8 > log->cfg.segment_bytes_min)
        log->last_capacity = capacity / 2;
    log->last_write_ns = log->io->mono_ns(log->io->ctx);
    log->idle_marked = true;
    log->started = true;
    hsl_tail_publish(log, HSL_TAIL_OPEN);
    for (uint32_t n = 0; log->cfg.threaded && n < HSL_FLIGHTS; n++) {
        if (pthread_create(&log->threads[n], NULL, n == 0 ? hsl_writer_main : hsl_beside_main,
                           log) != 0)
            return HSL_NO_MEMORY;
        log->has_threads++;
    }
    return HSL_OK;
}

static void join_writers(struct hsl_log *log)
{
    for (uint32_t n = 0; n < log->has_threads; n++)
        pthread_join(log->threads[n], NULL);
    pthread_mutex_lock(&log->stage_mu); /* callers who lead on look at them */
    log->has_threads = 0;
    pthread_mutex_unlock(&log->stage_mu);
}

int hsl_log_close(struct hsl_log *log, int32_t clean)
{
    if (hsl_forked(log)) {
        log->closed = true;   /* not reached: in a forked child, which counts nothing: test_fork */
        log->has_threads = 0; /* not reached: as the line before */
        return HSL_FORKED;    /* not reached: as the line before */
    }
    pthread_mutex_lock(&log->stage_mu);
    if (log->closed || log->closing) {
        pthread_mutex_unlock(&log->stage_mu);
        return HSL_OK;
    }
    log->closing = true;
    pthread_cond_broadcast(&log->writer_cv);
    pthread_cond_broadcast(&log->beside_cv);
    pthread_mutex_unlock(&log->stage_mu);
    join_writers(log);
    hsl_fetch_end(log);
    pthread_mutex_lock(&log->stage_mu);
    while (clean && !log->failed && hsl_staged(log))
        hsl_get_on(log);
    hsl_turn_take(log);
    int rc = log->failed ? HSL_FAILED : HSL_OK;
    pthread_mutex_unlock(&log->stage_mu);
    if (clean && rc == HSL_OK && log->started) {
        if (log->active)
            rc = hsl_seal(log, log->active);
        pthread_mutex_lock(&log->stage_mu);
        hsl_spare_discard(log); /* a closed store takes the room of what it holds */
        pthread_mutex_unlock(&log->stage_mu);
        if (rc == HSL_OK) {
            log->super.flags = 1;
            rc = hsl_super_write(log);
        }
        if (rc == HSL_OK) /* not back to the start, where entries of this epoch lie */
            hsl_os_stage_release(log, log->stage_head);
        if (rc == HSL_OK)
            hsl_tail_publish(log, HSL_TAIL_CLOSED);
    }
    pthread_mutex_lock(&log->stage_mu);
    if (rc != HSL_OK) {
        hsl_poison(log, rc); /* keeps the reason: nobody can ask again */
        rc = HSL_FAILED;
    }
    log->closed = true;
    hsl_turn_give(log);
    hsl_wake_all(log);
    pthread_mutex_unlock(&log->stage_mu);
    hsl_os_stage_close(log);
    hsl_scan_keep(log, -1);
    if (log->follow)
        hsl_follow_close(log);
    else
        hsl_tail_close(log);
    hsl_segments_release(log);
    return rc;
}

void hsl_log_free(struct hsl_log *log)
{
    if (!log || atomic_fetch_sub(&log->holders, 1) > 1)
        return;
    if (hsl_forked(log))
        return; /* locks may be held by threads that do not exist here: leave it to exit() */
    hsl_log_close(log, 0);
    for (size_t i = 0; i < log->segments_len; i++)
        hsl_segment_free(log, log->segments[i]);
    free(log->segments);
    hsl_segment_free(log, log->spare);
    hsl_shards_free(log);
    hsl_follow_free(log);
    hsl_pieces_free(log);
    hsl_marks_free(log);
    hsl_chunks_free(log);
    free(log->cached);
    free(log->zeros);
    free(log->lost);
    destroy_conditions(log);
    pthread_mutex_destroy(&log->stage_mu);
    pthread_mutex_destroy(&log->index_mu);
    pthread_mutex_destroy(&log->pieces_mu);
    pthread_mutex_destroy(&log->marks_mu);
    pthread_mutex_destroy(&log->fetch_mu);
    pthread_mutex_destroy(&log->text_mu);
    const struct hsl_io *io = log->io;
    free(log);
    if (io->release)
        io->release(io->ctx);
}

void hsl_log_stats(struct hsl_log *log, struct hsl_log_stats *out)
{
    *out = (struct hsl_log_stats){0};
    if (hsl_forked(log))
        return;
    pthread_mutex_lock(&log->stage_mu);
    pthread_mutex_lock(&log->index_mu);
    *out = log->stats;
    out->syncs = log->syncs;
    out->bytes_written = log->bytes_written;
    out->bytes_prewritten = log->bytes_prewritten;
    out->durable_ticket = atomic_load(&log->durable_ticket);
    out->open_ticket = log->next_ticket;
    out->staged_now = log->claimed;
    out->segments = log->segments_len;
    out->index_blocks = log->index_blocks;
    out->shards = log->shards_len;
    out->direct = log->direct;
    out->failed = log->failed;
    out->os_stage = log->os_stage;
    for (size_t i = 0; i < log->segments_len; i++)
        out->disk_bytes += log->segments[i]->file_bytes;
    pthread_mutex_unlock(&log->index_mu);
    pthread_mutex_unlock(&log->stage_mu);
}

int hsl_log_error(struct hsl_log *log, char *text, size_t cap)
{
    if (hsl_forked(log)) {
        if (cap > 0)     /* not reached: in a forked child, which counts nothing: test_fork.py */
            text[0] = 0; /* not reached: as the line before */
        return 0;        /* not reached: as the line before */
    }
    pthread_mutex_lock(&log->stage_mu);
    int err = log->failed;
    pthread_mutex_lock(&log->text_mu);
    if (cap > 0)
        snprintf(text, cap, "%s", log->failed_text);
    pthread_mutex_unlock(&log->text_mu);
    pthread_mutex_unlock(&log->stage_mu);
    return err;
}
