/* Names of a simulated disk: the entries of a directory, and what changed in it. */
#include "platform.h"

#include <stdlib.h>
#include <string.h>

#include "simdisk.h"

struct name *sim_name_new(const char *text)
{
    size_t size = strlen(text) + 1;
    struct name *name = sim_alloc(sizeof *name + size);
    atomic_store(&name->references, 1);
    memcpy(name->text, text, size);
    return name;
}

struct name *sim_name_share(struct name *name)
{
    if (name)
        atomic_fetch_add(&name->references, 1);
    return name;
}

void sim_name_drop(struct name *name)
{
    if (name && atomic_fetch_sub(&name->references, 1) == 1)
        free(name);
}

static size_t entries_place(const struct entries *entries, const char *text)
{
    size_t low = 0;
    size_t high = entries->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(entries->items[middle].name->text, text) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool entries_holds(const struct entries *entries, size_t place, const char *text)
{
    return place < entries->count && strcmp(entries->items[place].name->text, text) == 0;
}

uint32_t sim_entries_get(const struct entries *entries, const char *text)
{
    size_t place = entries_place(entries, text);
    return entries_holds(entries, place, text) ? entries->items[place].inode : NONE;
}

static void entries_set(struct entries *entries, struct name *name, uint32_t inode)
{
    size_t place = entries_place(entries, name->text);
    if (entries_holds(entries, place, name->text)) {
        entries->items[place].inode = inode;
        return;
    }
    entries->items = sim_grow(entries->items, &entries->capacity, entries->count,
                              sizeof *entries->items);
    memmove(entries->items + place + 1, entries->items + place,
            (entries->count - place) * sizeof *entries->items);
    entries->items[place] = (struct entry){sim_name_share(name), inode};
    entries->count++;
}

/* Removes the name if it means this inode. */
static void entries_remove(struct entries *entries, const char *text, uint32_t inode)
{
    size_t place = entries_place(entries, text);
    if (!entries_holds(entries, place, text) || entries->items[place].inode != inode)
        return;
    sim_name_drop(entries->items[place].name);
    entries->count--;
    memmove(entries->items + place, entries->items + place + 1,
            (entries->count - place) * sizeof *entries->items);
}

void sim_entries_clear(struct entries *entries)
{
    for (size_t i = 0; i < entries->count; i++)
        sim_name_drop(entries->items[i].name);
    free(entries->items);
    *entries = (struct entries){0};
}

void sim_entries_copy(struct entries *dst, const struct entries *src)
{
    sim_entries_clear(dst);
    if (!src->count)
        return;
    dst->items = sim_alloc(src->count * sizeof *dst->items);
    dst->count = dst->capacity = src->count;
    for (size_t i = 0; i < src->count; i++)
        dst->items[i] = (struct entry){sim_name_share(src->items[i].name), src->items[i].inode};
}

void sim_entry_change_apply(const struct entry_change *change, struct entries *entries)
{
    switch (change->kind) {
    case LINK:
        entries_set(entries, change->name, change->inode);
        break;
    case UNLINK:
        entries_remove(entries, change->name->text, change->inode);
        break;
    case MOVE:
        entries_remove(entries, change->name->text, change->inode);
        entries_set(entries, change->target, change->inode);
        break;
    }
}

void sim_entry_changes_push(struct inode *dir, enum entry_change_kind kind, struct name *name,
                            struct name *target, uint32_t inode)
{
    dir->entry_changes = sim_grow(dir->entry_changes, &dir->entry_change_capacity,
                                  dir->entry_change_count, sizeof *dir->entry_changes);
    struct entry_change change = {kind, sim_name_share(name), sim_name_share(target), inode};
    dir->entry_changes[dir->entry_change_count++] = change;
    sim_entry_change_apply(&change, &dir->seen);
}

void sim_entry_changes_clear(struct inode *dir)
{
    for (size_t i = 0; i < dir->entry_change_count; i++) {
        sim_name_drop(dir->entry_changes[i].name);
        sim_name_drop(dir->entry_changes[i].target);
    }
    dir->entry_change_count = 0;
}

void sim_entry_changes_write_out(struct inode *dir)
{
    for (size_t i = 0; i < dir->entry_change_count; i++)
        sim_entry_change_apply(&dir->entry_changes[i], &dir->kept);
    sim_entry_changes_clear(dir);
}
