import {
  byteLength,
  castFloat,
  type DType,
  dequantize,
  elementCount,
  type HostTensor,
  isLowbitError,
  type JsonObject,
  type Matrix,
  memorySource,
  type PlannedLinear,
  type QuantizedSite,
  type QuantizedTensor,
  type Quantizer,
  type TensorSource,
  toFloat32,
} from '@lowbit/core';
import { layoutBytes, readStoredLinear, STORAGE_DTYPES } from '@lowbit/layouts';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../../../../fixtures/golden.ts';
import { failure } from '../testing.node.ts';
import { bitsAndBytesLayout as layout } from './bitsandbytes.ts';

type Tensors = Record<string, HostTensor>;

const NAMES = ['nf4', 'nf4-double', 'fp4', 'int8'];
const files = new Map(NAMES.map((name) => [name, Object.fromEntries(goldenTensors(`bnb/checkpoints/${name}/model.safetensors`))]));

const checkpoint = (name: string): { readonly tensors: Tensors; readonly config: JsonObject } => ({
  tensors: files.get(name)!,
  config: goldenJson<JsonObject>(`bnb/checkpoints/${name}/config.json`),
});

/** The tensors of one golden linear, under the path `m`. */
function layer(name: string, path = 'model.layers.0.mlp.down_proj'): Tensors {
  const own = Object.entries(checkpoint(name).tensors).filter(([key]) => key.startsWith(`${path}.`));
  return Object.fromEntries(own.map(([key, tensor]) => [`m${key.slice(path.length)}`, tensor]));
}

const text = (value: string): HostTensor => ({ dtype: 'u8', shape: [value.length], data: new TextEncoder().encode(value) });
const zeros = (dtype: DType, ...shape: number[]): HostTensor => ({ dtype, shape, data: new Uint8Array(byteLength({ dtype, shape })) });

async function readOne(tensors: Tensors, config: JsonObject = {}, path = 'm'): Promise<QuantizedTensor> {
  const source = memorySource(tensors);
  const linears = await layout.read(config, source);
  return readStoredLinear(source, linears.get(path)!, { path });
}

function quantizer(config: JsonObject = {}): Quantizer {
  const unused = () => {
    throw new Error('not used here');
  };
  return { spec: 1, method: 'bitsandbytes', identity: 'test', config, format: unused, quantize: unused };
}

function linear(path: string, { format, shape }: Pick<QuantizedTensor, 'format' | 'shape'>, config: JsonObject = {}): QuantizedSite {
  const tag = path.replace(/^.*\.\d+\./, '');
  return { site: { path, tag, layer: 0, shape, bias: false }, use: quantizer(config), format };
}

const kept = (path: string): PlannedLinear => ({
  site: { path, tag: path.replace(/^.*\.\d+\./, ''), layer: 0, shape: [64, 64], bias: false },
  use: 'keep',
});

function written(site: QuantizedSite, weight: QuantizedTensor, weightDtype: DType = 'bf16'): Tensors {
  const tensors = layout.tensors(site, { computeDtype: 'f16', weightDtype });
  return Object.fromEntries(
    tensors.map((tensor) => {
      const data = layoutBytes(tensor, weight.parts);
      const late = 'late' in tensor.content;
      if (late) expect(data.byteLength).toBeLessThanOrEqual(byteLength(tensor.spec));
      else expect(data.byteLength).toBe(byteLength(tensor.spec));
      return [tensor.name, { ...tensor.spec, shape: late ? [data.byteLength] : tensor.spec.shape, data: new Uint8Array(data) }];
    }),
  );
}

/** Weights by the formulas of bitsandbytes, from the tensors of the file alone. */
function formula(tensors: Tensors): Float32Array {
  const get = (name: string) => tensors[`m.${name}`]!;
  const weight = get('weight').data;
  if (tensors['m.SCB']) {
    const rows = toFloat32(get('SCB'));
    const inp = weight.length / rows.length;
    return Float32Array.from(new Int8Array(weight.buffer, weight.byteOffset, weight.length), (q, i) =>
      Math.fround(Math.fround(q * rows[Math.floor(i / inp)]!) * Math.fround(7.874015718698502e-3)),
    );
  }
  const state = JSON.parse(
    Object.entries(tensors).flatMap(([name, { data }]) => (name.includes('quant_state') ? [Buffer.from(data).toString()] : []))[0]!,
  );
  const table = toFloat32(get('weight.quant_map'));
  let scales = get('weight.absmax').dtype === 'u8' ? new Float32Array() : toFloat32(get('weight.absmax'));
  if (state.nested_offset !== undefined) {
    const [map, outer] = [toFloat32(get('weight.nested_quant_map')), toFloat32(get('weight.nested_absmax'))];
    scales = Float32Array.from(
      get('weight.absmax').data,
      (q, b) => Math.fround(map[q]! * outer[b >> 8]!) + Math.fround(state.nested_offset),
    );
  }
  const codes = [...weight].flatMap((byte) => [byte >> 4, byte & 15]);
  return Float32Array.from(codes, (code, i) => table[code]! * scales[Math.floor(i / state.blocksize)]!);
}

/** Zeros compare equal whatever their sign. */
const same = (a: Float32Array, b: Float32Array): boolean => a.length === b.length && a.every((value, i) => value === b[i]);

describe('checkpoints of transformers 5.23', () => {
  test.each(NAMES)('%s: every linear is read, decodes exactly, and is written back byte for byte', async (name) => {
    const { tensors, config } = checkpoint(name);
    const source = memorySource(tensors);
    expect(layout.detect(config, source.entries)).toBe(true);
    const linears = await layout.read(config, source);
    expect(linears.size).toBe(14);
    for (const [path, stored] of linears) {
      const weight = await readStoredLinear(source, stored, { path });
      const own = layer(name, path);
      expect(same(toFloat32(dequantize(weight)), formula(own)), path).toBe(true);
      const site = linear('m', weight, config.quantization_config as JsonObject);
      expect(layout.accepts(site.use, site.format)).toBe(true);
      const plain = (some: Tensors) =>
        new Map(Object.entries(some).map(([key, { dtype, shape, data }]) => [key, [dtype, shape, Buffer.from(data).toString('base64')]]));
      expect(plain(written(site, weight))).toEqual(plain(own));
    }
  });

  test.each(NAMES)('%s: quantization_config', async (name) => {
    const { tensors, config } = checkpoint(name);
    const block = config.quantization_config as JsonObject;
    const linears = await layout.read(config, memorySource(tensors));
    const sites = [...linears].map(([path, stored]) => linear(path, stored, block));
    expect(layout.config([...sites, kept('lm_head')])).toEqual(block);
    expect(layout.config(sites)).toEqual(block); // a tied model has no head of its own
    const { llm_int8_skip_modules, llm_int8_threshold, bnb_4bit_compute_dtype } = layout.config(
      [...linears].map(([path, stored]) => linear(path, stored)),
    )!;
    expect([llm_int8_skip_modules, llm_int8_threshold, bnb_4bit_compute_dtype]).toEqual([null, 6, 'float32']);
  });

  test('detect goes by the config, by its flags in old files, and without one by the tensors', () => {
    const entries = memorySource(layer('nf4')).entries;
    const block = (quantization_config: JsonObject | null | string) => ({ quantization_config });
    expect(layout.detect(block({ quant_method: 'bitsandbytes' }), new Map())).toBe(true);
    expect(layout.detect(block({ load_in_4bit: true }), new Map())).toBe(true);
    expect(layout.detect(block({ load_in_8bit: true }), new Map())).toBe(true);
    expect(layout.detect(block({ load_in_8bit: true, quant_method: 'gptq' }), entries)).toBe(false);
    expect(layout.detect(block({ bits: 4 }), entries)).toBe(false);
    expect(layout.detect(block('bitsandbytes'), entries)).toBe(false);
    expect(layout.detect(block(null), entries)).toBe(true);
    expect(layout.detect({}, entries)).toBe(true);
    expect(layout.detect({}, memorySource(layer('int8')).entries)).toBe(true);
    expect(layout.detect({}, memorySource(Object.fromEntries(goldenTensors('bnb/checkpoints/float/model.safetensors'))).entries)).toBe(
      false,
    );
  });
});

describe('reading what others write', () => {
  test.each([...STORAGE_DTYPES])('codes stored as %s, and written so', async (name, dtype) => {
    const tensors = layer('nf4');
    const expected = await readOne(tensors);
    const { data } = tensors['m.weight']!;
    const width = byteLength({ dtype, shape: [1] });
    tensors['m.weight'] = { dtype, shape: [data.byteLength / width, 1], data };
    expect(await readOne(tensors)).toEqual(expected);
    const again = written(linear('m', expected, { bnb_4bit_quant_storage: name }), expected);
    expect(again['m.weight']).toEqual({ dtype, shape: [data.byteLength / width, 1], data });
    const odd = { format: expected.format, shape: [1, 6] as Matrix };
    const attempt = () => layout.tensors(linear('m', odd, { bnb_4bit_quant_storage: name }), { computeDtype: 'f16', weightDtype: 'bf16' });
    if (width > 1) expect((await failure(attempt)).code).toBe('ERR_UNSUPPORTED_FORMAT');
    else expect(attempt()).toHaveLength(4);
  });

  test.each(['f16', 'bf16'] as const)('scales in %s', async (dtype) => {
    const tensors = layer('fp4');
    tensors['m.weight.absmax'] = castFloat(tensors['m.weight.absmax']!, dtype);
    const read = await readOne(tensors);
    expect(read.format).toMatchObject({ scale: dtype });
    expect(same(toFloat32(dequantize(read)), formula(tensors))).toBe(true);
  });

  test.each(['nf4', 'nf4-double'])('%s: codes and scales that are longer than the weight', async (name) => {
    const tensors = layer(name);
    const expected = await readOne(tensors);
    for (const key of ['m.weight', 'm.weight.absmax', ...(name === 'nf4' ? [] : ['m.weight.nested_absmax'])]) {
      const { dtype, shape, data } = tensors[key]!;
      const width = byteLength({ dtype, shape: [1] });
      tensors[key] = {
        dtype,
        shape: [shape[0]! + 3, ...shape.slice(1)],
        data: Uint8Array.of(...data, ...new Uint8Array(3 * width).fill(255)),
      };
    }
    expect(await readOne(tensors)).toEqual(expected);
  });

  test('packed codes of any shape; JSON of any spacing; keys of double quantization without its tensors', async () => {
    const tensors = layer('nf4');
    const expected = await readOne(tensors);
    tensors['m.weight'] = { ...tensors['m.weight']!, shape: [1, 16384] };
    tensors['m.weight.quant_state.bitsandbytes__nf4'] = text(
      ' {"shape":[128,256],"nested_offset":0.5,"nested_dtype":"float32","nested_blocksize":256,"dtype":"bfloat16","blocksize":64,"quant_type":"nf4"}\n',
    );
    expect(await readOne(tensors)).toEqual(expected);
  });

  test('parameters of any name and rank', async () => {
    const tensors = layer('nf4');
    const expected = await readOne(tensors);
    const renamed = Object.fromEntries(
      Object.entries(tensors).map(([key, tensor]) => [key.replace('m.weight', 'experts.gate_up_proj'), tensor]),
    );
    const state = 'experts.gate_up_proj.quant_state.bitsandbytes__nf4';
    renamed[state] = text(Buffer.from(renamed[state]!.data).toString().replace('[128, 256]', '[4, 64, 128]'));
    const read = await readOne(renamed, {}, 'experts.gate_up_proj');
    expect(read.shape).toEqual([256, 128]);
    expect(read.parts).toEqual(expected.parts);
  });

  test('the bias is found; the map of double quantization is the stored one', async () => {
    const tensors: Tensors = { ...layer('nf4-double'), 'm.bias': zeros('f16', 128) };
    const linears = await layout.read({}, memorySource(tensors));
    expect(linears.get('m')).toMatchObject({ bias: 'm.bias' });
    const map = toFloat32(tensors['m.weight.nested_quant_map']!).slice();
    map[0] = -1;
    tensors['m.weight.nested_quant_map'] = { dtype: 'f32', shape: [256], data: new Uint8Array(map.buffer) };
    expect(same(toFloat32(dequantize(await readOne(tensors))), formula(tensors))).toBe(true);
  });

  test('LLM.int8: the threshold of the config, 6 without one; no weight_format', async () => {
    const tensors: Tensors = { ...layer('int8'), 'm.bias': zeros('f16', 128) };
    delete tensors['m.weight_format'];
    const read = async (block: JsonObject) => (await layout.read({ quantization_config: block }, memorySource(tensors))).get('m')!;
    expect(await read({})).toMatchObject({ format: { kind: 'int8', threshold: 6 }, bias: 'm.bias' });
    expect((await read({ llm_int8_threshold: 0 })).format).toEqual({ kind: 'int8', threshold: 0 });
    for (const llm_int8_threshold of [-1, Number.NaN, '6', Number.POSITIVE_INFINITY, true]) {
      expect((await failure(() => read({ llm_int8_threshold }))).message).toMatch(/llm_int8_threshold/);
    }
  });
});

describe('reading what is broken', () => {
  const state = (change: (json: JsonObject) => JsonObject | string) => (tensors: Tensors) => {
    const key = Object.keys(tensors).find((name) => name.includes('quant_state'))!;
    const json = change(JSON.parse(Buffer.from(tensors[key]!.data).toString()));
    tensors[key] = text(typeof json === 'string' ? json : JSON.stringify(json));
  };
  const put = (key: string, tensor: HostTensor) => (tensors: Tensors) => void Object.assign(tensors, { [`m.${key}`]: tensor });
  const drop = (key: string) => (tensors: Tensors) => void delete tensors[`m.${key}`];
  const STATE = 'weight.quant_state.bitsandbytes__nf4';

  test.each<readonly [what: string, name: string, change: (tensors: Tensors) => void, code: string, message: RegExp]>([
    ['no absmax', 'nf4', drop('weight.absmax'), 'ERR_TENSOR_MISMATCH', /"m\.weight\.absmax" is missing/],
    ['no quant_map', 'nf4', drop('weight.quant_map'), 'ERR_TENSOR_MISMATCH', /"m\.weight\.quant_map" is missing/],
    ['no codes', 'nf4', drop('weight'), 'ERR_TENSOR_MISMATCH', /"m\.weight" is missing/],
    ['no state', 'nf4', drop(STATE), 'ERR_TENSOR_MISMATCH', /"m\.weight" is u8 .* there is no m\.weight\.quant_state/],
    ['two states', 'nf4', put('weight.quant_state.bitsandbytes__fp4', text('{}')), 'ERR_TENSOR_MISMATCH', /second quant_state/],
    ['a state of another method', 'nf4', put('weight.quant_state.other', text('{}')), 'ERR_UNSUPPORTED_FORMAT', /"other"/],
    ['an unknown side tensor', 'nf4', put('weight.extra', zeros('f32', 1)), 'ERR_TENSOR_MISMATCH', /"m\.weight\.extra"/],
    ['a state of floats', 'nf4', put(STATE, zeros('f32', 20)), 'ERR_TENSOR_MISMATCH', /quant_state/],
    ['a large state', 'nf4', put(STATE, zeros('u8', 65537)), 'ERR_TENSOR_MISMATCH', /at most 65536/],
    ['an empty state', 'nf4', put(STATE, zeros('u8', 0)), 'ERR_BAD_CHECKPOINT', /bad JSON: an early end/],
    ['a state that is not UTF-8', 'nf4', put(STATE, { dtype: 'u8', shape: [1], data: Uint8Array.of(0xff) }), 'ERR_BAD_CHECKPOINT', /UTF-8/],
    ['a deep state', 'nf4', state(() => '['.repeat(60000)), 'ERR_BAD_CHECKPOINT', /nesting/],
    ['many values', 'nf4', state(() => `[${'1,'.repeat(100)}1]`), 'ERR_BAD_CHECKPOINT', /more than 64 values/],
    ['a list', 'nf4', state(() => '[]'), 'ERR_BAD_CHECKPOINT', /no JSON object/],
    ['an unknown key', 'nf4', state((json) => ({ ...json, more: 1 })), 'ERR_BAD_CHECKPOINT', /"more"/],
    ['__proto__', 'nf4', state(() => '{"__proto__": {}}'), 'ERR_BAD_CHECKPOINT', /"__proto__"/],
    [
      'another type than the suffix',
      'nf4',
      state((json) => ({ ...json, quant_type: 'fp4' })),
      'ERR_BAD_CHECKPOINT',
      /says quant_type "fp4", its own name says nf4/,
    ],
    ['no type', 'nf4', state(({ quant_type: _, ...json }) => json), 'ERR_BAD_CHECKPOINT', /quant_type nothing/],
    ['null shape', 'nf4', state((json) => ({ ...json, shape: null })), 'ERR_BAD_CHECKPOINT', /shape null/],
    ['empty shape', 'nf4', state((json) => ({ ...json, shape: [] })), 'ERR_BAD_CHECKPOINT', /shape \[\]/],
    ['a shape of zero', 'nf4', state((json) => ({ ...json, shape: [0, 4] })), 'ERR_BAD_CHECKPOINT', /shape \[0, 4\]/],
    ['a huge shape', 'nf4', state((json) => ({ ...json, shape: [2 ** 40, 2 ** 40] })), 'ERR_BAD_CHECKPOINT', /shape/],
    ['a large shape', 'nf4', state((json) => ({ ...json, shape: [2 ** 26, 2 ** 26] })), 'ERR_TENSOR_MISMATCH', /"m\.weight" .*too few/],
    ['a shape of a fraction', 'nf4', state((json) => ({ ...json, shape: [1.5, 2] })), 'ERR_BAD_CHECKPOINT', /1\.5/],
    ['blocksize 0', 'nf4', state((json) => ({ ...json, blocksize: 0 })), 'ERR_BAD_CHECKPOINT', /blocksize 0/],
    ['blocksize NaN', 'nf4', state((json) => JSON.stringify(json).replace('64', 'NaN')), 'ERR_BAD_CHECKPOINT', /blocksize NaN/],
    ['another dtype', 'nf4', state((json) => ({ ...json, dtype: 'float64' })), 'ERR_BAD_CHECKPOINT', /"float64"/],
    ['a smaller blocksize', 'nf4', state((json) => ({ ...json, blocksize: 32 })), 'ERR_TENSOR_MISMATCH', /absmax.*expected 1024/],
    ['too few codes', 'nf4', put('weight', zeros('u8', 16383, 1)), 'ERR_TENSOR_MISMATCH', /"m\.weight" .*too few/],
    ['codes of another dtype', 'nf4', put('weight', zeros('i32', 16384, 1)), 'ERR_TENSOR_MISMATCH', /"m\.weight"/],
    ['too few scales', 'nf4', put('weight.absmax', zeros('f32', 511)), 'ERR_TENSOR_MISMATCH', /expected 512 numbers/],
    ['scales of integers', 'nf4', put('weight.absmax', zeros('i32', 512)), 'ERR_TENSOR_MISMATCH', /expected f32, f16 or bf16/],
    ['scales in a matrix', 'nf4', put('weight.absmax', zeros('bf16', 4, 128)), 'ERR_UNSUPPORTED_FORMAT', /rearranged for CPU inference/],
    [
      'quantized scales alone',
      'nf4',
      put('weight.absmax', zeros('u8', 512)),
      'ERR_TENSOR_MISMATCH',
      /"m\.weight\.nested_absmax" is missing/,
    ],
    ['a table of zeros', 'nf4', put('weight.quant_map', zeros('f32', 16)), 'ERR_TENSOR_MISMATCH', /has 0 for code 0, nf4 has -1/],
    ['the table of fp4', 'nf4', put('weight.quant_map', layer('fp4')['m.weight.quant_map']!), 'ERR_TENSOR_MISMATCH', /quant_map/],
    [
      'a table of NaN',
      'nf4',
      put('weight.quant_map', { ...zeros('f32', 16), data: new Uint8Array(64).fill(255) }),
      'ERR_TENSOR_MISMATCH',
      /NaN/,
    ],
    ['a short table', 'nf4', put('weight.quant_map', zeros('f32', 15)), 'ERR_TENSOR_MISMATCH', /expected f32 \[16\]/],
    ['a wrong bias', 'nf4', put('bias', zeros('f16', 256)), 'ERR_TENSOR_MISMATCH', /"m\.bias"/],
    ['no nested map', 'nf4-double', drop('weight.nested_quant_map'), 'ERR_TENSOR_MISMATCH', /nested_quant_map/],
    ['a short nested map', 'nf4-double', put('weight.nested_quant_map', zeros('f32', 255)), 'ERR_TENSOR_MISMATCH', /nested_quant_map/],
    ['no nested absmax', 'nf4-double', drop('weight.nested_absmax'), 'ERR_TENSOR_MISMATCH', /nested_absmax/],
    ['a short nested absmax', 'nf4-double', put('weight.nested_absmax', zeros('f32', 1)), 'ERR_TENSOR_MISMATCH', /nested_absmax/],
    ['nested absmax in f16', 'nf4-double', put('weight.nested_absmax', zeros('f16', 2)), 'ERR_TENSOR_MISMATCH', /nested_absmax/],
    ['plain scales', 'nf4-double', put('weight.absmax', zeros('f32', 512)), 'ERR_TENSOR_MISMATCH', /absmax.*expected u8/],
    ['no nested offset', 'nf4-double', state(({ nested_offset: _, ...json }) => json), 'ERR_BAD_CHECKPOINT', /nested_offset nothing/],
    [
      'no nested keys',
      'nf4-double',
      state(({ nested_offset: _o, nested_dtype: _d, nested_blocksize: _b, ...json }) => json),
      'ERR_TENSOR_MISMATCH',
      /has no nested_blocksize/,
    ],
    [
      'an offset of NaN',
      'nf4-double',
      state((json) => JSON.stringify(json).replace(/0\.1\d+/, 'NaN')),
      'ERR_NON_FINITE',
      /nested_offset NaN/,
    ],
    ['an infinite offset', 'nf4-double', state((json) => JSON.stringify(json).replace(/0\.1\d+/, '1e39')), 'ERR_NON_FINITE', /1e39/],
    ['an offset of text', 'nf4-double', state((json) => ({ ...json, nested_offset: '0.1' })), 'ERR_BAD_CHECKPOINT', /nested_offset "0\.1"/],
    [
      'scales restored in bf16',
      'nf4-double',
      state((json) => ({ ...json, nested_dtype: 'bfloat16' })),
      'ERR_UNSUPPORTED_FORMAT',
      /nested_dtype bfloat16/,
    ],
    ['an SCB beside 4 bits', 'nf4', put('SCB', zeros('f32', 128)), 'ERR_TENSOR_MISMATCH', /"m\.SCB"/],
    [
      'an order beside 4 bits',
      'nf4',
      put('weight_format', { dtype: 'u8', shape: [], data: Uint8Array.of(2) }),
      'ERR_UNSUPPORTED_FORMAT',
      /"m\.weight_format" is 2/,
    ],
    ['no SCB', 'int8', drop('SCB'), 'ERR_TENSOR_MISMATCH', /"m\.SCB" is missing/],
    ['a short SCB', 'int8', put('SCB', zeros('f32', 127)), 'ERR_TENSOR_MISMATCH', /"m\.SCB".*expected f32 \[128\]/],
    ['an SCB in f16', 'int8', put('SCB', zeros('f16', 128)), 'ERR_TENSOR_MISMATCH', /"m\.SCB"/],
    ['an SCB without a weight', 'int8', drop('weight'), 'ERR_TENSOR_MISMATCH', /"m\.weight" is missing beside "m\.SCB"/],
    ['an SCB beside floats', 'int8', put('weight', zeros('f16', 128, 256)), 'ERR_TENSOR_MISMATCH', /"m\.weight" is f16/],
    ['i8 in a vector', 'int8', put('weight', zeros('i8', 128)), 'ERR_TENSOR_MISMATCH', /not a matrix/],
    ['a wrong int8 bias', 'int8', put('bias', zeros('f16', 256)), 'ERR_TENSOR_MISMATCH', /"m\.bias"/],
    [
      'the order of Turing',
      'int8',
      put('weight_format', { dtype: 'u8', shape: [], data: Uint8Array.of(2) }),
      'ERR_UNSUPPORTED_FORMAT',
      /is 2 \(col_turing\)/,
    ],
    [
      'an unknown order',
      'int8',
      put('weight_format', { dtype: 'u8', shape: [], data: Uint8Array.of(9) }),
      'ERR_UNSUPPORTED_FORMAT',
      /is 9, not 0/,
    ],
    ['an order of two numbers', 'int8', put('weight_format', zeros('u8', 2)), 'ERR_TENSOR_MISMATCH', /expected one u8/],
  ])('%s', async (_what, name, change, code, message) => {
    const tensors = layer(name);
    change(tensors);
    const error = await failure(() => readOne(tensors));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(error.details.tensor).toMatch(/^m\./);
    expect(error.hint).toBeTruthy();
  });

  test('whatever is changed: a weight of its claimed size or a typed error, and little is read', async () => {
    const dtypes = fc.constantFrom<DType>('u8', 'i8', 'f16', 'bf16', 'f32', 'i64');
    const spec = fc.record({ dtype: dtypes, shape: fc.array(fc.nat({ max: 40000 }), { maxLength: 3 }) });
    const extent = fc.oneof(fc.nat({ max: 300 }), fc.constantFrom(-1, 2 ** 31, 2 ** 53, 1e300, Number.NaN));
    const json = fc.record(
      {
        quant_type: fc.constantFrom('nf4', 'fp4', 7),
        blocksize: extent,
        dtype: fc.constantFrom('bfloat16', 'float32', null),
        shape: fc.array(extent, { maxLength: 4 }),
        nested_blocksize: extent,
        nested_dtype: fc.constantFrom('float32', 'float16'),
        nested_offset: fc.double(),
      },
      { requiredKeys: [] },
    );
    const keys = Object.keys({ ...layer('nf4-double'), ...layer('int8') });
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...NAMES),
        fc.dictionary(fc.constantFrom(...keys), fc.option(spec), { maxKeys: 3 }),
        fc.option(json),
        async (name, changes, edit) => {
          const tensors = layer(name);
          const stateKey = Object.keys(tensors).find((key) => key.includes('quant_state'));
          const data = new Map(Object.entries(tensors).map(([key, tensor]) => [key, tensor.data]));
          const entries = new Map(
            Object.entries(tensors).map(([key, { dtype, shape }]) => [key, { dtype, shape: shape as readonly number[] }]),
          );
          for (const [key, change] of Object.entries(changes)) {
            if (change === null) entries.delete(key);
            else entries.set(key, change);
          }
          if (edit !== null && stateKey !== undefined) {
            const edited = JSON.stringify({ ...JSON.parse(Buffer.from(data.get(stateKey)!).toString()), ...edit });
            data.set(stateKey, text(edited).data);
            if (entries.has(stateKey)) entries.set(stateKey, { dtype: 'u8', shape: [edited.length] });
          }
          let bytes = 0;
          const source: TensorSource = {
            label: 'hostile',
            entries,
            async read(key, { range } = {}) {
              const { dtype, shape } = entries.get(key)!;
              const count = range ? range[1] - range[0] : elementCount(shape);
              const full = new Uint8Array(byteLength({ dtype, shape: [count] }));
              full.set((data.get(key) ?? new Uint8Array()).subarray(0, full.byteLength));
              bytes += full.byteLength;
              return { dtype, shape: range ? [count] : shape, data: full };
            },
            async [Symbol.asyncDispose]() {},
          };
          try {
            const linears = await layout.read({}, source);
            expect(bytes).toBeLessThan(1 << 17);
            for (const [path, stored] of linears) {
              const weight = await readStoredLinear(source, stored, { path });
              expect(dequantize(weight, { from: 0, to: 1 }).shape).toEqual([1, stored.shape[1]]);
            }
          } catch (error) {
            if (!isLowbitError(error)) throw error;
            expect(bytes).toBeLessThan(1 << 18);
          }
        },
      ),
      { numRuns: 1500 },
    );
  });
});

describe('writing', () => {
  const nf4 = {
    format: { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' },
    shape: [64, 64],
  } as const;
  const int8 = { format: { kind: 'int8', threshold: 6 }, shape: [64, 64] } as const;
  const nested = { bits: 8, dim: 1, group: 256, table: 'dynamic', scale: 'f32', packing: 'u8', kind: 'codebook' } as const;
  const double = { format: { ...nf4.format, scale: nested, offset: true }, shape: [64, 64] } as const;
  const q = (i: number) => `model.layers.${i}.self_attn.q_proj`;
  const down = (i: number) => `model.layers.${i}.mlp.down_proj`;

  test('accepts what bitsandbytes makes', () => {
    const accepts = (format: object, method = 'bitsandbytes') =>
      layout.accepts({ ...quantizer(), method }, { ...nf4.format, ...format } as never);
    expect([accepts({}), accepts({ table: 'fp4', group: 4096 }), accepts(double.format), accepts(int8.format)]).toEqual([
      true,
      true,
      true,
      true,
    ]);
    expect(accepts({}, 'hqq')).toBe(false);
    for (const format of [
      { table: 'any' },
      { bits: 3 },
      { packing: 'u8' },
      { group: 96 },
      { scale: 'f16' },
      { scale: nested },
      { offset: true },
      { scale: { ...nested, group: 64 }, offset: true },
      { scale: { ...nested, scale: 'f16' }, offset: true },
      { rotate: { kind: 'hadamard', block: 64 } },
      { kind: 'dense', dtype: 'f16' },
    ]) {
      expect(accepts(format), JSON.stringify(format)).toBe(false);
    }
  });

  test('a format, dtype or setting that the layout cannot hold', async () => {
    const tensors = (site: QuantizedSite, weightDtype: DType = 'f16') =>
      failure(() => layout.tensors(site, { computeDtype: 'f16', weightDtype }));
    expect(await tensors(linear('m', { ...nf4, format: { kind: 'dense', dtype: 'f16' } }))).toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
    });
    expect((await tensors(linear('m', nf4), 'f64')).message).toMatch(/m: bitsandbytes knows no weights of f64/);
    for (const config of [
      { bnb_4bit_quant_storage: 'int32' },
      { bnb_4bit_compute_dtype: 'f16' },
      { llm_int8_threshold: '6.0' },
      { llm_int8_threshold: -1 },
      { llm_int8_has_fp16_weight: true },
      { llm_int8_enable_fp32_cpu_offload: 1 },
      { llm_int8_skip_modules: 'lm_head' },
      { llm_int8_skip_modules: [1] },
    ]) {
      const error = await tensors(linear('m', nf4, config));
      expect(error.code).toBe('ERR_BAD_ARGUMENT');
      expect(error.message).toContain(Object.keys(config)[0]);
    }
  });

  test('the dtype of the weight is in the state', () => {
    for (const [dtype, name] of [
      ['f32', 'float32'],
      ['f16', 'float16'],
    ] as const) {
      const [, , , state] = layout.tensors(linear('m', nf4), { computeDtype: 'f16', weightDtype: dtype });
      expect('data' in state!.content && Buffer.from(state!.content.data).toString()).toBe(
        `{"quant_type": "nf4", "blocksize": 64, "dtype": "${name}", "shape": [64, 64]}`,
      );
    }
  });

  test('llm_int8_skip_modules names what is kept for every reader, and nothing that is quantized', () => {
    const skip = (...linears: PlannedLinear[]) => layout.config(linears)!.llm_int8_skip_modules;
    expect(skip(linear(q(0), nf4), kept('lm_head'))).toBe(null);
    expect(skip(linear(q(0), nf4), linear('lm_head', nf4))).toEqual([]);
    expect(skip(linear(q(0), nf4), kept('lm_head'), kept(down(0)), kept(down(1)))).toEqual(['lm_head', 'down_proj']);
    expect(skip(linear(q(0), nf4), kept(q(1)))).toEqual(['lm_head', q(1)]);
    const asked = linear(q(0), nf4, { llm_int8_skip_modules: ['score', 'q_proj', 'lm_head'] });
    expect(skip(asked, kept('lm_head'))).toEqual(['score', 'lm_head']);
    // transformers 5 reads entries as regular expressions
    const layers = ['model.layers.\\d+.mlp', 'lm_head'];
    expect(skip(linear(down(0), nf4, { llm_int8_skip_modules: layers }), kept('lm_head'))).toEqual(['lm_head']);
    expect(skip(linear(q(0), nf4, { llm_int8_skip_modules: layers }), kept('lm_head'))).toEqual(layers);
    const any = linear(q(0), nf4, { llm_int8_skip_modules: ['(a|b)'] });
    expect(() => skip(any, kept('lm_head'))).toThrow(
      expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining('(a|b)') }),
    );
    expect(skip(linear(q(0), nf4), kept('odd(name'))).toEqual(['lm_head']);
    expect(layout.loadsIn([linear(q(0), nf4), kept('odd(name')]).join()).toMatch(/Not transformers: .* cannot name odd\(name /);
    // `…layers.1.mlp` as a name would be a part of `…layers.1.mlp2` and of what is below it: the whole name is taken
    expect(skip(linear('m.1.mlp2', nf4), kept('m.1.mlp'))).toEqual(['lm_head', 'mlp']);
    const clash = [linear('m.gate.0', nf4), kept('m.gate')];
    expect(skip(...clash)).toEqual(['lm_head']);
    expect(layout.loadsIn(clash).join('\n')).toMatch(/Not transformers: llm_int8_skip_modules cannot name m\.gate /);
  });

  test('loadsIn says who reads it, and why not', () => {
    const of = (...linears: PlannedLinear[]) => layout.loadsIn(linears).join('\n');
    const plain = of(linear(q(0), nf4), kept('lm_head'));
    expect(plain).toMatch(/^lowbit, on every backend\.$/m);
    expect(plain).toMatch(/^Python: transformers 4 and 5 .*, with bitsandbytes 0\.41\.3 or later/m);
    expect(plain).toMatch(/^vLLM with bitsandbytes 0\.46\.1 or later/m);
    expect(plain).toMatch(/^Not TGI/m);
    expect(plain).not.toMatch(/AVX-512/);
    const tower = of(linear(`language_model.${q(0)}`, nf4), kept('vision_tower.vision_model.encoder.layers.0.mlp.fc1'));
    expect(tower).toMatch(/^Not transformers 5: .* image tower/m);
    expect(tower).not.toMatch(/^Python/m);
    expect(of(linear(q(0), { ...nf4, shape: [64, 96] }))).toMatch(
      /0\.49\.0 to 0\.50\.2 on CPUs with AVX-512 applies wrong scales to model\.layers\.0/,
    );
    const expert = linear(q(0), nf4);
    const routed = { ...expert, site: { ...expert.site, expert: 1 } } as PlannedLinear;
    expect(of(routed)).toMatch(/^Python: transformers 4, not 5 .* refuses quantized ones/m);
    expect(of(routed, linear(down(0), double))).toMatch(/^Not transformers: .* 5 refuses quantized experts/m);
    expect(of(linear(q(0), nf4), linear(down(0), double))).toMatch(/transformers 5, which goes by the stored layers .*\(4\.57 fails\)/);
    expect(of(linear(q(0), nf4), linear(down(0), int8))).toMatch(/^Not transformers: it takes one number of bits/m);
    expect(of(linear(q(0), nf4), linear(down(0), int8))).toMatch(/^Not vLLM: it takes one number of bits/m);
    expect(of(linear(q(0), nf4, { bnb_4bit_quant_storage: 'bfloat16' }))).toMatch(/^Not vLLM: .*uint8/m);
    expect(of(linear(q(0), nf4), linear('lm_head', nf4))).toMatch(/^Not vLLM: it takes no quantized lm_head/m);
    expect(of(linear('transformer.H.0.fc', int8))).toMatch(/^Not vLLM: .*capitals/m);
    expect(of(linear(q(0), nf4), kept(q(1)))).toMatch(/^Not vLLM: it cannot keep model\.layers\.1\.self_attn\.q_proj/m);
    expect(of(linear(q(0), int8), kept('lm_head'))).toMatch(/bitsandbytes 0\.38/);
    const other = { ...int8, format: { kind: 'int8', threshold: 0 } } as const;
    const sentence = /^config\.json holds one llm_int8_threshold, that of the first 8-bit layer/m;
    expect(of(linear(q(0), int8), linear(down(0), other))).toMatch(sentence);
    expect(of(linear(q(0), nf4), linear(q(1), int8), linear(down(0), other))).toMatch(sentence);
    expect(of(linear('m.gate.0', int8), linear(down(0), other), kept('m.gate'))).toMatch(sentence);
    expect(of(linear(q(0), nf4), linear(down(0), other))).not.toMatch(/one llm_int8_threshold/);
  });

  test('llm_int8_threshold is that of the first 8-bit linear, also behind 4-bit ones', () => {
    const of = (...linears: PlannedLinear[]) => layout.config(linears)!.llm_int8_threshold;
    const eight = (threshold: number) => ({ ...int8, format: { kind: 'int8', threshold } }) as const;
    expect(of(linear(q(0), nf4), linear(q(1), eight(3)), linear(down(0), eight(4)))).toBe(3);
    expect(of(linear(q(0), eight(3)), linear(q(1), nf4))).toBe(3);
    expect(of(linear(q(0), nf4, { llm_int8_threshold: 5 }), linear(q(1), nf4))).toBe(5);
  });

  test('config.json is written as Python writes it', async () => {
    const { writeConfig } = await import('../config-file.ts');
    const { readFile } = await import('node:fs/promises');
    const original = await readFile(goldenPath('bnb/checkpoints/float/config.json'));
    for (const name of NAMES) {
      const { tensors, config } = checkpoint(name);
      const linears = [...(await layout.read(config, memorySource(tensors)))].map(([path, stored]) =>
        linear(path, stored, config.quantization_config as JsonObject),
      );
      const bytes = writeConfig(
        { ...goldenJson<JsonObject>('bnb/checkpoints/float/config.json'), quantization_config: layout.config(linears)! },
        original,
      );
      expect(Buffer.from(bytes).toString()).toBe(await readFile(goldenPath(`bnb/checkpoints/${name}/config.json`), 'utf8'));
    }
  });
});
