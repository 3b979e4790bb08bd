/* run_phases: one call of onnxruntime's parallel loop, for each phase a flag for each task and a counter of those done.
 *
 *     for each of PLACES places, on whichever thread the loop gives it to
 *         for each phase
 *             from the place's first task on, all around: take each task that no other thread has taken, run it
 *             add them to `done`, wait until the counter reaches the number of tasks
 */
#include "phases.h"

#include <stdlib.h>

#include "operator.h"

#if !defined(_WIN32)
#include <sched.h>
#endif

/* Places of a phase at which threads begin. onnxruntime divides them among its threads, however many. */
enum { PLACES = 64 };
/* Tasks whose flags lie on the stack; rounds of waiting before the thread yields the processor. */
enum { STACK_FLAGS = 1024, SPINS = 1 << 11 };
enum { LINE = 64 };

typedef struct Progress {
    int64_t done;     /* tasks */
    uint8_t *taken;   /* a flag for each task */
    char padding[LINE - sizeof(int64_t) - sizeof(uint8_t *)];
} Progress;

typedef struct Team {
    const Phase *phases;
    size_t count;
    Progress progress[MAX_PHASES];
} Team;

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int is_done(const Team *team, size_t phase) {
    return __atomic_load_n(&team->progress[phase].done, __ATOMIC_ACQUIRE) == team->phases[phase].tasks;
}

static void wait_for(const Team *team, size_t phase) {
    for (int spin = 0; !is_done(team, phase); spin++) {
        pause_briefly();
#if !defined(_WIN32)
        if (spin >= SPINS) sched_yield();
#endif
    }
}

/* Waits only for tasks that run on some thread, so that a single thread finishes as well. */
static void work(void *argument, size_t place) {
    Team *team = argument;
    if (is_done(team, team->count - 1)) return;
    for (size_t i = 0; i < team->count; i++) {
        const Phase *phase = team->phases + i;
        Progress *progress = team->progress + i;
        int64_t task = (int64_t)place * phase->tasks / PLACES, done = 0;
        for (int64_t n = 0; n < phase->tasks; n++) {
            uint8_t *taken = progress->taken + task;
            if (!__atomic_load_n(taken, __ATOMIC_RELAXED) && !__atomic_exchange_n(taken, 1, __ATOMIC_RELAXED)) {
                phase->call(phase->argument, (size_t)task);
                done++;
            }
            task = task + 1 < phase->tasks ? task + 1 : 0;
        }
        if (done) __atomic_add_fetch(&progress->done, done, __ATOMIC_ACQ_REL);
        wait_for(team, i);
    }
}

Status *run_phases(const Api *api, const Context *context, const Phase *phases, size_t count, int alone) {
    if (alone) {
        for (size_t i = 0; i < count; i++)
            for (int64_t task = 0; task < phases[i].tasks; task++) phases[i].call(phases[i].argument, (size_t)task);
        return NULL;
    }
    while (count && !phases[count - 1].tasks) count--; /* `work` returns early once the last phase is done */
    Team team = {.phases = phases, .count = count};
    int64_t tasks = 0;
    for (size_t i = 0; i < count; i++) tasks += phases[i].tasks;
    uint8_t few[STACK_FLAGS] = {0}, *taken = tasks <= STACK_FLAGS ? few : calloc((size_t)tasks, 1);
    if (!taken) return out_of_memory(api);
    uint8_t *next = taken;
    for (size_t i = 0; i < count; next += phases[i++].tasks) team.progress[i].taken = next;
    Status *status = count ? api_parallel_for(api)(context, work, PLACES, 0, &team) : NULL;
    if (taken != few) free(taken);
    return status;
}
