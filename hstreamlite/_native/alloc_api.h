/* Allocations of the core are counted, and a test may have one of them fail. */

/* The n-th allocation from now on answers NULL, once; 0 = none does. */
void hsl_alloc_fail_at(uint64_t n);
/* Allocations tried since hsl_alloc_fail_at was called. */
uint64_t hsl_alloc_count(void);
/* Allocations not freed yet. */
int64_t hsl_alloc_live(void);
