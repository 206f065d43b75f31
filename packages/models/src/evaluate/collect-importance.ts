// Second moments of the inputs of a model's linears, from sample tokens: what an error in a weight costs at the layer's output.

import { type CallOptions, elements, hostTensor, type Importance, LowbitError, type Program } from '@lowbit/core';
import type { LoadWeight, ProgramRuntime } from '@lowbit/program';
import { type StreamState, streamInputs } from './stream-inputs.ts';

/** What a pass has found so far, and what it needs to go on. */
export interface ImportanceState extends StreamState {
  readonly found: ReadonlyMap<string, Importance>;
}

/** Keeps the state of a pass, so that one that was interrupted goes on where it was: the same numbers in the end. */
export interface ImportanceKeeper {
  /** What an earlier pass over the same weights and samples on the same backend has left, whole. */
  load(): Promise<ImportanceState | undefined>;
  /** Called after each layer; waited for. The maps are written to again when it has returned. */
  save(state: ImportanceState): Promise<void>;
}

export interface ImportanceOptions extends CallOptions {
  readonly runtime: ProgramRuntime;
  readonly loadWeight: LoadWeight;
  /** Samples: token ids, each a sequence of its own from position 0. */
  readonly ids: readonly Uint32Array[];
  /** `matrix` takes in_features^2 numbers per linear. */
  readonly kind: Importance['kind'];
  readonly keeper?: ImportanceKeeper | undefined;
}

/** Sums of one input, f64. */
interface Sums {
  readonly width: number;
  readonly sums: Float64Array;
  rows: number;
}

function addRows(into: Sums, rows: Float32Array, kind: Importance['kind']): void {
  into.rows += rows.length / into.width;
  if (kind === 'matrix') addSquares(rows, into.width, into.sums);
  else for (let i = 0; i < rows.length; i++) into.sums[i % into.width]! += rows[i]! * rows[i]!;
}

/** Throws ERR_NON_FINITE where a moment is NaN, or beyond what a float holds. */
function finish(path: string, { sums, rows, width }: Sums, kind: Importance['kind']): Importance {
  const moments = Float32Array.from(sums, (sum) => sum / rows);
  const at = moments.findIndex((moment) => !Number.isFinite(moment));
  if (at >= 0) {
    throw new LowbitError('ERR_NON_FINITE', `the inputs of ${path} are not finite: the moment of channel ${at % width} is ${moments[at]}`, {
      hint: 'The weights in front of it may be damaged. Quantize without importance, or with the estimate from weights.',
      details: { path, channel: at % width },
    });
  }
  return { kind, moments: hostTensor('f32', kind === 'matrix' ? [width, width] : [width], moments), rows };
}

/**
 * Mean second moments of the inputs of every linear, by module path: over all tokens of all samples, for an expert over the rows routed to it
 * (experts that got none are absent). Weights come from `loadWeight` once per layer that uses them, and only one layer's are on the backend. Sums are f64.
 * Throws ERR_BAD_ARGUMENT without samples, ERR_NON_FINITE (moments that are no numbers), and what `loadProgram` throws; nothing stays on the backend.
 *
 * @example
 * const importance = await collectImportance(program, { runtime, loadWeight, ids: samples, kind: 'diagonal' });
 * await quantize(weight, higgs({ bits: 4 }), { importance: importance.get('model.layers.0.mlp.down_proj') });
 */
export async function collectImportance(program: Program, options: ImportanceOptions): Promise<Map<string, Importance>> {
  const { kind, keeper, ...rest } = options ?? {};
  const before = await keeper?.load();
  const found = new Map<string, Importance>(before?.found);
  const sums = new Map<string, Sums & { readonly paths: readonly string[] }>();
  await streamInputs(program, {
    ...rest,
    phase: 'importance',
    from: before,
    onRows({ paths, key, rows, width }) {
      const into = sums.get(key) ?? { paths, width, sums: new Float64Array(kind === 'matrix' ? width * width : width), rows: 0 };
      sums.set(key, into);
      addRows(into, rows, kind);
    },
    async onLayer(state) {
      for (const { paths, ...of } of sums.values()) {
        if (of.rows === 0) continue;
        const result = finish(paths[0]!, of, kind);
        for (const path of paths) {
          const earlier = found.get(path);
          found.set(path, earlier ? merge(earlier, result) : result);
        }
      }
      sums.clear();
      await keeper?.save({ ...state, found });
    },
  });
  return found;
}

/** Of a weight that is used in two layers. */
function merge(a: Importance, b: Importance): Importance {
  const rows = a.rows + b.rows;
  const other = elements({ dtype: 'f32', data: b.moments.data });
  const moments = elements({ dtype: 'f32', data: a.moments.data }).map((moment, i) => (moment * a.rows + other[i]! * b.rows) / rows);
  return { kind: a.kind, moments: hostTensor('f32', a.moments.shape, moments), rows };
}

/** Adds X^T X to the symmetric `sums` [width, width] for X [rows, width]. Each call's products are summed over its rows in order first. */
function addSquares(x: Float32Array, width: number, sums: Float64Array): void {
  const rows = x.length / width;
  // Columns of X as rows, filled up so that four go at once: their additions hide one another's latency.
  const columns = new Float64Array((width + 3) * rows);
  for (let row = 0; row < rows; row++) for (let i = 0; i < width; i++) columns[i * rows + row] = x[row * width + i]!;
  const four = new Float64Array(4);
  for (let a = 0; a < width; a++) {
    for (let from = a; from < width; from += 4) {
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let row = 0, at = from * rows; row < rows; row++, at++) {
        const value = columns[a * rows + row]!;
        s0 += value * columns[at]!;
        s1 += value * columns[at + rows]!;
        s2 += value * columns[at + 2 * rows]!;
        s3 += value * columns[at + 3 * rows]!;
      }
      four.set([s0, s1, s2, s3]);
      for (let b = from; b < Math.min(from + 4, width); b++) {
        sums[a * width + b]! += four[b - from]!;
        if (a !== b) sums[b * width + a]! += four[b - from]!;
      }
    }
  }
}
