// The quantizer itself: settings in, a plain object out.

import { breather, type Codebook, LowbitError, type Quantizer, type WeightError, writeFloat32 } from '@lowbit/core';
import { Bands } from './bands.ts';
import { storedPoints } from './code-blocks.ts';
import { backedCoder, coderHere } from './coder.ts';
import { gridOf } from './grid.ts';
import { type HiggsOptions, type HiggsSettings, higgsFormat, higgsRecord, higgsSettings, type ScaleDtype } from './options.ts';
import { bandBytes, type Cutting, cutting, RUN_WEIGHTS, type Run } from './runs.ts';

/**
 * HIGGS (Malinovskii et al., 2024): blocks of a row are rotated by a Hadamard matrix, which makes any weights look normal, and every one or two numbers
 * become the nearest point of the grid with the least mean squared error for normal numbers. No calibration data.
 *
 * @throws ERR_BAD_ARGUMENT for unusable options. The quantizer itself throws ERR_UNSUPPORTED_FORMAT for a shape that `packing: 'flute'` does not divide,
 * ERR_NON_FINITE, ERR_DTYPE_OVERFLOW for a scale that does not fit its dtype, and ERR_LIMIT where the rows that are packed together do not fit the memory.
 *
 * @example
 * const q = await quantize(weight, higgs({ bits: 4 }), { metaDtype: 'bf16' });
 */
export function higgs(options: HiggsOptions = {}): Quantizer {
  const s = higgsSettings(options);
  return {
    spec: 1,
    method: 'higgs',
    config: higgsRecord(s, null),
    identity: JSON.stringify(['higgs', ALGORITHM_VERSION, identifying(s)]),
    usesImportance: false,
    format: (shape, metaDtype) => higgsFormat(s, shape, metaDtype),
    worker: WORKER,
    async quantize(weight, format, out, context) {
      const codebook = format as Codebook;
      const cut = cutting(codebook, weight.shape);
      const dtype = codebook.scale as ScaleDtype;
      const points = storedPoints(gridOf(codebook.bits, codebook.dim), dtype);
      await out.write('table', 0, writeFloat32('f32', points));

      const unbiased = s.scale === 'unbiased';
      const backend = unbiased ? undefined : context.routine?.('higgs.code');
      // Of a single run there is nothing to share out.
      const workers = cut.runs.length > 1 ? context.workers : undefined;
      const atOnce = runsAtOnce(cut, weight.name, context.budget, backend ? AT_BACKEND : (workers?.threads ?? 1));
      const settings = {
        ...{ bits: codebook.bits, p: codebook.dim, block: cut.block, group: codebook.group, dtype },
        ...{ inp: weight.shape[1], name: weight.name, ...(unbiased ? { unbiased } : {}) },
      };
      const most = Math.max(...cut.runs.map(({ from, to }) => to - from));
      using coder = backend ? backedCoder(weight, settings, most, backend) : coderHere(weight, settings, most, workers);
      const pack = cut.packing.name.startsWith('flute') ? context.routine?.('higgs.pack') : undefined;
      const bands = new Bands(cut, weight.shape[0], out, pack);
      const errors: Float64Array[] = [];
      await eachRun(cut.runs, atOnce, context.signal, async (run, index) => {
        const { codes, scales, error } = await coder.code(run);
        errors[index] = error;
        await out.write('scale', (run.first * cut.block) / codebook.group, writeFloat32(dtype, scales));
        await bands.add(run, codes);
        context.onWeights?.(run.to - run.from);
      });
      return total(errors);
    },
  };
}

/** The module that serves this package's routine in worker threads, beside this one in the build. */
const WORKER = new URL('./worker.js', import.meta.url);

/** Goes up when the same settings would give other bytes. */
const ALGORITHM_VERSION = 1;

/** Settings as they were before there were scales of another kind, so that runs that were interrupted go on. */
function identifying({ scale, ...rest }: HiggsSettings): object {
  return scale === 'norm' ? rest : { ...rest, scale };
}

/** Bytes a weight of a run takes: float32, the code, and those that go to another thread and back. */
const PER_WEIGHT = 8;

/** Runs under way where a backend does the work: it has the next when one is done, and one is packed meanwhile. */
const AT_BACKEND = 3;

/** Memory that needs no permission: what small budgets are not held to. */
const LEAST_MEMORY = 4 << 20;

/** Runs to work on at a time, `wanted` at most, so that memory holds. Throws ERR_LIMIT if it does not hold one. */
function runsAtOnce(cut: Cutting, name: string, budget: number, wanted: number): number {
  const band = bandBytes(cut);
  const run = PER_WEIGHT * Math.min(Math.max(RUN_WEIGHTS, cut.block), cut.runs[0]!.to - cut.runs[0]!.from);
  if (band + run > Math.max(budget, LEAST_MEMORY)) {
    throw new LowbitError(
      'ERR_LIMIT',
      `${name}: packing ${cut.bands[0]!.to} rows at once takes ${band + run} bytes, more than the ${budget} allowed`,
      {
        hint: "Allow more memory, or use packing: 'portable', which goes row by row.",
        details: { tensor: name, bytes: band + run, budget },
      },
    );
  }
  // Runs under way may lie in as many bands.
  return Math.max(1, Math.min(wanted, cut.runs.length, Math.floor(budget / (band + run))));
}

/** Visits all runs, so many at a time. Stops at the first failure, when what is under way has ended: that of the first run that fails. Throws the signal's reason if it fired. */
async function eachRun(
  runs: readonly Run[],
  atOnce: number,
  signal: AbortSignal | undefined,
  visit: (run: Run, index: number) => Promise<void>,
): Promise<void> {
  const breathe = breather();
  let next = 0;
  const failures: { readonly index: number; readonly error: unknown }[] = [];
  const lane = async (): Promise<void> => {
    while (next < runs.length) {
      const index = next++;
      try {
        signal?.throwIfAborted();
        await breathe();
        await visit(runs[index]!, index);
      } catch (error) {
        failures.push({ index, error });
        next = runs.length;
      }
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
  const [failure] = failures.sort((a, b) => a.index - b.index);
  if (failure) throw failure.error;
}

/** The sums of all runs, in their order. */
function total(errors: readonly Float64Array[]): WeightError {
  return {
    squaredError: errors.reduce((sum, [squares]) => sum + squares!, 0),
    squaredWeight: errors.reduce((sum, [, squares]) => sum + squares!, 0),
    maxAbs: errors.reduce((most, [, , largest]) => Math.max(most, largest!), 0),
  };
}
