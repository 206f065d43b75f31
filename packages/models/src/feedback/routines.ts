// The routines of feedback: a backend's where there is one. Their bytes are the same.

import { elements, float32Tensor, type HostTensor, hostTensor, type QuantizeContext, toFloat32 } from '@lowbit/core';
import { type DescentOptions, descend, type Rounded } from './descent.ts';
import { factor } from './factor.ts';
import { type ChannelGroup, codesOf, targetsOf } from './steps.ts';

/** Some rows of a weight, f32 [rows, in]; what they are off by so far, f32 [rows, in]; the coupling of `factor`, f32 [in, in]. */
export interface RowBlock {
  readonly weights: HostTensor;
  readonly errors: HostTensor;
  readonly coupling: HostTensor;
}

export interface FeedbackRoutines {
  /** Of a symmetric f32 [in, in]. Here it stops for the signal; a routine of a backend runs to its end. */
  factor(matrix: HostTensor, signal: AbortSignal | undefined): Promise<{ readonly coupling: HostTensor; readonly cost: Float64Array }>;
  /** f32 [rows, size]. */
  targets(block: RowBlock, group: ChannelGroup): Promise<HostTensor>;
  codes(
    block: RowBlock,
    grid: { readonly targets: HostTensor; readonly scale: Float32Array; readonly zero: Float32Array },
    group: ChannelGroup & { readonly levels: number },
  ): Promise<{ readonly codes: Uint8Array; readonly errors: Float32Array }>;
  /** Of weights f32 [rows, in], moments f32 [in, in] and what stands in their diagonal instead, f32 [in]. Stops for the signal as `factor` does. */
  descend(
    weights: HostTensor,
    costs: { readonly moments: HostTensor; readonly own: HostTensor },
    rounded: Rounded,
    options: DescentOptions,
    signal: AbortSignal | undefined,
  ): Promise<Rounded & { readonly errors: Float32Array<ArrayBuffer> }>;
}

const HERE: FeedbackRoutines = {
  async factor(matrix, signal) {
    const { coupling, cost } = await factor(toFloat32(matrix), matrix.shape[1]!, signal);
    return { coupling: hostTensor('f32', matrix.shape, coupling), cost };
  },
  async targets({ weights, errors, coupling }, group) {
    const rows = weights.shape[0]!;
    return float32Tensor([rows, group.size], targetsOf(toFloat32(weights), toFloat32(errors), toFloat32(coupling), rows, group));
  },
  async codes({ weights, coupling }, { targets, scale, zero }, { levels, ...group }) {
    return codesOf(toFloat32(targets), toFloat32(weights), scale, zero, toFloat32(coupling), group, levels);
  },
  async descend(weights, { moments, own }, rounded, options, signal) {
    const errors = await descend(toFloat32(weights), { moments: toFloat32(moments), own: toFloat32(own) }, rounded, options, signal);
    return { ...rounded, errors };
  },
};

/**
 * The routines of a backend, by what it has:
 * - `feedback.factor`: matrix f32 [in, in] -> coupling f32 [in, in], cost f64 [in]
 * - `feedback.targets` { from, size }: weights, errors, coupling -> targets f32 [rows, size]
 * - `feedback.codes` { from, size, levels }: targets, weights, scale f32 [rows], zero f32 [rows], coupling -> codes u8 [rows, size], errors f32 [rows, size]
 * - `feedback.descend` { size, levels, sweeps, scaleDtype, zeroDtype }: weights, codes u8 [rows, in], scale f32 [rows, groups], zero f32 [rows, groups], moments f32 [in, in],
 *   own f32 [in] -> codes, scale, zero, errors f32 [rows, in]
 */
export function feedbackRoutines(routine: QuantizeContext['routine']): FeedbackRoutines {
  const [factoring, aiming, rounding, descending] = (['factor', 'targets', 'codes', 'descend'] as const).map((name) =>
    routine?.(`feedback.${name}`),
  );
  return {
    factor: factoring
      ? async (matrix) => {
          const [coupling, cost] = await factoring([matrix], {});
          return { coupling: coupling!, cost: elements({ dtype: 'f64', data: cost!.data }) };
        }
      : HERE.factor,
    targets: aiming
      ? async ({ weights, errors, coupling }, { from, size }) => (await aiming([weights, errors, coupling], { from, size }))[0]!
      : HERE.targets,
    codes: rounding
      ? async ({ weights, coupling }, { targets, scale, zero }, { from, size, levels }) => {
          const numbers = [scale, zero].map((values) => hostTensor('f32', [values.length], values));
          const [codes, errors] = await rounding([targets, weights, ...numbers, coupling], { from, size, levels });
          return { codes: codes!.data, errors: toFloat32(errors!) };
        }
      : HERE.codes,
    descend: descending
      ? async (weights, { moments, own }, { codes, scale, zero }, { size, levels, sweeps, scaleDtype, zeroDtype }) => {
          const [rows, inputs] = weights.shape as readonly [number, number];
          const numbers = [scale, zero].map((values) => hostTensor('f32', [rows, inputs / size], values));
          const found = await descending([weights, hostTensor('u8', [rows, inputs], codes), ...numbers, moments, own], {
            ...{ size, levels, sweeps, scaleDtype, zeroDtype },
          });
          const [newScale, newZero, errors] = found.slice(1).map((tensor) => toFloat32(tensor).slice());
          return { codes: found[0]!.data, scale: newScale!, zero: newZero!, errors: errors! };
        }
      : HERE.descend,
  };
}
