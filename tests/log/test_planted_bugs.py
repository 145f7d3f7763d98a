"""Bugs planted in a copy of the tree, each caught by the fast tests.

A test system is worth what it finds. Every case changes one line of the engine in a copy, links the
copy anew where that line is C, runs a named part of the suite there and expects it to fail.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.log.plot import Bug, Objects, verdict

STATES = "tests/log/test_recovery_states.py"
RUNS = "tests/log/test_crash_states.py"
SEQUENCES = "tests/log/test_operation_sequences.py"
FAULTS = "tests/log/test_io_faults.py"
REGROUP = "tests/log/test_regroup.py"
CASES = "tests/log/test_reopening.py"
MODEL = "tests/test_model_store.py"
FLIGHTS = "tests/log/test_two_in_flight.py"
FOLLOWERS = "tests/test_followers.py"
REFUSALS = "tests/log/test_refusals.py"
INDEX = "tests/log/test_index.py"
KEYTAB = "tests/sub/test_keytab.py"
KEYHATCH = "tests/sub/test_key_hatch.py"
TAIL = "tests/log/test_tail.py"
POSITIONS = "tests/sub/test_positions_machine.py"
GROUP = "tests/sub/test_group.py"
RETRY = "tests/sub/test_retry.py"
PRESENCE = "tests/sub/test_presence.py"
DEAD = "tests/test_dead_letters.py"
PREFETCHED = "tests/conformance/test_prefetched.py"
WINDOWS = "tests/conformance/test_windows.py"
REDRIVEN = "tests/conformance/test_dead_letters.py"

PUBLISH = """    for (uint32_t n = 0; n < count && rc == HSL_OK; n++)
        rc = hsl_group_publish(log, flight(log, n));
"""
LOCK = "    pthread_mutex_lock(&log->stage_mu);\n"
UNLOCK = "    pthread_mutex_unlock(&log->stage_mu);\n"
# A copy that a writer can come amid of on any machine, however busy.
LONG_COPY = "    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);\n"
SUBMIT = """    if (may_overlap(log))
        submit(log);
"""

RUNS_AT_MOST = 3


BUGS = {
    "acknowledge before the sync": Bug(
        "_native/writer.c",
        "int err = log->io->datasync(log->io->ctx, segment->fd);",
        "int err = 0;",
        STATES,
        "crash_at_every",
    ),
    "acknowledge the faster of two writes": Bug(
        "_native/writer.c",
        "while (count < log->flying && flight(log, count)->state == HSL_GROUP_WRITTEN)",
        "while (count < log->flying)",
        FLIGHTS,
        "younger_group_waits",
    ),
    "acknowledge what was written after the sync began": Bug(
        "_native/writer.c",
        PUBLISH + LOCK + SUBMIT,
        LOCK + SUBMIT + "    count = log->flying;\n" + PUBLISH,
        FLIGHTS,
        "sync_covers",
    ),
    "acknowledge one group ahead": Bug(
        "_native/group.c",
        "&log->durable_ticket, last->ticket, memory",
        "&log->durable_ticket, last->ticket + 1, memory",
        FLIGHTS,
        "older_group_is",
    ),
    "state the group in flight as durable": Bug(
        "_native/group.c",
        "header->durable = log->durable_at;",
        "header->durable = active->number << 32 | active->end;",
        FLIGHTS,
        "crash_with",
    ),
    "skip the sync of the directory": Bug(
        "_native/spare.c",
        "    if (err == 0)\n        err = io->sync_dir(io->ctx, dir);\n"
        '    return err < 0 ? hsl_fail(log, "start"',
        '    return err < 0 ? hsl_fail(log, "start"',
        STATES,
        "crash_at_every",
    ),
    "believe blocks without their checksum": Bug(
        "_native/cursor.c",
        "h.crc == found)",
        "true)",
        STATES,
        "flipped_bit and closed",
    ),
    "take damage for the end of the log": Bug(
        "log/recovery.py",
        "    if claim > found.covers_end:\n",
        "    if claim > found.covers_end and False:\n",
        STATES,
        "flipped_bit and crashed",
    ),
    "take a truncated file for a torn tail": Bug(
        "log/recovery.py",
        "found.file_bytes < found.capacity and",
        "False and",
        STATES,
        "truncated_file and crashed",
    ),
    "trim one record too many": Bug(
        "_native/index.c",
        "first < shard->durable_next ? first : shard->durable_next);",
        "first < shard->durable_next ? first + 1 : shard->durable_next);",
        "tests/log/test_reopening.py",
        "trim_that_is_staged",
    ),
    "send again before the deadline": Bug(
        "sub/custody.py",
        "        deadline = now + self._limits.ack_timeout_ns\n",
        "        deadline = now + self._limits.ack_timeout_ns // 2\n",
        MODEL,
        "at_its_deadline",
    ),
    "take new records while others have to be sent again": Bug(
        "sub/leases.py",
        "hatch.close()  # what",
        "pass  # what",
        "tests/sub/test_hatch.py",
        "something_to_decide",
    ),
    "forget who took a record that is not acked": Bug(
        "_native/py_hatch.c",
        "end_of(at(h, 0)) <= low",
        "at(h, 0)->first <= low",
        "tests/sub/test_hatch.py",
        "comes_again_after_its_deadline",
    ),
    "forget what a named producer stored": Bug(
        "log/producers.py",
        "self.last = max(self.last, batch.last)",
        "self.last = self.last",
        "tests/log/test_reopening.py",
        "producers_log_goes_on",
    ),
    "lose the mapped stage": Bug(
        "_native/osstage.c",
        "while (rc == HSL_OK && pos < limit) {",
        "while (rc == HSL_OK && pos > limit) {",
        CASES,
        "replaying",
    ),
    "expire by a wrong unit": Bug(
        "housekeeping.py",
        "now_ms - int(state.backlog * 1000)",
        "now_ms - int(state.backlog * 100)",
        MODEL,
        "expire_at",
    ),
    "believe a leap of the clock": Bug(
        "housekeeping.py",
        "if leap > self._jump_ms:",
        "if leap > self._jump_ms * 1000:",
        MODEL,
        "leap",
    ),
    "go on after a failed sync": Bug(
        "_native/writer.c",
        "    drop_over(log);\n    if (rc != HSL_OK)\n",
        "    drop_over(log);\n    if (false)\n",
        STATES,
        "failed_store",
    ),
    "name a regrouped file before it is synced": Bug(
        "_native/regroup.c",
        "    err = r->io->sync(r->io->ctx, s->fd);\n",
        "    err = 0;\n",
        REGROUP,
        "crash_at_every",
    ),
    "drop old files before the new name is synced": Bug(
        "_native/regroup.c",
        "err = r->io->sync_dir(r->io->ctx, r->dir);",
        "err = 0;",
        REGROUP,
        "crash_at_every",
    ),
    "unlink files before that is recorded": Bug(
        "housekeeping.py",
        "        journal.wait(ticket)\n        journal.drop_segments(dead)\n",
        "        journal.drop_segments(dead)\n        journal.wait(ticket)\n",
        REGROUP,
        "crash_at_every",
    ),
    "leave out the block in which a log begins": Bug(
        "_native/swap.c",
        "    if (row->seq + row->count <= adding->part->kept)",
        "    if (row->seq <= adding->part->kept)",
        REGROUP,
        "same_before_and_after",
    ),
    "leave out what a trim not yet durable covers": Bug(
        "regrouper.py",
        "            engine.journal.wait(swap.ticket)\n",
        "",
        REGROUP,
        "deleting_a_stream",
    ),
    "let a replaced file count": Bug(
        "log/regroup.py",
        "            replaced.append(span)\n",
        "            counting.insert(at, span)\n",
        REGROUP,
        "crash_at_every",
    ),
    "rely on names a killed process left": Bug(
        "log/recovery.py",
        "        _sync_directories(env, path, whole=",
        "        (lambda *a, **k: None)(env, path, whole=",
        CASES,
        "names_left",
    ),
    "name the superblock before the directory beside it": Bug(
        "log/recovery.py",
        "    files.sync_dir(journal.path)\n    for _ in range(2):",
        "    for _ in range(2):",
        CASES,
        "cut_off_anywhere",
    ),
    "ignore a short write": Bug(
        "_native/log.c",
        "        off += (uint64_t)n;\n        len -= (size_t)n;\n    }\n    return 0;\n}\n\n"
        "int hsl_read_all",
        "        off += (uint64_t)n;\n        len = 0;\n    }\n    return 0;\n}\n\n"
        "int hsl_read_all",
        FAULTS,
        "short and write and once and direct",
    ),
    "ignore a short read": Bug(
        "_native/cursor.c",
        "        got += (size_t)n;\n",
        "        got = need;\n",
        FAULTS,
        "short and read and once and direct",
    ),
    "trim one segment too many": Bug(
        "_native/index.c",
        "shard->runs[shard->runs_head].end <= shard->first)",
        "shard->runs[shard->runs_head].first < shard->first)",
        SEQUENCES,
        "fill",
    ),
    "cut a segment before its footer is durable": Bug(
        "_native/seal.c",
        "        err = io->datasync(io->ctx, s->fd);\n    if (rc == HSL_OK && err == 0)\n"
        "        err = io->truncate",
        "        err = io->truncate",
        SEQUENCES,
        "reopen",
    ),
    "write the superblock over the only valid one": Bug(
        "_native/super.c",
        "err = hsl_write_all(io, fd, page, HSL_PAGE, (super->sequence & 1) * HSL_PAGE);",
        "err = hsl_write_all(io, fd, page, HSL_PAGE, (uint64_t)0 * HSL_PAGE);",
        SEQUENCES,
        "snapshot",
    ),
    "state a snapshot before it is durable": Bug(
        "housekeeping.py",
        "        journal.wait(ticket)\n        journal.store_super(lsns)",
        "        journal.store_super(lsns)",
        SEQUENCES,
        "snapshot",
    ),
    "unlink a segment before the record of it": Bug(
        "housekeeping.py",
        "        journal.wait(ticket)\n        journal.drop_segments(dead)",
        "        journal.drop_segments(dead)",
        SEQUENCES,
        "snapshot",
    ),
    "believe frames of an older life": Bug(
        "_native/intake.c",
        "    if (!header_valid(&h, s->uid, off) || h.epoch != s->epoch || h.body_len > FRAME_MAX)\n"
        "        return HSL_DAMAGE_FRAME;\n"
        "    if (!from_checkpoint && (h.number != s->frames + 1 || h.chain != s->last_crc))\n",
        "    if (!header_valid(&h, h.uid, off))\n",
        RUNS,
        "[0]",
    ),
    "believe frames that do not follow": Bug(
        "_native/intake.c",
        "(h.number != s->frames + 1 || h.chain != s->last_crc)",
        "h.number != s->frames + 1",
        STATES,
        "does_not_continue",
    ),
    "believe frames of which blocks are torn": Bug(
        "_native/intake.c",
        "        if (!hsl_intake_blocks_valid(body, &h))\n            return HSL_DAMAGE_BLOCK;",
        "",
        RUNS,
        "[0]",
    ),
    "leave a recovered tail as it is": Bug(
        "log/recovery.py",
        '["direct"]\n    status = lib.hsl_log_seal_loaded(journal.log, buffered)\n',
        '["direct"]\n    status = lib.HSL_OK\n',
        RUNS,
        "[0]",
    ),
    "follow beyond what is durable": Bug(
        "_native/follow.c",
        "        rc = refresh(log);\n    pthread_mutex_unlock",
        "        rc = refresh(log);\n"
        "    struct hsl_segment_report beyond;\n"
        "    if (f->active)\n"
        "        hsl_scan_on(log, f->active, f->fd, f->active->capacity, &beyond);\n"
        "    pthread_mutex_unlock",
        FOLLOWERS,
        "written_and_not_synced",
    ),
    "tell followers of a group before its sync": Bug(
        "_native/writer.c",
        "    int err = log->io->datasync(log->io->ctx, segment->fd);\n",
        "    log->durable_at = segment->number << 32 | last->end;\n"
        "    hsl_tail_publish(log, HSL_TAIL_OPEN);\n"
        "    int err = log->io->datasync(log->io->ctx, segment->fd);\n",
        FOLLOWERS,
        "written_and_not_synced",
    ),
    "name a regrouped file before its header": Bug(
        "_native/regroup.c",
        "    err = r->io->sync(r->io->ctx, s->fd);\n"
        '    return err < 0 ? failed(r, "sync", -err) : HSL_OK;',
        "    return HSL_OK;",
        REGROUP,
        "crash_at_every_step",
    ),
    "cut a file whose frames are not synced": Bug(
        "_native/seal.c",
        "        err = io->datasync(io->ctx, s->fd);\n    if (rc == HSL_OK && err == 0)\n"
        "        err = io->truncate",
        "        err = io->truncate",
        CASES,
        "unsynced_frames",
    ),
    "replay a damaged entry of the mapped stage": Bug(
        "_native/osstage.c",
        "entry->crc == entry_crc(epoch, at, entry->blocks ? entry->len : 0);",
        "true;",
        CASES,
        "first_damaged_entry",
    ),
    "replay the mapped stage of another boot": Bug(
        "_native/osstage.c",
        " && memcmp(header->boot, boot, 16) == 0;",
        ";",
        CASES,
        "another_boot",
    ),
    "replay the mapped stage of another store": Bug(
        "_native/osstage.c",
        "memcmp(header->uuid, log->uuid, 16) == 0 && ",
        "",
        CASES,
        "another_boot",
    ),
    "write a frame that a caller still copies into": Bug(
        "_native/stage.c",
        "    uint64_t ticket = log->copying = log->open.ticket;\n" + UNLOCK,
        "    uint64_t ticket = log->open.ticket;\n" + UNLOCK + LONG_COPY,
        "tests/test_threads.py",
        "written_whole",
    ),
    "wake a writer in the midst of a burst": Bug(
        "_native/writer.c",
        "    uint64_t most = log->cfg.stage_bytes / 2;",
        "    uint64_t most = log->cfg.eager_bytes;",
        "tests/test_bursts.py",
        "one_go",
    ),
    "roll while the superblock is being written": Bug(
        "_native/writer.c",
        "    while (log->minding)\n        pthread_cond_wait(",
        "    while (0)\n        pthread_cond_wait(",
        "tests/system/test_slow_calls.py",
        "superblock",
    ),
    "let zeros come to lie on records": Bug(
        "_native/zeros.c",
        "    while (log->zeroing)\n",
        "    while (0)\n",
        "tests/system/test_slow_calls.py",
        "zeros",
    ),
    "sync once more when zeros were not synced": Bug(
        "_native/writer.c",
        "        if (rc != HSL_OK || log->failed)\n            hsl_poison(log, rc);\n",
        "        rc = HSL_OK;\n",
        "tests/system/test_failing_syncs.py",
        "",
    ),
    "make the next segment in two threads at once": Bug(
        "_native/writer.c",
        "    if (log->minding || log->alone || log->turns_wanted",
        "    if (log->alone || log->turns_wanted",
        "tests/system/test_slow_calls.py",
        "next_segment",
    ),
    "let two consumers have records of one key": Bug(
        "_native/keytake.c",
        "(!k->waits && k->owner == g->consumer)",
        "!k->waits",
        KEYTAB,
        "",
    ),
    "count acks of what was taken back with an earlier record of its key": Bug(
        "_native/keyback.c",
        "            if (at != lsn)\n                hsl_key_hold_behind",
        "            if (0)\n                hsl_key_hold_behind",
        KEYTAB,
        "",
    ),
    "hold what may be acked late": Bug(
        "_native/keytab.c",
        "    if (t->late_acks && cell_at(t, lsn)->attempts > 0)\n",
        "    if (0)\n",
        KEYTAB,
        "",
    ),
    "meet a batch that is none for ever": Bug(
        "_native/py_cursor.c",
        "        hsl_cursor_seek(cursor, h->seq + h->count);\n",
        "        hsl_cursor_seek(cursor, h->seq);\n",
        "tests/test_raw_model.py",
        "damage_still",
    ),
    "call damage what a client sent": Bug(
        "tools/segments.py",
        "            if decoded_len == 0:\n",
        "            if decoded_len == 1:\n",
        "tests/test_raw_model.py",
        "stay_what_they_were",
    ),
    "give up no shard to those that come": Bug(
        "sub/sharded.py",
        "        if rivals:\n",
        "        if not rivals:\n",
        "tests/test_batchfeed.py",
        "gives_some_up",
    ),
    "let a batch out of a window that is full": Bug(
        "sub/sharded.py",
        "        room = min(self._limits.max_unacked - self.outstanding(), quota)\n",
        "        room = min(self._limits.max_unacked - self.outstanding() + 1, quota)\n",
        "tests/conformance/test_raw_consumers.py",
        "looked_at_before",
    ),
    "let batches out together that a window has no room for": Bug(
        "batchfeed.py",
        "if before and (before >= room or",
        "if before and (",
        "tests/test_batchfeed.py",
        "went_back_heeds",
    ),
    "take back first what lies before the rest": Bug(
        "feed.py",
        "reversed(list(spans))",
        "list(spans)",
        "tests/test_batchfeed.py",
        "went_back_heeds",
    ),
    "miss the ack that a key waits for": Bug(
        "_native/keytab.c",
        "        hsl_ackmap_watch(t->acks, whole(t, k->head));\n",
        "",
        KEYTAB,
        "frees_it",
    ),
    "hand out a key before its delay is over": Bug(
        "_native/keytab.c",
        "where = c->delayed ? DELAYED : k->owner",
        "where = k->owner",
        KEYTAB,
        "",
    ),
    "hand out more records than may be out": Bug(
        "_native/keytake.c",
        "bool may = g->left > 0 && (was > 0 || g->fresh > 0) && !doomed;",
        "bool may = g->left > 0 && !doomed;",
        KEYTAB,
        "",
    ),
    "take of a key at the hatch while something is due": Bug(
        "_native/py_keyhatch.c",
        "    if (first != 0 && now >= due)\n",
        "    if (first != 0 && now > due + 99999999999)\n",
        KEYHATCH,
        "that_passed",
    ),
    "take of a key at the hatch more than may be out": Bug(
        "_native/py_keyhatch.c",
        "out < h->most ? h->most - out : 0;",
        "h->most + out;",
        KEYHATCH,
        "beyond_a_limit",
    ),
    "keep at the hatch of keys what is not there to be taken": Bug(
        "_native/py_keyhatch.c",
        "            hsl_keytab_confirm(h->keys, parcel, 0, 0);",
        "            (void)0;",
        KEYHATCH,
        "goes_back",
    ),
    "leave the hatch open while a key is delayed": Bug(
        "sub/keycustody.py",
        "        self.close_hatch()\n        count, heads = self._tables[shard].release",
        "        count, heads = self._tables[shard].release",
        KEYHATCH,
        "to_decide",
    ),
    "store acks of keys without what was handed out": Bug(
        "_native/py_saver.c",
        "&s, runs, n, handed, out_since);",
        "&s, runs, n, handed, 0);",
        "tests/sub/test_saver.py",
        "comes_again",
    ),
    "take back first what is due last": Bug(
        "_native/keyparcel.c",
        "x->due < y->due",
        "x->due > y->due",
        KEYTAB,
        "",
    ),
    "move no deadline of what is extended": Bug(
        "_native/keyparcel.c",
        "        c->parcel = parts[part - 1].moved_to;\n",
        "",
        KEYTAB,
        "",
    ),
    "free a key while a record of it is out": Bug(
        "_native/keytab.c",
        "if (k->waits && k->head == k->todo)",
        "if (k->waits)",
        KEYTAB,
        "",
    ),
    "send a key again before its deadline": Bug(
        "sub/keycustody.py",
        "now + self._limits.ack_timeout_ns",
        "now + self._limits.ack_timeout_ns // 2",
        MODEL,
        "at_its_deadline",
    ),
    "give up at a trim what is in flight of a key": Bug(
        "_native/keylook.c",
        "        if (cell_at(t, lsn)->state == OUT && !done(t, lsn))\n",
        "        if (0)\n",
        "tests/sub/test_gaps.py",
        "in_flight",
    ),
    "forget which records of a key were handed out": Bug(
        "_native/keyparcel.c",
        "    t->handed_len += p->len;\n",
        "",
        "tests/conformance/test_ordered.py",
        "survive_reopening",
    ),
    "believe a piece of a footer without its checksum": Bug(
        "_native/pieces.c",
        "        if (err == 0 && hsl_crc32c((uint32_t)s->uid, bytes, whole) == s->crcs[index]) {",
        "        if (err == 0) {",
        INDEX,
        "not_verify",
    ),
    "believe a directory without its checksum": Bug(
        "_native/scan.c",
        "if (t.dir_crc != hsl_crc32c(seed, dir, t.dir_len + 4 * pieces))",
        "if (false)",
        INDEX,
        "written_anew",
    ),
    "go on behind the run that holds a record": Bug(
        "_native/index.c",
        "if (shard->runs[mid].end <= lsn)",
        "if (shard->runs[mid].end < lsn)",
        INDEX,
        "seeks_agree",
    ),
    "pass over the last block of a run by its time": Bug(
        "_native/seek.c",
        "    *place = most < value ? BEHIND",
        "    *place = most <= value ? BEHIND",
        INDEX,
        "seeks_agree",
    ),
    "pass over a group of rows that begins with what is sought": Bug(
        "_native/seek.c",
        "        if (at < value || (at == value && key == HSL_KEY_LSN))",
        "        if (at <= value)",
        INDEX,
        "seeks_agree",
    ),
    "keep a block too many for a size": Bug(
        "_native/seek.c",
        "            if (left <= bytes) {",
        "            if (left < bytes + rows[i].len) {",
        INDEX,
        "seeks_agree",
    ),
    "protect what another stream's subscription needs": Bug(
        "feeds.py",
        "if feed is None or feed.state.stream_id != stream.id:",
        "if feed is None:",
        "tests/test_retention.py",
        "protects_nothing",
    ),
    "find nothing missing where the catalog says nothing": Bug(
        "engine.py",
        "        recovery.check_gaps(journal, self.catalog.lost)\n",
        "",
        REFUSALS,
        "records_are_missing",
    ),
    "take any file for the next segment": Bug(
        "log/recovery.py",
        "            check_chain(journal, loaded[-1], segment)\n",
        "            pass\n",
        REFUSALS,
        "names_the_one_before",
    ),
    "rebuild a footer from too few frames": Bug(
        "log/recovery.py",
        "        if segment.report.damage != lib.HSL_DAMAGE_FOOTER or segment.report.next_valid:\n",
        "        if False:\n",
        REFUSALS,
        "not_given_up",
    ),
    "copy a damaged block to a new file": Bug(
        "_native/regroup.c",
        "    if (hsl_block_check(block, room, &h) != HSL_OK)\n        return HSL_DAMAGED;\n",
        "    memcpy(&h, block, sizeof h);\n",
        REGROUP,
        "damaged_block",
    ),
    "regroup again while a name may be on disk": Bug(
        "_native/swap.c",
        "        log->regroup_stuck = true;",
        "        log->regroup_stuck = false;",
        REGROUP,
        "may_be_on_disk",
    ),
    "follow by a page of another boot": Bug(
        "_native/tail.c",
        " && memcmp(page->boot, boot, 16) == 0;",
        ";",
        TAIL,
        "another_boot",
    ),
    "read a snapshot that was not taken in yet": Bug(
        "follower.py",
        "            self.journal.refresh()  # it was durable before the superblock told of it\n",
        "",
        FOLLOWERS,
        "snapshot_made",
    ),
    "move a subscription before that is on disk": Bug(
        "position.py",
        "        ticket, _ = feed.journal.stage_then(ops, _SYNC, then, system=True)\n",
        "        feed.journal.stage_then(ops, _SYNC, then, system=True)\n        ticket = 0\n",
        POSITIONS,
        "on_disk",
    ),
    "forget what was delivered before a seek": Bug(
        "sub/window.py",
        "        self.seen = min(self.seen[0], state.origin), max(self.seen[1], state.next)\n",
        "        self.seen = (lsn, lsn)\n",
        "tests/conformance/test_position.py",
        "is_void",
    ),
    "pause until the next start only": Bug(
        "feed.py",
        "        if state.paused:\n",
        "        if False:\n",
        "tests/conformance/test_position.py",
        "survives",
    ),
    "give up at a trim what is in flight": Bug(
        "sub/custody.py",
        "                if lsn < slot.end:\n                    return",
        "                if False:\n                    return",
        "tests/sub/test_gaps.py",
        "in_flight",
    ),
    "count no ack that goes through a gate": Bug(
        "_native/py_gate.c",
        "    gate->acks += flags & HSL_ACK_NEW;\n",
        "",
        "tests/sub/test_watch.py",
        "every_way",
    ),
    "warn of a standstill at every look": Bug(
        "sub/watch.py",
        "        self._complain_ns = now + REPEAT * after_ns\n",
        "",
        "tests/sub/test_watch.py",
        "rarely",
    ),
    "tell the age of the newest record": Bug(
        "position.py",
        "wall_ms() - min(times)",
        "wall_ms() - max(times)",
        "tests/sub/test_lag.py",
        "oldest",
    ),
    "expire what a subscription protects": Bug(
        "housekeeping.py",
        "min(self._expired(state, shard, now), protected.get(shard, END))",
        "self._expired(state, shard, now)",
        "tests/test_retention.py",
        "keeps_what",
    ),
    "deliver once more than is allowed": Bug(
        "sub/retry.py",
        "attempt >= policy.max_attempts",
        "attempt > policy.max_attempts",
        RETRY,
        "never_before",
    ),
    "let who leaves wait like who releases": Bug(
        "sub/retry.py",
        "frozenset({Cause.TIMEOUT, Cause.RELEASED})",
        "frozenset({Cause.TIMEOUT, Cause.RELEASED, Cause.LEFT})",
        RETRY,
        "back_off",
    ),
    "forget in a restart how often a record was delivered": Bug(
        "sub/custody.py",
        "                self.judge(slot, count, Cause.RESTART, 0)\n",
        "                pass\n",
        GROUP,
        "forgets_no_attempt",
    ),
    "copy a dead letter in one frame and ack it in another": Bug(
        "burial.py",
        "ops + feed.progress.ops(spans), _SYNC",
        "ops, _SYNC",
        DEAD,
        "in_one_place",
    ),
    "bury what was acked while it was copied": Bug(
        "burial.py",
        "[grave for grave in graves if feed.still_doomed(grave.spans)]",
        "list(graves)",
        DEAD,
        "while_it_is_copied",
    ),
    "let one damaged record hold the others back": Bug(
        "burial.py",
        "at = cursor.damaged_end() if cursor.damaged_end() > at else end",
        "raise",
        DEAD,
        "only_the_damaged",
    ),
    "redrive first and note it in a frame of its own": Bug(
        "redrive.py",
        "            ops.append((CATALOG, [catalogs.encode(change)], None))\n"
        "            engine.journal.stage_then(ops, _SYNC, then)\n",
        "            engine.journal.wait(engine.journal.stage(ops, _SYNC)[0])\n"
        "            ops = [(CATALOG, [catalogs.encode(change)], None)]\n"
        "            engine.journal.stage_then(ops, _SYNC, then)\n",
        DEAD,
        "brings_each_letter_back_once",
    ),
    "count as an attempt what nobody has seen": Bug(
        "roster.py",
        "            self._feed._unsend(consumer, spans, now)\n            found = True\n",
        "            for span in spans:\n"
        "                self._feed.group.release(consumer, *span, 0, now)\n"
        "            found = True\n",
        PREFETCHED,
        "iterating",
    ),
    "count as an attempt what a run has not begun": Bug(
        "handling.py",
        "                self._feed.unsend(name, spans_of(not_begun))\n",
        "                self._feed.release(name, spans_of(not_begun), 0)\n",
        PREFETCHED,
        "a_run_has",
    ),
    "set aside what cannot be read and tell nobody": Bug(
        "unreadable.py",
        "        raise CorruptionError(\n",
        "        return\n        raise CorruptionError(\n",
        "tests/conformance/test_unreadable.py",
        "told_once",
    ),
    "count what was taken back as in the hands of its consumer": Bug(
        "_native/keyback.c",
        "            hsl_ackmap_unload(t->acks, at, at + 1);\n",
        "",
        WINDOWS,
        "comes_back and ordered",
    ),
    "count what was acked as in the hands of its consumer": Bug(
        "_native/ackmap.c",
        "    if (m->load)\n        unload(m, lsn, bit);\n",
        "",
        WINDOWS,
        "while_the_window",
    ),
    "overstep a window by all that was read": Bug(
        "sub/loads.py",
        "                room -= size\n",
        "",
        WINDOWS,
        "batch_differ",
    ),
    "wake only the first in line, whose window is full": Bug(
        "sub/group.py",
        "(self._loads.narrow or self._dispatch.owned())",
        "self._dispatch.owned()",
        GROUP,
        "own_window",
    ),
    "let time out what a handler works on": Bug(
        "handling.py",
        "                    kept += [turn, *self._turns.behind(turn)]\n",
        "                    pass\n",
        "tests/test_handling.py",
        "takes_longer or may_take",
    ),
    "redrive the letters of others": Bug(
        "letters.py",
        "record.attributes.get(SUBSCRIPTION) == subscription",
        "SUBSCRIPTION in record.attributes",
        REDRIVEN,
        "its_own_letters",
    ),
    "renew a lease that has run out": Bug(
        "sub/group.py",
        "        self._miss(now)\n        self._require(consumer)\n"
        "        return self._consumers.renew(",
        "        self._require(consumer)\n        return self._consumers.renew(",
        PRESENCE,
        "is_not_renewed",
    ),
    "miss a silent consumer a moment late": Bug(
        "sub/presence.py",
        "            if end > now:",
        "            if end >= now:",
        PRESENCE,
        "what_a_silent_consumer_held",
    ),
    "sleep while a lease runs out": Bug(
        "sub/group.py",
        ", self._consumers.next_end())",
        ")",
        PRESENCE,
        "what_a_silent_consumer_held",
    ),
    "let what a gone consumer held back off": Bug(
        "sub/retry.py",
        "frozenset({Cause.TIMEOUT, Cause.RELEASED})",
        "frozenset({Cause.TIMEOUT, Cause.RELEASED, Cause.GONE})",
        PRESENCE,
        "what_a_silent_consumer_held",
    ),
    "begin a lease where the last one ended": Bug(
        "sub/presence.py",
        "        self._forget_end(consumer)\n        end = self._ends[consumer] = now + lease_ns",
        "        last = self._ends.get(consumer, now)\n        self._forget_end(consumer)\n"
        "        end = self._ends[consumer] = last + lease_ns",
        PRESENCE,
        "renewed_lease_keeps",
    ),
    "keep a turn for who is gone": Bug(
        "sub/group.py",
        "        self._line.forget(consumer)\n",
        "",
        PRESENCE,
        "turn_in_line",
    ),
    "count a reservation of who is gone as a delivery": Bug(
        "sub/custody.py",
        "        if slot.fate is Fate.RESERVED:\n            self._leases.shelve("
        "slot, slot.attempt, now, now)\n            return\n        self._changed",
        "        self._changed",
        PRESENCE,
        "only_reserved",
    ),
    "wait for no disk in a durable ack": Bug(
        "progresslog.py",
        "                    return self._feed.journal.staged()\n            if not may_block:",
        "                    return 0\n            if not may_block:",
        "tests/test_durable_acks.py",
        "never_comes_again",
    ),
    "take acks that are staged for acks that are on disk": Bug(
        "progresslog.py",
        "self._try_store():\n                    return self._feed.journal.staged()\n",
        "self._try_store():\n                    return self._feed.journal.durable()\n",
        "tests/test_durable_acks.py",
        "never_comes_again",
    ),
    "leave what comes again behind what is new": Bug(
        "_native/keyback.c",
        "    hsl_key_unlist(t, k); /* it may",
        "    /* it may",
        "tests/sub/test_ordered.py",
        "before_what_is_new",
    ),
    "bury twice what is held again": Bug(
        "sub/keycustody.py",
        "(shard, lsn) in self._doomed and self._tables[shard].expose(lsn)",
        "(shard, lsn) in self._doomed",
        "tests/sub/test_ordered.py",
        "acked_once",
    ),
    "take a snapshot for stored that is not": Bug(
        "progresslog.py",
        "        self._needs_snapshot = True\n        return",
        "        return",
        "tests/sub/test_unstored.py",
        "snapshot_that_is_not_stored",
    ),
    "tell that what its key took back was never delivered": Bug(
        "sub/keycustody.py",
        "        return max(0, unacked - delivered)",
        "        return unacked",
        "tests/sub/test_gaps.py",
        "its_key_took_back",
    ),
    "detach who has the name of a consumer that is gone": Bug(
        "roster.py",
        "            if not self._feed.sentry.knows(consumer, gate):\n                return\n",
        "            if False:\n                return\n",
        PRESENCE,
        "has_its_name",
    ),
    "keep the weights of before a step back": Bug(
        "_native/load.c",
        "(struct hsl_load *load) { load->end = 0; }",
        "(struct hsl_load *load) { (void)load; }",
        "tests/sub/test_ackmap.py",
        "step_back",
    ),
    "pass by a batch that a handler left unsent": Bug(
        "batcher.py",
        "batch = self.sending or self.detach()",
        "batch = self.detach()",
        "tests/test_interrupted_calls.py",
        "an_interrupted_producer",
    ),
    "forget the deadline of half a batch": Bug(
        "sub/leases.py",
        "            right.consumer, right.due_ns = slot.consumer, slot.due_ns\n",
        "            right.consumer = slot.consumer\n",
        GROUP,
        "extended_deadline_is_never_shortened",
    ),
}


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    # One directory for the workers of pytest-xdist, whose own ones lie in it.
    own = tmp_path_factory.getbasetemp()
    return Objects(own.parent / "objects" if own.name.startswith("popen-") else own / "objects")


@pytest.mark.planted
@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_caught(name: str, tmp_path: Path, objects: Objects) -> None:
    # Some need threads to meet, which a busy machine may keep apart for the length of a run.
    for turn in range(RUNS_AT_MOST):
        code, said = verdict(BUGS[name], tmp_path / str(turn), objects)
        if code != pytest.ExitCode.OK:
            break
    assert code == pytest.ExitCode.TESTS_FAILED, f"not caught: {said[-2500:]}"


@pytest.mark.planted
@pytest.mark.parametrize(
    "name",
    [
        "begin a lease where the last one ended",
        "count what was acked as in the hands of its consumer",
        "bury twice what is held again",
    ],
)
def test_without_the_bug_the_same_run_passes(name: str, tmp_path: Path, objects: Objects) -> None:
    bug = BUGS[name]
    code, said = verdict(replace(bug, bad=bug.good), tmp_path, objects)
    assert code == pytest.ExitCode.OK, said[-2500:]
