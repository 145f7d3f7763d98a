/* Reading ahead of a cursor that reads on, in threads, so that the next bytes are in memory when it
 * gets there.
 *
 * There are two such threads in a log, from the first time that they are asked for until the log is
 * closed; where nothing may run in threads there are none. Two, for the copy from the page cache
 * can take as long as the disk. Whoever asks gets the bytes or does not: then it reads them itself,
 * and hears of what fails. A fetch belongs to one cursor, and what lies in it to the thread that
 * uses the cursor or to one of these, as `state` says; that is changed under fetch_mu when it
 * passes from one to the other. Nobody holds fetch_mu during file calls.
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

struct hsl_fetches {
    struct hsl_fetch *ahead[HSL_FETCHES]; /* NULL until needed */
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
    while (log->fetchers_len < HSL_FETCHES && !log->fetch_ends &&
           pthread_create(&log->fetchers[log->fetchers_len], NULL, fetch_main, log) == 0)
        log->fetchers_len++;
    return log->fetchers_len > 0 && !log->fetch_ends;
}

static void want(struct hsl_log *log, struct hsl_fetch *f)
{
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

/* Whether it is of one of these pieces. */
static bool is_of(const struct hsl_fetch *f, uint64_t segment, const struct hsl_pages *pages,
                  uint32_t count)
{
    for (uint32_t i = 0; i < count && f->need > 0 && f->segment == segment; i++)
        if (f->off == pages[i].from)
            return true;
    return false;
}

static struct hsl_fetch *find(const struct hsl_fetches *fetches, uint64_t segment,
                              const struct hsl_pages *piece)
{
    for (int i = 0; fetches && i < HSL_FETCHES; i++)
        if (fetches->ahead[i] && is_of(fetches->ahead[i], segment, piece, 1))
            return fetches->ahead[i];
    return NULL;
}

/* One that is of none of these pieces and that no thread reads; NULL if there is none. */
static struct hsl_fetch *spare(struct hsl_log *log, struct hsl_fetches *fetches, uint64_t segment,
                               const struct hsl_pages *pages, uint32_t count)
{
    for (int i = 0; i < HSL_FETCHES; i++) {
        struct hsl_fetch *f = fetches->ahead[i];
        if (!f)
            return fetches->ahead[i] = calloc(1, sizeof *f);
        if (!is_of(f, segment, pages, count) && take_back(log, f))
            return f;
    }
    return NULL;
}

static void ask(struct hsl_log *log, struct hsl_fetch *f, uint64_t segment,
                const struct hsl_pages *piece)
{
    size_t need = piece->end - piece->from;
    f->need = 0;
    if (!hsl_page_room(&f->buf, &f->cap, need))
        return;
    f->segment = segment;
    f->off = piece->from;
    f->need = need;
    want(log, f);
}

void hsl_fetch_ask(struct hsl_log *log, struct hsl_fetches **fetches, uint64_t segment,
                   const struct hsl_pages *pages, uint32_t count)
{
    if (!log->cfg.threaded || count == 0)
        return;
    if (!*fetches)
        *fetches = calloc(1, sizeof **fetches);
    for (uint32_t i = 0; *fetches && i < count; i++) {
        if (find(*fetches, segment, &pages[i]))
            continue;
        struct hsl_fetch *f = spare(log, *fetches, segment, pages, count);
        if (f)
            ask(log, f, segment, &pages[i]);
    }
}

int hsl_fetch_take(struct hsl_log *log, struct hsl_fetches *fetches, uint64_t segment,
                   uint64_t from, bool may_block, uint8_t **buf, size_t *cap, size_t *got)
{
    struct hsl_fetch *f = find(fetches, segment, &(struct hsl_pages){.from = from});
    if (!f)
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
    f->need = 0;
    f->state = IDLE;
    return HSL_OK;
}

static void leave(struct hsl_log *log, struct hsl_fetch *f)
{
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

void hsl_fetch_free(struct hsl_log *log, struct hsl_fetches *fetches)
{
    for (int i = 0; fetches && i < HSL_FETCHES; i++)
        if (fetches->ahead[i])
            leave(log, fetches->ahead[i]);
    free(fetches);
}

void hsl_fetch_end(struct hsl_log *log)
{
    pthread_mutex_lock(&log->fetch_mu);
    log->fetch_ends = true;
    while (log->wanted)
        unwant(log, log->wanted); /* not reached: the threads have not looked yet */
    pthread_cond_broadcast(&log->wanted_cv);
    uint32_t len = log->fetchers_len;
    log->fetchers_len = 0;
    pthread_mutex_unlock(&log->fetch_mu);
    for (uint32_t i = 0; i < len; i++)
        pthread_join(log->fetchers[i], NULL);
}
