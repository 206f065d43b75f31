// The plan and the pipeline with plug-ins of a stranger: a round-to-nearest quantizer, a layout and an adapter that exist only here.

import type {
  Affine,
  CheckpointLayout,
  DType,
  HostTensor,
  JsonObject,
  LayoutTensor,
  LinearHost,
  ModelAdapter,
  ProgressEvent,
  QuantizedTensor,
  Quantizer,
} from '@lowbit/core';
import {
  byteLength,
  castFloat,
  dequantize,
  float32Tensor,
  memorySource,
  patchLinears,
  toFloat32,
  transpose,
  writeFloat32,
} from '@lowbit/core';
import fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { memorySink } from './memory-sink.ts';
import { executePlan } from './pipeline.ts';
import { type PlanOptions, planCheckpoint, summarizePlan } from './plan.ts';
import { lateTensors } from './plan-tensors.ts';

/** 8 bits per row, scale and zero from the row's range; reads row by row. */
function rowwise(step = 0): Quantizer {
  return {
    spec: 1,
    method: 'rowwise',
    config: { step },
    identity: `rowwise ${step}`,
    format: ([, inp], metaDtype): Affine => ({
      kind: 'affine',
      levels: 256,
      group: inp,
      axis: 1,
      scale: metaDtype,
      zero: metaDtype,
      packing: '8bit_u8',
    }),
    async quantize(weight, format, out, context) {
      const [rows, inp] = weight.shape;
      const dtype = (format as Affine).scale as DType;
      const row = new Float32Array(inp);
      const total = { squaredError: 0, squaredWeight: 0, maxAbs: 0 };
      for (let r = 0; r < rows; r++) {
        context.signal?.throwIfAborted();
        await weight.read(r * inp, (r + 1) * inp, row);
        const lo = Math.min(...row);
        const scale = Math.fround((Math.max(...row) - lo) / 255) || 1;
        const zero = Math.fround(-lo / scale);
        const codes = Uint8Array.from(row, (w) => Math.max(0, Math.min(255, Math.round(w / scale + zero))));
        await out.write('codes', r * inp, codes);
        await out.write('scale', r, writeFloat32(dtype, Float32Array.of(scale)));
        await out.write('zero', r, writeFloat32(dtype, Float32Array.of(zero)));
        for (let i = 0; i < inp; i++) {
          const error = Math.abs(row[i]! - (codes[i]! - zero) * scale);
          total.squaredError += error * error;
          total.squaredWeight += row[i]! ** 2;
          total.maxAbs = Math.max(total.maxAbs, error);
        }
        context.onWeights?.(inp);
      }
      return total;
    },
  };
}

const layout: CheckpointLayout = {
  spec: 1,
  name: 'plain',
  detect: (config) => (config.quantization_config as JsonObject | undefined)?.quant_method === 'plain',
  read: async () => new Map(),
  accepts: (quantizer) => quantizer.method === 'rowwise',
  tensors: ({
    site: {
      path,
      shape: [out, inp],
    },
    format,
  }) => [
    { name: `${path}.q`, spec: { dtype: 'u8', shape: [out, inp] }, content: { part: 'codes' } },
    { name: `${path}.s`, spec: { dtype: (format as Affine).scale as DType, shape: [out, 1] }, content: { part: 'scale' } },
    { name: `${path}.z`, spec: { dtype: (format as Affine).scale as DType, shape: [out, 1] }, content: { part: 'zero' } },
    { name: `${path}.shape`, spec: { dtype: 'u8', shape: [2] }, content: { data: Uint8Array.of(out, inp) } },
  ],
  config: (linears) => ({ quant_method: 'plain', kept: linears.filter((l) => l.use === 'keep').map((l) => l.site.path) }),
  loadsIn: () => ['this test'],
};

const adapter: ModelAdapter = {
  spec: 1,
  modelTypes: ['toy'],
  linears: () =>
    [
      ['model.layers.0.a', 0, [8, 16]],
      ['model.layers.1.a', 1, [8, 16]],
      ['model.layers.1.b', 1, [4, 8]],
      ['lm_head', -1, [12, 8]],
    ].map(([path, layer, shape]) => ({
      path: path as string,
      tag: (path as string).split('.').at(-1)!,
      layer: layer as number,
      shape: shape as [number, number],
      bias: false,
    })),
  describe: () => Promise.reject(new Error('not needed')),
};

const config = { model_type: 'toy', torch_dtype: 'float32', hidden_size: 16 };
const ramp = (shape: number[], k = 1) =>
  float32Tensor(
    shape,
    Array.from({ length: shape[0]! * (shape[1] ?? 1) }, (_, i) => Math.sin(i * 1.7 + k)),
  );

let tensors: Record<string, HostTensor>;
beforeEach(() => {
  tensors = {
    'model.embed.weight': ramp([12, 16]),
    'model.layers.0.a.weight': ramp([8, 16], 2),
    'model.layers.0.a.bias': ramp([8]),
    'model.layers.1.a.weight': castFloat(ramp([8, 16], 3), 'bf16'),
    'model.layers.1.b.weight': ramp([4, 8], 4),
    'lm_head.weight': ramp([12, 8], 5),
    'model.layers.0.ids': { dtype: 'i64', shape: [2], data: new Uint8Array(16) },
  };
});

const options = (more: Partial<PlanOptions> = {}): PlanOptions => ({
  quantizer: rowwise(),
  adapters: [adapter],
  layouts: [layout],
  ...more,
});

describe('planCheckpoint', () => {
  it('names every output tensor and its size before reading any weight', () => {
    const source = memorySource(tensors);
    const plan = planCheckpoint(config, source.entries, options());
    expect([...plan.tensors.keys()]).toEqual([
      'model.embed.weight',
      ...['q', 's', 'z', 'shape'].map((p) => `model.layers.0.a.${p}`),
      'model.layers.0.a.bias',
      ...['q', 's', 'z', 'shape'].map((p) => `model.layers.1.a.${p}`),
      ...['q', 's', 'z', 'shape'].map((p) => `model.layers.1.b.${p}`),
      'lm_head.weight',
      'model.layers.0.ids',
    ]);
    expect(plan.tensors.get('model.layers.1.a.s')!.spec).toEqual({ dtype: 'f16', shape: [8, 1] });
    expect(plan.tensors.get('model.embed.weight')!.spec.dtype).toBe('f32');
    expect(plan.config).toEqual({ ...config, quantization_config: { quant_method: 'plain', kept: ['lm_head'] } });
    const summary = summarizePlan(plan, source.entries);
    expect(summary).toMatchObject({ linears: 4, quantizedLinears: 3, quantizedWeights: 8 * 16 * 2 + 32 });
    expect(summary.bitsPerWeight).toBeCloseTo((8 * (288 + 20 * 4)) / 288, 12);
    expect(summary.tensorBytes).toBe([...plan.tensors.values()].reduce((sum, t) => sum + byteLength(t.spec), 0));
  });

  it('applies rules last, dtype to everything that is floating point, and leaves integers alone', () => {
    const plan = planCheckpoint(
      config,
      memorySource(tensors).entries,
      options({
        dtype: 'bf16',
        rules: [
          { match: 'b', use: 'keep' },
          { match: 'lm_head', use: rowwise(1) },
        ],
      }),
    );
    expect(plan.tensors.has('model.layers.1.b.weight')).toBe(true);
    expect(plan.tensors.has('lm_head.q')).toBe(true);
    expect(plan.tensors.get('lm_head.z')!.spec.dtype).toBe('bf16');
    expect(plan.tensors.get('model.layers.0.a.bias')!.spec.dtype).toBe('bf16');
    expect(plan.tensors.get('model.layers.0.ids')!.spec.dtype).toBe('i64');
    expect(plan.config.torch_dtype).toBe('bfloat16');
  });

  it('has equal fingerprints for equal jobs only', () => {
    const { entries } = memorySource(tensors);
    const of = (more: Partial<PlanOptions>) => planCheckpoint(config, entries, options(more)).fingerprint;
    expect(of({})).toBe(of({}));
    expect(of({ dtype: 'f16' })).not.toBe(of({}));
    expect(of({ quantizer: rowwise(9) })).not.toBe(of({}));
    expect(of({ rules: [{ match: 'b', use: 'keep' }] })).not.toBe(of({}));
  });

  const failing = (run: () => unknown) => {
    try {
      run();
    } catch (error) {
      return error as { code: string; message: string; hint: string };
    }
    throw new Error('did not fail');
  };

  it('refuses what it cannot do, by name', () => {
    const plan = (c: JsonObject, t: Record<string, HostTensor>, more = {}) =>
      failing(() => planCheckpoint(c, memorySource(t).entries, options(more)));
    expect(plan({ model_type: 'other' }, tensors)).toMatchObject({ code: 'ERR_UNSUPPORTED_ARCH', hint: expect.stringContaining('toy') });
    expect(plan({}, tensors)).toMatchObject({ code: 'ERR_UNSUPPORTED_ARCH' });
    expect(plan({ ...config, quantization_config: { quant_method: 'plain' } }, tensors)).toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
      message: expect.stringContaining('quantized already'),
    });
    const { 'model.layers.1.b.weight': _, ...without } = tensors;
    expect(plan(config, without)).toMatchObject({
      code: 'ERR_TENSOR_MISMATCH',
      message: expect.stringContaining('model.layers.1.b.weight'),
    });
    expect(plan(config, { ...tensors, 'model.layers.1.b.weight': ramp([8, 4]) }).message).toBe(
      'model.layers.1.b.weight is [8, 4], config.json says [4, 8]',
    );
    expect(
      plan(config, { ...tensors, 'model.layers.1.b.weight': { dtype: 'i8', shape: [4, 8], data: new Uint8Array(32) } }).message,
    ).toContain('holds i8');
    const uneven: Quantizer = {
      ...rowwise(),
      format: () => ({ kind: 'affine', levels: 16, group: 24, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' }),
    };
    expect(plan(config, tensors, { rules: [{ match: 'b', use: uneven }] })).toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
      message: expect.stringContaining('model.layers.1.b: '),
    });
    expect(plan(config, tensors, { dtype: 'f99' })).toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    // What a configuration spread into the options gives: a function that makes rules.
    expect(plan(config, tensors, { rules: () => [] })).toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      hint: expect.stringContaining('rules(paths)'),
    });
    expect(plan(config, tensors, { quantizer: { bits: 4 } })).toMatchObject({ code: 'ERR_BAD_ARGUMENT', hint: expect.any(String) });
    expect(plan(config, tensors, { layouts: [] })).toMatchObject({
      code: 'ERR_UNSUPPORTED_FORMAT',
      message: expect.stringContaining(
        'model.layers.0.a: no checkpoint layout stores what rowwise makes of it, codes of 256 levels with f16 scales',
      ),
      hint: expect.stringContaining('Layouts given: none.'),
    });
    const picky = { ...layout, accepts: (quantizer: Quantizer) => quantizer.config.step === 0 };
    const other = { ...layout, name: 'other', accepts: (quantizer: Quantizer) => quantizer.config.step === 1 };
    expect(plan(config, tensors, { layouts: [picky, other], rules: [{ match: 'b', use: rowwise(1) }] })).toMatchObject({
      message: 'no checkpoint layout stores rowwise in one model',
      hint: 'Layouts given: plain, other. Use one method for all linears.',
    });
    expect(plan(config, tensors, { layouts: [picky, other], layout: 'others' })).toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      hint: 'Layouts given: plain, other.',
    });
    expect(plan(config, tensors, { layouts: [picky, other], layout: 'other' })).toMatchObject({
      message: 'the layout other does not store these settings; plain does',
      hint: 'Choose plain, or no layout by name.',
    });
    expect(plan(config, tensors, { layouts: [picky], rules: [{ match: 'b', use: rowwise(1) }] }).message).toMatch(/^model.layers.1.b: /);
    expect(plan(config, { ...tensors, 'model.layers.0.a.q': ramp([1]) })).toMatchObject({ code: 'ERR_BAD_CHECKPOINT' });
  });

  it('writes the layout of the name given; a layout may have no config block', () => {
    const { entries } = memorySource(tensors);
    const bare = { ...layout, name: 'bare', config: () => undefined };
    const first = planCheckpoint(config, entries, options({ layouts: [layout, bare] }));
    const named = planCheckpoint(config, entries, options({ layouts: [layout, bare], layout: 'bare' }));
    expect([first.layout!.name, named.layout!.name]).toEqual(['plain', 'bare']);
    expect(first.config).toHaveProperty('quantization_config');
    expect(named.config).not.toHaveProperty('quantization_config');
    expect(named.fingerprint).not.toBe(first.fingerprint);
  });
});

describe('executePlan', () => {
  const run = async (more: Partial<PlanOptions> = {}, execute = {}, sink = memorySink()) => {
    const source = memorySource(tensors);
    const plan = planCheckpoint(config, source.entries, options(more));
    await sink.reserve(new Map([...plan.tensors].map(([name, { spec }]) => [name, spec])), {}, lateTensors(plan));
    return { report: await executePlan(plan, source, sink, execute), sink };
  };

  it('writes what the plan says, and reports the error of every linear', async () => {
    const events: ProgressEvent[] = [];
    const { report, sink } = await run({}, { onProgress: (e: ProgressEvent) => events.push(e) });
    expect(sink.tensors.get('model.embed.weight')!.data).toEqual(tensors['model.embed.weight']!.data);
    expect([...sink.tensors.get('model.layers.0.a.shape')!.data]).toEqual([8, 16]);
    const part = (p: string) => sink.tensors.get(`model.layers.0.a.${p}`)!;
    const q: QuantizedTensor = {
      format: rowwise().format([8, 16], 'f16'),
      shape: [8, 16],
      parts: { codes: { ...part('q'), shape: [8, 16] }, scale: part('s'), zero: part('z') },
    };
    const back = toFloat32(dequantize(q));
    for (const [i, w] of toFloat32(tensors['model.layers.0.a.weight']!).entries()) expect(Math.abs(w - back[i]!)).toBeLessThan(0.01);
    expect(report.linears.map((l) => l.path)).toEqual(['model.layers.0.a', 'model.layers.1.a', 'model.layers.1.b']);
    expect(report.weightError).toBeGreaterThan(0);
    expect(report.weightError).toBeLessThan(1e-4);
    expect(report).toMatchObject({ copied: 4, resumed: 0 });
    expect(events.at(-1)).toMatchObject({ phase: 'quantize', unit: 'bytes' });
    expect(events.at(-1)!.done).toBe(events.at(-1)!.total);
    expect(events.filter((e) => e.item === 'model.layers.0.a').length).toBeGreaterThan(2); // row by row, not only at its end
    expect(events.map((e) => e.done)).toEqual(events.map((e) => e.done).toSorted((a, b) => a - b));
  });

  it('gives the same bytes for any concurrency and budget', async () => {
    const reference = (await run()).sink.tensors;
    for (const execute of [{ concurrency: 4 }, { concurrency: 2, maxMemory: 64 << 20 }])
      expect((await run({}, execute)).sink.tensors).toEqual(reference);
  });

  const late = (more: Partial<LayoutTensor> = {}): CheckpointLayout => ({
    ...layout,
    tensors: (linear, options) => {
      const { path } = linear.site;
      const text = (parts: Readonly<Record<string, HostTensor>>) =>
        new TextEncoder().encode(`${options.weightDtype} ${toFloat32(parts.zero!).length} ${toFloat32(parts.scale!)[0]}`);
      const note: LayoutTensor = {
        name: `${path}.note`,
        spec: { dtype: 'u8', shape: [60] },
        content: { late: ['zero', 'scale'], make: text },
      };
      return [...layout.tensors(linear, options).filter(({ name }) => !name.endsWith('.z')), { ...note, ...more }];
    },
  });

  it('makes late tensors of parts, whether these are stored or not, and cuts them to their length', async () => {
    const reference = (await run()).sink.tensors;
    const { tensors: got } = (await run({ layouts: [late()] })).sink;
    expect(got.get('model.layers.1.a.s')).toEqual(reference.get('model.layers.1.a.s'));
    expect(got.has('model.layers.1.a.z')).toBe(false);
    for (const [path, dtype] of [
      ['model.layers.0.a', 'f32'],
      ['model.layers.1.a', 'bf16'],
    ]) {
      const text = `${dtype} 8 ${toFloat32(reference.get(`${path}.s`)!)[0]}`;
      expect(got.get(`${path}.note`)).toEqual({ dtype: 'u8', shape: [text.length], data: new TextEncoder().encode(text) });
    }
    const plan = planCheckpoint(config, memorySource(tensors).entries, options({ layouts: [late()], dtype: 'f16' }));
    expect([...lateTensors(plan)]).toEqual(['model.layers.0.a.note', 'model.layers.1.a.note', 'model.layers.1.b.note']);
  });

  it.each([
    ['of a part that is not there', { content: { late: ['nothing'], make: () => new Uint8Array() } }],
    ['of large parts', { content: { late: ['codes'], make: () => new Uint8Array() } }],
    ['of another shape', { spec: { dtype: 'u8', shape: [2, 2] } }],
    ['of another dtype', { spec: { dtype: 'i8', shape: [2] } }],
  ] as [string, Partial<LayoutTensor>][])('refuses late tensors %s', async (_, more) => {
    tensors['model.layers.0.a.weight'] = ramp([512, 256]);
    const wide = { ...adapter, linears: () => [{ path: 'model.layers.0.a', tag: 'a', layer: 0, shape: [512, 256] as const, bias: true }] };
    await expect(run({ layouts: [late(more)], adapters: [wide] })).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_FORMAT' });
  });

  it('a part may be stored as another dtype, in any number of writes', async () => {
    const seen: CheckpointLayout = {
      ...layout,
      tensors: (linear, options) =>
        layout.tensors(linear, options).map((tensor) => {
          const { shape } = linear.site;
          return tensor.name.endsWith('.q') ? { ...tensor, spec: { dtype: 'f32', shape: [(shape[0] * shape[1]) / 4, 1] } } : tensor;
        }),
    };
    const got = (await run({ layouts: [seen] })).sink.tensors.get('model.layers.0.a.q')!;
    expect(got.shape).toEqual([32, 1]);
    expect(got.data).toEqual((await run()).sink.tensors.get('model.layers.0.a.q')!.data);
  });

  it('skips units committed by an interrupted run and still ends with the same tensors', async () => {
    const reference = await run();
    for (let stopAfter = 0; stopAfter < 7; stopAfter++) {
      const sink = memorySink();
      let commits = 0;
      const flaky = {
        ...sink,
        commit: async (unit: string, note: never) =>
          commits++ === stopAfter ? Promise.reject(new Error('crash')) : sink.commit(unit, note),
      };
      await expect(run({}, {}, flaky)).rejects.toThrow('crash');
      expect(sink.done.size).toBe(stopAfter);
      const resumable = { ...sink, reserve: async () => {} };
      const { report } = await run({}, {}, resumable);
      expect(report.resumed).toBe(stopAfter);
      expect(sink.tensors).toEqual(reference.sink.tensors);
      expect(report.weightError).toBeCloseTo(reference.report.weightError, 15);
    }
  });

  it('stops at an abort, and names NaN and f16 overflow', async () => {
    const reason = new Error('stop');
    await expect(run({}, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    toFloat32(tensors['model.layers.0.a.weight']!)[5] = Number.NaN;
    await expect(run()).rejects.toMatchObject({ code: 'ERR_NON_FINITE', message: 'model.layers.0.a.weight: element 5 is NaN' });
    toFloat32(tensors['model.layers.0.a.weight']!)[5] = 0;
    toFloat32(tensors['model.embed.weight']!)[7] = 1e6;
    await expect(run({ dtype: 'f16' })).rejects.toMatchObject({
      code: 'ERR_DTYPE_OVERFLOW',
      message: expect.stringContaining('model.embed.weight: element 7'),
    });
    await expect(run({ dtype: 'bf16' })).resolves.toBeDefined();
    await expect(run({}, { maxMemory: 1000 })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await expect(run({}, { concurrency: 0 })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await expect(run({}, { concurrency: 2, maxMemory: 63 << 20 })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
  });

  it.each(['f64', 'f32', 'f16', 'bf16'] as const)('refuses NaN and infinity in tensors that are only copied: %s', async (dtype) => {
    for (const value of [Number.NaN, Number.NEGATIVE_INFINITY]) {
      tensors['model.embed.weight'] = castFloat(float32Tensor([12, 16], [...new Array(191).fill(1), value]), dtype);
      await expect(run()).rejects.toMatchObject({ code: 'ERR_NON_FINITE', message: `model.embed.weight: element 191 is ${value}` });
    }
  });

  it.each(['f32', 'f16', 'bf16'] as const)('copies NaN and infinity in %s when allowed, and makes none of its own', async (dtype) => {
    const values = [...new Array(189).fill(1), Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, Number.NaN];
    tensors['model.embed.weight'] = castFloat(float32Tensor([12, 16], values), dtype);
    const { sink } = await run({ dtype: 'f16' }, { allowNonFinite: true });
    expect([...toFloat32(castFloat(sink.tensors.get('model.embed.weight')!, 'f32'))]).toEqual(values);
    tensors['model.embed.weight'] = float32Tensor([12, 16], values.with(3, 1e6));
    await expect(run({ dtype: 'f16' }, { allowNonFinite: true })).rejects.toMatchObject({
      code: 'ERR_DTYPE_OVERFLOW',
      details: { index: 3 },
    });
  });

  it.each([
    ['f32', 3.4e38, 'bf16'],
    ['f64', 1e300, 'f16'],
    ['f64', 1e39, 'f32'],
    ['bf16', 70000, 'f16'],
  ] as const)('refuses to make an infinity of a %s %d as %s', async (from, value, dtype) => {
    const data = from === 'f64' ? new Uint8Array(Float64Array.of(value).buffer) : writeFloat32(from, Float32Array.of(value));
    tensors.blob = { dtype: from, shape: [1], data };
    await expect(run({ dtype })).rejects.toMatchObject({ code: 'ERR_DTYPE_OVERFLOW', details: { tensor: 'blob', index: 0 } });
  });

  it('hands importances to the quantizers, and they are part of the job', async () => {
    const importance = (value: number) =>
      new Map([['model.layers.1.a', { kind: 'diagonal', moments: float32Tensor([16], new Array(16).fill(value)), rows: 4 } as const]]);
    const seen: unknown[] = [];
    const plain = rowwise();
    const quantizer: Quantizer = {
      ...plain,
      quantize(weight, format, out, context) {
        seen.push([weight.name, context.importance?.moments.shape]);
        return plain.quantize(weight, format, out, context);
      },
    };
    await run({ quantizer, importance: importance(1) });
    expect(seen).toContainEqual(['model.layers.1.a.weight', [16]]);
    expect(seen).toContainEqual(['model.layers.0.a.weight', undefined]);
    const job = (value: number) =>
      planCheckpoint(config, memorySource(tensors).entries, options({ importance: importance(value) })).fingerprint;
    expect(job(1)).toBe(job(1));
    expect(job(1)).not.toBe(job(2));
  });

  it('asks for importances that come late when it gets there, for what is left to do, and they are part of the job', async () => {
    const late = (identity: string) => {
      const asked: string[] = [];
      const begun: string[][] = [];
      const of = async (path: string) => {
        asked.push(path);
        return { kind: 'diagonal', moments: float32Tensor([16], new Array(16).fill(asked.length)), rows: 4 } as const;
      };
      return { identity, asked, begun, begin: (paths: Iterable<string>) => void begun.push([...paths]), of };
    };
    const seen: (string | number | undefined)[][] = [];
    const plain = rowwise();
    const quantizer: Quantizer = {
      ...plain,
      quantize(weight, format, out, context) {
        seen.push([weight.name, toFloat32(context.importance!.moments)[0]]);
        return plain.quantize(weight, format, out, context);
      },
    };
    const importance = late('one');
    await run({ quantizer, importance });
    expect(seen.length).toBeGreaterThan(1);
    expect(seen).toEqual(importance.asked.map((path, i) => [`${path}.weight`, i + 1]));
    expect(importance.begun).toEqual([importance.asked]);
    const job = (identity: string) =>
      planCheckpoint(config, memorySource(tensors).entries, options({ importance: late(identity) })).fingerprint;
    expect(job('one')).toBe(job('one'));
    expect(job('one')).not.toBe(job('two'));

    const unasked = late('one');
    await run({ quantizer: { ...plain, usesImportance: false }, importance: unasked });
    expect([unasked.asked, unasked.begun]).toEqual([[], []]);
  });

  it('copies any tensor unchanged, in chunks', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 64 }), async (bytes) => {
        tensors.blob = { dtype: 'u8', shape: [bytes.length], data: bytes };
        expect((await run()).sink.tensors.get('blob')!.data).toEqual(bytes);
      }),
      { numRuns: 20 },
    );
  });
});

describe('patchLinears', () => {
  it('disposes a linear that the host refuses', async () => {
    let disposed = 0;
    const host: LinearHost = {
      linears: () => [{ path: 'a', shape: [8, 16] as const }],
      weight: async () => ({ weight: ramp([8, 16]) }),
      replace: () => Promise.reject(new Error('busy')),
    };
    const linear = { [Symbol.dispose]: () => void disposed++ } as never;
    const runtime = { linear: async () => linear, routine: () => undefined };
    await expect(patchLinears(host, [{ match: 'a', use: rowwise() }], { runtime })).rejects.toThrow('busy');
    expect(disposed).toBe(1);
  });

  it('quantizes what the rules name, by tag or path, and hands the result to the host', async () => {
    const replaced = new Map<string, QuantizedTensor>();
    const host: LinearHost = {
      linears: () => ['model.layers.0.a', 'model.layers.1.a', 'lm_head'].map((path) => ({ path, shape: [8, 16] as const })),
      weight: async (path) => ({ weight: ramp([8, 16], path.length) }),
      replace: (path, linear) => void replaced.set(path, linear as unknown as QuantizedTensor),
    };
    const runtime = { linear: async (q: QuantizedTensor) => q as never, routine: () => undefined };
    expect(await patchLinears(host, [{ match: 'a', use: rowwise() }], { runtime })).toEqual(['model.layers.0.a', 'model.layers.1.a']);
    expect(replaced.get('model.layers.1.a')!.format).toMatchObject({ kind: 'affine', scale: 'f16' });
    expect(replaced.has('lm_head')).toBe(false);
    await expect(patchLinears(host, [{ match: 'nothing', use: 'keep' }], { runtime })).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    await expect(patchLinears(host, [], { runtime, fall_back: 'keep' } as never)).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      message: 'patchLinears: there is no option fall_back',
      hint: expect.stringMatching(/^Did you mean fallback\?/),
    });
    const reason = new Error('stop');
    await expect(patchLinears(host, [{ match: '**', use: rowwise() }], { runtime, signal: AbortSignal.abort(reason) })).rejects.toBe(
      reason,
    );
  });
});

describe('weights that are stored as [in, out]', () => {
  const conv: ModelAdapter = {
    ...adapter,
    linears: () => adapter.linears(config, new Map()).map((site) => ({ ...site, transposed: true })),
  };
  const turned = () =>
    Object.fromEntries(Object.entries(tensors).map(([name, t]) => [name, /[ab]\.weight$|head/.test(name) ? transpose(t) : t]));

  async function run(from: Record<string, HostTensor>, more: Partial<PlanOptions>) {
    const source = memorySource(from);
    const plan = planCheckpoint(config, source.entries, options(more));
    const sink = memorySink();
    await sink.reserve(new Map([...plan.tensors].map(([name, { spec }]) => [name, spec])), {});
    const report = await executePlan(plan, source, sink);
    return { tensors: sink.tensors, report, plan };
  }

  it('are turned before they are quantized, and copied as they are', async () => {
    const plain = await run(tensors, {});
    const stored = await run(turned(), { adapters: [conv] });
    expect(stored.report.weightError).toBe(plain.report.weightError);
    for (const [name, tensor] of plain.tensors) {
      expect(stored.tensors.get(name), name).toEqual(name === 'lm_head.weight' ? transpose(tensor) : tensor);
    }
    expect(stored.plan.fingerprint).not.toBe(plain.plan.fingerprint);
  });

  it('must have that shape', () => {
    expect(() => planCheckpoint(config, memorySource(tensors).entries, options({ adapters: [conv] }))).toThrow(
      expect.objectContaining({ code: 'ERR_TENSOR_MISMATCH', message: expect.stringContaining('[16, 8]') as unknown }),
    );
  });

  it('must fit the memory allowed', async () => {
    const large = { ...turned(), 'model.layers.0.a.weight': float32Tensor([2048, 1280], new Float32Array(2048 * 1280)) };
    const wide: ModelAdapter = {
      ...conv,
      linears: () =>
        conv.linears(config, new Map()).map((site) => (site.path.endsWith('0.a') ? { ...site, shape: [1280, 2048] as const } : site)),
    };
    const source = memorySource(large);
    const plan = planCheckpoint(config, source.entries, options({ adapters: [wide] }));
    const sink = memorySink();
    await sink.reserve(new Map([...plan.tensors].map(([name, { spec }]) => [name, spec])), {});
    await expect(executePlan(plan, source, sink, { maxMemory: 32 << 20 })).rejects.toMatchObject({
      code: 'ERR_LIMIT',
      hint: expect.stringContaining(String(4 * 4 * 2048 * 1280)),
    });
    // What one has room for is not refused because two were asked for.
    const { linears } = await executePlan(plan, source, sink, { maxMemory: 64 << 20, concurrency: 2 });
    expect(linears.map(({ path }) => path)).toContain('model.layers.0.a');
  });
});
