// What backends check alike before they multiply or compile.

import { byteLength } from '../dtype.ts';
import type { DeviceTensor, QuantizedLinear } from '../spec/backend.ts';
import { LowbitError } from '../spec/errors.ts';
import type { LinearUse } from '../spec/program.ts';
import type { HostTensor, Matrix } from '../spec/tensor.ts';

/** Throws ERR_TENSOR_MISMATCH unless the bias of a linear [out, in], if there is one, is [out] floats. */
export function checkLinearBias(bias: HostTensor | undefined, shape: Matrix): void {
  if (!bias || (bias.shape.length === 1 && bias.shape[0] === shape[0] && bias.data.byteLength === byteLength(bias))) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `a bias of [${bias.shape.join(', ')}] for a linear [${shape.join(', ')}]`, {
    hint: `Pass ${shape[0]} floats.`,
    details: { bias: bias.shape, shape },
  });
}

/** Rows of x in `forward(x, out)` of a linear [out, in]. Throws ERR_BAD_ARGUMENT unless x is [rows, in], and out another tensor [rows, out]. */
export function checkOperands([count, inp]: Matrix, x: DeviceTensor, out: DeviceTensor): number {
  const rows = x.shape[0] ?? 0;
  const fits = x.shape.length === 2 && x.shape[1] === inp && out.shape.length === 2 && out.shape[0] === rows && out.shape[1] === count;
  if (fits && x.slot !== out.slot) return rows;
  throw new LowbitError(
    'ERR_BAD_ARGUMENT',
    `a linear [${count}, ${inp}] takes x [rows, ${inp}] and another tensor [rows, ${count}], got [${x.shape.join(', ')}] and [${out.shape.join(', ')}]`,
    { hint: 'Allocate out as f32 [rows, out] with the same backend.', details: { x: x.shape, out: out.shape } },
  );
}

/** Throws ERR_BAD_ARGUMENT unless a linear fits its place in a program; `own` is whether the backend that compiles it holds it. */
export function checkLinearUse(use: LinearUse, linear: QuantizedLinear, { own }: { readonly own: boolean }): void {
  const where = `${use.path} [${use.shape.join(', ')}]`;
  const details = { path: use.path };
  if (!own) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${where} got a linear that this backend does not hold`, {
      hint: 'Prepare it with the backend that compiles the program. An adapter around a linear is written as operations of the program.',
      details,
    });
  }
  if (linear.shape[0] !== use.shape[0] || linear.shape[1] !== use.shape[1]) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${where} got a linear [${linear.shape.join(', ')}]`, { details });
  }
  if (use.bias !== undefined && !linear.bias) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `${where} has a bias, its linear was prepared without`, { details });
  }
}
