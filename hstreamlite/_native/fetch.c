/* Reading ahead of a cursor that reads on, in a thread, so that the next bytes are in memory when
 * it gets there.
 *
 * There is one such thread in a log, from the first time that it is asked for until the log is
 * closed; where nothing may run in threads there is none. Whoever asks gets the bytes or does not:
 * then it reads them itself, and hears of what fails. A fetch belongs to one cursor, and what lies
 * in it to the thread that uses the cursor or to this one, as `state` says; that is changed under
 * fetch_mu when it passes from one to the other. Nobody holds fetch_mu during file calls.
 */
#include "log.h"

#include <stdlib.h>

enum state {
    IDLE,    /* the cursor's */
    WANTED,  /* in the queue */
    READING, /* the thread's */
    LEFT,    /* the thread's, for good: its cursor is gone */
    READY    /* the cursor's, with what was read */
};

struct hsl_fetch {
    enum state state;
    uint8_t *buf;
    size_t cap, need, got;
    uint64_t segment, off;
    struct hsl_fetch *next; /* in the queue */
};

static void read_wanted(struct hsl_log *log, struct hsl_fetch *f)
{
    struct hsl_segment *segment;
    int fd;
    f->got = 0;
    if (hsl_segment_reader(log, f->segment, &segment, &fd) != HSL_OK)
        return; /* not reached: the segment went meanwhile; whoever gets there hears why */
    while (f->got < f->need) {
        int64_t n =
            log->io->pread(log->io->ctx, fd, f->buf + f->got, f->need - f->got, f->off + f->got);
        if (n <= 0)
            break; /* the end, or as above */
        f->got += (size_t)n;
    }
    hsl_segment_unread(log, segment);
}

static void discard(struct hsl_fetch *f)
{
    free(f->buf);
    free(f);
}

static void *fetch_main(void *arg)
{
    struct hsl_log *log = arg;
    pthread_mutex_lock(&log->fetch_mu);
    while (!log->fetch_ends) {
        struct hsl_fetch *f = log->wanted;
        if (!f) {
            pthread_cond_wait(&log->wanted_cv, &log->fetch_mu);
            continue;
        }
        log->wanted = f->next;
        f->state = READING;
        pthread_mutex_unlock(&log->fetch_mu);
        read_wanted(log, f);
        pthread_mutex_lock(&log->fetch_mu);
        if (f->state == LEFT)
            discard(f); /* not reached: its cursor went amid the read */
        else
            f->state = READY;
        pthread_cond_broadcast(&log->fetched_cv);
    }
    pthread_mutex_unlock(&log->fetch_mu);
    return NULL;
}

/* Takes one out of the queue. fetch_mu held. */
static void unwant(struct hsl_log *log, struct hsl_fetch *f)
{
    struct hsl_fetch **at = &log->wanted;
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    f->state = IDLE;
}

/* Makes it the cursor's; false while it is being read. */
static bool take_back(struct hsl_log *log, struct hsl_fetch *f)
{
    pthread_mutex_lock(&log->fetch_mu);
    if (f->state == WANTED)
        unwant(log, f);
    bool reading = f->state == READING;
    if (!reading)
        f->state = IDLE;
    pthread_mutex_unlock(&log->fetch_mu);
    return !reading;
}

/* fetch_mu held. */
static bool has_thread(struct hsl_log *log)
{
    if (!log->fetches && !log->fetch_ends)
        log->fetches = pthread_create(&log->fetcher, NULL, fetch_main, log) == 0;
    return log->fetches && !log->fetch_ends;
}

void hsl_fetch_ask(struct hsl_log *log, struct hsl_fetch **fetch, uint64_t segment, uint64_t from,
                   uint64_t end)
{
    if (!log->cfg.threaded)
        return;
    if (!*fetch)
        *fetch = calloc(1, sizeof **fetch);
    struct hsl_fetch *f = *fetch;
    if (!f || !take_back(log, f))
        return;
    f->need = end - from;
    if (f->need > f->cap) {
        free(f->buf);
        f->buf = hsl_page_alloc(f->need);
        f->cap = f->buf ? f->need : 0;
    }
    if (!f->buf)
        return;
    f->segment = segment;
    f->off = from;
    pthread_mutex_lock(&log->fetch_mu);
    if (has_thread(log)) {
        struct hsl_fetch **last = &log->wanted;
        while (*last)
            last = &(*last)->next;
        f->next = NULL;
        f->state = WANTED;
        *last = f;
        pthread_cond_signal(&log->wanted_cv);
    }
    pthread_mutex_unlock(&log->fetch_mu);
}

int hsl_fetch_take(struct hsl_log *log, struct hsl_fetch *f, uint64_t segment, uint64_t from,
                   bool may_block, uint8_t **buf, size_t *cap, size_t *got)
{
    if (!f || f->segment != segment || f->off != from)
        return HSL_NOT_FOUND;
    pthread_mutex_lock(&log->fetch_mu);
    while (may_block && f->state == READING)
        pthread_cond_wait(&log->fetched_cv, &log->fetch_mu);
    enum state state = f->state;
    pthread_mutex_unlock(&log->fetch_mu);
    if (state == READING)
        return HSL_AGAIN;
    if (state != READY)
        return HSL_NOT_FOUND;
    uint8_t *mine = *buf;
    size_t mine_cap = *cap;
    *buf = f->buf;
    *cap = f->cap;
    *got = f->got;
    f->buf = mine;
    f->cap = mine_cap;
    f->state = IDLE;
    return HSL_OK;
}

void hsl_fetch_free(struct hsl_log *log, struct hsl_fetch *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&log->fetch_mu);
    if (f->state == WANTED)
        unwant(log, f);
    bool reading = f->state == READING;
    if (reading)
        f->state = LEFT; /* not reached: the thread reads just then */
    pthread_mutex_unlock(&log->fetch_mu);
    if (!reading)
        discard(f);
}

void hsl_fetch_end(struct hsl_log *log)
{
    pthread_mutex_lock(&log->fetch_mu);
    log->fetch_ends = true;
    while (log->wanted)
        unwant(log, log->wanted); /* not reached: the thread has not looked yet */
    pthread_cond_signal(&log->wanted_cv);
    bool fetches = log->fetches;
    log->fetches = false;
    pthread_mutex_unlock(&log->fetch_mu);
    if (fetches)
        pthread_join(log->fetcher, NULL);
}
