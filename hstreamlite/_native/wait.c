/* Waiting for durability, and waking.
 *
 *   ticket_cv[t % HSL_BUCKETS]   whoever waits for ticket t
 *   tail_cv                      whoever waits for any change at the tail
 *   room_cv                      whoever needs memory or disk before it can stage
 *   turn_cv                      whoever needs `writing`, the files, or a group to be over
 *   writer_cv, beside_cv         the native writers, when nothing is due
 *
 * A group is mostly one frame, so one ticket: when it is durable, its bucket wakes just those who
 * can go on. Whoever waits for a later ticket sleeps on, which asks for one who leads the next
 * group without being one of them: the writer thread.
 *
 * Why no wake-up is lost: everything a sleeper looks at changes under stage_mu, which it holds from
 * its last look until it sleeps. It sleeps on a ticket only while somebody holds the turn, a group
 * is in flight or somebody copies into the next frame (else it leads), and is counted in `waiters`.
 * Each of these ends in hsl_wake_writer, which finds that something is staged and waited for and
 * wakes a native writer, unless that one is awake: then it looks for itself before it sleeps, under
 * stage_mu too. What is staged meanwhile does the same (hsl_woken_by_staging). So the next group is
 * led, and so on until the sleeper's ticket is durable and its bucket is woken. Failure and close
 * wake every bucket. Where there is no native writer, before start and in close and stepped, every
 * bucket is woken when one of these ends, and the sleepers lead.
 */
#include "log.h"

#include <errno.h>

void hsl_wake_all(struct hsl_log *log)
{
    for (int i = 0; i < HSL_BUCKETS; i++)
        pthread_cond_broadcast(&log->ticket_cv[i]);
    pthread_cond_broadcast(&log->tail_cv);
    pthread_cond_broadcast(&log->room_cv);
    pthread_cond_broadcast(&log->turn_cv);
    pthread_cond_broadcast(&log->writer_cv);
    pthread_cond_broadcast(&log->beside_cv);
}

/* The tickets in (before, durable] are durable. */
void hsl_wake_durable(struct hsl_log *log, uint64_t before, uint64_t durable)
{
    if (durable - before > HSL_BUCKETS)
        before = durable - HSL_BUCKETS;
    for (uint64_t ticket = before + 1; ticket <= durable; ticket++)
        pthread_cond_broadcast(&log->ticket_cv[ticket % HSL_BUCKETS]);
    pthread_cond_broadcast(&log->tail_cv);
}

/* Wakes a native writer if something is due before it would wake by itself. */
void hsl_wake_writer(struct hsl_log *log)
{
    if (log->thread_wakes_ns != 0) {
        if (hsl_due(log) < log->thread_wakes_ns) {
            log->thread_wakes_ns = 0;
            pthread_cond_signal(&log->writer_cv);
        }
    } else if (log->beside_asleep > 0 && log->flying > 0 && hsl_may_submit(log)) {
        pthread_cond_signal(&log->beside_cv);
    }
    if (log->has_threads == 0 && log->waiters > 0)
        for (int i = 0; i < HSL_BUCKETS; i++)
            pthread_cond_broadcast(&log->ticket_cv[i]);
}

struct timespec hsl_deadline(uint64_t ns)
{
    struct timespec at;
    clock_gettime(HSL_WAIT_CLOCK, &at);
    ns += (uint64_t)at.tv_nsec;
    at.tv_sec += (time_t)(ns / 1000000000u);
    at.tv_nsec = (long)(ns % 1000000000u);
    return at;
}

static bool is_over(const struct timespec *deadline)
{
    struct timespec now;
    clock_gettime(HSL_WAIT_CLOCK, &now);
    return now.tv_sec > deadline->tv_sec ||
           (now.tv_sec == deadline->tv_sec && now.tv_nsec >= deadline->tv_nsec);
}

/* timeout_ns < 0 = for ever. false on time-out. */
static bool sleep_on(struct hsl_log *log, pthread_cond_t *cv, int64_t timeout_ns,
                     const struct timespec *deadline)
{
    if (timeout_ns < 0) {
        pthread_cond_wait(cv, &log->stage_mu);
        return true;
    }
    return pthread_cond_timedwait(cv, &log->stage_mu, deadline) != ETIMEDOUT;
}

int hsl_log_wait(struct hsl_log *log, uint64_t ticket, int64_t timeout_ns)
{
    if (atomic_load_explicit(&log->durable_ticket, memory_order_acquire) >= ticket)
        return HSL_OK;
    if (hsl_forked(log))
        return HSL_FORKED;
    struct timespec deadline = {0, 0};
    if (timeout_ns >= 0)
        deadline = hsl_deadline((uint64_t)timeout_ns);
    int rc = HSL_OK;
    pthread_mutex_lock(&log->stage_mu);
    log->waiters++;
    while (atomic_load_explicit(&log->durable_ticket, memory_order_relaxed) < ticket) {
        if (log->failed) {
            rc = HSL_FAILED;
            break;
        }
        if (log->closed) {
            rc = HSL_CLOSED;
            break;
        }
        if (hsl_may_lead(log)) {
            hsl_lead(log);
        } else if (!sleep_on(log, &log->ticket_cv[ticket % HSL_BUCKETS], timeout_ns, &deadline)) {
            rc = HSL_TIMEOUT;
            break;
        }
    }
    log->waiters--;
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}

int hsl_log_kick(struct hsl_log *log, uint64_t ticket)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    pthread_mutex_lock(&log->stage_mu);
    int rc = log->failed ? HSL_FAILED : HSL_OK;
    if (ticket > log->want_ticket)
        log->want_ticket = ticket;
    hsl_wake_writer(log);
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}

uint64_t hsl_log_durable(struct hsl_log *log)
{
    return atomic_load_explicit(&log->durable_ticket, memory_order_acquire);
}

uint64_t hsl_log_staged(struct hsl_log *log)
{
    if (hsl_forked(log))
        return UINT64_MAX; /* never durable: waiting for it fails */
    pthread_mutex_lock(&log->stage_mu);
    uint64_t ticket = hsl_last_ticket(log);
    pthread_mutex_unlock(&log->stage_mu);
    return ticket;
}

uint64_t hsl_log_pokes(struct hsl_log *log)
{
    if (hsl_forked(log))
        return 0;
    pthread_mutex_lock(&log->stage_mu);
    uint64_t pokes = log->pokes;
    pthread_mutex_unlock(&log->stage_mu);
    return pokes;
}

void hsl_log_poke(struct hsl_log *log)
{
    if (hsl_forked(log))
        return;
    pthread_mutex_lock(&log->stage_mu);
    log->pokes++;
    pthread_cond_broadcast(&log->tail_cv);
    pthread_mutex_unlock(&log->stage_mu);
    hsl_notify(log->cfg.notify_fd);
}

void hsl_log_interrupt(struct hsl_log *log)
{
    if (hsl_forked(log))
        return;
    pthread_mutex_lock(&log->stage_mu);
    log->interrupted = true;
    pthread_cond_broadcast(&log->tail_cv);
    pthread_mutex_unlock(&log->stage_mu);
}

int hsl_log_wait_change(struct hsl_log *log, uint64_t seen, uint64_t pokes, int64_t timeout_ns)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    struct timespec deadline = {0, 0};
    if (timeout_ns >= 0)
        deadline = hsl_deadline((uint64_t)timeout_ns);
    int rc = HSL_OK;
    int slack = log->follow ? hsl_follow_slack(HSL_FOLLOW_SLACK_NS) : 0;
    pthread_mutex_lock(&log->stage_mu);
    log->tail_waiters++;
    while (atomic_load_explicit(&log->durable_ticket, memory_order_relaxed) <= seen &&
           log->pokes == pokes) {
        if (log->failed) {
            rc = HSL_FAILED;
            break;
        }
        if (log->closed || log->interrupted) {
            rc = HSL_CLOSED;
            break;
        }
        if (hsl_may_lead(log)) {
            hsl_lead(log);
        } else if (log->has_threads == 0 && !log->writing && log->flying == 0) {
            rc = HSL_TIMEOUT; /* stepped: nobody else can bring a change */
            break;
        } else if (timeout_ns >= 0 && is_over(&deadline)) {
            rc = HSL_TIMEOUT;
            break;
        } else if (!hsl_follow_watch(log, timeout_ns < 0 ? NULL : &deadline)) {
            sleep_on(log, &log->tail_cv, timeout_ns, &deadline);
        }
    }
    log->tail_waiters--;
    if (log->follow && log->tail_waiters > 0)
        pthread_cond_signal(&log->tail_cv); /* another has to look now */
    pthread_mutex_unlock(&log->stage_mu);
    if (log->follow)
        hsl_follow_slack(slack);
    return rc;
}

int hsl_log_wait_tail(struct hsl_log *log, uint64_t seen, int64_t timeout_ns)
{
    return hsl_log_wait_change(log, seen, hsl_log_pokes(log), timeout_ns);
}

static bool may_step(struct hsl_log *log)
{
    bool due = hsl_wants_write(log, log->io->mono_ns(log->io->ctx));
    return (due || log->flying > 0) && hsl_may_lead(log);
}

int hsl_log_step(struct hsl_log *log)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    if (log->cfg.follower)
        return hsl_log_refresh(log);
    pthread_mutex_lock(&log->stage_mu);
    int rc;
    while ((rc = hsl_state(log)) == HSL_OK && may_step(log))
        hsl_lead(log);
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}
