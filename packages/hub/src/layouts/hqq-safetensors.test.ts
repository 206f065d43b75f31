// Which tensors share a file, against hqq 0.2.8's own save_to_safetensors; the bytes are compared in e2e/hqq-layouts.test.ts.

import type { PlannedLinear, WrittenModel } from '@lowbit/core';
import { describe, expect, test } from 'vitest';
import { goldenJson } from '../../../../fixtures/golden.ts';
import { planSafetensors } from '../safetensors/shards.ts';
import { hqqFiles, hqqSafetensorsLayout } from './hqq-safetensors.ts';

interface Golden {
  readonly layers: number | null;
  readonly linears: number;
  readonly files: Readonly<Record<string, readonly string[]>>;
  readonly total_size?: number;
}

const { cases } = goldenJson<{ readonly cases: readonly Golden[] }>('hqq/save-to-safetensors.json');

function written(layers: unknown, names: readonly string[], linears = 0): WrittenModel {
  const linear: PlannedLinear = { site: { path: 'm', tag: 'm', layer: 0, shape: [1, 1], bias: false }, use: 'keep' };
  return { config: layers === null ? {} : { num_hidden_layers: layers as number }, linears: Array(linears).fill(linear), names };
}

describe('files', () => {
  test.each(cases)('$layers layers, $linears linears: as hqq has them', ({ layers, linears, files, total_size }) => {
    const names = Object.values(files).flat();
    // One byte for each character of the name, as in the run of the library.
    const tensors = new Map(names.map((name) => [name, { dtype: 'u8' as const, shape: [name.length] }]));
    const plan = planSafetensors(tensors, hqqSafetensorsLayout.metadata!, { shards: hqqFiles(written(layers, names, linears)) });
    const found = Object.fromEntries(plan.files.map(({ name, layout }) => [name, [...layout.tensors.keys()].sort()]));
    expect(found).toEqual(Object.fromEntries(Object.entries(files).map(([file, members]) => [file, [...members].sort()])));
    const index = plan.index && JSON.parse(new TextDecoder().decode(plan.index));
    expect(index?.metadata.total_size).toBe(total_size);
    if (index) for (const [file, members] of Object.entries(files)) for (const name of members) expect(index.weight_map[name]).toBe(file);
  });

  test.each([1e15, -3, 2.5, 'many', Number.POSITIVE_INFINITY])(
    'num_hidden_layers %s makes no more files than there are tensors',
    (layers) => {
      const names = ['a.layers.0.W_q', 'a.layers.7.W_q', 'lm_head.weight'];
      const shards = hqqFiles(written(layers, names, 3));
      expect(shards.length).toBeLessThanOrEqual(3);
      expect(shards.flat().sort()).toEqual(names);
    },
  );
});
