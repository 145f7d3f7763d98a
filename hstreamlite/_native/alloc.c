/* Counted allocations; see alloc.h. */
#define HSL_ALLOC_PLAIN
#include "hsl.h"

#include <stdatomic.h>

static _Atomic uint64_t tried;
static _Atomic uint64_t fail_at; /* value of `tried` that fails; 0 = none */
static _Atomic int64_t live;

void hsl_alloc_fail_at(uint64_t n)
{
    atomic_store(&fail_at, 0);
    atomic_store(&tried, 0);
    atomic_store(&fail_at, n);
}

uint64_t hsl_alloc_count(void) { return atomic_load(&tried); }

int64_t hsl_alloc_live(void) { return atomic_load(&live); }

int hsl_alloc_fails(void)
{
    uint64_t now = atomic_fetch_add_explicit(&tried, 1, memory_order_relaxed) + 1;
    return now == atomic_load_explicit(&fail_at, memory_order_relaxed);
}

static void *counted(void *memory)
{
    if (memory)
        atomic_fetch_add_explicit(&live, 1, memory_order_relaxed);
    return memory;
}

void *hsl_malloc(size_t size) { return hsl_alloc_fails() ? NULL : counted(malloc(size)); }

void *hsl_calloc(size_t count, size_t size)
{
    return hsl_alloc_fails() ? NULL : counted(calloc(count, size));
}

void *hsl_realloc(void *memory, size_t size)
{
    if (hsl_alloc_fails())
        return NULL;
    return memory ? realloc(memory, size) : counted(malloc(size));
}

void *hsl_aligned_alloc(size_t alignment, size_t size)
{
    return hsl_alloc_fails() ? NULL : counted(aligned_alloc(alignment, size));
}

char *hsl_strdup(const char *text) { return hsl_alloc_fails() ? NULL : counted(strdup(text)); }

void hsl_free(void *memory)
{
    if (memory)
        atomic_fetch_sub_explicit(&live, 1, memory_order_relaxed);
    free(memory);
}
