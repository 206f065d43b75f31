// The inputs of every linear of a model, from sample tokens, while only one layer's weights are anywhere.
//
// The model runs layer by layer: the program is cut at every layer, each piece also gives the inputs of its linears, and all samples pass through
// a piece before the next is loaded. Between pieces the residual stream waits on the host.

import {
  type CallOptions,
  elements,
  type HostTensor,
  LowbitError,
  type Op,
  opInputs,
  opResults,
  type Program,
  type TensorId,
} from '@lowbit/core';
import { cutProgram, type LoadWeight, loadProgram, type ProgramPiece, type ProgramRuntime } from '@lowbit/program';

/** Rows that some linears get: those of one sample. */
export interface InputRows {
  /** Module paths of the linears that read these rows; experts read rows of their own. */
  readonly paths: readonly string[];
  /** f32 [rows, width]; none for an expert that no token of the sample reached. A view, valid during the call. */
  readonly rows: Float32Array;
  readonly width: number;
  /** The same for all samples, and for no other rows. */
  readonly key: string;
  /** Index of the sample. */
  readonly sample: number;
}

/** How far samples have come: pieces that they went through, and what waits on the host for the next, sample by sample. */
export interface StreamState {
  readonly done: number;
  readonly carried: readonly ReadonlyMap<string, HostTensor>[];
}

export interface StreamInputsOptions extends CallOptions {
  readonly runtime: ProgramRuntime;
  readonly loadWeight: LoadWeight;
  /** Samples: token ids, each a sequence of its own from position 0. */
  readonly ids: readonly Uint32Array[];
  /** Called with the rows of every input, sample by sample, layer by layer; waited for. */
  readonly onRows: (rows: InputRows) => void | Promise<void>;
  /** Called when all samples went through a layer; waited for. */
  readonly onLayer?: (state: StreamState) => void | Promise<void>;
  /** Where an earlier call was left: what it did is not done again. */
  readonly from?: StreamState | undefined;
  /** Name of the progress events' phase. */
  readonly phase: string;
}

/** Input of one linear: a tensor, and for an expert which of its rows. */
interface Tap {
  readonly path: string;
  readonly x: TensorId;
  readonly expert?: { readonly ids: TensorId; readonly index: number; readonly topK: number; readonly perToken: boolean };
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

/** What is given together: linears that read the same rows share it. */
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

/** Linears that read the same rows. */
interface TapGroup {
  readonly tap: Tap;
  readonly paths: readonly string[];
}

/** Taps of a piece by what they read. */
function grouped(taps: readonly Tap[]): readonly TapGroup[] {
  const groups = new Map<string, TapGroup & { readonly paths: string[] }>();
  for (const tap of taps) {
    const group = groups.get(tapKey(tap));
    if (group) group.paths.push(tap.path);
    else groups.set(tapKey(tap), { tap, paths: [tap.path] });
  }
  return [...groups.values()];
}

/** A piece and the taps that it gives. */
interface TappedPiece {
  readonly piece: ProgramPiece;
  readonly groups: readonly TapGroup[];
}

/** The pieces that samples pass through one after another. */
function tappedPieces(program: Program): readonly TappedPiece[] {
  const taps = findTaps(program);
  // What comes before the first layer and after the last are pieces of their own, so that their large tables are never held beside a layer.
  const counts = program.layers === 0 ? [0] : [0, ...new Array<number>(program.layers).fill(1), 0];
  return cutProgram(instrument(program, taps), counts).map((piece) => {
    const { outputs } = piece.program;
    return { piece, groups: grouped(taps.filter(({ x, expert }) => `tap.${expert?.ids ?? x}` in outputs && `tap.${x}` in outputs)) };
  });
}

/** An input of linears, as `streamInputs` will hand out its rows. */
export interface LayerInput {
  readonly paths: readonly string[];
  readonly width: number;
  /** Of an expert: what its rows are shared with, by a name, and how many rows there are of a token. */
  readonly share?: { readonly of: string; readonly perToken: number };
}

/** All inputs, by the layers whose rows come before those of the next: -1 for what is in front of the first. */
export function inputsByLayer(program: Program): readonly { readonly layer: number; readonly inputs: readonly LayerInput[] }[] {
  return tappedPieces(program).map(({ groups }, at) => ({
    layer: at - 1,
    inputs: groups.map(({ tap: { x, expert }, paths }) => ({
      paths,
      width: program.tensors[x]!.width,
      ...(expert ? { share: { of: `${x}/${expert.ids}`, perToken: expert.topK } } : {}),
    })),
  }));
}

/**
 * Runs samples through a program and hands out the inputs of its linears. Weights come from `loadWeight` once per layer that uses them.
 * Throws ERR_BAD_ARGUMENT without samples, and what `loadProgram` and `onRows` throw; nothing stays on the backend.
 */
export async function streamInputs(program: Program, options: StreamInputsOptions): Promise<void> {
  const { ids, signal, onProgress, phase } = options;
  if (!Array.isArray(ids) || ids.length === 0 || ids.some((sample) => sample.length === 0))
    throw new LowbitError('ERR_BAD_ARGUMENT', 'layers need samples of at least one token', {
      hint: 'Pass ids: [randomTokens(vocab, 256)], or token ids of texts.',
    });
  const tapped = tappedPieces(program);
  const pieces = tapped.map(({ piece }) => piece);
  const { done, carried } = startOf(options, pieces);
  for (const [at, { piece, groups }] of tapped.entries()) {
    if (at < done) continue;
    signal?.throwIfAborted();
    if (piece.program.ops.length > 0) await runPiece(piece, program, groups, carried, options);
    const later = new Set(pieces.slice(at + 1).flatMap(({ takes }) => takes));
    for (const tensors of carried) for (const name of [...tensors.keys()]) if (!later.has(name)) tensors.delete(name);
    await options.onLayer?.({ done: at + 1, carried });
    onProgress?.({ phase, done: at + 1, total: pieces.length, unit: 'layers' });
  }
}

/** Throws ERR_BAD_ARGUMENT for a state that is not of these samples and this program. */
function startOf(
  { ids, from }: StreamInputsOptions,
  pieces: readonly ProgramPiece[],
): { readonly done: number; readonly carried: Map<string, HostTensor>[] } {
  if (!from) return { done: 0, carried: ids.map(() => new Map()) };
  const { done, carried } = from;
  const takes = pieces[done]?.takes ?? [];
  const fits =
    done >= 0 && done <= pieces.length && carried.length === ids.length && carried.every((of) => takes.every((name) => of.has(name)));
  if (fits) return { done, carried: carried.map((of) => new Map(of)) };
  throw new LowbitError('ERR_BAD_ARGUMENT', 'the state to go on from is not of this model and these samples', {
    hint: 'Start over, without it.',
    details: { done, layers: pieces.length, samples: carried.length },
  });
}

/** Loads one piece, passes every sample through it, and hands out the inputs of its linears. */
async function runPiece(
  piece: ProgramPiece,
  program: Program,
  groups: readonly TapGroup[],
  carried: readonly Map<string, HostTensor>[],
  { runtime, loadWeight, ids, onRows, signal }: StreamInputsOptions,
): Promise<void> {
  const contextLength = Math.max(...ids.map(({ length }) => length));
  const load: LoadWeight = (_, index) => loadWeight(program.linears[piece.linears[index]!]!, piece.linears[index]!);
  await using loaded = await loadProgram(runtime, piece.program, load, { contextLength, maxSequences: 1, signal });
  for (const [sample, tokens] of ids.entries()) {
    const id = loaded.open();
    const inputs = Object.fromEntries(piece.takes.map((name) => [name, carried[sample]!.get(name)!]));
    const outputs = await loaded.step([{ id, tokens, inputs, wanted: Uint32Array.from(tokens.keys()) }], { signal });
    signal?.throwIfAborted();
    loaded.close(id);
    for (const name of piece.gives) carried[sample]!.set(name, outputs[name]!);
    for (const { tap, paths } of groups) await onRows({ ...tapRows(tap, outputs, inputs), paths, sample, key: tapKey(tap) });
  }
}
