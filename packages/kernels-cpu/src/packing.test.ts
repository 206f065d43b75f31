// The two ways of a weight into the backend's order: by the addon from the parts of a file, and from what the codec makes of them.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codecFor, elements, type Format, type Matrix, type QuantizedTensor } from '@lowbit/core';
import { decoderCase, sampleWeight } from '@lowbit/testing';
import { afterAll, describe, expect, it } from 'vitest';
import { needs } from '../../../fixtures/needs.ts';
import type { CpuBinding, WeightHandle } from './binding.ts';
import { PACKED_LAYOUTS } from './cache/store.node.ts';
import { cpu } from './cpu.ts';
import { planLayout } from './layout.ts';
import { addon as ladder } from './load.node.ts';
import { holdWeight } from './prepare.ts';
import { storedWeight } from './stored.ts';

const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);
const dir = mkdtempSync(join(tmpdir(), 'lowbit-packing-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const HQQ4: Format = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
const NF4: Format = { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' };
const NESTED = { kind: 'affine', levels: 256, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '8bit_u8' } as const;

/** With the checksum of the packed weight, as of PACKED_LAYOUTS. */
const CASES: readonly (readonly [string, Format, Matrix, checksum: string])[] = [
  ['4 bits', HQQ4, [72, 128], 'd94f17204ad6e19d'],
  ['4 bits, longer groups', { ...HQQ4, group: 256 }, [40, 512], 'a2470155f0b1397b'],
  ['4 bits, bf16', { ...HQQ4, scale: 'bf16', zero: 'bf16' }, [32, 64], '66289ddae42679d8'],
  ['4 bits, scales and zeros of two dtypes', { ...HQQ4, zero: 'f32' }, [32, 64], '8584e5881462720f'],
  ['4 bits, nested scales', { ...HQQ4, scale: NESTED }, [64, 128], '704f090cb6627064'],
  ['3 bits', { ...HQQ4, levels: 8, scale: 'f32', zero: 'f32', packing: '3bit_32' }, [40, 96], 'a0034f05b20633d2'],
  ['2 bits without zeros', { ...HQQ4, levels: 4, zero: 'none', packing: '2bit_u8' }, [48, 64], 'c5bba09496497e63'],
  ['1 bit', { ...HQQ4, levels: 2, packing: '1bit_u8' }, [64, 64], '2bacf11fcbca4566'],
  ['8 bits', { ...HQQ4, levels: 256, packing: '8bit_u8' }, [17, 256], 'b95602e92879449'],
  ['axis 0', { ...HQQ4, axis: 0 }, [128, 48], '3acc908097e0851d'],
  ['groups across rows', { ...HQQ4, group: 24 }, [20, 36], '5dc5ad23c2bc8773'],
  ['nf4', NF4, [33, 128], '33f46749ba915579'],
  ['nf4 across rows, an odd number of codes', NF4, [5, 101], 'fbf8a765d0430f55'],
  ['int8', { kind: 'int8', threshold: 6 }, [30, 70], '20ad716f6674ae7e'],
  ['bf16', { kind: 'dense', dtype: 'bf16' }, [9, 50], 'fb54e4dc5a1ebf46'],
  ['f32', { kind: 'dense', dtype: 'f32' }, [9, 50], 'd7b78dbad8bf4e54'],
];

/** Bytes of a packed weight. */
async function bytesOf(binding: CpuBinding, handle: WeightHandle, name: string): Promise<Buffer> {
  const path = join(dir, name);
  await binding.saveWeight(handle, path, new Uint8Array(32), '');
  binding.freeWeight(handle);
  return readFileSync(path);
}

/** By the codec, row by row. */
function byCodec(binding: CpuBinding, weight: QuantizedTensor): WeightHandle {
  const { format, shape } = weight;
  const codec = codecFor(format);
  const plan = planLayout(format, shape, []);
  const found = codec.numbers(weight);
  const handle = binding.createWeight(plan.spec, found ? plan.numbers(found) : {});
  if (plan.spec.kind === 'dense') binding.putDense(handle, 0, codec.dequantize(weight, { dtype: plan.spec.dtype }).data);
  else {
    for (let row = 0; row < shape[0]; row++) {
      binding.putCodes(handle, row, 1, elements({ dtype: 'u8', data: codec.unpackRows(weight, row, row + 1).data }));
    }
  }
  return handle;
}

describe('packing by the addon', () => {
  it.for(CASES)('%s: gives the bytes of the codec, with any number of threads', async ([name, format, shape, sum], context) => {
    addon(context);
    const binding = ladder.load();
    const weight = sampleWeight(format, shape);
    const plan = planLayout(format, shape, []);
    expect(storedWeight(weight, plan)).toBeDefined();
    const expected = await bytesOf(binding, byCodec(binding, weight), `${name} codec`);
    for (const threads of [1, 3]) {
      const machine = binding.openMachine('scalar', threads);
      const options = { bias: undefined, codecs: [], signal: undefined };
      const got = await bytesOf(binding, await holdWeight({ binding, machine }, weight, plan, options), `${name} ${threads}`);
      expect(Buffer.compare(got, expected)).toBe(0);
      binding.closeMachine(machine);
    }
    // Another checksum means another layout, or other numbers in it: then weights in the caches of users must not be taken any more. Count
    // PACKED_LAYOUTS up and put the new checksums here.
    expect([PACKED_LAYOUTS, expected.readBigUInt64LE(56).toString(16)]).toEqual([1, sum]);
  });

  it('names a code that has no place, as the codec does', async (context) => {
    addon(context);
    const format: Format = { ...HQQ4, levels: 4, packing: '8bit_u8' } as Format;
    const weight = sampleWeight(format, [32, 64]);
    weight.parts.codes!.data[100] = 200;
    await using backend = await cpu({ threads: 2 }).open();
    await expect(backend.prepare(weight)).rejects.toMatchObject({ code: 'ERR_BAD_ARGUMENT' });
    const three = sampleWeight({ ...NF4, bits: 3 } as Format, [32, 64]);
    three.parts.codes!.data[0] = 0xff;
    await expect(backend.prepare(three)).rejects.toMatchObject({ code: 'ERR_TENSOR_MISMATCH', details: { part: 'codes', code: 15 } });
    expect(backend.allocated()).toBe(0);
  });

  it('leaves the event loop free, and holds nothing after an abort', async (context) => {
    addon(context);
    await using backend = await cpu({ threads: 2 }).open();
    const weight = sampleWeight(HQQ4, [4096, 2048]);
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    (await backend.prepare(weight))[Symbol.dispose]();
    clearInterval(timer);
    expect(turns).toBeGreaterThan(0);
    const controller = new AbortController();
    const preparing = backend.prepare(weight, { signal: controller.signal });
    controller.abort(new Error('enough'));
    await expect(preparing).rejects.toThrow('enough');
    expect(backend.allocated()).toBe(0);
  });
});

describe('memory that V8 is told of', () => {
  it('is that of weights, activations and caches, and given back', async (context) => {
    addon(context);
    const binding = ladder.load();
    const before = binding.externalBytes();
    const backend = await cpu({ threads: 2 }).open();
    const { test } = decoderCase();
    const linears = await Promise.all(
      test.program.linears.map(({ path, bias }) =>
        backend.prepare(test.weights.get(path)!, { bias: bias === undefined ? undefined : test.program.constants[bias] }),
      ),
    );
    const weights = linears.reduce((sum, { bytes }) => sum + bytes, 0);
    expect(binding.externalBytes() - before).toBe(weights);
    const executable = await backend.compile(test.program, linears, { contextLength: 512 });
    const compiled = binding.externalBytes() - before;
    expect(compiled).toBe(backend.allocated());
    const id = executable.open();
    await executable.step([{ id, tokens: Uint32Array.from({ length: 100 }, (_, i) => i % 19) }]);
    const copy = executable.fork(id);
    expect(binding.externalBytes() - before).toBe(backend.allocated());
    expect(backend.allocated()).toBeGreaterThan(compiled);
    executable.close(copy);
    expect(binding.externalBytes() - before).toBe(backend.allocated());
    await backend[Symbol.asyncDispose]();
    expect(binding.externalBytes()).toBe(before);
  });
});
