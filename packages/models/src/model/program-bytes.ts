// What a compiled program takes besides its weights, known from the program alone: the account of a backend that gives none of its own.

import {
  type CacheUse,
  DTYPE_BYTES,
  elementCount,
  opConstants,
  opInputs,
  opResults,
  type Program,
  type RowDomain,
  type StepBytes,
  type StepSize,
} from '@lowbit/core';

/**
 * Keys and values, the activations (f32) that are alive at one time, and constants in f32: all that the reference backend holds. What others need beside them,
 * such as quantized rows, is theirs to say (`Backend.measure`).
 */
export function programBytes(program: Program, size: StepSize, kvDtype: 'f32' | 'f16' | 'bf16' = 'f32'): StepBytes {
  const { contextLength, sequences, tokens, outputs, encoder } = size;
  const perRow = ({ heads, keyDim, valueDim }: CacheUse): number => heads * (keyDim + valueDim) * DTYPE_BYTES[kvDtype];
  const cache = program.caches.reduce((sum, use) => sum + sequences * (use.rows === 'encoder' ? encoder : contextLength) * perRow(use), 0);
  const constants = [...new Set(program.ops.flatMap(opConstants))].reduce(
    (sum, id) => sum + DTYPE_BYTES.f32 * elementCount(program.constants[id]!.shape),
    0,
  );
  return { constants, scratch: alive(program, size.sequences, { tokens, outputs, encoder }), kept: 0, cache };
}

/** Bytes of the tensors of a step that are needed at the same time, at most. */
function alive(program: Program, sequences: number, each: Pick<StepSize, 'tokens' | 'outputs' | 'encoder'>): number {
  const topK = program.ops.find((op) => op.op === 'route')?.topK ?? 0;
  const rows: Readonly<Record<RowDomain, number>> = { ...each, routed: each.tokens * topK };
  const bytes = (id: number): number => DTYPE_BYTES.f32 * program.tensors[id]!.width * sequences * rows[program.tensors[id]!.rows];
  const last = new Map<number, number>();
  for (const [index, op] of program.ops.entries()) for (const id of [...opInputs(op), ...opResults(op)]) last.set(id, index);
  for (const id of Object.values(program.outputs)) last.set(id, program.ops.length);
  let now = 0;
  let most = 0;
  for (const [index, op] of program.ops.entries()) {
    for (const id of opResults(op)) now += bytes(id);
    most = Math.max(most, now);
    for (const id of new Set([...opInputs(op), ...opResults(op)])) if (last.get(id) === index) now -= bytes(id);
  }
  return most;
}
