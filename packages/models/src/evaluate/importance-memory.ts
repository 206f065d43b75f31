// What moments of a model's layers take in memory, from its shapes alone.

import { type CallOptions, type Checkpoint, type Importance, LowbitError, type ModelAdapter, type Program } from '@lowbit/core';
import { checkCheckpoint } from '../arguments.ts';
import { kindOf, type MomentKinds } from './collect-importance.ts';
import { waitingBytes } from './moment-sums.ts';
import { openProgram } from './open-program.ts';
import { inputsByLayer, type LayerInput } from './stream-inputs.ts';

/** Of `layerImportance`, unasked. */
export const DEFAULT_MEMORY = 16 * 2 ** 30;

/** Bytes for each pair of channels of the input at hand: 16 while it is summed, f64 sums and what is added to them; 20 while feedback factors it, f64 and three f32. */
const PAIR_BYTES = 20;
const SUM_BYTES = 8;

/** What `importanceMemory` gives. */
export interface ImportanceMemory {
  /** Of the layer that takes most, by count: inputs that wait, and the matrix at hand while it is summed, and factored by `withFeedback`. */
  readonly bytes: number;
  /** That layer; -1 in front of the first, their number behind the last. */
  readonly layer: number;
  /** Those of the linears asked for that the model runs on texts, in its order: others have no moments. */
  readonly linears: readonly string[];
}

/** Of `importanceMemory`. */
export interface ImportanceMemoryOptions extends Pick<CallOptions, 'signal'> {
  /** Tokens of all samples together. */
  readonly tokens: number;
  /** Linears whose moments are asked for; default all. */
  readonly paths?: Iterable<string> | undefined;
  /** As of `layerImportance`; default `matrix`. */
  readonly kind?: MomentKinds | undefined;
  /** Architectures beyond the built-in ones; they are asked first. */
  readonly adapters?: readonly ModelAdapter[] | undefined;
}

/**
 * What `layerImportance` will hold of moments beside one layer's weights, before anything is run; headers and norms are read. Throws what `layerImportance` throws for models that cannot
 * be run.
 *
 * @example
 * const { bytes } = await importanceMemory(checkpoint, { tokens: 8192 });
 */
export async function importanceMemory(checkpoint: Checkpoint, options: ImportanceMemoryOptions): Promise<ImportanceMemory> {
  checkCheckpoint('importanceMemory', checkpoint);
  const { tokens, paths, kind = 'matrix', adapters = [], signal } = options;
  if (!(Number.isSafeInteger(tokens) && tokens > 0)) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `importanceMemory: tokens cannot be ${tokens}`, {
      hint: 'Give how many tokens all samples have together.',
      details: { option: 'tokens', value: tokens },
    });
  }
  const { program } = await openProgram(checkpoint, adapters, 'what errors cost', signal);
  return programMemory(program, { tokens, kind, paths: paths && new Set(paths) });
}

interface Asked {
  readonly tokens: number;
  readonly kind: MomentKinds;
  readonly paths?: ReadonlySet<string> | undefined;
}

function programMemory(program: Program, asked: Asked): ImportanceMemory {
  const isAsked = (path: string): boolean => asked.paths?.has(path) ?? true;
  let most = { bytes: 0, layer: -1 };
  const linears: string[] = [];
  for (const { layer, inputs } of inputsByLayer(program)) {
    const own = inputs.filter(({ paths }) => paths.some(isAsked));
    linears.push(...own.flatMap(({ paths }) => paths.filter(isAsked)));
    const bytes = layerBytes(
      own.map((input) => ({ ...input, kind: kindOf(asked.kind, input.paths) })),
      asked.tokens,
    );
    if (bytes > most.bytes) most = { bytes, layer };
  }
  return { ...most, linears: [...new Set(linears)] };
}

/** Of a layer with those inputs. */
export function layerBytes(all: readonly (LayerInput & { readonly kind: Importance['kind'] })[], tokens: number): number {
  const inputs = all.filter(({ kind }) => kind === 'matrix');
  const shared = new Map<string, { rows: number; width: number; bytes: number }>();
  let waiting = all.reduce((sum, { width, kind }) => sum + (kind === 'diagonal' ? SUM_BYTES * width : 0), 0);
  for (const { width, share } of inputs) {
    // Nobody knows how many rows each expert gets: together they get those of all tokens.
    const rows = tokens * (share?.perToken ?? 1);
    const bytes = waitingBytes(rows, width);
    if (!share) waiting += bytes;
    else {
      const own = shared.get(share.of) ?? { rows, width, bytes: 0 };
      own.bytes += bytes;
      shared.set(share.of, own);
    }
  }
  for (const { rows, width, bytes } of shared.values()) waiting += Math.min(bytes, 4 * rows * width);
  return waiting + PAIR_BYTES * Math.max(0, ...inputs.map(({ width }) => width)) ** 2;
}

/** Throws ERR_LIMIT where a layer takes more than `momentMemory`. */
export function checkImportanceMemory(program: Program, { momentMemory, ...asked }: Asked & { readonly momentMemory: number }): void {
  const { bytes, layer } = programMemory(program, asked);
  if (bytes <= momentMemory) return;
  throw new LowbitError('ERR_LIMIT', `the second moments of layer ${layer} take ${bytes} bytes, more than ${momentMemory}`, {
    hint: 'Raise momentMemory, or quantize its widest linears without feedback.',
    details: { bytes, layer, momentMemory },
  });
}
