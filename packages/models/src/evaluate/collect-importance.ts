// Second moments of the inputs of a model's linears, from sample tokens: what an error in a weight costs at the layer's output.

import { type CallOptions, elements, hostTensor, type Importance, type Program } from '@lowbit/core';
import type { LoadWeight, ProgramRuntime } from '@lowbit/program';
import { MomentSums, squaresOn } from './moment-sums.ts';
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

/**
 * What `eachLayerImportance` hands over: by path what the linears of a layer get, undefined for an expert that got no row. Sums of products are made when they are asked
 * for, for all linears that read the same. Who takes it over deletes from it what is no longer needed: rows and matrices go with the last that has them.
 */
export type LayerMoments = Map<string, () => Promise<Importance | undefined>>;

type LayerSums = Map<string, { readonly paths: readonly string[]; readonly of: MomentSums }>;

/** Moments by path; `sums` is empty then. A function of its own: who waits for something keeps what it has at hand. */
function takenFrom(sums: LayerSums): LayerMoments {
  const moments: LayerMoments = new Map();
  for (const { paths, of } of sums.values()) {
    for (const path of paths) moments.set(path, () => of.moments(paths[0]!));
  }
  sums.clear();
  return moments;
}

/** Of all linears, or of each by its path: of those that read the same a matrix where one has it. */
export type MomentKinds = Importance['kind'] | ((path: string) => Importance['kind']);

/** What is summed for linears that read the same, whoever of them is asked for: a run that goes on has the numbers of one that was not stopped. */
export function kindOf(kinds: MomentKinds, paths: readonly string[]): Importance['kind'] {
  if (typeof kinds !== 'function') return kinds;
  return paths.some((path) => kinds(path) === 'matrix') ? 'matrix' : 'diagonal';
}

interface EachLayerOptions extends Omit<ImportanceOptions, 'keeper' | 'kind'> {
  readonly kind: MomentKinds;
  readonly from?: StreamState | undefined;
  /** Linears whose moments will be asked for, at any time; default all. */
  readonly wants?: (path: string) => boolean;
}

/** Runs the samples and hands over the moments of one layer after another; waits for each to be taken. Nothing of a layer is kept. Throws as `collectImportance`. */
export async function eachLayerImportance(
  program: Program,
  { kind, runtime, wants = () => true, ...rest }: EachLayerOptions,
  take: (moments: LayerMoments, state: StreamState) => Promise<void>,
): Promise<void> {
  const sums: LayerSums = new Map();
  const products = squaresOn(runtime, rest.signal);
  await streamInputs(program, {
    ...rest,
    runtime,
    phase: 'importance',
    async onRows({ paths, key, rows, width }) {
      if (!paths.some(wants)) return;
      const into = sums.get(key) ?? { paths, of: new MomentSums(width, kindOf(kind, paths), products) };
      sums.set(key, into);
      await into.of.add(rows);
    },
    async onLayer(state) {
      await take(takenFrom(sums), state);
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
    for (const [path, of] of moments) {
      const result = await of();
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
