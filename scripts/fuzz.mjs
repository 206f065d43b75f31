// @ts-check
// `npm run fuzz [-- TARGET ...] [--seconds 60] [--seed N]`: damages files for that long for each reader (fuzz/targets.ts), and says how to repeat what it finds.
import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { install, run } from './workspace.mjs';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seconds: { type: 'string', default: '60' }, seed: { type: 'string' } },
});
const seconds = Number(values.seconds);
const seed = Number(values.seed ?? randomInt(2 ** 31));
if (!(seconds > 0) || !Number.isSafeInteger(seed)) {
  console.error('usage: npm run fuzz [-- TARGET ...] [--seconds N] [--seed N]');
  process.exitCode = 2;
} else {
  if (!install()) process.exit(1);
  console.log(`seed ${seed}, ${seconds} s for each reader`);
  const found = !run('vitest', ['run', '--project', 'unit', 'fuzz/'], {
    LOWBIT_FUZZ_TARGETS: positionals.join(','),
    LOWBIT_FUZZ_SECONDS: String(seconds),
    LOWBIT_FUZZ_SEED: String(seed),
  });
  process.exitCode = found ? 1 : 0;
}
