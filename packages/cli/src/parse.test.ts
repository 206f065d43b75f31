import { isLowbitError } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import {
  parseAxis,
  parseBits,
  parseChoice,
  parseCounts,
  parseGroup,
  parseImportance,
  parseMemory,
  parseNumber,
  parsePair,
  parsePath,
  parseRule,
  parseSize,
} from './parse.ts';

const codeOf = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return isLowbitError(error) ? `${error.code}: ${error.message}` : String(error);
  }
  return 'no error';
};

describe('parseSize', () => {
  it.each([
    ['4GB', 4e9],
    ['192MB', 192e6],
    ['512MiB', 512 * 2 ** 20],
    ['1.5 gib', 1.5 * 2 ** 30],
    ['10kb', 1e4],
    ['4096', 4096],
    ['7B', 7],
  ])('%s is %d bytes', (text, bytes) => expect(parseSize(text)).toBe(bytes));

  it.each(['', '4G', '4 GBs', '-1GB', '0', '1e3', 'MB', '9999999TB', 'NaN', '0.1'])('refuses %j with an example', (text) => {
    expect(codeOf(() => parseSize(text))).toMatch(/^ERR_BAD_ARGUMENT: ".*" is not a size such as 4GB/);
  });
});

it('refuses too little memory and empty paths', () => {
  expect([parseMemory('32MiB'), parsePath('.')]).toEqual([32 * 2 ** 20, '.']);
  expect(codeOf(() => parseMemory('1MB'))).toBe('ERR_BAD_ARGUMENT: "1MB" is not a size of 32 MiB or more');
  expect(codeOf(() => parsePath(''))).toMatch(/^ERR_BAD_ARGUMENT: "" is not a path/);
});

describe('numbers', () => {
  it('takes what is within bounds', () => {
    expect(parseNumber('0.7', { min: 0, max: 1 })).toBe(0.7);
    expect(parseNumber('1e3', { min: 1, whole: true })).toBe(1000);
    expect(parseNumber('.5', { min: 0 })).toBe(0.5);
  });

  it.each(['', ' ', '1.5', '-1', '11', '0x10', 'ten', 'Infinity', '1,000', '1_0'])('refuses %j and says what is allowed', (text) => {
    expect(codeOf(() => parseNumber(text, { min: 0, max: 10, whole: true }))).toContain('is not a whole number from 0 to 10');
  });

  it('knows lists and pairs of counts', () => {
    expect([parseCounts('512', { min: 0 }), parseCounts('0,128', { min: 0 }), parsePair('512,128')]).toEqual([[512], [0, 128], [512, 128]]);
    for (const text of ['', ',', '1,', '1;2', '-1', '1.5'])
      expect(codeOf(() => parseCounts(text, { min: 0 }))).toContain('whole number from 0');
    for (const text of ['512', '1,2,3']) expect(codeOf(() => parsePair(text))).toContain('two numbers such as 512,128');
    expect(codeOf(() => parsePair('0,5'))).toContain('from 1');
  });

  it('knows bits, groups, axes and words', () => {
    expect([parseBits('4'), parseBits('1.58'), parseGroup('64'), parseGroup('none'), parseAxis('0')]).toEqual([4, 1.58, 64, 'none', 0]);
    expect(codeOf(() => parseBits('7'))).toContain('one of 8, 6, 5, 4, 3, 2, 1.58, 1');
    expect(codeOf(() => parseGroup('0'))).toContain('or none for whole rows');
    expect(codeOf(() => parseAxis('2'))).toContain('1 (groups along the rows) or 0');
    expect(codeOf(() => parseChoice('f64', ['f16', 'f32']))).toContain('one of f16, f32');
  });
});

describe('parseRule', () => {
  it('says what the method takes', () => {
    expect(codeOf(() => parseRule('x=nf4:b4'))).toContain(
      'after nf4 can come g64, dq, search (nf4, fp4) or unbiased (higgs), each at most once',
    );
    expect(codeOf(() => parseRule('x=int8:dq'))).toContain('after int8 can come t6');
  });

  it('reads methods with settings in any order', () => {
    expect(parseRule('mlp.down_proj=hqq:b8:g128:a0')).toEqual({
      match: 'mlp.down_proj',
      use: { method: 'hqq', bits: 8, group: 128, axis: 0 },
    });
    expect(parseRule('**.{q,k}_proj=hqq:gnone:b3').use).toEqual({ method: 'hqq', bits: 3, group: 'none' });
    expect(parseRule('lm_head=hqq:b4:least-squares').use).toEqual({ method: 'hqq', bits: 4, solver: 'least-squares' });
    expect(parseRule('lm_head=hqq:ls').use).toEqual({ method: 'hqq', solver: 'least-squares' });
    expect(parseRule('lm_head=hqq:hqq').use).toEqual({ method: 'hqq', solver: 'hqq' });
    expect(parseRule('lm_head=hqq').use).toEqual({ method: 'hqq' });
    expect(parseRule('mlp.*=nf4:search:dq').use).toEqual({ method: 'nf4', scale: 'search', doubleQuant: true });
    expect(parseRule('mlp.*=higgs:b2:unbiased').use).toEqual({ method: 'higgs', bits: 2, scale: 'unbiased' });
    expect(codeOf(() => parseRule('x=hqq:search'))).toContain('after hqq can come');
    expect(parseImportance('random')).toBe('random-tokens');
    expect(parseImportance('self')).toBe('self');
    expect(parseImportance('text.txt')).toEqual({ file: 'text.txt' });
    expect(parseRule('mlp.*=nf4:dq:g128').use).toEqual({ method: 'nf4', doubleQuant: true, group: 128 });
    expect(parseRule('mlp.*=fp4').use).toEqual({ method: 'fp4' });
    expect(parseRule('lm_head=int8:t0').use).toEqual({ method: 'int8', threshold: 0 });
    expect(parseRule('lm_head=int8:t6.5').use).toEqual({ method: 'int8', threshold: 6.5 });
    expect(parseRule('mlp.*=higgs:b3:p1:g64:h256').use).toEqual({ method: 'higgs', bits: 3, p: 1, group: 64, hadamardSize: 256 });
    expect(parseRule('lm_head=keep')).toEqual({ match: 'lm_head', use: 'keep' });
  });

  it.each([
    '',
    '=',
    'x',
    'x=',
    '=hqq',
    'x=awq',
    'x=keep:b4',
    'x=hqq:b4:b8',
    'x=hqq:z1',
    'x=hqq:ls:hqq',
    'x=hqq:',
    'x=hqq:b9',
    'x=hqq:g0',
    '{a=hqq',
    'x=hqq:a2',
    'x=hqq:dq',
    'x=hqq:t6',
    'x=nf4:b4',
    'x=nf4:a0',
    'x=nf4:ls',
    'x=fp4:dq:dq',
    'x=int8:g64',
    'x=int8:t-1',
    'x=int8:t',
    'x=higgs:p3',
    'x=higgs:h500',
    'x=higgs:h65536',
    'x=higgs:a0',
    'x=hqq:p2',
  ])('refuses %j', (text) => expect(codeOf(() => parseRule(text))).toMatch(/^ERR_BAD_ARGUMENT/));
});
