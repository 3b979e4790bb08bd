/* Work in phases: the threads of a session take the tasks of one phase, and when all of them are done, of the next.
 *
 * All phases are one dispatch to the threads, which wait for each other in between without leaving. A thread goes on
 * with the task after its last one while it can: what that reads is on its way to the thread's cache by then.
 */
#ifndef OMNI_EDGE_PHASES_H
#define OMNI_EDGE_PHASES_H

#include "onnxruntime_abi.h"

/* `call`s with 0 .. tasks - 1, in any order and at once. */
typedef struct Phase {
    void (*call)(void *argument, size_t task);
    void *argument;
    int64_t tasks;
} Phase;

enum { MOST_PHASES = 16 };

/* Runs phases one after the other; `alone`: in this thread, where there is too little to do to wake others. */
Status *run_phases(const Api *, const Context *, const Phase *, size_t count, int alone);

#endif
