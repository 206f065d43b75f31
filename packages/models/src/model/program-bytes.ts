// What a compiled program takes besides its weights, known from the program alone.

import { type CacheUse, DTYPE_BYTES, opInputs, opResults, type Program, type RowDomain } from '@lowbit/core';

/** A step, and what its caches hold then. */
export interface StepSize {
  /** Sequences, each with `positions` cached tokens. */
  readonly sequences: number;
  readonly positions: number;
  /** New tokens of the step. */
  readonly tokens: number;
  /** Rows that are wanted. Default: one of each sequence. */
  readonly outputs?: number;
  /** Rows of an encoder's text, of each sequence. Default 0. */
  readonly encoder?: number;
  /** Of keys and values. Default f32. */
  readonly kvDtype?: 'f32' | 'f16' | 'bf16' | undefined;
}

/** Bytes of keys and values, and of the activations (f32) that are alive at one time; what a backend needs beside them, such as quantized rows, is its own. */
export function programBytes(program: Program, step: StepSize): { readonly cache: number; readonly activations: number } {
  const { sequences, positions, tokens, outputs = sequences, encoder = 0, kvDtype = 'f32' } = step;
  const perRow = ({ heads, keyDim, valueDim }: CacheUse): number => heads * (keyDim + valueDim) * DTYPE_BYTES[kvDtype];
  const cache = program.caches.reduce((sum, use) => sum + sequences * (use.rows === 'encoder' ? encoder : positions) * perRow(use), 0);
  const route = program.ops.find((op) => op.op === 'route');
  const rows: Readonly<Record<RowDomain, number>> = { tokens, outputs, routed: tokens * (route?.topK ?? 0), encoder: sequences * encoder };
  const bytes = (id: number): number => 4 * program.tensors[id]!.width * rows[program.tensors[id]!.rows];
  const last = new Map<number, number>();
  for (const [index, op] of program.ops.entries()) for (const id of [...opInputs(op), ...opResults(op)]) last.set(id, index);
  for (const id of Object.values(program.outputs)) last.set(id, program.ops.length);
  let alive = 0;
  let activations = 0;
  for (const [index, op] of program.ops.entries()) {
    for (const id of opResults(op)) alive += bytes(id);
    activations = Math.max(activations, alive);
    for (const id of new Set([...opInputs(op), ...opResults(op)])) if (last.get(id) === index) alive -= bytes(id);
  }
  return { cache, activations };
}
