// Plays the same sequences through a program in different steps, and sorts what comes out by sequence: whatever the steps, a row's result is the same.

import {
  type Backend,
  DTYPE_BYTES,
  type Executable,
  type HostTensor,
  type Program,
  type QuantizedLinear,
  type QuantizedTensor,
  type SequenceId,
  type StepSequence,
} from '@lowbit/core';
import { numbers } from './compare.ts';

/** A program with its weights by path. */
export interface TestProgram {
  readonly program: Program;
  readonly weights: ReadonlyMap<string, QuantizedTensor>;
}

/** One sequence from start to end. */
export interface Script {
  readonly tokens: Uint32Array;
  /** Rows for all tokens. */
  readonly inputs?: Readonly<Record<string, HostTensor>>;
  /** Handed in with the first step. */
  readonly encoder?: Readonly<Record<string, HostTensor>>;
  /** `at` counts from the start of the sequence. */
  readonly injections?: Readonly<Record<string, { readonly at: Uint32Array; readonly rows: HostTensor }>>;
}

/** Steps; each a list of sequences with how many of their tokens come next. */
export type Schedule = readonly (readonly (readonly [sequence: number, count: number])[])[];

/** Every sequence in one step of its own. */
export function alone(scripts: readonly Script[]): Schedule {
  return scripts.map(({ tokens }, i) => [[i, tokens.length]]);
}

/** All sequences in one step, last first if `reversed`. */
export function together(scripts: readonly Script[], options: { readonly reversed?: boolean } = {}): Schedule {
  const step = scripts.map(({ tokens }, i) => [i, tokens.length] as const);
  return [options.reversed ? step.reverse() : step];
}

/** All sequences at once, `size` tokens at a time, until each has ended; sequence i starts i steps late. */
export function chunked(scripts: readonly Script[], size: number): Schedule {
  const left = scripts.map(({ tokens }) => tokens.length);
  const steps: (readonly [number, number])[][] = [];
  for (let at = 0; left.some((count) => count > 0); at++) {
    const step: (readonly [number, number])[] = [];
    for (const [i, count] of left.entries()) {
      if (count === 0 || at < i) continue;
      const next = Math.min(count, size);
      left[i] = count - next;
      step.push([i, next]);
    }
    steps.push(step);
  }
  return steps;
}

/** Prepares the weights of a program. */
export async function prepareWeights(backend: Backend, { program, weights }: TestProgram): Promise<QuantizedLinear[]> {
  const linears: QuantizedLinear[] = [];
  for (const { path, use, bias } of program.linears) {
    const weight = weights.get(path)!;
    linears.push(await backend.prepare(weight, { use, bias: bias === undefined ? undefined : program.constants[bias] }));
  }
  return linears;
}

/** Formats that the backend does not take, as a reason to skip; and operations it does not run. */
export function whyNot(backend: Backend, { program, weights }: TestProgram): string | undefined {
  const missing = [...new Set(program.ops.map(({ op }) => op))].filter((op) => !backend.ops.has(op));
  if (missing.length > 0) return `does not run ${missing.join(', ')}`;
  for (const { path, shape, use } of program.linears) {
    const support = backend.supports({ format: weights.get(path)!.format, shape, use });
    if (support.level === 'none') return `${use} of ${path}: ${support.reason}`;
  }
  return undefined;
}

/** Rows of one sequence by output name. */
export type Played = readonly Readonly<Record<string, readonly number[]>>[];

/** The part of a script that tokens [from, from + count) bring with them. All tokens' rows are wanted. */
export function scriptStep(script: Script, id: SequenceId, from: number, count: number): StepSequence {
  const inputs: Record<string, HostTensor> = {};
  for (const [name, { dtype, shape, data }] of Object.entries(script.inputs ?? {})) {
    const row = shape[1]! * DTYPE_BYTES[dtype];
    inputs[name] = { dtype, shape: [count, shape[1]!], data: data.subarray(from * row, (from + count) * row) };
  }
  if (from === 0) Object.assign(inputs, script.encoder);
  const injections: Record<string, { at: Uint32Array; rows: HostTensor }> = {};
  for (const [name, { at, rows }] of Object.entries(script.injections ?? {})) {
    const row = rows.shape[1]! * 4;
    const first = at.findIndex((index) => index >= from);
    const mine = at.filter((index) => index >= from && index < from + count);
    if (mine.length === 0) continue;
    injections[name] = {
      at: mine.map((index) => index - from),
      rows: { ...rows, shape: [mine.length, rows.shape[1]!], data: rows.data.subarray(first * row, (first + mine.length) * row) },
    };
  }
  return {
    id,
    tokens: script.tokens.slice(from, from + count),
    wanted: Uint32Array.from({ length: count }, (_, i) => i),
    length: script.tokens.length, // so that dynamic rotations do not depend on the schedule
    inputs,
    injections,
  };
}

/** Runs a schedule on new sequences and gives each sequence's rows, in order of its tokens. Closes the sequences. */
export async function play(executable: Executable, program: Program, scripts: readonly Script[], schedule: Schedule): Promise<Played> {
  const ids = scripts.map(() => executable.open());
  const done = scripts.map(() => 0);
  const played = scripts.map((): Record<string, number[]> => ({}));
  for (const step of schedule) {
    const batch = step.map(([i, count]) => scriptStep(scripts[i]!, ids[i]!, done[i]!, count));
    const outputs = await executable.step(batch);
    for (const [name, tensor] of Object.entries(outputs)) {
      const { rows, width } = program.tensors[program.outputs[name]!]!;
      const all = numbers(tensor);
      const tokens = step.reduce((sum, [, count]) => sum + count, 0);
      let at = 0;
      for (const [i, count] of step) {
        const encoder = done[i] === 0 ? (Object.values(scripts[i]!.encoder ?? {})[0]?.shape[0] ?? 0) : 0;
        // Routed rows are topK per token; topK follows from their number.
        const mine = rows === 'encoder' ? encoder * width : rows === 'routed' ? (all.length / tokens) * count : count * width;
        played[i]![name] ??= [];
        const list = played[i]![name];
        for (let k = at; k < at + mine; k++) list.push(all[k]!);
        at += mine;
      }
    }
    for (const [i, count] of step) done[i]! += count;
  }
  for (const id of ids) executable.close(id);
  return played;
}
