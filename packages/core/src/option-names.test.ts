import fc from 'fast-check';
import { expect, it } from 'vitest';
import { checkOptionNames, nearestName } from './option-names.ts';

const known = ['blockSize', 'doubleQuant', 'signal', 'maxMemory'];

it.each([
  ['blocksize', 'blockSize'],
  ['block_size', 'blockSize'],
  ['blockSizes', 'blockSize'],
  ['doubleQuantize', 'doubleQuant'],
  ['max_memory', 'maxMemory'],
  ['singal', 'signal'],
  ['bits', undefined],
  ['', undefined],
  ['x'.repeat(1e6), undefined],
])('the name nearest to %.20s is %s', (name, near) => expect(nearestName(name, known)).toBe(near));

it('a name that is known is nearest to itself', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.stringMatching(/^[a-z]{4,9}$/), { minLength: 1 }), (names) => {
      for (const name of names) expect(nearestName(name, names)).toBe(name);
    }),
  );
});

it('takes known names, and refuses others with the nearest', () => {
  checkOptionNames('nf4', {}, known);
  checkOptionNames('nf4', { blockSize: 64, signal: undefined }, new Set(known));
  expect(() => checkOptionNames('hqq', { Signal: 1 }, known, 'solver.')).toThrow(
    expect.objectContaining({
      code: 'ERR_BAD_ARGUMENT',
      message: 'hqq: there is no option solver.Signal',
      hint: 'Did you mean solver.signal? The options are solver.blockSize, solver.doubleQuant, solver.signal, solver.maxMemory.',
      details: { option: 'solver.Signal', known },
    }),
  );
  expect(() => checkOptionNames('nf4', { bits: 4 }, known)).toThrow(
    expect.objectContaining({ hint: `The options are ${known.join(', ')}.` }),
  );
});

it.each([null, undefined, 3, 'x', [1], new Map(), new (class Options {})()])('refuses %s', (options) => {
  expect(() => checkOptionNames('nf4', options, known)).toThrow(
    expect.objectContaining({ code: 'ERR_BAD_ARGUMENT', message: 'nf4: options must be a plain object', hint: expect.any(String) }),
  );
});
