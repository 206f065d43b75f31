// From what channels get of random tokens to what they may get of texts.
//
// A channel that is loud on random tokens is loud on texts, and about as loud as the others behind a norm: there, moments of the two differ little. What attention or
// an activation gave differs far more, and not evenly: a channel that random tokens leave quiet gets, on average, nearly what an ordinary one gets.
// Both are told by adding a share of the median to every moment, on two models (docs/decisions/044-random-tokens-and-texts.md). Loud channels keep their distance, which a power would take from them.

import { float32Tensor, type Importance, type Op, opResults, type Program, type TensorId, toFloat32 } from '@lowbit/core';

/** Shares of the median: of inputs that a norm, or the residual stream, gives, and of those that attention or an activation does. */
const STREAM = 0.5;
const INNER = 4;

/** The importance that moments of uniformly random tokens are for other texts; of a matrix of moments the diagonal changes. Paths that the program does not have stay as they are. */
export function dampImportance(program: Program, found: ReadonlyMap<string, Importance>): Map<string, Importance> {
  const shares = sharesOf(program);
  return new Map([...found].map(([path, importance]) => [path, damped(importance, shares.get(path) ?? 0)]));
}

function sharesOf(program: Program): ReadonlyMap<string, number> {
  const made = new Map<TensorId, Op>();
  for (const op of program.ops) for (const id of opResults(op)) made.set(id, op);
  const shares = new Map<string, number>();
  for (const op of program.ops) {
    if (op.op !== 'linear' && op.op !== 'expertLinear') continue;
    const share = isInner(op.x, made) ? INNER : STREAM;
    // A weight that is used twice, such as a tied head, gets what its least certain input needs.
    for (const id of op.op === 'linear' ? [op.weight] : op.linears) {
      const { path } = program.linears[id]!;
      shares.set(path, Math.max(share, shares.get(path) ?? 0));
    }
  }
  return shares;
}

/** Whether a tensor is what attention or an activation gave, as it was or scaled or cut. */
function isInner(id: TensorId, made: ReadonlyMap<TensorId, Op>): boolean {
  const op = made.get(id);
  switch (op?.op) {
    case 'attend':
    case 'activate':
    case 'gate':
      return true;
    case 'combine':
    case 'scale':
    case 'select':
    case 'slice':
      return isInner(op.x, made);
    default:
      return false;
  }
}

function damped(importance: Importance, share: number): Importance {
  const moments = toFloat32(importance.moments).slice();
  const width = importance.moments.shape[0]!;
  const step = importance.kind === 'matrix' ? width + 1 : 1;
  const diagonal = Float32Array.from({ length: width }, (_, i) => moments[i * step]!).sort();
  const added = share * diagonal[width >> 1]!;
  for (let i = 0; i < width; i++) moments[i * step]! += added;
  return { ...importance, moments: float32Tensor([...importance.moments.shape], moments) };
}
