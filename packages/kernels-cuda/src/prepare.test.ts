// Weights on their way to the device: every packing by its kernel, and nothing but stored bytes leaves the host.
import { type Affine, type Codebook, codecFor, type Format, isLowbitError, type Matrix, packing, type QuantizedTensor } from '@lowbit/core';
import { formatSamples, sampleWeight } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { FAKE_DRIVER, noFakeDriver, pretend } from '../../../fixtures/fake-cuda.ts';
import { needs } from '../../../fixtures/needs.ts';
import type { CudaBinding } from './binding.ts';
import { cuda } from './cuda.ts';
import { addon } from './load.node.ts';

/** Names of all packings there are: core says them where it does not know one, so that a new one is tested, too. */
function packings(): readonly string[] {
  try {
    return [packing('none').name];
  } catch (error) {
    return /^Known packings: (.*)\.$/.exec((isLowbitError(error) && error.hint) || '')![1]!.split(', ');
  }
}

/** Formats and shapes for a packing: odd columns where it takes them, several lanes, tiles and words. */
function samplesOf(name: string): readonly (readonly [Format, Matrix])[] {
  const { bits } = packing(name);
  const affine: Affine = { kind: 'affine', levels: 2 ** bits, group: 20, axis: 1, scale: 'f16', zero: 'f16', packing: name };
  const codebook: Codebook = { kind: 'codebook', bits, dim: 1, group: 20, table: 't', scale: 'f32', packing: name };
  const flute = /^flute(\d)_p(\d)/.exec(name);
  if (flute) {
    const [weightBits, dim] = [Number(flute[1]), Number(flute[2]) as 1 | 2];
    return [[{ ...codebook, bits: weightBits, dim, group: 32 }, [1024, 96]]];
  }
  if (name.startsWith('row_bits')) return [[codebook, [7, 40 + 1 - (bits % 2)]]];
  const shapes: readonly Matrix[] = [
    [40, 100],
    [8, 200],
  ];
  return [
    ...shapes.map((shape) => [affine, shape] as const),
    [{ ...affine, axis: 0, group: 40 }, [40, 100]],
    ...(name === 'u8' || name === 'bnb_nibble' ? ([[codebook, [9, 61]]] as const) : []),
  ];
}

const here = (context: { skip(reason: string): void }): void =>
  needs(context, 'kernels-cuda', noFakeDriver === undefined, noFakeDriver ?? '');

describe('a weight on the device', () => {
  it('comes in every packing', () => expect(packings().length).toBeGreaterThan(20));

  it.for(packings())('has the numbers of its codec, packed as %s', async (name, context) => {
    here(context);
    pretend();
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    for (const [format, shape] of samplesOf(name)) {
      const weight = sampleWeight(format, shape);
      using linear = await backend.prepare(weight);
      const got = await linear.dequantize();
      const expected = codecFor(format).dequantize(weight);
      expect(Buffer.from(got.data).equals(expected.data), `${format.kind} [${shape.join(', ')}]`).toBe(true);
    }
    expect(backend.allocated()).toBe(0);
  });

  it('is brought there as it is stored, wherever the bytes begin, and whole', async (context) => {
    here(context);
    pretend();
    const native = addon.load();
    let sent = 0;
    const binding: CudaBinding = {
      ...native,
      uploadBuffer: (buffer, at, bytes) => {
        sent += bytes.byteLength;
        return native.uploadBuffer(buffer, at, bytes);
      },
    };
    await using backend = await cuda({ driver: FAKE_DRIVER, binding }).open();
    for (const { weight } of formatSamples()) {
      sent = 0;
      const parts = Object.entries(weight.parts).map(([name, part]) => {
        const moved = new Uint8Array(part.data.byteLength + 1);
        moved.set(part.data, 1);
        return [name, { ...part, data: moved.subarray(1) }] as const;
      });
      const shifted: QuantizedTensor = { ...weight, parts: Object.fromEntries(parts) };
      using linear = await backend.prepare(shifted);
      using plain = await backend.prepare(weight);
      const [got, expected] = [await linear.dequantize(), await plain.dequantize()];
      expect(Buffer.from(got.data).equals(expected.data)).toBe(true);
      const stored = parts.filter(([name]) => !/(^|\.)(table|offset)$/.test(name)).reduce((sum, [, { data }]) => sum + data.byteLength, 0);
      expect(sent, weight.format.kind).toBe(2 * stored);
    }
  });

  it('comes in pieces of memory that the device reads while the next is fetched', async (context) => {
    here(context);
    pretend();
    const native = addon.load();
    const device = await native.openDevice(FAKE_DRIVER, 0);
    const bytes = new Uint8Array((12 << 20) + 5);
    for (let i = 0; i < bytes.length; i++) bytes[i] = Math.imul(i, 2654435761) >>> 24;
    const buffer = native.createBuffer(device, bytes.length + 3, false);
    const expected = Buffer.from(bytes);
    await native.uploadBuffer(buffer, 3, bytes);
    bytes.fill(0); // it has been read
    const out = new Uint8Array(expected.length);
    await native.readBuffer(buffer, 3, out);
    expect(expected.equals(out)).toBe(true);
    await expect(native.uploadBuffer(buffer, 4, bytes)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    native.freeBuffer(buffer);
    native.closeDevice(device);
  });

  it.for(['cuMemHostAlloc/2/1', 'cuMemHostAlloc/2/2', 'cuEventCreate/2/1'])(
    'is there without such memory (%s), and is the same',
    async (fail, context) => {
      here(context);
      const weight = sampleWeight({ kind: 'dense', dtype: 'f32' }, [8, 32]);
      pretend({ fail });
      await using backend = await cuda({ driver: FAKE_DRIVER }).open();
      using linear = await backend.prepare(weight);
      expect(Buffer.from((await linear.dequantize()).data).equals(weight.parts.weight!.data)).toBe(true);
    },
  );

  it.for(['cuEventRecord/1/1', 'cuEventSynchronize/1/1', 'cuMemcpyHtoD/1/2'])('is an error where %s', async (fail, context) => {
    here(context);
    pretend({ fail });
    await using backend = await cuda({ driver: FAKE_DRIVER }).open();
    await expect(backend.prepare(sampleWeight({ kind: 'dense', dtype: 'f32' }, [8, 32]))).rejects.toMatchObject({ code: 'ERR_DEVICE' });
    expect(backend.allocated()).toBe(0);
  });

  it('is not brought there when the signal is aborted', async (context) => {
    here(context);
    pretend();
    const native = addon.load();
    const stop = new AbortController();
    const binding: CudaBinding = {
      ...native,
      uploadBuffer: async (buffer, at, bytes) => {
        await native.uploadBuffer(buffer, at, bytes);
        stop.abort(new Error('enough'));
      },
    };
    await using backend = await cuda({ driver: FAKE_DRIVER, binding }).open();
    const weight = sampleWeight(
      { kind: 'affine', levels: 16, group: 32, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' },
      [64, 64],
    );
    await expect(backend.prepare(weight, { signal: stop.signal })).rejects.toThrow('enough');
    expect(backend.allocated()).toBe(0);
  });
});
