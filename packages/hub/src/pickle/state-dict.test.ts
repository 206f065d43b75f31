import { expect, it } from 'vitest';
import { namedTensors } from './state-dict.ts';
import type { PickleDict, PickleValue, TorchTensor } from './values.ts';

const codes: TorchTensor = {
  kind: 'tensor',
  storage: { key: '0', dtype: 'u8', elements: 4 } as unknown as TorchTensor['storage'],
  dtype: 'u8',
  shape: [4],
  strides: [1],
  offset: 0,
};
const named = (module: PickleDict, names: number): PickleDict =>
  new Map(Array.from({ length: names }, (_, i): [string, PickleValue] => [`layer.${i}`, module]));

it('makes tensors of the settings of a module of hqq', () => {
  const module: PickleDict = new Map<string, PickleValue>([
    ['W_q', codes],
    ['nbits', 4],
    ['packing', '4bit_u8'],
  ]);
  expect([...namedTensors(named(module, 2), 'x.pt').keys()]).toEqual(
    ['layer.0', 'layer.1'].flatMap((name) => ['W_q', 'nbits', 'packing'].map((part) => `${name}.${part}`)),
  );
});

it('refuses one long setting that many modules name, before memory is full of it', () => {
  const module: PickleDict = new Map<string, PickleValue>([
    ['W_q', codes],
    ['packing', 'x'.repeat(2 ** 20)],
  ]);
  expect(namedTensors(named(module, 60), 'x.pt').size).toBe(120);
  expect(() => namedTensors(named(module, 60_000), 'x.pt')).toThrow(expect.objectContaining({ code: 'ERR_BAD_PICKLE' }));
});
