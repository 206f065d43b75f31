import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { glob } from './glob.ts';

describe('glob', () => {
  it.each([
    ['self_attn.q_proj', 'self_attn.q_proj', true],
    ['self_attn.q_proj', 'self_attnXq_proj', false],
    ['*.q_proj', 'self_attn.q_proj', true],
    ['*.q_proj', 'model.layers.0.self_attn.q_proj', false],
    ['**.q_proj', 'model.layers.0.self_attn.q_proj', true],
    ['**.q_proj', 'q_proj', true],
    ['**.{v,down}_proj', 'mlp.down_proj', true],
    ['**.{v,down}_proj', 'mlp.up_proj', false],
    ['model.layers.?.**', 'model.layers.3.mlp.up_proj', true],
    ['model.layers.?.**', 'model.layers.13.mlp.up_proj', false],
    ['**', 'anything.at.all', true],
    ['a+b', 'aab', false],
  ])('%s on %s: %s', (pattern, text, expected) => {
    expect(glob(pattern)(text)).toBe(expected);
  });

  it.each(['', '{a', 'a}', '{a,{b}}', 'x'.repeat(513)])('refuses %j', (pattern) => {
    expect(() => glob(pattern)).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });

  it('treats any literal text as itself', () => {
    fc.assert(
      fc.property(
        fc.string({ minLength: 1, maxLength: 30 }).filter((s) => !/[*?{},]/.test(s) && !/[\n\r\u2028\u2029]/.test(s)),
        (text) => glob(text)(text),
      ),
    );
  });

  it('takes no time for patterns that make a backtracking matcher hang', () => {
    // A matcher that goes back would take longer than the machine lives.
    expect(glob('**.'.repeat(160))(`${'a.'.repeat(500)}a`)).toBe(false);
    expect(glob(`${'*a'.repeat(200)}b`)('a'.repeat(1000))).toBe(false);
    expect(glob(`${'**'.repeat(200)}b`)('a.'.repeat(500))).toBe(false);
    expect(() => glob('{a,b}'.repeat(60))).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });

  it('agrees with the regular expression that says the same', () => {
    const piece = fc.constantFrom('a', 'b', '.', '*', '**', '**.', '?', '{a,b.}', '{a*b,c}');
    const expression = (pattern: string): RegExp => {
      const source = pattern
        .replace(/[.]/g, '\\.')
        .replace(/\*\*\\\./g, '(?:[^.]+\\.)#')
        .replace(/\*\*/g, '.#')
        .replace(/\*/g, '[^.]#')
        .replace(/\?(?!:)/g, '[^.]')
        .replace(/#/g, '*')
        .replace(/\{/g, '(?:')
        .replace(/,/g, '|')
        .replace(/\}/g, ')');
      return new RegExp(`^${source}$`);
    };
    fc.assert(
      fc.property(
        fc.array(piece, { minLength: 1, maxLength: 6 }),
        fc.string({ unit: fc.constantFrom('a', 'b', '.'), maxLength: 8 }),
        (pieces, text) => {
          const pattern = pieces.join('').replace(/\*{3,}/g, '**');
          expect(glob(pattern)(text)).toBe(expression(pattern).test(text));
        },
      ),
      { numRuns: 3000 },
    );
  });
});
