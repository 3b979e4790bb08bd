/* Work in phases: the threads of a session run the tasks of one phase, and once all are done, those of the next.
 *
 * All phases are one dispatch to the threads, which wait for each other between phases without returning. A thread runs
 * consecutive tasks where it can: a task prefetches what the next one reads.
 */
#ifndef OMNI_EDGE_PHASES_H
#define OMNI_EDGE_PHASES_H

#include "onnxruntime_abi.h"

/* Calls with 0 .. tasks - 1, in any order and concurrently. */
typedef struct Phase {
    void (*call)(void *argument, size_t task);
    void *argument;
    int64_t tasks;
} Phase;

enum { MAX_PHASES = 16 };

/* Runs phases one after the other; `alone`: in this thread, for work too short to wake others. */
Status *run_phases(const Api *, const Context *, const Phase *, size_t count, int alone);

#endif
