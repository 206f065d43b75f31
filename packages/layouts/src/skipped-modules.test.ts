import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type SkipReader, skipTest } from './skipped-modules.ts';

const skips = (entry: string, path: string, reader: SkipReader) => skipTest(entry, reader)?.(path);

describe('skipTest', () => {
  it.each([
    // entry, path, transformers 4, transformers 5, vLLM
    ['lm_head', 'lm_head', true, true, true],
    ['head', 'lm_head', false, true, false],
    ['up_proj', 'model.layers.1.mlp.up_proj', true, true, true],
    ['mlp', 'model.layers.1.mlp.up_proj', true, false, true],
    ['model.layers.1', 'model.layers.1.mlp', true, true, true],
    ['model.layers.1', 'model.layers.10.mlp', false, true, false],
    ['layers.1', 'model.layers.1.mlp', true, false, false],
    ['model.layers.\\d+.mlp', 'model.layers.12.mlp.up_proj', false, true, false],
    ['model\\.layers\\.\\d\\.', 'model.layers.1.mlp', false, true, false],
    ['.*mlp', 'model.layers.1.mlp.up_proj', false, true, false],
    ['', 'lm_head', false, true, false],
  ])('%j on %s: %s, %s, %s', (entry, path, four, five, vllm) => {
    expect([skips(entry, path, 'transformers 4'), skips(entry, path, 'transformers 5'), skips(entry, path, 'vLLM')]).toEqual([
      four,
      five,
      vllm,
    ]);
  });

  it('agrees with the regular expression that an entry is', () => {
    const piece = fc.constantFrom('a', 'b', '1', '.', '\\.', '.*', '\\d', '\\d+');
    fc.assert(
      fc.property(
        fc.array(piece, { minLength: 1, maxLength: 6 }).map((pieces) => pieces.join('')),
        fc.string({ unit: fc.constantFrom('a', 'b', '1', '2', '.'), maxLength: 8 }),
        (entry, path) => {
          expect(skips(entry, path, 'transformers 5')).toBe(path.endsWith(entry) || new RegExp(`^${entry}`).test(path));
          expect(skips(entry, path, 'components')).toBe(path.endsWith(entry) || new RegExp(`^${entry}(?:\\.|$)`).test(path));
        },
      ),
      { numRuns: 3000 },
    );
  });

  it.each([
    // entry, path, components
    ['model.layers.1', 'model.layers.1.mlp', true],
    ['model.layers.1', 'model.layers.1', true],
    ['model.layers.1', 'model.layers.10.mlp', false],
    ['model.layers.\\d', 'model.layers.10.mlp', false],
    ['model.layers.\\d+', 'model.layers.10.mlp', true],
    ['model.layers.1.', 'model.layers.1.mlp', false],
    ['.*mlp', 'model.layers.1.mlp.up_proj', true],
    ['.*up', 'model.layers.1.mlp.up_proj', false],
    ['head', 'lm_head', true],
    ['mlp', 'model.layers.1.mlp.up_proj', false],
  ])('takes whole components: %j on %s: %s', (entry, path, expected) => {
    expect(skips(entry, path, 'components')).toBe(expected);
  });

  it.each(['(a+)+$', 'a{2}', 'x|y', 'x*', '\\d*', '[ab]', '^a', 'a$', 'a b', '\\w', '\\', 'a'.repeat(257), '+'])(
    'does not follow %s as an expression',
    (entry) => {
      expect(skipTest(entry, 'transformers 5')).toBe(undefined);
      expect(skipTest(entry, 'components')).toBe(undefined);
      expect(skipTest(entry, 'transformers 4')?.(entry)).toBe(true);
    },
  );

  it.each(['transformers 5', 'components'] as const)('takes no time for entries that make a backtracking matcher hang: %s', (reader) => {
    expect(skips(`${'\\d+'.repeat(80)}x`, '0'.repeat(5000), reader)).toBe(false);
    expect(skips(`${'.*a'.repeat(80)}b`, 'a'.repeat(5000), reader)).toBe(false);
    // A matcher that goes back would take longer than the machine lives.
  });
});
