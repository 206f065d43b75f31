import { type Entries, type Format, hostTensor, type JsonObject, type LinearSite, memorySource, type PlannedLinear } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { failure } from '../testing.node.ts';
import { mixedLayout as layout } from './mixed.ts';

const affine: Format = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
const fourBit: Format = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' };
const site = (path: string, transposed = false): LinearSite => ({
  path,
  tag: path,
  layer: 0,

  shape: [4, 64],
  bias: false,
  transposed,
});
const use = { method: 'x', config: {} };
const linears: readonly PlannedLinear[] = [
  { site: site('a'), use, format: affine },
  { site: site('b'), use, format: fourBit },
  { site: site('c'), use: 'keep' },
  { site: site('d'), use, format: affine },
];
const block = layout.config(linears)!;
const config = (quantization_config: JsonObject[string]): JsonObject => ({ quantization_config });
const empty = memorySource({});
const read = (changes: JsonObject, source = empty) => layout.read(config({ ...block, ...changes }), source);

it('says lowbit, and each format once', () => {
  expect(block).toEqual({
    quant_method: 'lowbit',
    layout: 'mixed',
    version: 1,
    formats: [affine, fourBit],
    linears: { a: [0, 4, 64], b: [1, 4, 64], d: [0, 4, 64] },
  });
  expect(layout.loadsIn(linears)).toEqual(['lowbit, on every backend.', expect.stringMatching(/^Nothing else/)]);
});

it('knows its own block alone', () => {
  const entries: Entries = new Map();
  expect(layout.detect(config(block), entries)).toBe(true);
  for (const other of [undefined, null, [], 'lowbit', { quant_method: 'hqq' }, { quant_method: 'lowbit', layout: 'hqq-nested' }]) {
    expect(layout.detect(other === undefined ? {} : config(other), entries)).toBe(false);
  }
});

it('finds what it stores, by the names of parts', async () => {
  const bias = memorySource({ 'b.bias': hostTensor('f32', [4], new Float32Array(4)) });
  const found = await read({}, bias);
  expect([...found.keys()]).toEqual(['a', 'b', 'd']);
  expect(found.get('a')).toEqual({ format: affine, shape: [4, 64], parts: { codes: 'a.codes', scale: 'a.scale', zero: 'a.zero' } });
  expect(found.get('b')).toMatchObject({ format: fourBit, bias: 'b.bias', parts: { table: 'b.table' } });
  const tensors = layout.tensors({ site: site('a'), use, format: affine }, { computeDtype: 'f16', weightDtype: 'f16' });
  expect(tensors.map(({ name }) => name)).toEqual(Object.values(found.get('a')!.parts));
});

it('stores no Conv1D', () => {
  expect(() => layout.tensors({ site: site('a', true), use, format: affine }, { computeDtype: 'f16', weightDtype: 'f16' })).toThrow(
    expect.objectContaining({ code: 'ERR_UNSUPPORTED_FORMAT' }),
  );
});

describe('a config.json of strangers', () => {
  const nested = (depth: number): JsonObject => ({ ...affine, scale: depth === 0 ? 'f16' : nested(depth - 1) }) as unknown as JsonObject;
  it.each<[string, JsonObject, string]>([
    ['of a later version', { version: 2 }, 'ERR_UNSUPPORTED_FORMAT'],
    ['without formats', { formats: null }, 'ERR_BAD_CHECKPOINT'],
    ['with linears that are a list', { linears: [] }, 'ERR_BAD_CHECKPOINT'],
    ['with a dense format', { formats: [{ kind: 'dense', dtype: 'f32' }] }, 'ERR_BAD_CHECKPOINT'],
    ['with a custom format', { formats: [{ kind: 'x:y', params: {} }] }, 'ERR_BAD_CHECKPOINT'],
    ['with a group that is a text', { formats: [{ ...affine, group: '64' } as unknown as JsonObject] }, 'ERR_BAD_CHECKPOINT'],
    ['with scales of __proto__', { formats: [{ ...affine, scale: '__proto__' } as unknown as JsonObject] }, 'ERR_BAD_CHECKPOINT'],
    ['with zeros by a table', { formats: [{ ...affine, zero: fourBit } as unknown as JsonObject] }, 'ERR_BAD_CHECKPOINT'],
    ['with formats in formats in formats', { formats: [nested(9)] }, 'ERR_BAD_CHECKPOINT'],
    ['with 2^1000 numbers in a table', { formats: [{ ...fourBit, bits: 1000 } as unknown as JsonObject] }, 'ERR_UNSUPPORTED_FORMAT'],
    [
      'with a packing that there is not',
      { formats: [{ ...affine, packing: 'toString' } as unknown as JsonObject] },
      'ERR_UNSUPPORTED_FORMAT',
    ],
    ['with a format that it does not list', { linears: { a: [2, 4, 64] } }, 'ERR_BAD_CHECKPOINT'],
    ['with a shape of three', { linears: { a: [0, 4, 64, 1] } }, 'ERR_BAD_CHECKPOINT'],
    ['with a shape below nothing', { linears: { a: [0, -4, 64] } }, 'ERR_BAD_CHECKPOINT'],
    ['with a shape beyond numbers', { linears: { a: [0, 2 ** 40, 2 ** 40] } }, 'ERR_UNSUPPORTED_FORMAT'],
  ])('%s is refused', async (_what, changes, code) => {
    expect(await failure(() => read(changes))).toMatchObject({ code });
  });
});
