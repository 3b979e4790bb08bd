/* The Android archive's JNI library for x86-64 asks its libc, libdl and libm for these functions under bionic's symbol
 * version. This file, built under each of the three names, hands every call on to the host's C library. */
#include <dlfcn.h>

#define EACH(with) \
  with(__cxa_atexit) with(__cxa_finalize) with(__register_atfork) with(__stack_chk_fail) with(dlclose) \
  with(free) with(malloc) with(memcpy) with(realloc) with(strlen)

/* A jump keeps all registers, so one line serves every signature. */
#define JUMP(name)                                     \
  __attribute__((visibility("hidden"))) void *to_##name; \
  __asm__(".text\n.globl jump_" #name "\n"               \
          ".type jump_" #name ", @function\n"            \
          "jump_" #name ": jmp *to_" #name "(%rip)\n"    \
          ".symver jump_" #name ", " #name "@@LIBC\n");
EACH(JUMP)

__attribute__((constructor)) static void look_up(void) {
  void *libc = dlopen("libc.so.6", RTLD_NOW);
#define LOOK_UP(name) to_##name = dlsym(libc, #name);
  EACH(LOOK_UP)
}
