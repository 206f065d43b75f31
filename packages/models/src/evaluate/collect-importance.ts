// Second moments of the inputs of a model's linears, from sample tokens: what an error in a weight costs at the layer's output.

import { type CallOptions, elements, hostTensor, type Importance, LowbitError, type Program } from '@lowbit/core';
import type { LoadWeight, ProgramRuntime } from '@lowbit/program';
import { squares } from './squares.ts';
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
  /** Of a matrix: rows that are not in the sums yet. */
  readonly waiting: Float32Array[];
}

/** Numbers that wait until their products are summed, about: fewer calls, each of which gives a matrix. */
const WAITING = 1 << 20;

type Squares = (rows: Float32Array, width: number) => Promise<Float64Array>;

async function addRows(into: Sums, rows: Float32Array, kind: Importance['kind'], products: Squares): Promise<void> {
  into.rows += rows.length / into.width;
  if (kind === 'diagonal') for (let i = 0; i < rows.length; i++) into.sums[i % into.width]! += rows[i]! * rows[i]!;
  else if (rows.length > 0) {
    into.waiting.push(rows.slice()); // a view of what the next sample writes to
    if (into.waiting.reduce((sum, { length }) => sum + length, 0) >= WAITING) await addWaiting(into, products);
  }
}

async function addWaiting({ waiting, width, sums }: Sums, products: Squares): Promise<void> {
  if (waiting.length === 0) return;
  const all = new Float32Array(waiting.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const rows of waiting.splice(0)) {
    all.set(rows, at);
    at += rows.length;
  }
  const found = await products(all, width);
  for (let i = 0; i < sums.length; i++) sums[i]! += found[i]!;
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

/** What `eachLayerImportance` hands over: by path what the linears of a layer get, undefined for an expert that got no row. */
export type LayerMoments = ReadonlyMap<string, Importance | undefined>;

/** Runs the samples and hands over the moments of one layer after another; waits for each to be taken. Nothing of a layer is kept. Throws as `collectImportance`. */
export async function eachLayerImportance(
  program: Program,
  { kind, runtime, ...rest }: Omit<ImportanceOptions, 'keeper'> & { readonly from?: StreamState | undefined },
  take: (moments: LayerMoments, state: StreamState) => Promise<void>,
): Promise<void> {
  const sums = new Map<string, Sums & { readonly paths: readonly string[] }>();
  const products: Squares = async (rows, width) => {
    const routine = runtime.routine?.('moments.squares'); // of a backend that is open by now
    if (!routine) return squares(rows, width);
    const [found] = await routine([hostTensor('f32', [rows.length / width, width], rows)], {});
    return elements({ dtype: 'f64', data: found!.data });
  };
  await streamInputs(program, {
    ...rest,
    runtime,
    phase: 'importance',
    async onRows({ paths, key, rows, width }) {
      const size = kind === 'matrix' ? width * width : width;
      const into = sums.get(key) ?? { paths, width, sums: new Float64Array(size), rows: 0, waiting: [] };
      sums.set(key, into);
      await addRows(into, rows, kind, products);
    },
    async onLayer(state) {
      const moments = new Map<string, Importance | undefined>();
      for (const [key, { paths, ...of }] of sums) {
        await addWaiting(of, products);
        const result = of.rows === 0 ? undefined : finish(paths[0]!, of, kind);
        for (const path of paths) moments.set(path, result);
        sums.delete(key);
      }
      await take(moments, state);
    },
  });
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
  const { keeper, ...rest } = options ?? {};
  const before = await keeper?.load();
  const found = new Map<string, Importance>(before?.found);
  await eachLayerImportance(program, { ...rest, from: before }, async (moments, state) => {
    for (const [path, result] of moments) {
      const earlier = found.get(path);
      if (result) found.set(path, earlier ? merge(earlier, result) : result);
    }
    await keeper?.save({ ...state, found });
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
