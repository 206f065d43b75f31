// What presets write, opened by the Python library whose format it is: the same logits. Runs where Python has transformers and hqq (LOWBIT_PYTHON names another
// interpreter than python3), such as of `pip install torch "transformers<5" accelerate hqq==0.2.8.post1`.

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createRuntime, referenceBackend } from '@lowbit/core';
import { findBackends, loadModel, type PresetName, presetRecipe, quantizeModel, recipeOptions } from 'lowbit';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';
import { TINY } from './cli-process.ts';

const python = process.env.LOWBIT_PYTHON ?? 'python3';
const script = fileURLToPath(new URL('hqq-logits.py', import.meta.url));
const ids = [0, 5, 100, 7, 300, 20, 4000, 11, 12, 13];
const run = (args: readonly string[]): Promise<{ readonly stdout: string }> =>
  promisify(execFile)(python, [...args], { env: { ...process.env, HF_HUB_OFFLINE: '1', OMP_NUM_THREADS: '2' } });

let present = false;
const dir = mkdtempSync(join(tmpdir(), 'lowbit-hqq-python-'));
beforeAll(async () => {
  present = await run(['-c', 'import hqq, transformers']).then(
    () => true,
    () => false,
  );
  writeFileSync(join(dir, 'ids.json'), JSON.stringify(ids));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Of the TypeScript reference, which computes in float32. */
async function own(folder: string): Promise<Float32Array> {
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  await using model = await loadModel(folder, { runtime });
  const rows: number[] = [];
  for await (const { logits } of model.logitRows(ids)) rows.push(...logits);
  return Float32Array.from(rows);
}

describe('hqq of Python', () => {
  const cases: readonly (readonly [PresetName, number | undefined])[] = [
    ['best4', undefined],
    ['small3', undefined],
    ['tiny2', undefined],
    ['small3', 0.75],
  ];
  it.for(cases)('opens what %s writes (feedback: %s), and says the same', async ([preset, feedback], context) => {
    needs(context, 'hqq', present, `${python} has no hqq and transformers`);
    const folder = join(dir, `${preset}-${feedback ?? 0}`);
    await using runtime = await createRuntime({ backends: await findBackends('auto') });
    const recipe = presetRecipe(preset);
    const options = await recipeOptions(feedback === undefined ? recipe : { ...recipe, feedback, importance: 'self' });
    await quantizeModel(TINY, { ...options, out: folder, runtime });
    const out = join(dir, 'logits');
    const { stdout } = await run([script, folder, join(dir, 'ids.json'), out]);
    expect(JSON.parse(stdout.trim().split('\n').at(-1)!)).toMatchObject({ linears: 42 });
    const theirs = new Float32Array(readFileSync(out).buffer.slice(0));
    const ours = await own(folder);
    expect(theirs.length).toBe(ours.length);
    const largest = ours.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const off = ours.reduce((most, value, i) => Math.max(most, Math.abs(value - theirs[i]!)), 0);
    expect(off / largest).toBeLessThan(1e-5);
  });
});
