import { float32Tensor, type Importance, type Program, toFloat32 } from '@lowbit/core';
import { decoderCase } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { dampImportance } from './damp-importance.ts';

const { program } = decoderCase().test;

/** What each linear reads from, by path. */
function sources(of: Program): Map<string, string> {
  const found = new Map<string, string>();
  for (const op of of.ops) {
    if (op.op !== 'linear' && op.op !== 'expertLinear') continue;
    const source = of.ops.find((other) => 'out' in other && other.out === op.x)!.op;
    for (const id of op.op === 'linear' ? [op.weight] : op.linears) found.set(of.linears[id]!.path, source);
  }
  return found;
}

const moments = (...values: number[]): Importance => ({ kind: 'diagonal', moments: float32Tensor([values.length], values), rows: 9 });
const added = (importance: Importance, path: string): number[] => [
  ...toFloat32(dampImportance(program, new Map([[path, importance]])).get(path)!.moments),
];

describe('dampImportance', () => {
  const of = sources(program);
  const behind = (...kinds: string[]): string[] => [...of].filter(([, kind]) => kinds.includes(kind)).map(([path]) => path);

  it('adds half of the median behind norms, and four times it behind attention and activations', () => {
    expect(behind('norm').length).toBeGreaterThan(2);
    expect(behind('attend', 'gate', 'activate').length).toBeGreaterThan(1);
    for (const path of behind('norm')) expect([path, added(moments(1, 100, 2, 0, 4), path)]).toEqual([path, [2, 101, 3, 1, 5]]);
    for (const path of behind('attend', 'gate', 'activate'))
      expect([path, added(moments(1, 100, 2, 0, 4), path)]).toEqual([path, [9, 108, 10, 8, 12]]);
  });

  it('takes the upper of two middle ones, and leaves moments that are zero in the middle', () => {
    const [path] = behind('norm');
    expect(added(moments(4, 1, 8, 2), path!)).toEqual([6, 3, 10, 4]);
    expect(added(moments(0, 0, 0, 5), path!)).toEqual([0, 0, 0, 5]);
  });

  it('changes the diagonal of a matrix, no path that the program lacks, and nothing that it was given', () => {
    const [path] = behind('norm');
    const matrix: Importance = { kind: 'matrix', moments: float32Tensor([2, 2], [4, -1, -1, 2]), rows: 3 };
    expect(added(matrix, path!)).toEqual([6, -1, -1, 4]);
    expect([...toFloat32(matrix.moments)]).toEqual([4, -1, -1, 2]);
    expect(added(moments(1, 2, 3), 'no.such')).toEqual([1, 2, 3]);
  });
});
