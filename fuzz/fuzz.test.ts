// Damages files and reads them. As a part of the unit tests: the same few hundred inputs every time, and what was found before. As a job
// (`npm run fuzz`): other inputs every time, for as long as it is given.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isLowbitError } from '@lowbit/core';
import fc from 'fast-check';
import { describe, it } from 'vitest';
import { targets as all } from './targets.ts';

/** Seconds for each target; without them a fixed number of inputs. */
const seconds = Number(process.env.LOWBIT_FUZZ_SECONDS ?? 0);
const seed = Number(process.env.LOWBIT_FUZZ_SEED ?? 1);
const RUNS = 150;
/** Names of targets with commas between them; without them all. */
const chosen = (process.env.LOWBIT_FUZZ_TARGETS ?? '').split(',').filter((name) => name !== '');
const stranger = chosen.find((name) => !all.some((target) => target.name === name));
if (stranger !== undefined) throw new Error(`there is no target ${stranger}; there are ${all.map(({ name }) => name).join(', ')}`);
const targets = all.filter(({ name }) => chosen.length === 0 || chosen.includes(name));
/** No reader takes this long for files of at most some hundred kB, however damaged: what does hangs. Only where the machine is the job's own. */
const MOST_MS = seconds > 0 ? 20_000 : Number.POSITIVE_INFINITY;
/** Inputs that were found to be read wrongly once: TARGET/ORIGINAL-WHAT. */
const corpus = fileURLToPath(new URL('corpus/', import.meta.url));

/** Reads an input. Throws for what no reader may do: another error than a LowbitError, one without a message, or a hang. */
async function check(input: Uint8Array, read: (input: Uint8Array) => unknown): Promise<void> {
  const start = performance.now();
  try {
    await read(input);
  } catch (error) {
    if (!isLowbitError(error)) throw new Error(`${input.length} bytes: not a LowbitError: ${(error as Error)?.stack}`, { cause: error });
    if (error.message === '') throw new Error('a LowbitError without a message', { cause: error });
  }
  const took = performance.now() - start;
  if (took > MOST_MS) throw new Error(`${input.length} bytes took ${Math.round(took)} ms`);
}

describe.each(targets.map(({ name, load }) => [name, load] as const))('%s', (name, load) => {
  const found = existsSync(join(corpus, name)) ? readdirSync(join(corpus, name)) : [];
  it('takes whole files', { timeout: 60_000 }, async () => {
    const { originals, input, read } = load();
    for (let original = 0; original < originals; original++) await read(input(original, []), original);
  });

  if (found.length > 0) {
    it('reads what was found before', async () => {
      const { read } = load();
      for (const file of found) await check(readFileSync(join(corpus, name, file)), (input) => read(input, Number.parseInt(file, 10)));
    });
  }

  it('takes damaged files or refuses them', { timeout: seconds * 2000 + 60_000 }, async () => {
    const { originals, edits, input, read } = load();
    const last = join(tmpdir(), 'lowbit-fuzz', `${name}.bin`);
    if (seconds > 0) mkdirSync(join(last, '..'), { recursive: true });
    const property = fc.asyncProperty(fc.nat({ max: originals - 1 }), edits, async (original, list) => {
      const bytes = input(original, list);
      // What a process that died or hangs was reading.
      if (seconds > 0) writeFileSync(last, bytes);
      await check(bytes, (damaged) => read(damaged, original));
    });
    await fc.assert(property, {
      seed,
      numRuns: seconds > 0 ? 100_000_000 : RUNS,
      ...(seconds > 0 && { interruptAfterTimeLimit: seconds * 1000 }),
    });
  });
});
