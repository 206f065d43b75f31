// @ts-check
import { expect, it } from 'vitest';
import { bareDeclarations } from './api-report.mjs';

it('leaves out comments, and sorts by name what stays', () => {
  const text = [
    '/** Of weights. */',
    'export declare function quantize(weight: Tensor, /* how */ bits?: 4 | 8): Tensor;',
    'export interface Tensor { /** In bytes. */ readonly size: number; }',
    'declare const hidden: unique symbol;',
    'export declare class Layer { private held; constructor(of: Tensor); }',
    "export type { Other } from './other.js';",
  ].join('\n');
  expect(bareDeclarations(text)).toBe(
    [
      'export declare class Layer {',
      '    private held;',
      '    constructor(of: Tensor);',
      '}',
      'export interface Tensor {',
      '    readonly size: number;',
      '}',
      'declare const hidden: unique symbol;',
      'export declare function quantize(weight: Tensor, bits?: 4 | 8): Tensor;',
      "export type { Other } from './other.js';",
    ].join('\n'),
  );
});

it('says the same of declarations in another order', () => {
  const [a, b] = ['export type A = 1;', 'export type B = 2;'];
  expect(bareDeclarations(`${a}\n${b}`)).toBe(bareDeclarations(`${b}\n${a}`));
});
