/* Allocations of the core, so that tests can have each of them fail and see each of them freed.
 *
 * hsl.h includes this, and from there on malloc and its kin are the counted ones: code that is
 * written later cannot forget to go through here. The simulation, whose allocations must not fail,
 * defines HSL_ALLOC_PLAIN first.
 */
#ifndef HSL_ALLOC_H
#define HSL_ALLOC_H

#include "platform.h"

#include <stdlib.h>
#include <string.h>

void *hsl_malloc(size_t size);
void *hsl_calloc(size_t count, size_t size);
void *hsl_realloc(void *memory, size_t size);
void *hsl_aligned_alloc(size_t alignment, size_t size);
char *hsl_strdup(const char *text);
void hsl_free(void *memory);
/* Counts an allocation that is made elsewhere; 1 = it has to fail. */
int hsl_alloc_fails(void);

#ifndef HSL_ALLOC_PLAIN
#define malloc(size) hsl_malloc(size)
#define calloc(count, size) hsl_calloc(count, size)
#define realloc(memory, size) hsl_realloc(memory, size)
#define aligned_alloc(alignment, size) hsl_aligned_alloc(alignment, size)
#define free(memory) hsl_free(memory)
#undef strdup
#define strdup(text) hsl_strdup(text)
#endif

#endif
