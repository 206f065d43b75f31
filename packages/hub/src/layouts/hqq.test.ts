import {
  type DType,
  dequantize,
  type Format,
  type HostTensor,
  type JsonObject,
  type LinearSite,
  type Matrix,
  memorySource,
  type PlannedLinear,
  type QuantizedSite,
  type QuantizedTensor,
  type Quantizer,
} from '@lowbit/core';
import { type HqqSettings, layoutBytes, partsOf } from '@lowbit/layouts';
import { describe, expect, test } from 'vitest';
import { goldenJson, goldenTensors } from '../../../../fixtures/golden.ts';
import { failure } from '../testing.node.ts';
import { hqqLayout } from './hqq.ts';
import { hqqNestedLayout } from './hqq-nested.ts';
import { hqqSafetensorsLayout } from './hqq-safetensors.ts';

interface GoldenCase {
  readonly name: string;
  readonly config: { readonly quant_config: { readonly weight_quant_params: HqqSettings }; readonly compute_dtype: DType };
  readonly shape: [number, number];
}

const cases = goldenJson<{ readonly cases: readonly GoldenCase[] }>('hqq/cases.json').cases.filter(({ name }) => /^linear-b/.test(name));
const all = goldenTensors('hqq/linear.safetensors');

/** The encoded state dict of a golden layer, under the path `m`. */
function stateDict(name: string): Record<string, HostTensor> {
  const prefix = `${name}/state_dict/`;
  return Object.fromEntries(
    [...all].filter(([key]) => key.startsWith(prefix)).map(([key, tensor]) => [`m.${key.slice(prefix.length)}`, tensor]),
  );
}

function quantizer(settings: HqqSettings): Quantizer {
  const unused = () => {
    throw new Error('not used here');
  };
  return { spec: 1, method: 'hqq', identity: 'test', config: settings as unknown as JsonObject, format: unused, quantize: unused };
}

const b4g64: HqqSettings = {
  nbits: 4,
  group_size: 64,
  axis: 1,
  channel_wise: true,
  optimize: true,
  round_zero: true,
  view_as_float: false,
};

async function readOne(tensors: Record<string, HostTensor>): Promise<QuantizedTensor> {
  const stored = (await hqqLayout.read({}, memorySource(tensors))).get('m')!;
  const specs = partsOf(stored.format as never, stored.shape);
  const parts = Object.fromEntries(
    Object.entries(specs).map(([part, spec]) => [part, { ...spec, data: tensors[stored.parts[part]!]!.data }]),
  );
  return { format: stored.format, shape: stored.shape, parts };
}

const siteOf = (use: Quantizer, format: Format, shape: Matrix): QuantizedSite => ({
  site: { path: 'm', tag: 'm', layer: 0, shape, bias: false },
  use,
  format,
});

describe('layers of the Python library', () => {
  test.each(cases.map((golden) => [golden.name, golden] as const))('%s: read and written back', async (name, { config, shape }) => {
    const tensors = stateDict(name);
    const settings = config.quant_config.weight_quant_params;
    const read = await readOne(tensors);
    expect(read.shape).toEqual(shape);
    expect(read.format).toMatchObject({ kind: 'affine', axis: settings.axis, levels: settings.nbits === 1.58 ? 3 : 2 ** settings.nbits });
    const values = dequantize(read, { dtype: config.compute_dtype as 'f32' | 'f16' | 'bf16' });
    const expected = all.get(`${name}/expected.dequantized`)!;
    expect(values.dtype).toBe(expected.dtype);
    expect(Buffer.compare(values.data, expected.data)).toBe(0);

    const method = quantizer(settings);
    expect(hqqLayout.accepts(method, read.format)).toBe(true);
    const written = hqqLayout.tensors(siteOf(method, read.format, shape), { computeDtype: config.compute_dtype, weightDtype: 'f32' });
    const { 'm.bias': bias, ...without } = tensors;
    expect(bias === undefined).toBe(/nobias|view|b6/.test(name));
    expect(written).toHaveLength(19);
    expect(new Map(written.map((tensor) => [tensor.name, { ...tensor.spec, data: Buffer.from(layoutBytes(tensor, read.parts)) }]))).toEqual(
      new Map(Object.entries(without).map(([key, tensor]) => [key, { ...tensor, data: Buffer.from(tensor.data) }])),
    );
  });

  test('float views hold the same numbers', async () => {
    for (const dtype of ['f32', 'f16', 'bf16']) {
      const read = await readOne(stateDict(`linear-b4-a1-g64-${dtype}-float-view`));
      expect(read.parts.codes!.dtype).toBe('u8');
      expect(read.parts.codes!.shape).toEqual([16, 64]);
    }
  });
});

describe('reading files of other versions', () => {
  const name = 'linear-b4-a1-g64-f16-bias';

  test('integers of any width, and no optional keys', async () => {
    const expected = await readOne(stateDict(name));
    const tensors = stateDict(name);
    for (const key of [
      'channel_wise',
      'optimize',
      'round_zero',
      'offload_meta',
      'quant_scale',
      'quant_zero',
      'stores_quant_config',
      'encoded_state_dict',
      'compute_dtype',
      'unpack_view_dtype',
      'view_as_float',
      'bias',
    ]) {
      delete tensors[`m.${key}`];
    }
    tensors['m.nbits'] = { dtype: 'u8', shape: [], data: Uint8Array.of(4) };
    tensors['m.group_size'] = { dtype: 'i64', shape: [1], data: Uint8Array.of(64, 0, 0, 0, 0, 0, 0, 0) };
    tensors['m.axis'] = { dtype: 'i16', shape: [], data: Uint8Array.of(1, 0) };
    tensors['m.shape'] = { dtype: 'i32', shape: [2], data: Uint8Array.of(16, 0, 0, 0, 128, 0, 0, 0) };
    const read = await readOne(tensors);
    expect(read.format).toEqual(expected.format);
    delete tensors['m.group_size'];
    delete tensors['m.nbits'];
    expect((await readOne(tensors)).format).toEqual(expected.format);
  });

  test('a float view without its flag; 1.58 bits stored as the integer 1', async () => {
    const view = stateDict('linear-b4-a1-g64-f16-float-view');
    delete view['m.view_as_float'];
    expect((await readOne(view)).parts.codes!.shape).toEqual([16, 64]);
    const ternary = stateDict('linear-b1.58-a1-g64-f16');
    ternary['m.nbits'] = { dtype: 'i32', shape: [], data: Uint8Array.of(1, 0, 0, 0) };
    expect((await readOne(ternary)).format).toMatchObject({ levels: 3, packing: '2bit_u8' });
  });

  test('the bias is found', async () => {
    expect((await hqqLayout.read({}, memorySource(stateDict(name)))).get('m')).toMatchObject({ bias: 'm.bias', parts: { codes: 'm.W_q' } });
  });

  const text = (value: string): HostTensor => ({ dtype: 'u8', shape: [value.length], data: new TextEncoder().encode(value) });
  const i32 = (...values: number[]): HostTensor => ({
    dtype: 'i32',
    shape: values.length === 1 ? [] : [values.length],
    data: new Uint8Array(Int32Array.from(values).buffer),
  });
  const f16 = (...shape: number[]): HostTensor => ({ dtype: 'f16', shape, data: new Uint8Array(2 * shape.reduce((a, b) => a * b, 1)) });

  test.each<readonly [key: string, replacement: HostTensor | undefined, code: string]>([
    ['scale', undefined, 'ERR_TENSOR_MISMATCH'],
    ['zero', undefined, 'ERR_TENSOR_MISMATCH'],
    ['shape', undefined, 'ERR_TENSOR_MISMATCH'],
    ['axis', undefined, 'ERR_TENSOR_MISMATCH'],
    ['packing', undefined, 'ERR_TENSOR_MISMATCH'],
    ['scale', f16(31, 1), 'ERR_TENSOR_MISMATCH'],
    ['zero', f16(1, 32), 'ERR_TENSOR_MISMATCH'],
    ['zero', { dtype: 'u8', shape: [32, 1], data: new Uint8Array(32) }, 'ERR_TENSOR_MISMATCH'],
    ['W_q', { dtype: 'u8', shape: [8, 128], data: new Uint8Array(1024) }, 'ERR_TENSOR_MISMATCH'],
    ['W_q', { dtype: 'i8', shape: [16, 64], data: new Uint8Array(1024) }, 'ERR_TENSOR_MISMATCH'],
    ['W_q', f16(16, 64), 'ERR_TENSOR_MISMATCH'],
    ['shape', i32(16), 'ERR_TENSOR_MISMATCH'],
    ['shape', i32(-16, -128), 'ERR_TENSOR_MISMATCH'],
    ['shape', i32(0, 128), 'ERR_TENSOR_MISMATCH'],
    ['shape', i32(32, 128), 'ERR_TENSOR_MISMATCH'],
    ['axis', i32(2), 'ERR_TENSOR_MISMATCH'],
    ['axis', i32(1, 1), 'ERR_TENSOR_MISMATCH'],
    ['group_size', i32(0), 'ERR_TENSOR_MISMATCH'],
    ['group_size', i32(-64), 'ERR_TENSOR_MISMATCH'],
    ['group_size', i32(48), 'ERR_TENSOR_MISMATCH'],
    ['nbits', i32(3), 'ERR_TENSOR_MISMATCH'],
    ['nbits', { dtype: 'f32', shape: [], data: new Uint8Array(Float32Array.of(Number.NaN).buffer) }, 'ERR_TENSOR_MISMATCH'],
    ['packing', text('constructor'), 'ERR_UNSUPPORTED_FORMAT'],
    ['packing', text('bnb'), 'ERR_UNSUPPORTED_FORMAT'],
    ['packing', text('x'.repeat(1000)), 'ERR_TENSOR_MISMATCH'],
    ['packing', text(''), 'ERR_TENSOR_MISMATCH'],
    ['unpack_view_dtype', text("__import__('os').system('true')"), 'ERR_TENSOR_MISMATCH'],
    ['bias', f16(15), 'ERR_TENSOR_MISMATCH'],
    ['quant_zero', { dtype: 'u8', shape: [], data: Uint8Array.of(1) }, 'ERR_UNSUPPORTED_FORMAT'],
  ])('%s replaced by something wrong', async (key, replacement, code) => {
    const tensors = stateDict(name);
    if (replacement === undefined) delete tensors[`m.${key}`];
    else tensors[`m.${key}`] = replacement;
    const error = await failure(() => hqqLayout.read({}, memorySource(tensors)));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(/m\.\w+/);
    expect(error.details.tensor).toMatch(/^m\./);
  });
});

describe('quantization_config', () => {
  const format = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' } as const;
  const linear = (
    path: string,
    settings: HqqSettings | 'keep',
    tag = path.replace(/^.*\.\d+\./, ''),
    more: Partial<LinearSite> = {},
  ): PlannedLinear => {
    const site: LinearSite = { path, tag, layer: 0, shape: [64, 64], bias: false, ...more };
    return settings === 'keep' ? { site, use: 'keep' } : { site, use: quantizer(settings), format };
  };
  const q = (i: number) => `model.layers.${i}.self_attn.q_proj`;
  const down = (i: number) => `model.layers.${i}.mlp.down_proj`;

  test.each(['uniform-b4-g64', 'per-tag'])('%s: as transformers 4.57 wrote it', (name) => {
    const golden = goldenJson<{ quantization_config: JsonObject }>(`hqq/checkpoints-hf4/${name}/config.json`).quantization_config;
    const quant = golden.quant_config as unknown as { readonly weight_quant_params?: HqqSettings } & Record<
      string,
      { readonly weight_quant_params: HqqSettings }
    >;
    const tags = [
      'self_attn.q_proj',
      'self_attn.k_proj',
      'self_attn.v_proj',
      'self_attn.o_proj',
      'mlp.gate_proj',
      'mlp.up_proj',
      'mlp.down_proj',
    ];
    const linears = [0, 1].flatMap((layer) =>
      tags.map((tag) => linear(`model.layers.${layer}.${tag}`, quant.weight_quant_params ?? quant[tag]!.weight_quant_params)),
    );
    expect(hqqLayout.config([...linears, linear('lm_head', 'keep')])).toEqual(golden);
    expect(hqqLayout.config(linears)).toEqual(golden); // a tied model has no lm_head
  });

  test('skip_modules names what is kept, and nothing that is quantized', () => {
    const skip = (...linears: PlannedLinear[]) => hqqLayout.config(linears)!.skip_modules;
    expect(skip(linear(q(0), b4g64), linear(down(0), 'keep'), linear(down(1), 'keep'))).toEqual(['lm_head', 'down_proj']);
    expect(skip(linear(q(0), b4g64), linear(q(1), 'keep'))).toEqual(['lm_head', q(1)]);
    expect(skip(linear('lm_head', b4g64))).toEqual([]);
    const router = 'model.layers.0.block_sparse_moe.gate';
    expect(skip(linear('model.layers.0.mlp.gate_proj', b4g64), linear(router, 'keep'))).toEqual(['lm_head', 'block_sparse_moe.gate']);
    // "m.gate" occurs in "m.gate_proj": there is no string for it
    const clash = [linear('m.gate_proj', b4g64), linear('m.gate', 'keep', 'm.gate')];
    expect(skip(...clash)).toEqual(['lm_head']);
    expect(hqqLayout.loadsIn(clash).join('\n')).toMatch(/skip_modules cannot name m\.gate without/);
  });

  test('loadsIn says who reads it, and why not', () => {
    const uniform = hqqLayout.loadsIn([linear(q(0), b4g64), linear('lm_head', 'keep')]);
    expect(uniform.join('\n')).toMatch(/transformers 4\.48 to 4\.57 with hqq 0\.2\.1/);
    expect(uniform.join('\n')).toMatch(/Not transformers 5/);
    expect(uniform.join('\n')).toMatch(/^vLLM up to 0\.14/m);
    const images = hqqLayout.loadsIn([linear(q(0), b4g64), linear('multi_modal_projector.linear_1', 'keep')]).join('\n');
    expect(images).toMatch(/^Models with images were not tried in Python/m);
    expect(images).not.toMatch(/^Python/m);
    const vllm = (...linears: PlannedLinear[]) => hqqLayout.loadsIn(linears).find((sentence) => sentence.includes('vLLM'));
    expect(vllm(linear(q(0), { ...b4g64, nbits: 3 }))).toMatch(/^Not vLLM: it takes 4 bits/);
    expect(vllm(linear(q(0), { ...b4g64, axis: 0 }))).toMatch(/^Not vLLM/);
    expect(vllm(linear(q(0), { ...b4g64, group_size: 32 }))).toMatch(/^Not vLLM/);
    expect(vllm(linear(q(0), { ...b4g64, view_as_float: true }))).toMatch(/^Not vLLM: it takes no float views/);
    expect(vllm(linear(q(0), b4g64), linear(down(0), { ...b4g64, nbits: 8 }))).toMatch(/one setting for all/);
    expect(vllm(linear(q(0), b4g64), linear(q(1), 'keep'))).toMatch(/^Not vLLM: it skips/);
    expect(vllm(linear(q(0), { ...b4g64, channel_wise: false }))).toMatch(/^Not vLLM: it takes 4 bits/);
  });

  test('vLLM: what it fuses, what it never quantizes, and widths of its kernel', () => {
    const vllm = (...linears: PlannedLinear[]) => hqqLayout.loadsIn(linears).find((sentence) => sentence.includes('vLLM'));
    // It asks whether "down_proj" is a component of "model.layers.0.mlp.down_proj", and never of "q_proj", which it knows as "qkv_proj".
    expect(vllm(linear(q(0), b4g64), linear(down(0), 'keep'), linear(down(1), 'keep'))).toMatch(/^vLLM up to 0\.14/);
    expect(vllm(linear(down(0), b4g64), linear(q(0), 'keep'), linear(q(1), 'keep'))).toMatch(/^Not vLLM: .*projections that it fuses/);
    expect(vllm(linear(q(0), b4g64), linear('lm_head', b4g64))).toMatch(/^Not vLLM: it takes no quantized lm_head/);
    expect(vllm(linear('model.layers.0.mlp.experts.1.w1', b4g64, 'mlp.experts.w1', { expert: 1 }))).toMatch(/experts/);
    // The tensors fit: groups of 64 run across the ends of rows of 96.
    expect(vllm(linear(q(0), b4g64, undefined, { shape: [64, 96] }))).toMatch(/^Not vLLM: .*multiples of 64, unlike .*q_proj/);
    expect(vllm(linear(q(0), b4g64, undefined, { shape: [96, 64] }))).toMatch(/multiples of 64/);
    expect(vllm(linear(q(0), b4g64, undefined, { shape: [192, 128] }))).toMatch(/^vLLM up to 0\.14/);
    const plain = hqqSafetensorsLayout.loadsIn([linear(q(0), b4g64)]).join('\n');
    expect(plain).toMatch(/^Not transformers or vLLM as it is.*\nWith that block .*, and vLLM up to 0\.14\.$/m);
    expect(hqqSafetensorsLayout.loadsIn([linear(q(0), { ...b4g64, nbits: 2 })]).join('\n')).toMatch(/hqq 0\.2\.1 or later\.$/);
  });

  test('quantized scales and zeros are in the block of hqq-nested alone', () => {
    const nested = { kind: 'affine', levels: 256, group: 128, axis: 0, scale: 'f16', zero: 'f16', packing: '8bit_u8' } as const;
    const stored = { ...format, scale: nested, zero: { ...nested, group: null } };
    const site: LinearSite = { path: q(0), tag: 'self_attn.q_proj', layer: 0, shape: [128, 64], bias: false };
    const use = quantizer(b4g64);
    expect([hqqLayout, hqqSafetensorsLayout, hqqNestedLayout].map((layout) => layout.accepts(use, stored))).toEqual([false, false, true]);
    expect(hqqNestedLayout.accepts(use, format)).toBe(true);
    expect(hqqNestedLayout.accepts(use, { ...stored, scale: { ...nested, scale: nested } })).toBe(false);
    expect(hqqNestedLayout.accepts(use, { ...stored, zero: 'none' })).toBe(false);
    expect(hqqNestedLayout.config([{ site, use, format: stored }, linear(q(1), b4g64)])).toMatchObject({
      quant_method: 'lowbit',
      quant_config: { 'self_attn.q_proj': { scale_quant_params: { group_size: 128 }, zero_quant_params: { group_size: null } } },
    });
    expect(hqqNestedLayout.loadsIn([])[0]).toMatch(/^lowbit only/);
    const names = hqqNestedLayout
      .tensors({ site, use, format: stored }, { computeDtype: 'f16', weightDtype: 'f16' })
      .map(({ name }) => name.slice(q(0).length + 1));
    expect(names).toEqual(expect.arrayContaining(['scale_q', 'meta_scale.axis', 'zero_q', 'meta_zero.scale', 'lowbit_version']));
    expect(names).not.toContain('scale');
  });

  test('two settings for one tag: the first layer is in the config, and loadsIn says so', () => {
    const linears = [linear(q(0), b4g64), linear(q(1), { ...b4g64, nbits: 8 })];
    expect(Object.keys(hqqLayout.config(linears)!.quant_config as object)).toEqual(['self_attn.q_proj']);
    expect(hqqLayout.config(linears)).toMatchObject({ quant_config: { 'self_attn.q_proj': { weight_quant_params: { nbits: 4 } } } });
    expect(hqqLayout.loadsIn(linears).join('\n')).toMatch(/model\.layers\.1\.self_attn\.q_proj differ/);
  });

  test('a quantizer of another method, or a config that is not its', async () => {
    const other = { ...quantizer(b4g64), method: 'nf4' };
    expect(hqqLayout.accepts(other, format)).toBe(false);
    expect(hqqLayout.accepts(quantizer(b4g64), { ...format, zero: 'none' })).toBe(false);
    expect(hqqLayout.accepts(quantizer(b4g64), { ...format, packing: 'bnb_nibble' })).toBe(false);
    expect(hqqLayout.accepts(quantizer(b4g64), { kind: 'dense', dtype: 'f16' })).toBe(false);
    const broken = { ...quantizer(b4g64), config: { nbits: 4 } };
    expect(
      (await failure(() => hqqLayout.tensors(siteOf(broken, format, [64, 64]), { computeDtype: 'f16', weightDtype: 'f32' }))).code,
    ).toBe('ERR_BAD_ARGUMENT');
    expect(
      (
        await failure(() =>
          hqqLayout.tensors(siteOf(quantizer(b4g64), { kind: 'dense', dtype: 'f16' }, [64, 64]), {
            computeDtype: 'f16',
            weightDtype: 'f32',
          }),
        )
      ).code,
    ).toBe('ERR_UNSUPPORTED_FORMAT');
    const view = quantizer({ ...b4g64, group_size: 6, view_as_float: true });
    expect(
      (await failure(() => hqqLayout.tensors(siteOf(view, { ...format, group: 6 }, [6, 6]), { computeDtype: 'f32', weightDtype: 'f32' })))
        .code,
    ).toBe('ERR_UNSUPPORTED_FORMAT');
  });
});

test('detect goes by the config, and without one by the tensors', () => {
  const entries = new Map([['m.W_q', { dtype: 'u8', shape: [1] } as const]]);
  expect(hqqLayout.detect({ quantization_config: { quant_method: 'hqq' } }, new Map())).toBe(true);
  expect(hqqLayout.detect({ quantization_config: { quant_method: 'gptq' } }, entries)).toBe(false);
  expect(hqqLayout.detect({ quantization_config: null }, entries)).toBe(true);
  expect(hqqLayout.detect({}, entries)).toBe(true);
  expect(hqqLayout.detect({}, new Map())).toBe(false);
});
