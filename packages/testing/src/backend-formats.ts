// Cases about single weights: what `supports` says, and what `prepare`, `forward`, `dequantize` and row look-up give.

import {
  type Backend,
  codecFor,
  type Format,
  type HostTensor,
  hostTensor,
  type LinearRequest,
  type Matrix,
  type QuantizedTensor,
  toFloat32,
} from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/program';
import type { SuiteContext } from './backend.ts';
import { checkClose } from './compare.ts';
import { formatSamples, sampleWeight } from './formats.ts';
import { type Case, check, checkThrows } from './kit.ts';
import { seededTensor } from './random.ts';

function request(weight: QuantizedTensor, use: LinearRequest['use'] = 'linear'): LinearRequest {
  return { format: weight.format, shape: weight.shape, use };
}

/** Why a backend does not take a weight; undefined if it does. */
function refusal(backend: Backend, asked: LinearRequest): string | undefined {
  const support = backend.supports(asked);
  if (support.level !== 'none') {
    check(Number.isFinite(support.bytes) && support.bytes > 0, `supports gives ${support.bytes} bytes`);
    return undefined;
  }
  check(support.reason.length > 0, 'a format that is not supported needs a reason');
  return support.reason;
}

/** x W^T + bias by the codec's numbers, in float64. */
function expectedProduct(
  weight: QuantizedTensor,
  x: HostTensor,
  bias: HostTensor | undefined,
  rows?: readonly [from: number, to: number],
): Float32Array {
  const [from, to] = rows ?? [0, weight.shape[0]];
  const inp = weight.shape[1];
  const w = toFloat32(codecFor(weight.format).dequantize(weight, { from, to }));
  const values = toFloat32(x);
  const added = bias && toFloat32(bias);
  const out = new Float32Array(x.shape[0]! * (to - from));
  for (let row = 0; row < x.shape[0]!; row++) {
    for (let i = from; i < to; i++) {
      let sum = 0;
      for (let k = 0; k < inp; k++) sum += values[row * inp + k]! * w[(i - from) * inp + k]!;
      out[row * (to - from) + i - from] = sum + (added?.[i] ?? 0);
    }
  }
  return out;
}

/** Runs one forward through device tensors. */
async function product(
  backend: Backend,
  weight: QuantizedTensor,
  x: HostTensor,
  bias?: HostTensor,
  offloadMeta = false,
): Promise<Float32Array> {
  using linear = await backend.prepare(weight, { bias, offloadMeta });
  check(linear.bias === (bias !== undefined), `linear.bias is ${linear.bias}`);
  const input = backend.alloc(x);
  const output = backend.alloc({ dtype: 'f32', shape: [x.shape[0]!, weight.shape[0]] });
  try {
    backend.write(input, x.data);
    linear.forward(input, output);
    return toFloat32(await backend.read(output)).slice();
  } finally {
    backend.free(input);
    backend.free(output);
  }
}

async function checkLookUp(backend: Backend, weight: QuantizedTensor, tolerance: number): Promise<unknown> {
  const asked = request(weight, 'embedding');
  const reason = backend.ops.has('embed') ? refusal(backend, asked) : 'does not run embed';
  if (reason) return reason;
  const b = new ProgramBuilder({ layers: 0 });
  b.output('rows', b.embed(b.addLinear('table', weight.shape, { use: 'embedding' })));
  using linear = await backend.prepare(weight, { use: 'embedding' });
  using executable = await backend.compile(b.build(), [linear], { contextLength: 64 });
  const [out, inp] = weight.shape;
  const tokens = Uint32Array.of(out - 1, 0, Math.floor(out / 2), 0);
  const { rows } = await executable.step([{ id: executable.open(), tokens }]);
  const all = toFloat32(codecFor(weight.format).dequantize(weight));
  const expected = Float32Array.from([...tokens].flatMap((token) => [...all.subarray(token * inp, (token + 1) * inp)]));
  checkClose('rows', toFloat32(rows!), expected, tolerance);
}

/** Formats that no backend can know, or that cannot hold their shape. */
const UNKNOWN: readonly (readonly [name: string, format: Format, shape: Matrix])[] = [
  ["a third party's format without a codec", { kind: 'nobody:knows', params: {} }, [8, 8]],
  [
    'a packing that does not exist',
    { kind: 'affine', levels: 16, group: 8, axis: 1, scale: 'f16', zero: 'f16', packing: 'no such packing' },
    [8, 8],
  ],
  [
    'a group that does not divide the weight',
    { kind: 'affine', levels: 16, group: 7, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' },
    [8, 8],
  ],
];

export function formatCases({ backend, tolerances, options }: SuiteContext): readonly Case[] {
  const cases: Case[] = [];
  for (const { name, weight } of formatSamples()) {
    const tolerance = weight.format.kind === 'int8' ? tolerances.int8 : tolerances.linear;
    const group = `format: ${name}`;
    const bias = seededTensor(5, [weight.shape[0]]);
    cases.push(
      {
        group,
        name: 'forward for 1, 3 and 65 rows, with and without a bias',
        async run() {
          const subject = await backend();
          const reason = refusal(subject, request(weight));
          if (reason) return reason;
          for (const rows of [1, 3, 65]) {
            const x = seededTensor(rows, [rows, weight.shape[1]], 1);
            checkClose(`${rows} rows`, await product(subject, weight, x), expectedProduct(weight, x, undefined), tolerance);
            checkClose(`${rows} rows with a bias`, await product(subject, weight, x, bias), expectedProduct(weight, x, bias), tolerance);
          }
        },
      },
      {
        group,
        name: 'the product of a row does not depend on the rows beside it',
        async run() {
          const subject = await backend();
          const reason = refusal(subject, request(weight));
          if (reason) return reason;
          const [out, inp] = weight.shape;
          const x = seededTensor(9, [9, inp], 1);
          const all = await product(subject, weight, x);
          for (const row of [0, 4, 8]) {
            const one: HostTensor = { dtype: 'f32', shape: [1, inp], data: x.data.subarray(row * inp * 4, (row + 1) * inp * 4) };
            checkClose(`row ${row}`, await product(subject, weight, one), all.subarray(row * out, (row + 1) * out), tolerances.batch);
          }
        },
      },
      {
        group,
        name: "dequantize gives the codec's numbers, and bytes are as announced",
        async run() {
          const subject = await backend();
          const reason = refusal(subject, request(weight));
          if (reason) return reason;
          const support = subject.supports(request(weight));
          const before = subject.allocated();
          const linear = await subject.prepare(weight);
          check(support.level !== 'none' && linear.bytes === support.bytes, `${linear.bytes} bytes, announced: ${JSON.stringify(support)}`);
          check(
            subject.allocated() - before >= linear.bytes,
            `allocated grew by ${subject.allocated() - before} for a linear of ${linear.bytes} bytes`,
          );
          const values = await linear.dequantize();
          check(
            values.dtype === 'f32' && values.shape[0] === weight.shape[0] && values.shape[1] === weight.shape[1],
            `got ${values.dtype} [${values.shape.join(', ')}]`,
          );
          checkClose('dequantize', toFloat32(values), toFloat32(codecFor(weight.format).dequantize(weight)), tolerances.dequantize);
          linear[Symbol.dispose]();
          check(subject.allocated() === before, `${subject.allocated() - before} bytes are still held after dispose`);
        },
      },
      {
        group,
        name: 'offloaded scales, zeros and tables take no more device memory and change no number',
        async run() {
          const subject = await backend();
          const offloaded = { ...request(weight), offloadMeta: true };
          const reason = refusal(subject, offloaded);
          if (reason) return reason;
          const support = subject.supports(offloaded);
          const x = seededTensor(3, [3, weight.shape[1]], 1);
          using plain = await subject.prepare(weight);
          using linear = await subject.prepare(weight, { offloadMeta: true });
          check(support.level !== 'none' && linear.bytes === support.bytes, `${linear.bytes} bytes, announced: ${JSON.stringify(support)}`);
          check(linear.bytes <= plain.bytes, `${linear.bytes} bytes, ${plain.bytes} with scales and zeros on the device`);
          checkClose('3 rows', await product(subject, weight, x, undefined, true), await product(subject, weight, x), tolerances.batch);
        },
      },
      { group, name: 'rows are looked up', run: async () => checkLookUp(await backend(), weight, tolerances.dequantize) },
    );
  }
  for (const [name, format, shape] of UNKNOWN) {
    cases.push({
      group: 'formats that cannot be',
      name,
      async run() {
        const subject = await backend();
        const weight: QuantizedTensor = { format, shape, parts: {} };
        check(refusal(subject, request(weight)) !== undefined, 'supports must say none');
        await checkThrows('prepare', 'ERR_UNSUPPORTED_FORMAT', () => subject.prepare(weight));
      },
    });
  }
  cases.push({
    group: 'formats that cannot be',
    name: 'parts that do not fit the format',
    async run() {
      const subject = await backend();
      const weight = sampleWeight({ kind: 'dense', dtype: 'f32' }, [8, 8]);
      const reason = refusal(subject, request(weight));
      if (reason) return reason;
      await checkThrows('prepare without its part', 'ERR_TENSOR_MISMATCH', () => subject.prepare({ ...weight, parts: {} }));
      await checkThrows('prepare with a bias of another length', 'ERR_TENSOR_MISMATCH', () =>
        subject.prepare(weight, { bias: seededTensor(1, [7]) }),
      );
      const short = { ...weight.parts.weight!, data: weight.parts.weight!.data.subarray(4) };
      await checkThrows('prepare with missing bytes', 'ERR_TENSOR_MISMATCH', () =>
        subject.prepare({ ...weight, parts: { weight: short } }),
      );
    },
  });
  cases.push(outlierCase(backend, tolerances.int8));
  if (options.giant) cases.push(giantCase(options.giant, backend, tolerances.linear));
  return cases;
}

/** One activation far above the others: rounded to 8 bits with them it would drown them. */
function outlierCase(backend: () => Promise<Backend>, tolerance: number): Case {
  return {
    group: 'format: int8',
    name: 'columns of activations above the threshold are computed in floating point',
    async run() {
      const subject = await backend();
      const weight = sampleWeight({ kind: 'int8', threshold: 6 }, [40, 128]);
      const reason = refusal(subject, request(weight));
      if (reason) return reason;
      const values = toFloat32(seededTensor(7, [5, 128])).slice();
      values[2 * 128 + 3] = 1000;
      const x = hostTensor('f32', [5, 128], values);
      const expected = expectedProduct(weight, x, undefined);
      const got = await product(subject, weight, x);
      for (let row = 0; row < 5; row++) {
        // Without its outlier, so that the error of the rest is seen.
        const rest = (all: Float32Array) =>
          all.subarray(row * 40, (row + 1) * 40).map((y, i) => (row === 2 ? y - 1000 * dense[i * 128 + 3]! : y));
        const dense = toFloat32(codecFor(weight.format).dequantize(weight));
        checkClose(`row ${row}`, rest(got), rest(expected), tolerance);
      }
    },
  };
}

/** A weight larger than some devices bind at once: its first, middle and last rows must all be reached. */
function giantCase(shape: Matrix, backend: () => Promise<Backend>, tolerance: number): Case {
  return {
    group: 'formats',
    name: `a matrix of [${shape.join(', ')}]`,
    async run() {
      const subject = await backend();
      const weight = sampleWeight({ kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' }, shape);
      const reason = refusal(subject, request(weight));
      if (reason) return reason;
      const x = seededTensor(3, [2, shape[1]]);
      const got = await product(subject, weight, x);
      const span = Math.min(64, shape[0]);
      for (const from of [0, Math.floor((shape[0] - span) / 2), shape[0] - span]) {
        const expected = expectedProduct(weight, x, undefined, [from, from + span]);
        const mine = Float32Array.from(expected, (_, i) => got[Math.floor(i / span) * shape[0] + from + (i % span)]!);
        checkClose(`rows ${from} .. ${from + span}`, mine, expected, tolerance);
      }
    },
  };
}
