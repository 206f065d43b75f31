// Runs a family's program against its golden folder.

import { elements, type HostTensor, type Program, type Runtime, type StepSequence, toFloat32 } from '@lowbit/core';
import { type LoadedProgram, loadProgram } from '@lowbit/models';
import { goldenJson, goldenTensors } from '../../fixtures/golden.ts';
import type { Tensors } from './parts.ts';

/** Largest |got - expected| of logits, and of hidden states in units of their largest; fixtures/golden/models/cases.json has the reason. */
export const TOLERANCE = 2e-4;

/** What a golden folder holds. `C` is what a family reads of config.json. */
export class Golden<C> {
  readonly config: C;
  readonly tensors: Tensors;
  readonly #expected: Tensors;

  constructor(folder: string) {
    this.config = goldenJson<C>(`models/${folder}/config.json`);
    this.tensors = goldenTensors(`models/${folder}/model.safetensors`);
    this.#expected = goldenTensors(`models/${folder}/expected.safetensors`);
  }

  /** An expected tensor, or one entry of its first dimension. */
  get(name: string, entry?: number): HostTensor {
    const tensor = this.#expected.get(name);
    if (!tensor) throw new Error(`nothing is expected of ${name}`);
    if (entry === undefined) return tensor;
    const bytes = tensor.data.byteLength / tensor.shape[0]!;
    return { ...tensor, shape: tensor.shape.slice(1), data: tensor.data.slice(entry * bytes, (entry + 1) * bytes) };
  }

  ids(name: string, entry = 0): Uint32Array {
    return Uint32Array.from(elements({ dtype: 'i64', data: this.get(name, entry).data }), Number);
  }

  /** One row of a padded batch: its tokens, and where they begin. */
  unpadded(entry: number): { readonly tokens: Uint32Array; readonly from: number } {
    const mask = this.ids('batch.attention_mask', entry);
    return { tokens: this.ids('batch.input_ids', entry).filter((_, i) => mask[i] === 1), from: mask.indexOf(1) };
  }
}

/** Loads a program with the checkpoint's own weights, unquantized. */
export function load(runtime: Runtime, program: Program, tensors: Tensors): Promise<LoadedProgram> {
  const weightOf = ({ path, shape }: Program['linears'][number]) => {
    const { dtype, data } = tensors.get(`${path}.weight`)!;
    return { weight: { format: { kind: 'dense' as const, dtype }, shape, parts: { weight: { dtype, shape, data } } } };
  };
  return loadProgram(runtime, program, async (use) => weightOf(use), { contextLength: 80 });
}

export const every = (tokens: Uint32Array): Uint32Array => tokens.map((_, i) => i);

/** Largest |got - expected|; not a number where the sizes differ. */
export function difference(got: HostTensor | Float32Array, expected: HostTensor | Float32Array): number {
  const [a, b] = [got, expected].map((values) => (values instanceof Float32Array ? values : toFloat32(values)));
  if (a!.length !== b!.length) return Number.NaN;
  return a!.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b![i]!)), 0);
}

/** `difference` in units of the largest expected magnitude, at least 1. */
export function relativeDifference(got: HostTensor, expected: HostTensor): number {
  return difference(got, expected) / toFloat32(expected).reduce((largest, value) => Math.max(largest, Math.abs(value)), 1);
}

function largest(row: Float32Array): number {
  return row.reduce((best, value, i) => (value > row[best]! ? i : best), 0);
}

export interface Continued {
  readonly tokens: readonly number[];
  /** [count, vocab]. */
  readonly logits: Float32Array;
}

/** Greedy continuation of new sequences, all in one step each time: `first` is what each begins with. */
export async function continueAll(
  model: LoadedProgram,
  first: readonly Omit<StepSequence, 'id' | 'wanted'>[],
  count: number,
): Promise<readonly Continued[]> {
  const ids = first.map(() => model.open());
  const tokens: number[][] = first.map(() => []);
  const rows: Float32Array[][] = first.map(() => []);
  for (let step = 0; step < count; step++) {
    const batch = ids.map((id, i) => (step === 0 ? { ...first[i]!, id } : { id, tokens: Uint32Array.of(tokens[i]!.at(-1)!) }));
    const { logits } = await model.step(batch, { outputs: ['logits'] });
    const vocab = logits!.shape[1]!;
    for (const i of ids.keys()) {
      const row = toFloat32(logits!).slice(i * vocab, (i + 1) * vocab);
      rows[i]!.push(row);
      tokens[i]!.push(largest(row));
    }
  }
  for (const id of ids) model.close(id);
  return tokens.map((list, i) => ({ tokens: list, logits: Float32Array.from(rows[i]!.flatMap((row) => [...row])) }));
}
