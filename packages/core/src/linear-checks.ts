// What a layer over a quantized weight takes: its runtime, its compute dtype, its bias and its x, checked.

import { byteLength, castFloat, elementCount, FLOAT_DTYPES, firstNonFinite } from './dtype.ts';
import type { LinearDType } from './linear-module.ts';
import { LowbitError } from './spec/errors.ts';
import type { HostTensor, Matrix } from './spec/tensor.ts';
import { assertTensor } from './tensor.ts';

/** Throws ERR_BAD_ARGUMENT unless `runtime` is one; `members` are what the caller needs of it. */
export function checkRuntime(runtime: unknown, members: readonly string[] = ['select', 'backend']): void {
  const missing = members.filter((name) => (runtime as Readonly<Record<string, unknown>> | null | undefined)?.[name] === undefined);
  if (missing.length === 0) return;
  throw new LowbitError(
    'ERR_BAD_ARGUMENT',
    runtime === undefined ? 'a layer needs the option runtime' : 'the option runtime is no runtime',
    {
      hint: 'Pass { runtime: await createRuntime({ backends: [referenceBackend()] }) }.',
      details: { option: 'runtime', missing },
    },
  );
}

/** Throws ERR_BAD_ARGUMENT for anything but the three dtypes that layers compute in. */
export function checkComputeDtype(dtype: LinearDType): void {
  if (dtype === 'f32' || dtype === 'f16' || dtype === 'bf16') return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `computeDtype cannot be ${String(dtype)}`, {
    hint: 'Use f32, f16 or bf16.',
    details: { option: 'computeDtype', value: dtype },
  });
}

/** Throws ERR_BAD_ARGUMENT for what is no tensor, ERR_TENSOR_MISMATCH unless `bias` is [out] floats. */
export function checkBias(bias: HostTensor, out: number): void {
  if (typeof bias !== 'object' || bias === null) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `bias: expected a HostTensor [${out}], got ${String(bias)}`, {
      hint: 'Leave bias out where there is none.',
      details: { tensor: 'bias' },
    });
  }
  assertTensor('bias', bias);
  if (!FLOAT_DTYPES.has(bias.dtype) || bias.shape.length !== 1 || bias.shape[0] !== out || bias.data.byteLength !== byteLength(bias)) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `a bias of ${bias.dtype} [${bias.shape.join(', ')}] for a linear of ${out} outputs`, {
      hint: `Pass ${out} floats.`,
      details: { tensor: 'bias', shape: bias.shape },
    });
  }
}

/** The bias in the dtype that the layer computes in. `name` is for messages. Throws ERR_NON_FINITE, and ERR_DTYPE_OVERFLOW where rounding gives infinity. */
export function castBias(bias: HostTensor, dtype: LinearDType, name = 'bias'): HostTensor {
  const broken = firstNonFinite(bias);
  if (broken >= 0) {
    throw new LowbitError('ERR_NON_FINITE', `${name}: element ${broken} is NaN or infinite`, {
      hint: 'The tensor is damaged or overflowed its dtype. Take another copy of the checkpoint.',
      details: { tensor: name, index: broken },
    });
  }
  const cast = castFloat(bias, dtype);
  const overflow = firstNonFinite(cast);
  if (overflow < 0) return cast;
  throw new LowbitError('ERR_DTYPE_OVERFLOW', `${name}: element ${overflow} does not fit ${dtype}`, {
    hint: dtype === 'f16' ? 'Compute in bf16 or f32.' : 'Compute in f32, or scale the weights.',
    details: { tensor: name, index: overflow, dtype },
  });
}

/** Rows of x. Throws ERR_TENSOR_MISMATCH, and ERR_BAD_ARGUMENT for an x without a shape. */
export function checkedRows(x: HostTensor, shape: Matrix): number {
  const [, inp] = shape;
  const known = x?.dtype === 'f32' || x?.dtype === 'f16' || x?.dtype === 'bf16';
  if (known) assertTensor('x', x);
  if (!known || x.shape.at(-1) !== inp || x.data.byteLength !== byteLength(x)) {
    const got = known ? `${x.dtype} [${x.shape.join(', ')}] of ${x.data.byteLength} bytes` : String(x?.dtype ?? typeof x);
    throw new LowbitError('ERR_TENSOR_MISMATCH', `x: a linear [${shape.join(', ')}] takes f32, f16 or bf16 [..., ${inp}], got ${got}`, {
      hint: 'The last extent is the number of inputs.',
      details: { tensor: 'x', shape: x?.shape },
    });
  }
  return elementCount(x.shape) / inp;
}
