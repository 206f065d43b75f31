# Toolchain file: builds for Linux with musl on another machine, with Zig's C++ compiler, which brings musl and a C++ library. build.mjs sets the environment.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR $ENV{LOWBIT_MUSL_PROCESSOR})
set(CMAKE_CXX_COMPILER $ENV{LOWBIT_ZIG} c++ -target $ENV{LOWBIT_MUSL_PROCESSOR}-linux-musl)
set(LOWBIT_V4 -march=x86_64_v4)  # as Zig spells it
# Programs bring their libraries: they run where there is no musl.
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
