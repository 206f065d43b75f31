// What `measure` says against what a compiled program takes then, to the byte, on the emulator.
import type { Backend, Format, StepSize } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import { type TinyDecoder, tinyDecoder } from '../../../fixtures/tiny-decoder.ts';
import type { CudaBinding } from './binding.ts';
import { type CudaOptions, cuda } from './cuda.ts';
import { addon } from './load.node.ts';

const AFFINE: Format = { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
const INT8: Format = { kind: 'int8', threshold: 6 };
const SIZE: StepSize = { contextLength: 40, sequences: 1, tokens: 8, outputs: 1, encoder: 0 };

describe('measure', () => {
  it.for<readonly [string, TinyDecoder, Partial<StepSize>, CudaOptions]>([
    ['a text', tinyDecoder(AFFINE), {}, {}],
    ['texts whose last step is short, keys in bf16', tinyDecoder(AFFINE), { sequences: 2, tokens: 9 }, { kvDtype: 'bf16' }],
    ['experts', tinyDecoder(INT8, { experts: 5 }), {}, {}],
  ])('counts every byte: %s', async ([, { program, weights }, given, options], context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    pretend();
    const native = addon.load();
    let backend: Backend | undefined;
    let most = 0;
    const look = (): void => {
      most = Math.max(most, backend?.allocated() ?? 0);
    };
    // A cache that has grown has two buffers until the first is freed.
    const freeBuffer: CudaBinding['freeBuffer'] = (buffer) => {
      look();
      native.freeBuffer(buffer);
    };
    await using opened = await cuda({ driver: FAKE_DRIVER, binding: { ...native, freeBuffer }, ...options }).open();
    backend = opened;
    const size = { ...SIZE, ...given };
    const requests = program.linears.map(({ shape, use }, i) => ({ format: weights[i]!.format, shape, use }));
    const said = backend.measure!(program, requests, size);
    expect(backend.allocated()).toBe(0);
    const linears = [];
    for (const [i, { use }] of program.linears.entries()) linears.push(await backend.prepare(weights[i]!, { use }));
    const held = backend.allocated();
    const { contextLength, sequences, tokens } = size;
    using executable = await backend.compile(program, linears, { contextLength });
    const constants = backend.allocated() - held;
    const ids = Array.from({ length: sequences }, () => executable.open());
    for (let at = 0; at < contextLength; at += tokens) {
      await executable.step(ids.map((id) => ({ id, tokens: new Uint32Array(Math.min(tokens, contextLength - at)) })));
      look();
    }
    const { cache, scratch } = executable.memory();
    expect(said).toEqual({ constants, scratch: most - held - constants - cache, kept: scratch, cache });
  });

  it('keeps no room that is given back after a step', (context) => {
    needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');
    const native = addon.load();
    const small = native.measurePlan([100, 0, 0, 0, 0], [3, 0, 0, 0, 1], 1000);
    expect(small).toEqual({ scratch: 1280 + 1500, kept: 1280 + 1500 });
    const large = native.measurePlan([2 ** 20, 0, 0, 0, 0], [64, 0, 0, 0, 1], 1000);
    expect(large).toEqual({ scratch: 2 ** 28 + 1500, kept: 0 });
    expect(() => native.measurePlan([1, 1], [1, 0, 0, 0, 1], 0)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
  });
});
