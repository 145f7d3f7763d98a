/* Runs of records that were handed out (keytab_api.h). */
#include "hsl.h"

static uint64_t end_of(const struct hsl_key_run *run) { return run->first + run->count; }

size_t hsl_key_runs_join(struct hsl_key_run *runs, size_t n, uint64_t low)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        struct hsl_key_run run = runs[i], *last = kept > 0 ? &runs[kept - 1] : NULL;
        if (end_of(&run) <= low)
            continue;
        if (run.first < low) {
            run.count -= (uint32_t)(low - run.first);
            run.first = low;
        }
        if (last && last->attempt == run.attempt && run.first == end_of(last))
            last->count += run.count;
        else
            runs[kept++] = run;
    }
    return kept;
}
