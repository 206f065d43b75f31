// Rows that a step brings from outside of a program, joined over its sequences.

import { elements, toFloat32 } from '../dtype.ts';
import type { SequenceState, Share, StepPlan } from '../reference/batch.ts';

/** Rows of the `input` operation `name`, of `width` numbers each: zeros for a sequence that brings none. */
export function inputRows(
  name: string,
  { rows: domain, width }: { readonly rows: string; readonly width: number },
  { shares, rows }: StepPlan<SequenceState>,
): Float32Array {
  const own = domain as 'tokens' | 'outputs' | 'encoder'; // nobody brings routed rows
  const values = new Float32Array(rows[own] * width);
  for (const share of shares) {
    const tensor = share.given.inputs?.[name];
    if (tensor) values.set(elements({ dtype: 'f32', data: tensor.data }), share[own].from * width);
  }
  return values;
}

/** Rows of the `inject` operation `name`: which rows of tokens they replace, ascending, and their numbers. */
export function injectedRows(
  name: string,
  shares: readonly Share<SequenceState>[],
): { readonly at: Uint32Array; readonly values: Float32Array } {
  const at: number[] = [];
  const parts: Float32Array[] = [];
  for (const { given, tokens } of shares) {
    const injection = given.injections?.[name];
    if (!injection) continue;
    for (const index of injection.at) at.push(tokens.from + index);
    parts.push(toFloat32(injection.rows));
  }
  const values = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let from = 0;
  for (const part of parts) {
    values.set(part, from);
    from += part.length;
  }
  return { at: Uint32Array.from(at), values };
}
