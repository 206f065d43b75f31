import {
  type Affine,
  type CheckpointLayout,
  codecFor,
  isLowbitError,
  LowbitError,
  type Matrix,
  type Quantizer,
  type StoredLinear,
} from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { sampleWeight } from './formats.ts';
import { runCases } from './kit.ts';
import { layoutCases, layoutConformance } from './layout.ts';

const format: Affine = { kind: 'affine', levels: 256, group: null, axis: 1, scale: 'f32', zero: 'none', packing: 'u8' };
const weight = sampleWeight(format, [96, 1024]);
const unused = () => {
  throw new Error('not used here');
};
const use: Quantizer = { spec: 1, method: 'mine', identity: 'mine 1', config: {}, format: unused, quantize: unused };
const sample = { name: 'rowwise', use, weight };

/** Codes as [out, in], and scales: the smallest honest layout. */
const honest: CheckpointLayout = {
  spec: 1,
  name: 'mine',
  detect: (config) => (config.quantization_config as { quant_method?: string } | undefined)?.quant_method === 'mine',
  async read(_config, { entries }) {
    const linears = new Map<string, StoredLinear>();
    for (const [name, { shape }] of entries) {
      if (!name.endsWith('.codes')) continue;
      const path = name.slice(0, -'.codes'.length);
      if (!entries.has(`${path}.scale`) || shape.length !== 2) throw new LowbitError('ERR_BAD_CHECKPOINT', `${path} is damaged`);
      linears.set(path, { format, shape: shape as Matrix, parts: { codes: name, scale: `${path}.scale` } });
    }
    return linears;
  },
  accepts: (_use, { kind }) => kind === 'affine',
  tensors: ({ site, format }) => {
    const specs = codecFor(format).parts(format, site.shape);
    return [
      { name: `${site.path}.codes`, spec: { dtype: 'u8', shape: site.shape }, content: { part: 'codes' } },
      { name: `${site.path}.scale`, spec: specs.scale!, content: { part: 'scale' } },
    ];
  },
  config: () => ({ quant_method: 'mine' }),
  loadsIn: () => ['lowbit, with this layout.'],
};

layoutConformance(honest, [sample], { describe, it });

describe('a faulty layout fails the kit', () => {
  it.each<[string, Partial<CheckpointLayout>, RegExp]>([
    ['that accepts everything', { accepts: () => true }, /accepts a custom format/],
    ['that sees itself everywhere', { detect: () => true }, /detects itself in a checkpoint that is not quantized/],
    [
      'that announces other sizes',
      { tensors: (...args) => honest.tensors(...args).map((one) => ({ ...one, spec: { dtype: 'f16', shape: [3] } })) },
      /announced 6/,
    ],
    [
      'that names two tensors alike',
      { tensors: (...args) => honest.tensors(...args).map((one) => ({ ...one, name: 'same' })) },
      /two tensors are called same/,
    ],
    ['whose config is no JSON', { config: () => ({ threshold: Number.NaN }) }, /config\.threshold is NaN/],
    ['that loses a linear', { read: async (...args) => new Map([...(await honest.read(...args))].slice(1)) }, /it reads model\.layers\.1/],
    [
      'that reads another weight',
      {
        read: async (...args) =>
          new Map([...(await honest.read(...args))].map(([path, one]) => [path, { ...one, format: { ...format, levels: 128 } }])),
      },
      /reads back the same weights/,
    ],
    [
      'that reads all the codes',
      {
        read: async (config, source) => {
          for (const name of source.entries.keys()) await source.read(name);
          return honest.read(config, source);
        },
      },
      /reads model\.layers\.0\.mlp\.down_proj\.codes of 98304 bytes/,
    ],
    [
      'that makes scales up',
      {
        read: async (config, source) => {
          try {
            return await honest.read(config, source);
          } catch (error) {
            if (!isLowbitError(error)) throw error;
            const ones = { dtype: 'f32', shape: [96], data: new Uint8Array(new Float32Array(96).fill(1).buffer) } as const;
            const path = 'model.layers.0.mlp.down_proj';
            return new Map([[path, { format, shape: [96, 1024], parts: { codes: `${path}.codes` }, constants: { scale: ones } }]]);
          }
        },
      },
      /without model\.layers\.0\.mlp\.down_proj\.scale/,
    ],
  ])('%s', async (_, change, reason) => {
    const outcomes = await runCases(layoutCases({ ...honest, ...change }, [sample]));
    expect(outcomes.flatMap(({ outcome, name, reason }) => (outcome === 'failed' ? [`${name}: ${reason}`] : [])).join('\n')).toMatch(
      reason,
    );
  });
});
