/* Libraries that were built for Android ask its libc, libdl and libm for these functions under bionic's symbol version.
 * This file, built under each of those names, hands every call on to the host's C library. */
#include <dlfcn.h>

#define EACH(with) \
  with(__cxa_atexit) with(__cxa_finalize) with(__register_atfork) with(__stack_chk_fail) with(calloc) \
  with(clock_gettime) with(dlclose) with(exp2f) with(expf) with(free) with(malloc) with(memcpy) with(memset) with(realloc) with(sched_yield) with(strlen)

/* A jump keeps all registers, so one line serves every signature. */
#ifdef __aarch64__
#define JUMP(name) "adrp x16, to_" #name "\nldr x16, [x16, :lo12:to_" #name "]\nbr x16\n"
#else
#define JUMP(name) "jmp *to_" #name "(%rip)\n"
#endif
#define HAND_ON(name)                                     \
  __attribute__((visibility("hidden"))) void *to_##name;  \
  __asm__(".text\n.globl jump_" #name "\n"                \
          ".type jump_" #name ", @function\n"             \
          "jump_" #name ": " JUMP(name)                   \
          ".symver jump_" #name ", " #name "@@LIBC\n");
EACH(HAND_ON)

__attribute__((constructor)) static void look_up(void) {
  void *libc = dlopen("libc.so.6", RTLD_NOW), *libm = dlopen("libm.so.6", RTLD_NOW);
#define LOOK_UP(name) if (!(to_##name = dlsym(libc, #name))) to_##name = dlsym(libm, #name);
  EACH(LOOK_UP)
}
