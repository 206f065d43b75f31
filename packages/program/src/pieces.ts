// Runs the pieces of a cut program as one: sequences open in all of them, and the rows between pieces travel as host tensors.

import type { Executable, HostTensor, RowDomain, SequenceId, StepOutputs, StepSequence } from '@lowbit/core';
import { DTYPE_BYTES, LowbitError } from '@lowbit/core';
import type { ProgramPiece } from './cut.ts';

/** A piece and where it runs. */
export interface PieceRun {
  readonly piece: ProgramPiece;
  readonly executable: Executable;
}

/** Names and domains of what a step may hand in, over all pieces. */
export interface StepNames {
  readonly inputs: ReadonlyMap<string, RowDomain>;
  readonly injections: ReadonlySet<string>;
}

export function stepNames(pieces: readonly ProgramPiece[]): StepNames {
  const inputs = new Map<string, RowDomain>();
  const injections = new Set<string>();
  for (const { program, takes } of pieces) {
    for (const op of program.ops) {
      if (op.op === 'input' && !takes.includes(op.name)) inputs.set(op.name, program.tensors[op.out]!.rows);
      if (op.op === 'inject') injections.add(op.name);
    }
  }
  return { inputs, injections };
}

/** Throws ERR_BAD_ARGUMENT for names that no piece knows: a piece alone sees only its own. */
export function checkNames(batch: readonly StepSequence[], names: StepNames): void {
  for (const { id, inputs, injections } of batch) {
    for (const name of Object.keys(inputs ?? {})) {
      if (!names.inputs.has(name))
        throw new LowbitError('ERR_BAD_ARGUMENT', `sequence ${id}: the program takes no input '${name}'`, { details: { name } });
    }
    for (const name of Object.keys(injections ?? {})) {
      if (!names.injections.has(name))
        throw new LowbitError('ERR_BAD_ARGUMENT', `sequence ${id}: the program injects no '${name}'`, { details: { name } });
    }
  }
}

/** Rows of one sequence in a step, by domain. */
export function rowsOf(given: StepSequence, names: StepNames): Readonly<Record<RowDomain, number>> {
  let encoder = 0;
  for (const [name, rows] of names.inputs) if (rows === 'encoder') encoder = Math.max(encoder, given.inputs?.[name]?.shape[0] ?? 0);
  return { tokens: given.tokens.length, outputs: given.wanted?.length ?? 1, routed: 0, encoder };
}

/** Rows [from, from + count) of a tensor, as a view. */
function takeRows(tensor: HostTensor, from: number, count: number): HostTensor {
  const width = tensor.shape[1]!;
  const bytes = width * DTYPE_BYTES[tensor.dtype];
  return { dtype: tensor.dtype, shape: [count, width], data: tensor.data.subarray(from * bytes, (from + count) * bytes) };
}

/** The batch as one piece sees it: its own inputs and injections, and its rows of what earlier pieces gave. */
export function pieceBatch(
  batch: readonly StepSequence[],
  ids: readonly SequenceId[],
  piece: ProgramPiece,
  carried: ReadonlyMap<string, HostTensor>,
  names: StepNames,
): StepSequence[] {
  const wantedInputs = new Map<string, RowDomain>();
  const injected = new Set<string>();
  for (const op of piece.program.ops) {
    if (op.op === 'input') wantedInputs.set(op.name, piece.program.tensors[op.out]!.rows);
    if (op.op === 'inject') injected.add(op.name);
  }
  const before: Record<RowDomain, number> = { tokens: 0, outputs: 0, routed: 0, encoder: 0 };
  return batch.map((given, i) => {
    const rows = rowsOf(given, names);
    const inputs: Record<string, HostTensor> = {};
    for (const [name, domain] of wantedInputs) {
      const own = given.inputs?.[name];
      const earlier = carried.get(name);
      if (own) inputs[name] = own;
      else if (earlier) inputs[name] = takeRows(earlier, before[domain], rows[domain]);
    }
    for (const domain of ['tokens', 'outputs', 'encoder'] as const) before[domain] += rows[domain];
    const injections = Object.fromEntries(Object.entries(given.injections ?? {}).filter(([name]) => injected.has(name)));
    return { ...given, id: ids[i]!, inputs, injections };
  });
}

/** Splits a piece's outputs into those for the caller and those for later pieces. */
export function sortOutputs(
  outputs: StepOutputs,
  piece: ProgramPiece,
  carried: Map<string, HostTensor>,
  results: Record<string, HostTensor>,
): void {
  for (const [name, tensor] of Object.entries(outputs)) {
    if (piece.gives.includes(name)) carried.set(name, tensor);
    else results[name] = tensor;
  }
}
