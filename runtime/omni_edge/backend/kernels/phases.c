/* run_phases: one call of onnxruntime's parallel loop, for each phase a flag for each task and a counter of those done.
 *
 *     for each of PLACES places, on whichever thread the loop gives it to
 *         for each phase
 *             from the place's first task on, all around: take each task that no other thread has taken, run it
 *             add them to `done`, wait until the counter reaches the number of tasks
 *
 * A thread that another program has displaced keeps its task for milliseconds, and a phase takes a tenth of one. Where
 * the other threads wait long for it, fewer threads take part for a while (`crew`).
 */
#include "phases.h"

#include <stdlib.h>

#include "operator.h"

#if !defined(_WIN32)
#include <sched.h>
#include <time.h>
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
    int members, allowed; /* threads that take part, and at most; 0: all */
    int64_t late;         /* ns that members have waited for displaced ones */
    Progress progress[MAX_PHASES];
} Team;

#define MILLISECOND INT64_C(1000000)
#define WINDOW (10 * MILLISECOND)
#define GOOD_WINDOWS 50
#define SHORTEST_PAUSE (100 * MILLISECOND)
#define LONGEST_PAUSE (1600 * MILLISECOND)

/* How many threads take part in the dispatches of this process. In every WINDOW of their time, the part that was spent
 * waiting for displaced threads decides: beyond a quarter, one thread fewer takes part. After `pause` one more is tried
 * again; the pause doubles with every failure, until GOOD_WINDOWS have passed without one. */
static struct {
    int allowed;          /* threads; 0: all */
    uint8_t locked;       /* what follows is being updated */
    int good;             /* windows since the last failure */
    int64_t work, late;   /* ns of this window: in all, and waiting */
    int64_t until, pause; /* ns: when one more thread is tried, and how long after the next failure */
} crew = {.pause = SHORTEST_PAUSE};

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

/* Nanoseconds of a steady clock; 0 where there is none, and then all threads take part. */
static int64_t now(void) {
#if defined(_WIN32)
    return 0;
#else
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000 * MILLISECOND + time.tv_nsec;
#endif
}

static void wait_for(Team *team, size_t phase) {
    for (int spin = 0; spin < SPINS; spin++) {
        if (is_done(team, phase)) return;
        pause_briefly();
    }
    const int64_t began = now();
    while (!is_done(team, phase)) {
        pause_briefly();
#if !defined(_WIN32)
        sched_yield();
#endif
    }
    __atomic_add_fetch(&team->late, now() - began, __ATOMIC_RELAXED);
}

/* The number of threads that may take part now; 0: all. */
static int allowed_threads(int64_t time) {
    const int allowed = __atomic_load_n(&crew.allowed, __ATOMIC_RELAXED);
    if (!allowed || time < __atomic_load_n(&crew.until, __ATOMIC_RELAXED)) return allowed;
    __atomic_store_n(&crew.allowed, allowed + 1, __ATOMIC_RELAXED);
    __atomic_store_n(&crew.until, time + SHORTEST_PAUSE, __ATOMIC_RELAXED);
    return allowed + 1;
}

/* Adds a dispatch from `began` to `ended` to the window, and decides at its end. */
static void account(const Team *team, int64_t began, int64_t ended) {
    if (team->members < 2 || __atomic_exchange_n(&crew.locked, 1, __ATOMIC_ACQUIRE)) return;
    crew.work += ended - began;
    crew.late += team->late / (team->members - 1);
    if (crew.work >= WINDOW) {
        if (crew.late * 4 > crew.work) {
            __atomic_store_n(&crew.until, ended + crew.pause, __ATOMIC_RELAXED);
            __atomic_store_n(&crew.allowed, team->members - 1, __ATOMIC_RELAXED);
            crew.pause = min64(2 * crew.pause, LONGEST_PAUSE);
            crew.good = 0;
        } else if (++crew.good >= GOOD_WINDOWS) {
            crew.pause = SHORTEST_PAUSE;
        }
        crew.work = crew.late = 0;
    }
    __atomic_store_n(&crew.locked, 0, __ATOMIC_RELEASE);
}

/* Whether the thread that comes to a place takes part: the first `allowed` ones do, and then run all phases. */
static int takes_part(Team *team) {
    const int before = __atomic_fetch_add(&team->members, 1, __ATOMIC_RELAXED);
    if (!team->allowed || before < team->allowed) return 1;
    __atomic_sub_fetch(&team->members, 1, __ATOMIC_RELAXED);
    return 0;
}

/* Waits only for tasks that run on some thread, so that a single thread finishes as well. */
static void work(void *argument, size_t place) {
    Team *team = argument;
    if (is_done(team, team->count - 1) || !takes_part(team)) return;
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
    const int64_t began = now();
    const int allowed = alone ? 1 : allowed_threads(began);
    if (allowed == 1) {
        for (size_t i = 0; i < count; i++)
            for (int64_t task = 0; task < phases[i].tasks; task++) phases[i].call(phases[i].argument, (size_t)task);
        return NULL;
    }
    while (count && !phases[count - 1].tasks) count--; /* `work` returns early once the last phase is done */
    Team team = {.phases = phases, .count = count, .allowed = allowed};
    int64_t tasks = 0;
    for (size_t i = 0; i < count; i++) tasks += phases[i].tasks;
    uint8_t few[STACK_FLAGS] = {0}, *taken = tasks <= STACK_FLAGS ? few : calloc((size_t)tasks, 1);
    if (!taken) return out_of_memory(api);
    uint8_t *next = taken;
    for (size_t i = 0; i < count; next += phases[i++].tasks) team.progress[i].taken = next;
    Status *status = count ? api_parallel_for(api)(context, work, PLACES, 0, &team) : NULL;
    account(&team, began, now());
    if (taken != few) free(taken);
    return status;
}
