import {
  byteLength,
  codecFor,
  type DType,
  dequantize,
  elementCount,
  type HostTensor,
  isLowbitError,
  type JsonObject,
  memorySource,
  type PlannedLinear,
  packing,
  type QuantizedSite,
  type QuantizedTensor,
  readFloat32,
  type StoredLinear,
  type TensorSource,
  toFloat32,
  writeFloat32,
} from '@lowbit/core';
import {
  encodeHiggsLinear,
  type HiggsSettings,
  higgsFormat,
  higgsTable,
  layoutBytes,
  readHiggsLinear,
  readHiggsLinears,
  readStoredLinear,
} from '@lowbit/layouts';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { goldenJson, goldenTensors } from '../../../../fixtures/golden.ts';
import { linearBytes } from '../plan/stored-bytes.ts';
import { failure } from '../testing.node.ts';
import { higgsLayout as layout } from './higgs.ts';

type Tensors = Record<string, HostTensor>;

interface LayerCase {
  readonly name: string;
  readonly bits: number;
  readonly p: 1 | 2;
  readonly group_size: number;
  readonly hadamard_size: number;
  readonly dtype: 'float16' | 'bfloat16';
  readonly out: number;
  readonly in: number;
  readonly padded_in: number;
  readonly tile_p: 32 | 64;
  readonly tune_metadata: JsonObject;
}

const { layers } = goldenJson<{ readonly layers: readonly LayerCase[] }>('higgs/cases.json');
const golden = new Map(layers.map(({ name }) => [name, goldenTensors(`higgs/${name}.safetensors`)]));
const caseOf = (name: string): LayerCase => layers.find((layer) => layer.name === name)!;

/** The tensors of one golden layer as a checkpoint has them, under the path `m`. */
function layer(name: string): Tensors {
  const tensors = golden.get(name)!;
  const own: Tensors = { 'm.weight': tensors.get('packed')! };
  for (const key of ['scales', 'tables', 'tables2', 'bias']) if (tensors.has(key)) own[`m.${key}`] = tensors.get(key)!;
  return own;
}

/** Its `quantization_config`. */
function configOf({ bits, p, group_size, hadamard_size, tune_metadata }: LayerCase, changes: JsonObject = {}): JsonObject {
  const block = {
    bits,
    group_size,
    hadamard_size,
    modules_to_not_convert: ['lm_head'],
    p,
    quant_method: 'higgs',
    tune_metadata: { m: tune_metadata },
  };
  return { quantization_config: { ...block, ...changes } };
}

const zeros = (dtype: DType, ...shape: number[]): HostTensor => ({ dtype, shape, data: new Uint8Array(byteLength({ dtype, shape })) });

interface Read {
  readonly stored: StoredLinear;
  readonly weight: QuantizedTensor;
}

async function readOne(tensors: Tensors, config: JsonObject): Promise<Read> {
  const source = memorySource(tensors);
  const stored = (await layout.read(config, source)).get('m')!;
  return { stored, weight: await readStoredLinear(source, stored, { path: 'm' }) };
}

/** A linear of a plan. */
function linear(
  path: string,
  shape: readonly [number, number],
  settings: Partial<HiggsSettings> = {},
  config: JsonObject = {},
  bias = false,
): QuantizedSite {
  const format = higgsFormat({ bits: 4, p: 2, group: 256, hadamard: 512, dtype: 'f16', packing: 32, ...settings });
  return { site: { path, tag: path, layer: 0, shape, bias }, use: { method: 'higgs', config }, format };
}

const kept = (path: string): PlannedLinear => ({ site: { path, tag: path, layer: 0, shape: [64, 64], bias: false }, use: 'keep' });

function written(site: QuantizedSite, { parts }: QuantizedTensor): Tensors {
  const tensors = layout.tensors(site, { computeDtype: 'f16', weightDtype: 'f16' });
  return Object.fromEntries(tensors.map((tensor) => [tensor.name, { ...tensor.spec, data: layoutBytes(tensor, parts) }]));
}

/** Same names, dtypes, shapes and bytes. */
function expectSame(got: Readonly<Record<string, HostTensor>>, want: Readonly<Record<string, HostTensor>>): void {
  const specs = (tensors: Readonly<Record<string, HostTensor>>) =>
    Object.fromEntries(Object.entries(tensors).map(([name, { dtype, shape }]) => [name, { dtype, shape }]));
  expect(specs(got)).toEqual(specs(want));
  for (const [name, { data }] of Object.entries(want)) expect(Buffer.compare(got[name]!.data, data), name).toBe(0);
}

describe('reading what transformers writes', () => {
  test.each(layers.map(({ name }) => name))('%s', async (name) => {
    const about = caseOf(name);
    const tensors = golden.get(name)!;
    const config = configOf(about, about.in === about.padded_in ? {} : { lowbit: { modules: { m: { in_features: about.in } } } });
    const { stored, weight } = await readOne(layer(name), config);
    expect(stored).toMatchObject({ shape: [about.out, about.in], format: { bits: about.bits, dim: about.p, group: about.group_size } });
    expect(stored.note).toBeUndefined();
    expect(stored.bias).toBe(tensors.has('bias') ? 'm.bias' : undefined);
    const codes = codecFor(weight.format).unpackRows(weight, 0, about.out).data;
    expect(Buffer.compare(codes, tensors.get('codes')!.data)).toBe(0);
    const expected = tensors.get('dequant')!;
    const rows = toFloat32(expected);
    const got = toFloat32(dequantize(weight, { to: expected.shape[0]! }));
    for (let row = 0; row < expected.shape[0]!; row++) {
      const own = rows.subarray(row * about.in, (row + 1) * about.in);
      const most = own.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
      const off = own.reduce((largest, value, i) => Math.max(largest, Math.abs(got[row * about.in + i]! - value)), 0);
      expect(off, `row ${row}`).toBeLessThanOrEqual(2e-6 * most + 1e-12);
    }
    // and written again with the same bytes
    const site: QuantizedSite = { ...linear('m', stored.shape), format: stored.format };
    const { 'm.bias': _, ...own } = layer(name);
    expectSame(written(site, weight), own);
    // The portable form has the same numbers.
    const portable = higgsFormat({ ...settingsOf(about), packing: 'portable' });
    const packed = packing(portable.packing).pack(codes, about.out, about.padded_in / about.p);
    const spec = codecFor(portable).parts(portable, stored.shape).codes!;
    const moved: QuantizedTensor = { format: portable, shape: stored.shape, parts: { ...weight.parts, codes: { ...spec, data: packed } } };
    const file = written({ ...site, format: portable }, moved);
    expect(Object.keys(file).sort()).toEqual(['m.codes', 'm.grid', 'm.scales']);
    const back = await readOne(file, config);
    expectSame(back.weight.parts, moved.parts);
    expect(back.weight.format).toEqual(portable);
    expect(back.stored.note).toBeUndefined();
  });

  function settingsOf({ bits, p, group_size, hadamard_size, dtype, tile_p }: LayerCase): HiggsSettings {
    return { bits, p, group: group_size, hadamard: hadamard_size, dtype: dtype === 'float16' ? 'f16' : 'bf16', packing: tile_p };
  }

  test('the state dict of a layer has no path', async () => {
    const about = caseOf('b4p2-pad300-f16');
    const own = Object.fromEntries(Object.entries(layer(about.name)).map(([name, tensor]) => [name.slice(2), tensor]));
    const source = memorySource(own);
    const facts = { hadamard: about.hadamard_size, tile: about.tile_p, inFeatures: about.in };
    const stored = await readHiggsLinear(source, '', facts);
    expect(stored).toMatchObject({ shape: [about.out, about.in], parts: { codes: 'weight', scale: 'scales' } });
    expect([...(await readHiggsLinears(source, { facts: () => facts })).keys()]).toEqual(['']);
    const weight = await readStoredLinear(source, stored, { path: '' });
    const tensors = encodeHiggsLinear({ path: '', shape: stored.shape, format: stored.format });
    expectSame(
      Object.fromEntries(tensors.map((tensor) => [tensor.name, { ...tensor.spec, data: layoutBytes(tensor, weight.parts) }])),
      own,
    );
  });

  test('without metadata codes are in tiles of 32, and without p the table says it', async () => {
    for (const name of ['b4p2-g256-h512-f16', 'b4p1-g256-h512-bf16']) {
      const about = caseOf(name);
      const expected = await readOne(layer(name), configOf(about));
      const { stored } = await readOne(
        { ...layer(name), 'm.num_sms_packed': zeros('i32') },
        configOf(about, { tune_metadata: {}, p: null }),
      );
      expect(stored).toEqual(expected.stored);
    }
  });

  test.each([
    ['bits', 4, 3],
    ['p', 1, 2],
    ['group_size', 64, 256],
  ])('the config is of another model: it says %s %i', async (key, said, stored) => {
    const about = caseOf('b3p2-g256-h256-f16');
    await expect(readOne(layer(about.name), configOf(about, { [key]: said }))).rejects.toThrow(
      expect.objectContaining({
        code: 'ERR_TENSOR_MISMATCH',
        message: expect.stringContaining(`says ${key} ${said}, its tensors ${stored}`),
      }),
    );
  });

  test('metadata without bits: the tile is that of the kernel for the bits that the tensors have', async () => {
    const about = caseOf('b2p1-edge-f16'); // kernel 4 has tiles of 32 at 2 bits, of 64 at 4
    const { stored } = await readOne(layer(about.name), configOf(about, { tune_metadata: { m: { M: 1, template_id: 4 } } }));
    expect(stored.format).toMatchObject({ bits: 2, packing: 'flute2_p1_t32' });
  });

  test('in_features that are not said are all that are stored', async () => {
    const about = caseOf('b4p2-pad300-f16');
    expect((await readOne(layer(about.name), configOf(about))).stored.shape).toEqual([about.out, about.padded_in]);
  });

  describe('tables', () => {
    const about = caseOf('b4p2-g128-h1024-bf16');
    const damaged = (): Tensors => {
      const tensors = layer(about.name);
      const values = new Float32Array(512);
      readFloat32('f16', tensors['m.tables2']!.data, values);
      return { ...tensors, 'm.tables2': { dtype: 'bf16', shape: [16, 16, 2], data: writeFloat32('bf16', values) } };
    };

    test('one that transformers damaged by loading it as bfloat16 is mended, which is said', async () => {
      const { stored, weight } = await readOne(damaged(), configOf(about));
      const whole = await readOne(layer(about.name), configOf(about));
      expectSame(weight.parts, whole.weight.parts);
      expect(stored.note).toMatch(/damaged by transformers, which casts it by value/);
      expect(whole.stored.note).toBeUndefined();
      expectSame(written({ ...linear('m', stored.shape), format: stored.format }, weight), layer(about.name));
    });

    test('one of its own is used as it is, which is said', async () => {
      const tensors = layer(about.name);
      const data = tensors['m.tables2']!.data.slice();
      data[0]! ^= 1;
      tensors['m.tables2'] = { ...tensors['m.tables2']!, data };
      const { stored, weight } = await readOne(tensors, configOf(about));
      expect(stored.note).toMatch(/not the grid of transformers/);
      expect(toFloat32(weight.parts.table!)).not.toEqual(toFloat32(higgsTable(4, 2, 'bf16')));
      expect(toFloat32(weight.parts.table!).subarray(2)).toEqual(toFloat32(higgsTable(4, 2, 'bf16')).subarray(2));
      expectSame(written({ ...linear('m', stored.shape), format: stored.format }, weight), tensors);
      expect(await failure(() => readOne(tensors, configOf(about, { p: 1 })))).toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    });

    test('a scalar one of its own', async () => {
      const scalar = caseOf('b4p1-g256-h512-bf16');
      const tensors = layer(scalar.name);
      const points = Float32Array.from({ length: 16 }, (_, i) => (i - 7.5) / 4);
      const pairs = Float32Array.from({ length: 512 }, (_, i) => points[i & 1 ? (i >> 1) % 16 : i >> 5]!);
      tensors['m.tables2'] = { ...tensors['m.tables2']!, data: writeFloat32('bf16', pairs) };
      for (const p of [1, null]) {
        const { stored, weight } = await readOne(tensors, configOf(scalar, { p }));
        expect(stored.format).toMatchObject({ dim: 1 });
        expect(toFloat32(weight.parts.table!)).toEqual(points);
      }
    });
  });
});

describe('reading what is broken', () => {
  const NAME = 'b4p2-g256-h512-f16';
  const put = (key: string, tensor: HostTensor) => (tensors: Tensors) => void Object.assign(tensors, { [`m.${key}`]: tensor });
  const drop = (key: string) => (tensors: Tensors) => void delete tensors[`m.${key}`];
  const same = (): void => {};
  const tuned = (changes: JsonObject): JsonObject => ({ tune_metadata: { m: { ...caseOf(NAME).tune_metadata, ...changes } } });
  const nan = { dtype: 'f16', shape: [16, 16, 2], data: new Uint8Array(1024).fill(255) } as const;

  test.each<readonly [what: string, change: (tensors: Tensors) => void, block: JsonObject, code: string, message: RegExp]>([
    ['no codes', drop('weight'), {}, 'ERR_TENSOR_MISMATCH', /"m\.weight" is missing/],
    ['no scales', drop('scales'), {}, 'ERR_TENSOR_MISMATCH', /"m\.scales" is missing/],
    ['no tables2', drop('tables2'), {}, 'ERR_TENSOR_MISMATCH', /"m\.tables2" is missing/],
    ['codes of floats', put('weight', zeros('f16', 32, 512)), {}, 'ERR_TENSOR_MISMATCH', /"m\.weight" is f16/],
    ['codes in a vector', put('weight', zeros('i16', 32 * 512)), {}, 'ERR_TENSOR_MISMATCH', /expected a matrix of i16/],
    ['5 bits', put('weight', zeros('i16', 40, 512)), {}, 'ERR_TENSOR_MISMATCH', /that is 5 bits a weight/],
    ['a fraction of bits', put('weight', zeros('i16', 33, 512)), {}, 'ERR_TENSOR_MISMATCH', /4\.125 bits/],
    ['2 bits with the table of 4', put('weight', zeros('i16', 16, 512)), {}, 'ERR_TENSOR_MISMATCH', /"m\.tables2".*\[4, 4, 2\]/],
    ['fewer inputs', put('weight', zeros('i16', 32, 256)), {}, 'ERR_BAD_CHECKPOINT', /no multiple of hadamard_size 512/],
    ['more inputs', put('weight', zeros('i16', 32, 2048)), {}, 'ERR_TENSOR_MISMATCH', /"m\.scales".*groups of 1024/],
    ['scales of f32', put('scales', zeros('f32', 128, 2)), {}, 'ERR_TENSOR_MISMATCH', /"m\.scales" is f32/],
    ['three scales a row', put('scales', zeros('f16', 128, 3)), {}, 'ERR_TENSOR_MISMATCH', /"m\.scales" has 3 scales/],
    ['no rows', put('scales', zeros('f16', 0, 2)), {}, 'ERR_TENSOR_MISMATCH', /"m\.scales"/],
    ['outputs that no tile has', put('scales', zeros('f16', 64, 2)), {}, 'ERR_TENSOR_MISMATCH', /8 bits/],
    ['a table in f32', put('tables2', zeros('f32', 16, 16, 2)), {}, 'ERR_TENSOR_MISMATCH', /"m\.tables2" is f32/],
    ['a table of NaN', put('tables2', nan), {}, 'ERR_NON_FINITE', /"m\.tables2": element 0 is NaN/],
    ['a wrong bias', put('bias', zeros('f16', 64)), {}, 'ERR_TENSOR_MISMATCH', /"m\.bias"/],
    ['codes of both forms', put('codes', zeros('u8', 128, 256)), {}, 'ERR_TENSOR_MISMATCH', /"m\.codes" is there beside the words/],
    ['hadamard 1024', same, { hadamard_size: 1024 }, 'ERR_BAD_CHECKPOINT', /no multiple of hadamard_size 1024/],
    ['hadamard 128', same, { hadamard_size: 128 }, 'ERR_TENSOR_MISMATCH', /groups of 256 do not divide hadamard_size 128/],
    ['hadamard 500', same, { hadamard_size: 500 }, 'ERR_BAD_CHECKPOINT', /hadamard_size 500/],
    ['hadamard of 2^40', same, { hadamard_size: 2 ** 40 }, 'ERR_BAD_CHECKPOINT', /hadamard_size 1099511627776/],
    ['hadamard as text', same, { hadamard_size: '512' }, 'ERR_BAD_CHECKPOINT', /hadamard_size "512"/],
    ['p 3', same, { p: 3 }, 'ERR_BAD_CHECKPOINT', /says p 3/],
    ['5 bits said', same, { bits: 5 }, 'ERR_BAD_CHECKPOINT', /says bits 5/],
    ['metadata as a list', same, { tune_metadata: [] }, 'ERR_BAD_CHECKPOINT', /tune_metadata \[\]/],
    ['metadata of a module as text', same, { tune_metadata: { m: 'x' } }, 'ERR_BAD_CHECKPOINT', /tune_metadata of "m" "x"/],
    ['metadata without a template', same, tuned({ template_id: null }), 'ERR_BAD_CHECKPOINT', /template_id of "m" null/],
    ['template 144', same, tuned({ template_id: 144 }), 'ERR_BAD_CHECKPOINT', /template_id of "m" 144/],
    ['template -1', same, tuned({ template_id: -1 }), 'ERR_BAD_CHECKPOINT', /template_id of "m" -1/],
    ['the template of other tiles', same, tuned({ template_id: 0 }), 'ERR_UNSUPPORTED_FORMAT', /"m\.weight".*a multiple of 256, got 128/],
    ['metadata of another K', same, tuned({ K: 1024 }), 'ERR_TENSOR_MISMATCH', /"m" says K 1024, its tensors 512/],
    ['metadata of another N', same, tuned({ N: 256 }), 'ERR_TENSOR_MISMATCH', /says N 256/],
    ['metadata of other bits', same, tuned({ num_bits: 2, template_id: 9 }), 'ERR_TENSOR_MISMATCH', /says num_bits 2/],
    ['metadata of another group', same, tuned({ group_size: 64 }), 'ERR_TENSOR_MISMATCH', /says group_size 64/],
    ['modules as a list', same, { lowbit: { modules: [1] } }, 'ERR_BAD_CHECKPOINT', /lowbit\.modules \[1\]/],
    ['in_features 0', same, { lowbit: { modules: { m: { in_features: 0 } } } }, 'ERR_BAD_CHECKPOINT', /in_features of "m" 0/],
    ['in_features too small', same, { lowbit: { modules: { m: { in_features: 0.5 } } } }, 'ERR_BAD_CHECKPOINT', /in_features of "m" 0\.5/],
    [
      'in_features of more',
      same,
      { lowbit: { modules: { m: { in_features: 513 } } } },
      'ERR_BAD_CHECKPOINT',
      /"m\.weight" .*in_features 513/,
    ],
  ])('%s', async (_what, change, block, code, message) => {
    const tensors = layer(NAME);
    change(tensors);
    const error = await failure(() => readOne(tensors, configOf(caseOf(NAME), block)));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    expect(error.hint).toBeTruthy();
  });

  test('the portable form', async () => {
    const good: Tensors = {
      'm.codes': zeros('u8', 3, 256),
      'm.scales': zeros('f16', 3, 2),
      'm.grid': { dtype: 'f16', shape: [256, 2], data: writeFloat32('f16', toFloat32(higgsTable(4, 2, 'f16'))) },
    };
    const config = configOf(caseOf(NAME), { tune_metadata: {} });
    expect((await readOne(good, config)).stored.shape).toEqual([3, 512]);
    const bad = async (key: string, tensor: HostTensor, message: RegExp) => {
      expect((await failure(() => readOne({ ...good, [`m.${key}`]: tensor }, config))).message).toMatch(message);
    };
    await bad('codes', zeros('u8', 4, 256), /"m\.codes" has 4 rows, "m\.scales" has 3/);
    await bad('codes', zeros('u8', 3, 255), /"m\.codes" has rows of 510 weights/);
    await bad('codes', zeros('i8', 3, 256), /"m\.codes" is i8/);
    await bad('grid', zeros('f16', 255, 2), /"m\.grid" is f16 \[255, 2\]/);
    await bad('grid', zeros('f16', 256, 1), /"m\.grid"/);
    await bad('grid', zeros('f32', 256, 2), /"m\.grid" is f32/);
  });

  test('no config block: what it alone says cannot be guessed', async () => {
    expect(layout.detect({}, memorySource(layer(NAME)).entries)).toBe(true);
    expect(layout.detect({ quantization_config: { quant_method: 'awq' } }, memorySource(layer(NAME)).entries)).toBe(false);
    expect(layout.detect({}, new Map([['m.weight', { dtype: 'f16', shape: [2, 2] }]]))).toBe(false);
    expect(await failure(() => readOne(layer(NAME), {}))).toMatchObject({
      code: 'ERR_BAD_CHECKPOINT',
      message: expect.stringMatching(/hadamard|quantization_config/),
    });
  });

  test('whatever is changed: a weight of its claimed size or a typed error, and little is read', async () => {
    const dtypes = fc.constantFrom<DType>('u8', 'i16', 'f16', 'bf16', 'f32', 'i64');
    const extent = fc.oneof(fc.nat({ max: 1024 }), fc.constantFrom(0, 16, 128, 512, 2 ** 31));
    const spec = fc.record({ dtype: dtypes, shape: fc.array(extent, { maxLength: 3 }) });
    const number = fc.oneof(fc.nat({ max: 200 }), fc.constantFrom(-1, 0.5, 512, 2 ** 31, 2 ** 53, 1e300, Number.NaN, null, 'x'));
    const metadata = fc.record({ N: number, K: number, num_bits: number, group_size: number, template_id: number }, { requiredKeys: [] });
    const block = fc.record(
      {
        bits: number,
        p: number,
        hadamard_size: number,
        tune_metadata: fc.oneof(fc.record({ m: metadata }), fc.constantFrom(null, 3, [])),
        lowbit: fc.record({ modules: fc.record({ m: fc.record({ in_features: number, hadamard_size: number }, { requiredKeys: [] }) }) }),
      },
      { requiredKeys: [] },
    );
    const keys = ['m.weight', 'm.scales', 'm.tables', 'm.tables2', 'm.codes', 'm.grid', 'm.bias'];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(NAME, 'b3p2-pad200-bf16', 'b2p1-g128-h128-f16-t64'),
        fc.dictionary(fc.constantFrom(...keys), fc.option(spec), { maxKeys: 3 }),
        fc.option(block),
        async (name, changes, edit) => {
          const tensors = layer(name);
          const entries = new Map(Object.entries(tensors).map(([key, { dtype, shape }]) => [key, { dtype, shape }]));
          for (const [key, change] of Object.entries(changes)) {
            if (change === null) entries.delete(key);
            else entries.set(key, change);
          }
          let bytes = 0;
          const source: TensorSource = {
            label: 'hostile',
            entries,
            async read(key, { range } = {}) {
              const { dtype, shape } = entries.get(key)!;
              const count = range ? range[1] - range[0] : elementCount(shape);
              const full = new Uint8Array(byteLength({ dtype, shape: [count] }));
              full.set((tensors[key]?.data ?? new Uint8Array()).subarray(0, full.byteLength));
              bytes += full.byteLength;
              return { dtype, shape: range ? [count] : shape, data: full };
            },
            async [Symbol.asyncDispose]() {},
          };
          const config = configOf(caseOf(name), (edit ?? {}) as JsonObject);
          try {
            const linears = await layout.read(config, source);
            expect(bytes).toBeLessThanOrEqual(1024 * linears.size);
            const stored = linears.get('m');
            if (stored === undefined) return;
            const specs = codecFor(stored.format).parts(stored.format, stored.shape);
            for (const [part, tensor] of Object.entries(stored.parts)) {
              expect(byteLength(entries.get(tensor)!)).toBe(byteLength(specs[part]!));
            }
          } catch (error) {
            if (!isLowbitError(error)) throw error;
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('writing', () => {
  const q = 'model.layers.0.q_proj';
  const down = 'model.layers.0.down_proj';

  test('one setting for all is as transformers writes it', () => {
    expect(layout.config([linear(q, [4096, 4096]), kept('lm_head')])).toEqual({
      bits: 4,
      group_size: 256,
      hadamard_size: 512,
      modules_to_not_convert: ['lm_head'],
      p: 2,
      quant_method: 'higgs',
      tune_metadata: {
        [q]: {
          K: 4096,
          M: 1,
          N: 4096,
          device: 'cuda:0',
          dtype: 'torch.float16',
          group_size: 256,
          num_bits: 4,
          num_sms: 1,
          template_id: 36,
        },
      },
    });
    const metadata = (settings: Partial<HiggsSettings>, config: JsonObject = {}) =>
      (layout.config([linear(q, [1024, 1024], settings, config)])!.tune_metadata as Record<string, JsonObject>)[q]!;
    expect(metadata({ bits: 2 })).toMatchObject({ num_bits: 2, template_id: 9 });
    expect(metadata({ bits: 3, dtype: 'bf16' })).toMatchObject({ num_bits: 3, template_id: 9, dtype: 'torch.bfloat16' });
    expect(metadata({ packing: 64 })).toMatchObject({ template_id: 4 });
    expect(metadata({ bits: 2, packing: 64 })).toMatchObject({ template_id: 1 });
    expect(metadata({}, { num_sms: 108, template_id: 41 })).toMatchObject({ num_sms: 108, template_id: 41 });
    expect(metadata({}, { template_id: 5 })).toMatchObject({ template_id: 36 }); // of tiles of 64
  });

  test('what differs, or is filled up, has a place of its own', () => {
    const block = layout.config([
      linear(q, [512, 512]),
      linear(down, [512, 500], { bits: 3, p: 1, group: 64, hadamard: 128 }),
      linear('o', [100, 1024], { packing: 'portable' }),
    ])!;
    expect(block).toMatchObject({ bits: 4, p: 2, group_size: 256, hadamard_size: 512 });
    expect(block.lowbit).toEqual({ modules: { [down]: { bits: 3, group_size: 64, hadamard_size: 128, in_features: 500, p: 1 } } });
    expect(Object.keys(block.tune_metadata as JsonObject)).toEqual([q, down]);
  });

  test('modules_to_not_convert names what is kept for old and new readers, and nothing that is quantized', () => {
    const skip = (...linears: PlannedLinear[]) => layout.config(linears)!.modules_to_not_convert;
    const asked = (names: readonly string[] | null) => linear(q, [512, 512], {}, { modules_to_not_convert: names });
    expect(skip(linear(q, [512, 512]), kept('lm_head'))).toEqual(['lm_head']);
    expect(skip(linear(q, [512, 512]))).toEqual(['lm_head']);
    expect(skip(linear(q, [512, 512]), linear('lm_head', [512, 512]))).toEqual([]);
    expect(skip(asked(null), kept('lm_head'))).toBe(null);
    expect(skip(asked(null), linear('lm_head', [512, 512]))).toEqual([]);
    expect(skip(asked(null), kept(down))).toEqual(['lm_head', 'down_proj']);
    expect(skip(asked(['score', 'q_proj', 'lm_head']), kept('lm_head'))).toEqual(['score', 'lm_head']);
    expect(skip(linear(q, [512, 512]), kept('model.layers.1.q_proj'))).toEqual(['lm_head', 'model.layers.1.q_proj']);
    // a name of a layer is the beginning of another's
    const clash = [linear('m.1.mlp2', [512, 512]), kept('m.1.mlp')];
    expect(skip(...clash)).toEqual(['lm_head', 'mlp']);
    const hopeless = [linear('mlp2', [512, 512]), kept('mlp')];
    expect(layout.loadsIn(hopeless).join('\n')).toMatch(/Not transformers: modules_to_not_convert cannot name mlp /);
    expect(() => skip(linear(q, [512, 512], {}, { modules_to_not_convert: 'lm_head' }))).toThrow(/modules_to_not_convert/);
    expect(() => skip(linear(q, [512, 512], {}, { num_sms: 0 }))).toThrow(/num_sms/);
  });

  test('loadsIn says who reads it, and why not', () => {
    const of = (...linears: PlannedLinear[]) => layout.loadsIn(linears).join('\n');
    const plain = of(linear(q, [4096, 4096]), kept('lm_head'));
    expect(plain).toMatch(/^lowbit, on every backend\./m);
    expect(plain).toMatch(/^Python: transformers 4\.49 to 4\.57 and 5/m);
    expect(plain).toMatch(/packs all layers anew .* num_sms is 1/);
    expect(plain).not.toMatch(/Not transformers|too small|bfloat16/);
    expect(of(linear(q, [4096, 4096], {}, { num_sms: 128 }))).toMatch(/other than 128 multiprocessors/);
    expect(of(linear(q, [512, 512]))).toMatch(/q_proj: too small for FLUTE/);
    expect(of(linear(q, [4096, 4096], { dtype: 'bf16' }))).toMatch(/casts tables2 by value, which damages it/);
    expect(of(linear(q, [4096, 4096], {}, {}, true))).toMatch(/forgets the biases of model\.layers\.0\.q_proj/);
    expect(of(linear(q, [512, 512]), linear(down, [512, 512], { bits: 3 }))).toMatch(
      /^Not transformers: mixed bit widths do not load in transformers\.$/m,
    );
    expect(of(linear(q, [512, 512]), linear(down, [512, 512], { group: 64 }))).toMatch(/one p, group_size and hadamard_size/);
    expect(of(linear(q, [512, 500]))).toMatch(/no rows that were filled up: in_features of model\.layers\.0\.q_proj/);
    expect(of(linear(q, [512, 512], { group: 32 }))).toMatch(/groups of 64, 128 and 256 alone/);
    const portable = of(linear(q, [500, 512], { packing: 'portable' }));
    expect(portable).toMatch(
      /q_proj: in the portable form, which lowbit alone reads\. FLUTE needs out_features that are a multiple of 128 with 4 bits\./,
    );
    expect(portable).toMatch(/^Not transformers: it reads no portable form\.$/m);
  });

  test('takes what it can hold', () => {
    const accepts = (settings: Partial<HiggsSettings>, method = 'higgs') =>
      layout.accepts({ method, config: {} }, linear(q, [512, 512], settings).format);
    expect(accepts({})).toBe(true);
    expect(accepts({ packing: 'portable', bits: 3, p: 1 })).toBe(true);
    expect(accepts({ hadamard: 2 ** 16 })).toBe(false);
    expect(accepts({ group: 1024 })).toBe(false);
    expect(accepts({}, 'hqq')).toBe(false);
    expect(layout.accepts({ method: 'higgs', config: {} }, { ...linear(q, [512, 512]).format, scale: 'f32' } as never)).toBe(false);
    expect(() => layout.tensors(linear(q, [1024, 512], { bits: 3, packing: 64 }), { computeDtype: 'f16', weightDtype: 'f16' })).toThrow(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT', message: expect.stringContaining('no 3-bit codes in tiles of 64') }),
    );
  });
});

test.each([
  // shape, packing, bytes of codes and scales, and of tables: FLUTE's two, or the grid
  [[512, 512], 32, 131_072 + 2048, 1056],
  [[128, 512], 32, 32_768 + 512, 1056],
  [[64, 512], 'portable', 16_384 + 256, 1024],
] as const)('the size of %j in tiles %s is that of its tensors', (shape, packed, numbers, tables) => {
  const site = linear('m', shape, { packing: packed });
  const options = { computeDtype: 'f16', weightDtype: 'f16' } as const;
  expect(linearBytes(site, layout, options)).toBe(numbers + tables);
  expect(layout.tensors(site, options).reduce((sum, { spec }) => sum + byteLength(spec), 0)).toBe(numbers + tables);
});
