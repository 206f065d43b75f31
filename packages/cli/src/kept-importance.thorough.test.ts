import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createRuntime, float32Tensor, referenceBackend } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findImportance, type ImportanceSource } from './importance.ts';
import { decodeState, encodeState, type KeptState, keepingImportance } from './kept-importance.ts';
import { quantizeModel } from './quantize-model.ts';

const golden = (name: string): string => fileURLToPath(new URL(`../../../fixtures/golden/models/${name}`, import.meta.url));
/** Mixture of experts: residual stream, shared expert, rows of experts. */
const MODEL = golden('qwen2-moe');
const backends = [referenceBackend()];
let dir = '';
const at = (name: string): string => join(dir, name);
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-kept-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('findImportance that is interrupted', () => {
  it.each<ImportanceSource>(['random-tokens', 'self', { ids: [[3, 4, 5], [9]] }])(
    'goes on at any layer to the same numbers: %o',
    async (source) => {
      const tokens = 24;
      const whole = await findImportance(MODEL, source, { backends, tokens });
      for (let stop = 1; ; stop++) {
        const keepIn = at(`at-${stop}-${JSON.stringify(source).length}`);
        const controller = new AbortController();
        const seen: number[] = [];
        let layers = 0;
        const run = (signal?: AbortSignal) =>
          findImportance(MODEL, source, {
            backends,
            tokens,
            keepIn,
            signal,
            onProgress: ({ phase, done, total }) => {
              if (phase !== 'importance') return;
              layers = total!;
              seen.push(done);
              if (done === stop && signal) controller.abort(new Error('enough'));
            },
          });
        const first = await run(controller.signal).catch((error: Error) => error);
        seen.length = 0;
        expect(await run()).toEqual(whole);
        if (!(first instanceof Error)) {
          expect(seen).toEqual([]); // all was done
          break;
        }
        expect(seen).toEqual(Array.from({ length: layers - stop }, (_, i) => stop + 1 + i));
      }
      expect(readdirSync(dir).filter((name) => /\.\d+$/.test(name))).toEqual([]);
    },
  );

  it('starts over for another pass, and for a file that is damaged', async () => {
    const keepIn = at('other');
    const layers: number[] = [];
    const run = async (path: string, source: ImportanceSource, more: { tokens?: number; seed?: number } = {}) => {
      layers.length = 0;
      const onProgress = ({ phase, done }: { phase: string; done: number }) => void (phase === 'importance' && layers.push(done));
      return (await findImportance(path, source, { backends, tokens: 8, ...more, keepIn, onProgress })).importance;
    };
    const plain = async (source: ImportanceSource, more = {}) =>
      (await findImportance(MODEL, source, { backends, tokens: 8, ...more })).importance;
    await run(MODEL, 'random-tokens');
    expect(await run(MODEL, 'random-tokens', { seed: 2 })).toEqual(await plain('random-tokens', { seed: 2 }));
    expect(layers[0]).toBe(1);
    expect(await run(MODEL, { ids: [[1, 2]] })).toEqual(await plain({ ids: [[1, 2]] }));
    expect(layers[0]).toBe(1);
    await run(MODEL, { ids: [[1, 2]] });
    expect(layers).toEqual([]);
    await run(golden('qwen3-moe'), { ids: [[1, 2]] });
    expect(layers[0]).toBe(1);
    await run(MODEL, 'random-tokens');
    const bytes = readFileSync(keepIn);
    for (const [from, to] of [
      [0, bytes.length - 1],
      [0, 40],
    ] as const) {
      writeFileSync(keepIn, bytes.subarray(from, to));
      if (to === 40) await expect(run(MODEL, 'random-tokens')).rejects.toMatchObject({ code: 'ERR_OUTPUT_EXISTS' });
      else expect(await run(MODEL, 'random-tokens')).toEqual(await plain('random-tokens'));
    }
    writeFileSync(keepIn, 'a letter to somebody, long enough to be looked at for what it is, which is nothing of ours');
    await expect(run(MODEL, 'random-tokens')).rejects.toMatchObject({ code: 'ERR_OUTPUT_EXISTS' });
    expect(readFileSync(keepIn, 'utf8')).toContain('a letter');
  });

  it('keeps states to the bit, and no byte of a file may change', () => {
    const tensor = float32Tensor([2, 2], [1, -0, 1e-45, 3]);
    const state: KeptState = {
      ids: [[1, 2], [3]],
      done: 4,
      carried: [new Map([['cut.1', tensor]]), new Map()],
      found: new Map([['a.b', { kind: 'diagonal', moments: float32Tensor([3], [1, 2, 3]), rows: 7 }]]),
    };
    const bytes = encodeState('pass', state);
    expect(decodeState('pass', bytes)).toEqual(state);
    expect(decodeState('other', bytes)).toBe(undefined);
    expect(decodeState('pass', new Uint8Array(0))).toBe(undefined);
    for (let i = 0; i < bytes.length; i++) {
      const changed = bytes.slice();
      changed[i]! ^= 1;
      expect(decodeState('pass', changed)).toBe(undefined);
    }
  });
});

describe('quantizing with importance', () => {
  const quantizer = hqq({ bits: 3, groupSize: 16, solver: 'least-squares' });
  const importance: ImportanceSource = { ids: [[5, 6, 7, 8]] };

  it('leaves nothing without resume, and with it what is needed to go on, from either half', async () => {
    await quantizeModel(MODEL, { out: at('whole'), quantizer, importance, backends });
    expect(existsSync(at('whole.importance'))).toBe(false);
    const wanted = readFileSync(join(at('whole'), 'model.safetensors'));
    for (const [phase, name] of [
      ['importance', 'early'],
      ['quantize', 'late'],
    ] as const) {
      const run = async (resume: boolean, stops: boolean) => {
        const controller = new AbortController();
        const phases = new Set<string>();
        const onProgress = (event: { phase: string; done: number }) => {
          phases.add(event.phase);
          if (stops && event.phase === phase && event.done >= 2) controller.abort(new Error('enough'));
        };
        const done = quantizeModel(MODEL, {
          out: at(name),
          quantizer,
          importance,
          backends,
          resume,
          signal: controller.signal,
          onProgress,
        });
        if (stops) await expect(done).rejects.toThrow('enough');
        else await done;
        return phases;
      };
      await run(false, true);
      expect(readdirSync(dir).filter((file) => file.startsWith(name))).toEqual([]);
      await run(true, true);
      expect(existsSync(at(`${name}.importance`))).toBe(true);
      await expect(run(false, false)).rejects.toMatchObject({ code: 'ERR_OUTPUT_EXISTS', hint: expect.stringContaining('resume') });
      const phases = await run(true, false);
      expect(phases.has('importance')).toBe(phase === 'importance');
      expect(readFileSync(join(at(name), 'model.safetensors')).equals(wanted)).toBe(true);
      expect(readdirSync(dir).filter((file) => file.startsWith(name))).toEqual([name]);
    }
  });

  it('overwrite removes what was left; a bad output is refused as ever', async () => {
    const state: KeptState = { ids: [], done: 0, carried: [], found: new Map() };
    writeFileSync(at('left.importance'), encodeState('another', state));
    expect(await keepingImportance(at('left'), { overwrite: true }, async (file) => existsSync(file!))).toBe(false);
    await using runtime = await createRuntime({ backends });
    for (const out of ['', undefined]) {
      await expect(quantizeModel(MODEL, { out: out as string, quantizer, importance, runtime })).rejects.toMatchObject({
        code: 'ERR_BAD_ARGUMENT',
      });
    }
  });
});
