# Toolchain file: builds for arm64 Linux on another machine, with g++-aarch64-linux-gnu of Debian and Ubuntu.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
# Programs bring their libraries: they run under qemu, where those of arm64 are not installed.
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)
