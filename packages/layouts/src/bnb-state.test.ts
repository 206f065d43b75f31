import fc from 'fast-check';
import { expect, test } from 'vitest';
import { longestQuantState, parseQuantState, type QuantState, quantStateText } from './bnb-state.ts';

const extent = fc.integer({ min: 1, max: 90000 });
const float32 = fc.float({ noNaN: true, noDefaultInfinity: true });
const state: fc.Arbitrary<QuantState> = fc.record({
  type: fc.constantFrom('nf4', 'fp4'),
  blocksize: fc.constantFrom(32, 64, 4096),
  dtype: fc.constantFrom('f16', 'bf16', 'f32'),
  shape: fc.array(extent, { minLength: 1, maxLength: 3 }),
  nested: fc.option(fc.record({ blocksize: fc.constant(256), dtype: fc.constant('float32'), offset: float32 }), { nil: undefined }),
});

test('what is written reads back equal, and is never longer than was said', () => {
  fc.assert(
    fc.property(state, (value) => {
      const text = quantStateText(value);
      const bytes = new TextEncoder().encode(text);
      expect(bytes.byteLength).toBeLessThanOrEqual(longestQuantState(value));
      const read = parseQuantState(bytes, 'm.quant_state', value.type);
      expect(read).toEqual(value);
      expect(quantStateText(read)).toBe(text);
      expect(JSON.parse(text).shape).toEqual(value.shape);
    }),
    { numRuns: 1000 },
  );
});

test('a number of another precision is rounded to float32, as Python does', () => {
  const text =
    '{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [2, 2], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.1}';
  expect(parseQuantState(new TextEncoder().encode(text), 'm', 'nf4').nested!.offset).toBe(Math.fround(0.1));
});
