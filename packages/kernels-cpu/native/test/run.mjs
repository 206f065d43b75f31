// @ts-check
// Builds and runs the C++ tests: node native/test/run.mjs [none|address,undefined|thread ...]; default all three. Needs cmake and a C++20 compiler.
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const home = fileURLToPath(new URL('../..', import.meta.url));
const wanted = process.argv.slice(2);

/** @type {(command: string, args: readonly string[]) => boolean} */
const run = (command, args) =>
  spawnSync(command, args, { stdio: 'inherit', env: { ...process.env, UBSAN_OPTIONS: 'print_stacktrace=1' } }).status === 0;

for (const sanitizers of wanted.length > 0 ? wanted : ['none', 'address,undefined', 'thread']) {
  const build = join(home, 'build', `test-${sanitizers.replace(',', '-')}`);
  mkdirSync(build, { recursive: true });
  console.log(`== native tests, sanitizers: ${sanitizers}`);
  const flag = `-DLOWBIT_SANITIZE=${sanitizers === 'none' ? '' : sanitizers}`;
  const ok =
    run('cmake', ['-S', home, '-B', build, '-DCMAKE_BUILD_TYPE=RelWithDebInfo', flag]) &&
    run('cmake', ['--build', build, '--parallel', String(availableParallelism())]) &&
    run(join(build, 'lowbit_test'), []);
  if (!ok) {
    process.exitCode = 1;
    break;
  }
}
