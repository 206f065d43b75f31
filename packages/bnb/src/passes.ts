// Two routines of a backend that go over the same pieces of a weight one after the other: double quantization.

import { type DType, elements, type HostTensor, type JsonObject, type QuantizeContext, type Routine } from '@lowbit/core';
import type { Piece } from './chunks.ts';

/** `held` as packages/hqq/src/routines.ts says it: weights stay where the backend has them. */
type BackendRoutine = Routine & { readonly held?: Routine };

/** What goes to a backend, and whether the weights are there. */
export interface Passes {
  /** Asks for room for a whole weight, if the backend holds any: pieces come once then. `release` it when nothing is under way any more. */
  hold(dtype: DType, count: number): Promise<void>;
  /** Whether the piece from that weight on has come; then it may come without bytes. */
  has(from: number): boolean;
  /** The first (0) or second (1) routine. */
  call(pass: 0 | 1, piece: Piece, more: readonly HostTensor[], params: JsonObject): Promise<readonly HostTensor[]>;
  release(): Promise<void>;
}

/** Both routines, or undefined where backends do not have both. Weights are held where both are of one backend. */
export function passes(routine: QuantizeContext['routine'], names: readonly [string, string]): Passes | undefined {
  const [first, second] = names.map((name) => routine?.(name) as BackendRoutine | undefined);
  if (!first || !second) return undefined;
  const holder = first.held === second.held ? first.held : undefined;
  const brought = new Set<number>();
  let held: number | undefined;
  return {
    async hold(dtype, count) {
      const [number] = (await holder?.([], { hold: { dtype, count } })) ?? [];
      held = number && elements({ dtype: 'f64', data: number.data })[0];
    },
    has: (from) => brought.has(from),
    async call(pass, { weights, from }, more, params) {
      const inputs = [weights, ...more];
      if (held === undefined) return [first, second][pass]!(inputs, params);
      const outputs = await holder!(inputs, { held, first: from, routine: names[pass], params });
      brought.add(from);
      return outputs;
    },
    async release() {
      // A backend that is gone has given all back.
      if (held !== undefined) await holder!([], { release: held }).catch(() => {});
    },
  };
}
