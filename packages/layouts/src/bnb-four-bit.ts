// One 4-bit parameter of the `bitsandbytes` layout: its tensors and its quant_state, checked against each other before anything large is read.

import type { DType, HostTensor, Matrix, StoredLinear, TensorSource, TensorSpec } from '@lowbit/core';
import { byteLength, elementCount, FLOAT_DTYPES, toFloat32, writeFloat32 } from '@lowbit/core';
import { checkBias, fail, fourBitFormat, nestedScale, refuse, STORAGE_DTYPES, TABLES } from './bnb-format.ts';
import { checkOrder } from './bnb-int8.ts';
import { type FourBitType, MAX_STATE_BYTES, parseQuantState, type QuantState, type QuantStateOptions } from './bnb-state.ts';
import { specText, tensorName } from './names.ts';

/** A parameter with a quant_state. */
export interface FourBitNames {
  /** The packed tensor. */
  readonly param: string;
  readonly path: string;
  readonly state: string;
  /** What the suffix of the state says. */
  readonly type: FourBitType;
}

export interface StoredFourBit {
  readonly linear: StoredLinear;
  /** Of the weight when it was quantized. */
  readonly weightDtype: DType;
}

const STORED_AS: ReadonlySet<DType> = new Set(STORAGE_DTYPES.values());
/** Rounding of a division more or less: tables were computed, at times on other devices. */
const TABLE_TOLERANCE = 2 ** -22;

/** Throws ERR_TENSOR_MISMATCH, ERR_BAD_CHECKPOINT, ERR_NON_FINITE or ERR_UNSUPPORTED_FORMAT, naming the tensor. */
export async function readFourBit(
  source: TensorSource,
  { param, path, state: stateName, type }: FourBitNames,
  options: QuantStateOptions,
): Promise<StoredFourBit> {
  const spec = entry(source, stateName);
  if (spec.dtype !== 'u8' || byteLength(spec) > MAX_STATE_BYTES)
    fail(stateName, `is ${specText(spec)}, expected at most ${MAX_STATE_BYTES} bytes of u8`);
  const state = parseQuantState((await source.read(stateName)).data, stateName, type, options);
  const count = elementCount(state.shape);
  const inp = state.shape.at(-1)!;
  const shape: Matrix = [count / inp, inp];

  const codes = entry(source, param);
  if (!STORED_AS.has(codes.dtype) || byteLength(codes) < Math.ceil(count / 2)) {
    fail(param, `is ${specText(codes)}: too few bytes, or of another kind, for the ${count} codes of [${state.shape.join(', ')}]`);
  }
  await checkTable(source, `${param}.quant_map`, type);
  const blocks = Math.ceil(count / state.blocksize);
  const scales = source.entries.has(`${param}.nested_absmax`)
    ? nestedScales(source, param, state, stateName, blocks)
    : plainScales(source, param, blocks);
  const biasName = tensorName(path, 'bias');
  const bias = path === param ? undefined : source.entries.get(biasName);
  checkBias(path, bias, shape[0]);
  if (path !== param) await checkOrder(source, tensorName(path, 'weight_format'));
  const linear: StoredLinear = {
    format: fourBitFormat(type, state.blocksize, scales.format),
    shape,
    parts: { codes: param, ...scales.parts },
    constants: { table: TABLES[type], ...scales.constants },
    ...(bias === undefined ? {} : { bias: biasName }),
  };
  return { linear, weightDtype: state.dtype };
}

interface Scales {
  readonly format: DType | ReturnType<typeof nestedScale>;
  readonly parts: Readonly<Record<string, string>>;
  readonly constants?: Readonly<Record<string, HostTensor>>;
}

function plainScales(source: TensorSource, param: string, blocks: number): Scales {
  const name = `${param}.absmax`;
  const absmax = entry(source, name);
  if (absmax.dtype === 'u8') fail(`${param}.nested_absmax`, `is missing, but ${name} is u8 as with double quantization`);
  if (!FLOAT_DTYPES.has(absmax.dtype) || absmax.dtype === 'f64') fail(name, `is ${specText(absmax)}, expected f32, f16 or bf16`);
  checkVector(name, absmax, blocks);
  return { format: absmax.dtype, parts: { scale: name } };
}

function nestedScales(source: TensorSource, param: string, { nested }: QuantState, stateName: string, blocks: number): Scales {
  if (nested === undefined) fail(stateName, 'has no nested_blocksize, nested_dtype and nested_offset, but there is a nested_absmax');
  if (nested.dtype !== 'float32') {
    refuse(
      stateName,
      `says nested_dtype ${nested.dtype}`,
      'Such files come from models that were saved after running on a CPU, which rounds their scales. Quantize the original again.',
    );
  }
  const [absmax, map, outer] = [`${param}.absmax`, `${param}.nested_quant_map`, `${param}.nested_absmax`];
  const expect = (name: string, dtype: DType, count: number, exact: boolean): void => {
    const spec = entry(source, name);
    if (spec.dtype !== dtype || (exact && elementCount(spec.shape) !== count))
      fail(name, `is ${specText(spec)}, expected ${specText({ dtype, shape: [count] })}`);
    checkVector(name, spec, count);
  };
  expect(absmax, 'u8', blocks, false);
  expect(map, 'f32', 256, true);
  expect(outer, 'f32', Math.ceil(blocks / nested.blocksize), false);
  const offset: HostTensor = { dtype: 'f32', shape: [], data: writeFloat32('f32', Float32Array.of(nested.offset)) };
  return {
    format: nestedScale(nested.blocksize),
    parts: { 'scale.codes': absmax, 'scale.table': map, 'scale.scale': outer },
    constants: { 'scale.offset': offset },
  };
}

/** Some devices round a tensor up to whole blocks, so it may be longer. */
function checkVector(name: string, spec: TensorSpec, count: number): void {
  if (spec.shape.length === 2) {
    refuse(
      name,
      `is ${specText(spec)}, a matrix: the scales of a layer that was rearranged for CPU inference, and rounded, before it was saved`,
      'Save the model without running it on a CPU first, or quantize the original again.',
    );
  }
  if (spec.shape.length !== 1 || spec.shape[0]! < count) fail(name, `is ${specText(spec)}, expected ${count} numbers`);
}

/** bitsandbytes decodes with its own table. One that says otherwise is of a weight that it would not decode as it was meant. */
async function checkTable(source: TensorSource, name: string, type: FourBitType): Promise<void> {
  const spec = entry(source, name);
  if (spec.dtype !== 'f32' || elementCount(spec.shape) !== 16) fail(name, `is ${specText(spec)}, expected f32 [16]`);
  const stored = toFloat32(await source.read(name));
  for (const [code, value] of toFloat32(TABLES[type]).entries()) {
    if (!(Math.abs(stored[code]! - value) <= TABLE_TOLERANCE * Math.abs(value)))
      fail(name, `has ${stored[code]} for code ${code}, ${type} has ${value}`);
  }
}

function entry(source: TensorSource, name: string): TensorSpec {
  return source.entries.get(name) ?? fail(name, 'is missing, the layer is incomplete');
}
