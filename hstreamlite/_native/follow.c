/* Following: a log that another process writes, read on as it becomes durable.
 *
 * The writer's page TAIL names a place up to which every frame is durable. A follower walks the
 * active segment so far and never beyond, with direct reads, from where it stopped before; frames
 * and blocks are checked as recovery checks them, and what they hold goes into the same index that
 * the cursors of a writer use. A segment that was sealed meanwhile is walked to its end, and its
 * footer takes the place of what memory held. Nothing is ever written.
 *
 * Whoever calls hsl_log_refresh sees what was durable then. Who waits for more calls it again and
 * again: one of them, who wakes the others. A look comes shortly before the next change is due by
 * the rhythm of those before; then looks come often, and the less often the longer nothing changes.
 * Between looks there are pauses, since a thread that spins takes a processor from somebody, and
 * the writer does not wake followers, since that would cost it more than their looks do. A thread
 * of the log looks while nobody waits, before what lies in memory is overwritten; and it looks in
 * their rhythm for those who wait elsewhere, and are told.
 */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef HSL_LINUX
#include <sys/prctl.h>
#endif

#define PAUSE_MIN_NS 20000u
#define PAUSE_UNWATCHED_NS 500000u
#define PAUSE_MAX_NS 4000000u
#define RHYTHM_MAX_NS 1000000u
#define PAUSE_FAILED_NS 100000000u
#define CHECK_NS 250000000u

struct hsl_follow {
    pthread_mutex_t mu;         /* who goes on; taken before every other lock */
    struct hsl_segment *active; /* the newest segment, while it is not sealed; else NULL */
    int fd;                     /* of it; else -1 */
    uint64_t number, end;       /* how far everything was taken in */
    uint64_t uid;               /* of segment `number` if its end is known; else 0 */
    uint32_t crc;
    uint64_t gone, abandoned;
    uint64_t checked_ns;        /* when the page last proved to be the one of the directory */
    _Atomic uint64_t sequence;  /* of the page when everything it told was taken in */
    _Atomic uint64_t changed_ns, rhythm_ns; /* when that was, and the time between changes lately */
    bool watched;               /* stage_mu: somebody who waits looks */
    bool closed;
    int broken;                 /* status of a failure after which there is no going on; 0 = none */
    struct hsl_segment_report damage;
};

static void close_active(struct hsl_log *log)
{
    if (log->follow->fd >= 0)
        log->io->close(log->io->ctx, log->follow->fd);
    log->follow->fd = -1;
}

/* Opens the file that has the name of the active segment now. */
static int reopen_active(struct hsl_log *log)
{
    char path[HSL_PATH_MAX + 64];
    struct hsl_follow *f = log->follow;
    hsl_segment_path(log, path, f->active->number);
    int flags = HSL_OPEN_READ | (log->direct ? HSL_OPEN_DIRECT : 0);
    int fd = log->io->open(log->io->ctx, path, flags);
    if (fd < 0)
        return fd;
    close_active(log);
    f->fd = fd;
    return 0;
}

static int refuse(struct hsl_log *log, uint64_t number)
{
    log->follow->damage.number = number;
    log->follow->broken = HSL_DAMAGED;
    return HSL_DAMAGED;
}

/* Recovery may have put a copy in the place of the file that is open here: that one is looked at
 * before anything is called damaged. */
static int walk_on(struct hsl_log *log, uint64_t upto)
{
    struct hsl_follow *f = log->follow;
    int rc = hsl_scan_on(log, f->active, f->fd, upto, &f->damage);
    if (rc == HSL_DAMAGED && reopen_active(log) == 0)
        rc = hsl_scan_on(log, f->active, f->fd, upto, &f->damage);
    f->end = f->active->end;
    return rc == HSL_DAMAGED ? refuse(log, f->number) : rc;
}

/* The file that is open was never sealed: recovery sealed a copy, and that was dropped. What there
 * was behind the walk is dropped too; the caller finds out whether it was. */
static int abandon_active(struct hsl_log *log)
{
    log->follow->abandoned = log->follow->number;
    log->scan_hole = true;
    return hsl_seal_in_memory(log, log->follow->active);
}

/* Takes in the rest of a segment that its writer has left. The file is open since it was the
 * active one, so it does not matter if it was dropped. */
static int finish_active(struct hsl_log *log)
{
    struct hsl_follow *f = log->follow;
    struct hsl_segment *s = f->active;
    int rc = hsl_scan_seal(log, s, f->fd, &f->damage);
    if (!s->sealed && (rc == HSL_OK || rc == HSL_DAMAGED)) {
        int err = reopen_active(log);
        if (err == -ENOENT)
            rc = abandon_active(log);
        else if (err == 0)
            rc = hsl_scan_seal(log, s, f->fd, &f->damage);
    }
    if (rc == HSL_OK && !s->sealed) {
        f->damage.damage = HSL_DAMAGE_FOOTER;
        f->damage.end = s->end;
        rc = HSL_DAMAGED;
    }
    if (rc != HSL_OK)
        return rc == HSL_DAMAGED ? refuse(log, f->number) : rc;
    close_active(log);
    f->active = NULL;
    f->end = s->end;
    f->uid = f->abandoned == f->number ? 0 : s->uid;
    f->crc = s->last_crc;
    return HSL_OK;
}

static void take_loaded(struct hsl_log *log)
{
    struct hsl_follow *f = log->follow;
    struct hsl_segment *s = log->loaded;
    if (!s)
        return;
    struct hsl_segment_cover cover = hsl_segment_covers(s);
    f->active = s->sealed ? NULL : s;
    f->fd = log->loaded_fd;
    log->loaded_fd = -1;
    f->number = cover.last;
    f->end = cover.last_end;
    f->uid = cover.last_uid;
    f->crc = cover.last_crc;
}

static int check_loaded(struct hsl_log *log, uint64_t number, uint64_t upto)
{
    struct hsl_follow *f = log->follow;
    const struct hsl_segment_report *report = &f->damage;
    bool whole = upto == 0 ? report->sealed : report->end >= upto;
    bool follows = f->uid == 0 || (report->pred_uid == f->uid && report->pred_end == f->end &&
                                   report->pred_crc == f->crc);
    if (whole && follows && memcmp(report->uuid, log->uuid, 16) == 0)
        return HSL_OK;
    if (report->damage == HSL_DAMAGE_NONE)
        f->damage.damage = whole ? HSL_DAMAGE_HEADER : HSL_DAMAGE_FOOTER;
    return refuse(log, number);
}

/* Takes in a sealed segment, or the header of the active one, whose frames are walked then.
 * NOT_FOUND: there is no such file. */
static int load_next(struct hsl_log *log, uint64_t number, bool active)
{
    struct hsl_follow *f = log->follow;
    uint64_t upto = active ? HSL_PAGE : 0;
    int rc = active ? hsl_log_load_active(log, number, 0, upto, &f->damage)
                    : hsl_log_load_segment(log, number, 0, &f->damage);
    if (rc == HSL_OK)
        rc = check_loaded(log, number, upto);
    bool partly = f->damage.scanned != 0; /* its footer does not verify: its frames were walked */
    if (rc == HSL_OK)
        take_loaded(log);
    else if (rc != HSL_NOT_FOUND && (rc != HSL_IO || partly))
        f->broken = rc;
    return rc;
}

static int advance(struct hsl_log *log, uint64_t durable)
{
    struct hsl_follow *f = log->follow;
    uint64_t number = durable >> 32, upto = (uint32_t)durable;
    while (f->number < number) {
        int rc = f->active ? finish_active(log) : HSL_OK;
        uint64_t next = f->number + 1;
        if (rc == HSL_OK)
            rc = load_next(log, next, next == number);
        if (rc == HSL_NOT_FOUND) {
            f->gone = next;
            return HSL_AGAIN;
        }
        if (rc != HSL_OK)
            return rc;
    }
    return f->number > number || !f->active || f->end >= upto ? HSL_OK : walk_on(log, upto);
}

static void tell(struct hsl_log *log)
{
    pthread_mutex_lock(&log->stage_mu);
    atomic_fetch_add_explicit(&log->durable_ticket, 1, memory_order_release);
    pthread_cond_broadcast(&log->tail_cv);
    pthread_mutex_unlock(&log->stage_mu);
    hsl_notify(log->cfg.notify_fd);
}

/* Between two looks there may have been several changes: each moves the sequence by two. */
static void note_change(struct hsl_follow *f, uint64_t sequence, uint64_t now)
{
    uint64_t changes = (sequence - f->sequence) / 2, each = now - f->changed_ns;
    uint64_t rhythm = f->rhythm_ns;
    if (changes > 1)
        each /= changes;
    if (each > RHYTHM_MAX_NS)
        each = RHYTHM_MAX_NS;
    f->rhythm_ns = each < rhythm ? (rhythm + each) / 2 : (3 * rhythm + each) / 4;
    f->changed_ns = now;
}

static uint64_t pause_after(const struct hsl_follow *f, uint64_t now)
{
    uint64_t soon = f->changed_ns + f->rhythm_ns / 8 * 7;
    uint64_t ns = now < soon ? soon - now : (now - soon) / 4;
    return ns < PAUSE_MIN_NS ? PAUSE_MIN_NS : ns > PAUSE_MAX_NS ? PAUSE_MAX_NS : ns;
}

static int refresh(struct hsl_log *log)
{
    struct hsl_follow *f = log->follow;
    struct hsl_tail tail;
    int rc = hsl_log_tail_read(log, &tail);
    if (rc != HSL_OK) {
        f->damage = (struct hsl_segment_report){0};
        return rc == HSL_NOT_FOUND ? HSL_OK : rc;
    }
    if (tail.state == HSL_TAIL_STARTING)
        f->sequence = tail.sequence;
    if (tail.sequence == f->sequence)
        return HSL_OK;
    uint64_t number = f->number, end = f->end;
    rc = advance(log, tail.durable);
    if (rc == HSL_OK) {
        note_change(f, tail.sequence, log->io->mono_ns(log->io->ctx));
        f->sequence = tail.sequence;
    }
    if (rc == HSL_NO_MEMORY)
        f->broken = rc; /* a part of a frame or of a footer may be in the index */
    if (f->number != number || f->end != end)
        tell(log);
    return rc;
}

/* Is there anything to take in? Costs a look at the page. */
static bool is_behind(struct hsl_log *log)
{
    const struct hsl_follow *f = log->follow;
    if (!log->tail_valid)
        return true;
    _Atomic uint64_t *sequence = (_Atomic uint64_t *)(void *)&log->tail->sequence;
    return atomic_load_explicit(sequence, memory_order_acquire) != f->sequence;
}

/* A mapped page stays as it is when its directory goes or gives way to another. */
static int check_place(struct hsl_log *log, uint64_t now)
{
    struct hsl_follow *f = log->follow;
    f->checked_ns = now;
    f->broken = hsl_tail_check(log);
    return f->broken;
}

int hsl_log_refresh(struct hsl_log *log)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    struct hsl_follow *f = log->follow;
    uint64_t now = log->io->mono_ns(log->io->ctx);
    pthread_mutex_lock(&f->mu);
    int rc = f->closed ? HSL_CLOSED : f->broken;
    if (rc == HSL_OK && now > f->checked_ns + CHECK_NS)
        rc = check_place(log, now);
    if (rc == HSL_OK && is_behind(log))
        rc = refresh(log);
    pthread_mutex_unlock(&f->mu);
    return rc;
}

int hsl_log_follow_check(struct hsl_log *log)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    struct hsl_follow *f = log->follow;
    if (!f)
        return HSL_OK; /* a damaged log is read as it was, and not followed */
    pthread_mutex_lock(&f->mu);
    int rc = f->closed ? HSL_CLOSED : f->broken;
    if (rc == HSL_OK)
        rc = check_place(log, log->io->mono_ns(log->io->ctx));
    pthread_mutex_unlock(&f->mu);
    return rc;
}

int hsl_log_follow_damage(struct hsl_log *log, struct hsl_segment_report *report)
{
    pthread_mutex_lock(&log->follow->mu);
    *report = log->follow->damage;
    pthread_mutex_unlock(&log->follow->mu);
    return HSL_OK;
}

/* The pause of the thread. What nobody waits for, or somebody looks for himself, has time. */
static void pause_for(struct hsl_log *log, uint64_t ns)
{
    pthread_mutex_lock(&log->stage_mu);
    if (log->cfg.notify_fd < 0 && ns < PAUSE_UNWATCHED_NS)
        ns = log->follow->watched ? PAUSE_MAX_NS : PAUSE_UNWATCHED_NS;
    struct timespec deadline = hsl_deadline(ns);
    if (!log->closing)
        pthread_cond_timedwait(&log->writer_cv, &log->stage_mu, &deadline);
    pthread_mutex_unlock(&log->stage_mu);
}

int hsl_follow_slack(int ns)
{
    int before = 0;
#ifdef HSL_LINUX
    before = prctl(PR_GET_TIMERSLACK);
    prctl(PR_SET_TIMERSLACK, ns);
#endif
    return before;
}

bool hsl_follow_watch(struct hsl_log *log, const struct timespec *until)
{
    struct hsl_follow *f = log->follow;
    if (!f || f->watched)
        return false;
    f->watched = true;
    struct timespec at = hsl_deadline(pause_after(f, log->io->mono_ns(log->io->ctx)));
    if (until && (until->tv_sec < at.tv_sec ||
                  (until->tv_sec == at.tv_sec && until->tv_nsec < at.tv_nsec)))
        at = *until;
    pthread_cond_timedwait(&log->tail_cv, &log->stage_mu, &at);
    pthread_mutex_unlock(&log->stage_mu);
    if (hsl_log_refresh(log) != HSL_OK)
        hsl_log_poke(log); /* whoever waits looks for himself, and goes on or is told why */
    pthread_mutex_lock(&log->stage_mu);
    f->watched = false;
    return true;
}

static bool is_closing(struct hsl_log *log)
{
    pthread_mutex_lock(&log->stage_mu);
    bool closing = log->closing;
    pthread_mutex_unlock(&log->stage_mu);
    return closing;
}

static void *follow_main(void *arg)
{
    struct hsl_log *log = arg;
    const struct hsl_io *io = log->io;
    hsl_follow_slack(HSL_FOLLOW_SLACK_NS);
    while (!is_closing(log)) {
        int rc = hsl_log_refresh(log);
        if (rc != HSL_OK)
            hsl_log_poke(log); /* whoever waits looks for himself, and goes on or is told why */
        if (rc == HSL_OK)
            pause_for(log, pause_after(log->follow, io->mono_ns(io->ctx)));
        else
            pause_for(log, rc == HSL_AGAIN ? PAUSE_MAX_NS : PAUSE_FAILED_NS);
    }
    return NULL;
}

int hsl_log_follow(struct hsl_log *log)
{
    struct hsl_follow *f = calloc(1, sizeof *f);
    if (!f)
        return HSL_NO_MEMORY;
    pthread_mutex_init(&f->mu, NULL);
    f->fd = -1;
    log->follow = f;
    take_loaded(log);
    log->idle_marked = true;
    if (log->cfg.threaded) {
        if (pthread_create(&log->threads[0], NULL, follow_main, log) != 0)
            return HSL_NO_MEMORY;
        log->has_threads = 1;
    }
    return HSL_OK;
}

/* The thread has ended; callers of hsl_log_refresh may still be there. */
void hsl_follow_close(struct hsl_log *log)
{
    pthread_mutex_lock(&log->follow->mu);
    log->follow->closed = true;
    close_active(log);
    hsl_tail_close(log);
    pthread_mutex_unlock(&log->follow->mu);
}

void hsl_follow_free(struct hsl_log *log)
{
    if (!log->follow)
        return;
    pthread_mutex_destroy(&log->follow->mu);
    free(log->follow);
    log->follow = NULL;
}

uint64_t hsl_log_follow_gone(struct hsl_log *log)
{
    pthread_mutex_lock(&log->follow->mu);
    uint64_t number = log->follow->gone;
    pthread_mutex_unlock(&log->follow->mu);
    return number;
}

int hsl_log_follow_skip(struct hsl_log *log, uint64_t number)
{
    struct hsl_follow *f = log->follow;
    pthread_mutex_lock(&f->mu);
    if (!f->active && f->number + 1 == number) {
        f->number = number;
        f->end = HSL_PAGE;
        f->uid = 0;
    }
    pthread_mutex_unlock(&f->mu);
    return HSL_OK;
}

static bool is_known(struct hsl_log *log, uint64_t number)
{
    pthread_mutex_lock(&log->index_mu);
    bool known = hsl_segment_find(log, number) != NULL;
    pthread_mutex_unlock(&log->index_mu);
    return known;
}

int hsl_log_follow_adopt(struct hsl_log *log, uint64_t number)
{
    struct hsl_follow *f = log->follow;
    int rc = HSL_OK;
    pthread_mutex_lock(&f->mu);
    if (!f->closed && !is_known(log, number)) {
        uint64_t unsealed = f->active ? f->number : UINT64_MAX;
        rc = hsl_scan_adopt(log, number, f->number, unsealed, &f->damage);
        if (rc == HSL_OK && f->damage.covers_last > f->number)
            take_loaded(log);
        if (rc == HSL_DAMAGED)
            rc = refuse(log, number);
        else if (rc != HSL_OK && is_known(log, number))
            f->broken = rc; /* half of its runs are there: going on would miss the others */
    }
    pthread_mutex_unlock(&f->mu);
    return rc;
}

int hsl_log_forget_segments(struct hsl_log *log, const uint64_t *numbers, size_t count)
{
    pthread_mutex_lock(&log->follow->mu);
    hsl_segments_forget(log, numbers, count);
    pthread_mutex_unlock(&log->follow->mu);
    return HSL_OK;
}

uint64_t hsl_log_abandoned_segment(struct hsl_log *log)
{
    pthread_mutex_lock(&log->follow->mu);
    uint64_t number = log->follow->abandoned;
    pthread_mutex_unlock(&log->follow->mu);
    return number;
}
