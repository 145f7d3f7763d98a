/* The superblock: two page-sized slots written in turn; the newest valid one counts. */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t slot_crc(const uint8_t *page) { return hsl_crc32c(0, page + 12, HSL_PAGE - 12); }

static int read_slot(const uint8_t *page, struct hsl_super *out)
{
    struct hsl_super_slot slot;
    memcpy(&slot, page, sizeof slot);
    if (memcmp(slot.magic, HSL_SUPER_MAGIC, 8) != 0 || slot.crc != slot_crc(page))
        return HSL_DAMAGED;
    if (slot.major != HSL_VERSION_MAJOR || slot.required != 0)
        return HSL_VERSION;
    memcpy(out->uuid, slot.uuid, 16);
    out->sequence = slot.sequence;
    out->epoch = slot.epoch;
    out->first_segment = slot.first_segment;
    out->last_segment = slot.last_segment;
    out->durable = slot.durable;
    out->checkpoint = slot.checkpoint;
    memcpy(out->snapshot, slot.snapshot, sizeof slot.snapshot);
    out->flags = slot.flags;
    return HSL_OK;
}

/* Both slots with the status of each: OK, DAMAGED, or VERSION with the major version found in
 * sequence. 0, or a negative errno. */
int hsl_super_slots(const struct hsl_io *io, const char *path, struct hsl_super *slots,
                    int32_t *status)
{
    int fd = io->open(io->ctx, path, HSL_OPEN_READ);
    if (fd < 0)
        return fd;
    uint8_t *page = hsl_page_alloc(HSL_PAGE);
    int err = page ? 0 : -ENOMEM;
    for (uint64_t i = 0; i < 2 && err == 0; i++) {
        err = hsl_read_all(io, fd, page, HSL_PAGE, i * HSL_PAGE);
        status[i] = err < 0 ? HSL_DAMAGED : read_slot(page, &slots[i]);
        if (status[i] == HSL_VERSION)
            slots[i].sequence = ((struct hsl_super_slot *)(void *)page)->major;
        if (err == -ENODATA)
            err = 0;
    }
    free(page);
    io->close(io->ctx, fd);
    return err;
}

/* NOT_FOUND: no such file. DAMAGED: no valid slot. VERSION: a valid slot of a newer format; then
 * out->sequence holds the major version found. */
int hsl_log_super_load(struct hsl_log *log, struct hsl_super *out)
{
    char path[HSL_PATH_MAX + 64];
    struct hsl_super slots[2] = {0};
    int32_t status[2];
    hsl_path(log, path, "SUPER");
    int err = hsl_super_slots(log->io, path, slots, status);
    if (err == -ENOENT)
        return HSL_NOT_FOUND;
    if (err < 0)
        return hsl_fail(log, "read", path, -err);
    const struct hsl_super *best = NULL;
    for (size_t i = 0; i < 2; i++) {
        if (status[i] == HSL_VERSION) {
            out->sequence = slots[i].sequence;
            return HSL_VERSION;
        }
        if (status[i] == HSL_OK && (!best || slots[i].sequence > best->sequence))
            best = &slots[i];
    }
    if (!best)
        return HSL_DAMAGED;
    *out = *best;
    if (!log->follow) { /* a follower goes on by what it opened, whatever lies there now */
        log->super = *best;
        memcpy(log->uuid, best->uuid, 16);
    }
    return HSL_OK;
}

static void fill_slot(const struct hsl_super *super, uint8_t *page)
{
    struct hsl_super_slot slot = {0};
    memcpy(slot.magic, HSL_SUPER_MAGIC, 8);
    slot.major = HSL_VERSION_MAJOR;
    slot.minor = HSL_VERSION_MINOR;
    slot.sequence = super->sequence;
    memcpy(slot.uuid, super->uuid, 16);
    slot.epoch = super->epoch;
    slot.first_segment = super->first_segment;
    slot.last_segment = super->last_segment;
    slot.durable = super->durable;
    slot.checkpoint = super->checkpoint;
    memcpy(slot.snapshot, super->snapshot, sizeof slot.snapshot);
    slot.flags = super->flags;
    memset(page, 0, HSL_PAGE);
    memcpy(page, &slot, sizeof slot);
    slot.crc = slot_crc(page);
    memcpy(page, &slot, sizeof slot);
}

/* Writes and syncs the slot of super->sequence. 0, or a negative errno. */
int hsl_super_put(const struct hsl_io *io, const char *path, const struct hsl_super *super)
{
    uint8_t *page = hsl_page_alloc(HSL_PAGE);
    if (!page)
        return -ENOMEM;
    fill_slot(super, page);
    int fd = io->open(io->ctx, path, HSL_OPEN_READ | HSL_OPEN_WRITE | HSL_OPEN_CREATE);
    int err = fd;
    if (fd >= 0) {
        err = hsl_write_all(io, fd, page, HSL_PAGE, (super->sequence & 1) * HSL_PAGE);
        if (err == 0)
            err = io->datasync(io->ctx, fd);
        io->close(io->ctx, fd);
    }
    free(page);
    return err < 0 ? err : 0;
}

static struct hsl_super current(const struct hsl_log *log)
{
    struct hsl_super super = log->super;
    memcpy(super.uuid, log->uuid, 16);
    super.epoch = log->epoch;
    super.last_segment = log->last_segment;
    super.durable = log->durable_at;
    return super;
}

static int lock_holder(struct hsl_log *log, int64_t *owner)
{
    char path[HSL_PATH_MAX + 64];
    hsl_path(log, path, "LOCK");
    return log->io->locked(log->io->ctx, path, owner);
}

/* Remembers by what the directory is known as the one that was opened. */
void hsl_place_note(struct hsl_log *log)
{
    int64_t owner;
    log->lock_owner = lock_holder(log, &owner) == 1 ? owner : -1;
}

/* REPLACED: the directory was moved or removed, and what lies at its path is another's. Asked
 * before a name in it is made, changed or removed. */
int hsl_place_check(struct hsl_log *log)
{
    int64_t owner;
    int held = log->lock_owner < 0 ? -1 : lock_holder(log, &owner);
    if (held < 0 || (held == 1 && (owner == 0 || owner == log->lock_owner)))
        return HSL_OK; /* or nobody can tell */
    hsl_fail(log, "find the lock in", log->path, ESTALE);
    return HSL_REPLACED;
}

/* Writes and syncs the next slot. Caller is alone, or minding. */
int hsl_super_write(struct hsl_log *log)
{
    int rc = hsl_place_check(log);
    if (rc != HSL_OK)
        return rc;
    char path[HSL_PATH_MAX + 64];
    hsl_path(log, path, "SUPER");
    log->super.sequence++;
    struct hsl_super super = current(log);
    int err = hsl_super_put(log->io, path, &super);
    if (err == -ENOMEM)
        return HSL_NO_MEMORY;
    return err < 0 ? hsl_fail(log, "write superblock", path, -err) : HSL_OK;
}

/* What the superblock would say if it were written now; *active is the number of the segment being
 * written, 0 without one. Waits for the writes in flight. */
int hsl_log_capture(struct hsl_log *log, struct hsl_super *out, uint64_t *active)
{
    if (hsl_forked(log))
        return HSL_FORKED;
    pthread_mutex_lock(&log->stage_mu);
    hsl_turn_take(log);
    int rc = hsl_state(log);
    *out = current(log);
    *active = log->active ? log->active->number : 0;
    hsl_turn_give(log);
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}

/* Takes over the fields that recovery decides (uuid when new, first_segment, snapshot, flags). */
int hsl_log_super_store(struct hsl_log *log, const struct hsl_super *super)
{
    pthread_mutex_lock(&log->stage_mu);
    hsl_turn_take(log);
    int rc = log->started ? hsl_state(log) : HSL_OK;
    if (rc != HSL_OK) {
        hsl_turn_give(log);
        pthread_mutex_unlock(&log->stage_mu);
        return rc;
    }
    pthread_mutex_unlock(&log->stage_mu);
    memcpy(log->uuid, super->uuid, 16);
    log->super.first_segment = super->first_segment;
    memcpy(log->super.snapshot, super->snapshot, sizeof super->snapshot);
    log->super.flags = super->flags;
    rc = hsl_super_write(log);
    pthread_mutex_lock(&log->stage_mu);
    if (rc != HSL_OK && log->started)
        hsl_poison(log, rc);
    hsl_turn_give(log);
    pthread_mutex_unlock(&log->stage_mu);
    return rc;
}
