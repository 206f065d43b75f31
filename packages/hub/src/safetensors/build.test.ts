import { readdirSync, readFileSync } from 'node:fs';
import { byteLength, DTYPE_BYTES, type DType, type TensorSpec } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { goldenPath, goldenTensors } from '../../../../fixtures/golden.ts';
import { failure } from '../testing.node.ts';
import { planFile } from './build.ts';
import { headerLength, parseHeader } from './header.ts';

const goldens = readdirSync(goldenPath('.'), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.safetensors'));

describe('files of the Python library, byte for byte', () => {
  test.each(goldens)('%s', (name) => {
    const bytes = readFileSync(goldenPath(name));
    const header = parseHeader(bytes.subarray(8, 8 + headerLength(bytes.subarray(0, 8), bytes.byteLength, name)), bytes.byteLength, name);
    const tensors = goldenTensors(name);
    // A shuffled order: what counts is the rule, not the order given.
    const given = [...tensors].sort(([a], [b]) => (a.length % 7) - (b.length % 7) || (a < b ? 1 : -1));
    const layout = planFile(given, Object.fromEntries(header.metadata));
    const written = new Uint8Array(layout.size);
    written.set(layout.header);
    for (const [tensor, { start }] of layout.tensors) written.set(tensors.get(tensor)!.data, start);
    expect(Buffer.compare(written, bytes)).toBe(0);
  });
});

const dtypes = Object.keys(DTYPE_BYTES) as DType[];
const spec: fc.Arbitrary<TensorSpec> = fc.record({
  dtype: fc.constantFrom(...dtypes),
  shape: fc.array(fc.nat(5), { maxLength: 4 }),
});
const names = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 12 }),
  fc.constantFrom('__proto__', 'constructor', 'a"b\\c\n', 'model.layers.0.weight'),
);

test('any layout reads back as it was made', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.tuple(names, spec), { selector: ([name]) => name, maxLength: 12 }), fc.boolean(), (given, tagged) => {
      const tensors = new Map(given);
      tensors.delete('__metadata__');
      const metadata: Record<string, string> = tagged ? { format: 'pt', 'ключ "x"': 'é🦙\n' } : {};
      const layout = planFile(tensors, metadata);
      expect(layout.header.byteLength % 8).toBe(0);
      const length = headerLength(layout.header.subarray(0, 8), layout.size, 'f');
      expect(length).toBe(layout.header.byteLength - 8);
      const parsed = parseHeader(layout.header.subarray(8), layout.size, 'f');
      expect(Object.fromEntries(parsed.metadata)).toEqual(metadata);
      expect([...parsed.tensors]).toEqual([...layout.tensors]);
      for (const [name, place] of parsed.tensors) {
        expect({ dtype: place.dtype, shape: place.shape }).toEqual(tensors.get(name));
        expect(place.end - place.start).toBe(byteLength(place));
        expect(place.start % DTYPE_BYTES[place.dtype]).toBe(0);
      }
    }),
    { numRuns: 300 },
  );
});

test('names that the format cannot hold', async () => {
  const u8: TensorSpec = { dtype: 'u8', shape: [1] };
  for (const name of ['__metadata__', '\ud800', 'x\udc00y']) {
    expect((await failure(() => planFile([[name, u8]]))).code).toBe('ERR_BAD_ARGUMENT');
  }
  expect(
    (
      await failure(() =>
        planFile([
          ['a', u8],
          ['a', u8],
        ]),
      )
    ).code,
  ).toBe('ERR_BAD_ARGUMENT');
});
