# Builds for Android on ARM64 without the NDK: Clang's target is bionic, the headers are musl's, and the libraries are
# stubs of the functions that bionic has.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER ${ZIG} cc)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZIG STUBS HEADERS)
list(JOIN HEADERS " -isystem " INCLUDES)
set(CMAKE_C_FLAGS_INIT "-target aarch64-linux-android.24 -nostdinc -isystem ${INCLUDES}")
# LLD alone: as a driver, Zig would look for a libc of its own, and it has none for Android.
string(CONCAT CMAKE_C_CREATE_SHARED_LIBRARY
  "${ZIG} ld.lld -shared -soname <TARGET_SONAME> -z max-page-size=16384 -z defs --strip-debug "
  "--gc-sections <OBJECTS> ${STUBS}/builtins.o ${STUBS}/libm.so ${STUBS}/libc.so -o <TARGET>")
# Zig spells processors its own way.
set(ARMV8 -mcpu=generic)
set(ARMV8_DOTPROD -mcpu=generic+v8_2a+dotprod)
set(ARMV8_I8MM -mcpu=generic+v8_2a+dotprod+i8mm)
