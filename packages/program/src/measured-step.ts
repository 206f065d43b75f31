// A step as large as a size says, for backends that tell what it would take without running it.

import type { HostTensor, Program, SequenceId, StepSequence, StepSize } from '@lowbit/core';

/** Its numbers are never looked at. Every token is replaced where some may be. */
export function measuredStep(program: Program, id: SequenceId, { tokens, outputs, encoder }: StepSize): StepSequence {
  const zeros = (rows: number, width: number): HostTensor => ({
    dtype: 'f32',
    shape: [rows, width],
    data: new Uint8Array(4 * rows * width),
  });
  const inputs: Record<string, HostTensor> = {};
  const injections: Record<string, { readonly at: Uint32Array; readonly rows: HostTensor }> = {};
  for (const op of program.ops) {
    if (op.op !== 'input' && op.op !== 'inject') continue;
    const { rows, width } = program.tensors[op.out]!;
    const count = rows === 'encoder' ? encoder : rows === 'outputs' ? outputs : tokens;
    if (op.op === 'input') inputs[op.name] = zeros(count, width);
    else injections[op.name] = { at: Uint32Array.from({ length: tokens }, (_, i) => i), rows: zeros(tokens, width) };
  }
  const wanted = Uint32Array.from({ length: outputs }, (_, i) => tokens - outputs + i);
  return { id, tokens: new Uint32Array(tokens), wanted, inputs, injections };
}
