// @ts-check
// Builds the addon where there is a C++ toolchain; says so and goes on where there is none, unless LOWBIT_REQUIRE names kernels-cpu.
//
// Usage: node build-native.mjs (in this folder). Result: build/Release/lowbit_cpu.node. Does nothing when that is up to date.
import { buildAddon } from '@lowbit/addon/build';

process.exitCode = buildAddon({ home: new URL('.', import.meta.url).href, file: 'lowbit_cpu.node' });
