// Second moments of the inputs of a model's linears, from sample text: what an error in a weight costs at the layer's output.
//
// The model runs layer by layer: the program is cut at every layer, each piece also gives the inputs of its linears, and all samples pass through
// a piece before the next is loaded. Only one layer's weights are on the backend at a time; between pieces the residual stream waits on the host.

import {
  type CallOptions,
  cutProgram,
  elements,
  type HostTensor,
  hostTensor,
  type Importance,
  type LoadWeight,
  LowbitError,
  type Op,
  opInputs,
  opResults,
  type Program,
  type ProgramPiece,
  type Runtime,
  type TensorId,
} from '@lowbit/core';

export interface ImportanceOptions extends CallOptions {
  readonly runtime: Pick<Runtime, 'load'>;
  readonly loadWeight: LoadWeight;
  /** Samples: token ids, each a sequence of its own from position 0. */
  readonly ids: readonly Uint32Array[];
  /** `matrix` takes in_features^2 numbers per linear. */
  readonly kind: Importance['kind'];
}

/** Input of one linear: a tensor, and for an expert which of its rows. */
interface Tap {
  readonly path: string;
  readonly x: TensorId;
  readonly expert?: { readonly ids: TensorId; readonly index: number; readonly topK: number; readonly perToken: boolean };
}

/** Sums of one input, f64. */
interface Sums {
  readonly width: number;
  readonly sums: Float64Array;
  rows: number;
}

function findTaps(program: Program): readonly Tap[] {
  return program.ops.flatMap((op): Tap[] => {
    if (op.op === 'linear') return [{ path: program.linears[op.weight]!.path, x: op.x }];
    if (op.op !== 'expertLinear') return [];
    const topK = program.tensors[op.ids]!.width;
    const perToken = program.tensors[op.x]!.rows === 'tokens';
    return op.linears.map((id, index) => ({ path: program.linears[id]!.path, x: op.x, expert: { ids: op.ids, index, topK, perToken } }));
  });
}

/** The program that gives the taps as outputs, and computes nothing else. */
function instrument(program: Program, taps: readonly Tap[]): Program {
  const needed = new Set(taps.flatMap(({ x, expert }) => (expert ? [x, expert.ids] : [x])));
  const outputs = Object.fromEntries([...needed].map((id) => [`tap.${id}`, id]));
  const ops: Op[] = [];
  for (const op of [...program.ops].reverse()) {
    if (op.op !== 'remember' && !opResults(op).some((id) => needed.has(id))) continue;
    ops.unshift(op);
    for (const id of opInputs(op)) needed.add(id);
  }
  return { ...program, ops, outputs };
}

/** Key of what is summed together: linears that read the same rows share it. */
const tapKey = ({ x, expert }: Tap): string => (expert ? `${x}/${expert.ids}/${expert.index}` : `${x}`);

/** The rows of the tap's tensor that its linear gets. */
function tapRows(
  tap: Tap,
  outputs: Readonly<Record<string, HostTensor>>,
  inputs: Readonly<Record<string, HostTensor>>,
): { readonly rows: Float32Array; readonly width: number } {
  const tensor = outputs[`tap.${tap.x}`] ?? inputs[`cut.${tap.x}`]!;
  const all = elements({ dtype: 'f32', data: tensor.data });
  const width = tensor.shape[1]!;
  if (!tap.expert) return { rows: all, width };
  const { index, topK, perToken, ids } = tap.expert;
  const chosen = [...elements({ dtype: 'i32', data: outputs[`tap.${ids}`]!.data })].flatMap((id, row) => (id === index ? [row] : []));
  const rows = new Float32Array(chosen.length * width);
  for (const [i, row] of chosen.entries()) {
    const from = perToken ? Math.floor(row / topK) : row;
    rows.set(all.subarray(from * width, (from + 1) * width), i * width);
  }
  return { rows, width };
}

function addRows(into: Sums, rows: Float32Array, kind: Importance['kind']): void {
  into.rows += rows.length / into.width;
  if (kind === 'matrix') addSquares(rows, into.width, into.sums);
  else for (let i = 0; i < rows.length; i++) into.sums[i % into.width]! += rows[i]! * rows[i]!;
}

function finish({ sums, rows, width }: Sums, kind: Importance['kind']): Importance {
  const moments = Float32Array.from(sums, (sum) => sum / rows);
  return { kind, moments: hostTensor('f32', kind === 'matrix' ? [width, width] : [width], moments), rows };
}

/** Of a weight that is used in two pieces. */
function merge(a: Importance, b: Importance): Importance {
  const rows = a.rows + b.rows;
  const other = elements({ dtype: 'f32', data: b.moments.data });
  const moments = elements({ dtype: 'f32', data: a.moments.data }).map((moment, i) => (moment * a.rows + other[i]! * b.rows) / rows);
  return { kind: a.kind, moments: hostTensor('f32', a.moments.shape, moments), rows };
}

/**
 * Mean second moments of the inputs of every linear, by module path: over all tokens of all samples, for an expert over the rows routed to it
 * (experts that got none are absent). Weights come from `loadWeight` once per layer that uses them. Sums are f64.
 * Throws ERR_BAD_ARGUMENT without samples, and what `Runtime.load` throws; nothing stays on the backend.
 *
 * @example
 * const importance = await collectImportance(program, { runtime, loadWeight, ids: samples, kind: 'diagonal' });
 * await quantize(weight, higgs({ bits: 4 }), { importance: importance.get('model.layers.0.mlp.down_proj') });
 */
export async function collectImportance(program: Program, options: ImportanceOptions): Promise<Map<string, Importance>> {
  const { ids, signal, onProgress, kind } = options ?? {};
  if (!Array.isArray(ids) || ids.length === 0 || ids.some((sample) => sample.length === 0))
    throw new LowbitError('ERR_BAD_ARGUMENT', 'importance needs samples of at least one token');
  const taps = findTaps(program);
  // What comes before the first layer and after the last are pieces of their own, so that their large tables are never held beside a layer.
  const counts = program.layers === 0 ? [0] : [0, ...new Array<number>(program.layers).fill(1), 0];
  const pieces = cutProgram(instrument(program, taps), counts);
  const carried: Map<string, HostTensor>[] = ids.map(() => new Map());
  const found = new Map<string, Importance>();
  for (const [at, piece] of pieces.entries()) {
    signal?.throwIfAborted();
    if (piece.program.ops.length > 0) {
      const made = taps.filter(
        ({ x, expert }) => `tap.${expert?.ids ?? x}` in piece.program.outputs && `tap.${x}` in piece.program.outputs,
      );
      const sums = await runPiece(piece, program, made, carried, options);
      const results = new Map([...sums].filter(([, { rows }]) => rows > 0).map(([key, value]) => [key, finish(value, kind)]));
      for (const tap of made) {
        const result = results.get(tapKey(tap));
        const before = found.get(tap.path);
        if (result) found.set(tap.path, before ? merge(before, result) : result);
      }
    }
    const later = new Set(pieces.slice(at + 1).flatMap(({ takes }) => takes));
    for (const tensors of carried) for (const name of [...tensors.keys()]) if (!later.has(name)) tensors.delete(name);
    onProgress?.({ phase: 'importance', done: at + 1, total: pieces.length, unit: 'layers' });
  }
  return found;
}

/** Loads one piece, passes every sample through it, and sums the inputs of its linears. */
async function runPiece(
  piece: ProgramPiece,
  program: Program,
  taps: readonly Tap[],
  carried: readonly Map<string, HostTensor>[],
  { runtime, loadWeight, ids, kind, signal }: ImportanceOptions,
): Promise<Map<string, Sums>> {
  const sums = new Map<string, Sums>();
  const contextLength = Math.max(...ids.map(({ length }) => length));
  const load: LoadWeight = (_, index) => loadWeight(program.linears[piece.linears[index]!]!, piece.linears[index]!);
  await using loaded = await runtime.load(piece.program, load, { contextLength, maxSequences: 1, signal });
  for (const [i, tokens] of ids.entries()) {
    const id = loaded.open();
    const inputs = Object.fromEntries(piece.takes.map((name) => [name, carried[i]!.get(name)!]));
    const outputs = await loaded.step([{ id, tokens, inputs, wanted: Uint32Array.from(tokens.keys()) }], { signal });
    loaded.close(id);
    for (const name of piece.gives) carried[i]!.set(name, outputs[name]!);
    const counted = new Set<string>();
    for (const tap of taps) {
      const key = tapKey(tap);
      if (counted.has(key)) continue;
      counted.add(key);
      const { rows, width } = tapRows(tap, outputs, inputs);
      const into = sums.get(key) ?? { width, sums: new Float64Array(kind === 'matrix' ? width * width : width), rows: 0 };
      sums.set(key, into);
      addRows(into, rows, kind);
    }
  }
  return sums;
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
