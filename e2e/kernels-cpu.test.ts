// The native CPU backend with the packages around it: quantizing with its routines, and layers that run on it.
import { type Backend, createRuntime, type HostTensor, quantize, referenceBackend, toFloat32, writeFloat32 } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { cpu } from '@lowbit/kernels-cpu';
import { seeded, seededTensor } from '@lowbit/testing';
import { describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';

const probe = await cpu().probe();
const addon = (context: { skip(reason: string): void }): void => needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);

/** Bell-shaped weights with a few large ones, so that the shrinkage acts. */
function weightOf(out: number, inp: number, dtype: 'f32' | 'f16' | 'bf16'): HostTensor {
  const next = seeded(out * inp);
  const values = Float32Array.from({ length: out * inp }, (_, i) => (next() + next() + next() - 1.5) * (i % 331 === 0 ? 6 : 0.3));
  return { dtype, shape: [out, inp], data: writeFloat32(dtype, values) };
}

describe('quantizing with native routines', () => {
  const runtimeOf = async (isa: 'auto' | 'scalar', threads: number) => {
    const runtime = await createRuntime({ backends: [cpu({ isa, threads })] });
    await runtime.backend('cpu'); // routines are those of opened backends
    return runtime;
  };

  it.each([
    ['4 bits', { bits: 4 }, [640, 1088], 'f32'],
    ['4 bits of bf16', { bits: 4 }, [96, 320], 'bf16'],
    ['4 bits, axis 0', { bits: 4, axis: 0 }, [192, 144], 'f16'],
    ['8 bits, a group per row', { bits: 8, groupSize: null }, [40, 100], 'f32'],
    ['3 bits', { bits: 3 }, [74, 128], 'f32'],
    ['3 bits, axis 0', { bits: 3, axis: 0 }, [128, 66], 'f32'],
    ['2 bits in groups of 16', { bits: 2, groupSize: 16 }, [60, 80], 'f32'],
    ['1.58 bits', { bits: 1.58, groupSize: 64 }, [48, 192], 'f32'],
    ['1 bit in groups of 200', { bits: 1, groupSize: 200 }, [64, 200], 'f32'],
    ['without the solver', { bits: 4, optimize: false }, [64, 128], 'f32'],
    ['rules of 0.1.8', { bits: 4, release: '0.1.8' }, [64, 128], 'f32'],
    ['proximal-v2', { bits: 4, solver: 'proximal-v2' }, [64, 128], 'f32'],
    ['least squares, whose routines stay in TypeScript', { bits: 4, solver: 'least-squares' }, [32, 128], 'f32'],
  ] as const)('%s: the bytes of the TypeScript', async (_, options, shape, dtype) => {
    const weight = weightOf(shape[0], shape[1], dtype);
    const expected = await quantize(weight, hqq(options as never));
    for (const [isa, threads] of probe.ok
      ? ([
          ['auto', 2],
          ['scalar', 1],
        ] as const)
      : []) {
      await using runtime = await runtimeOf(isa, threads);
      const got = await quantize(weight, hqq(options as never), { runtime });
      expect(got.format).toEqual(expected.format);
      for (const [name, part] of Object.entries(expected.parts)) {
        expect(Buffer.compare(got.parts[name]!.data, part.data), `${name}, ${isa}`).toBe(0);
      }
    }
  });

  it('calls them', async (context) => {
    addon(context);
    await using runtime = await runtimeOf('auto', 2);
    const called = new Set<string>();
    const watched = {
      routine: (name: string) => {
        const found = runtime.routine(name);
        if (found) called.add(name);
        return found;
      },
    };
    await quantize(weightOf(64, 128, 'f32'), hqq(), { runtime: watched });
    expect([...called]).toEqual(['hqq.min-max', 'hqq.proximal-step', 'hqq.finish']);
  });
});

describe('layers on the native backend', () => {
  it('a weight of hqq gives the numbers of the reference', async (context) => {
    addon(context);
    await using native = await createRuntime({ backends: [cpu({ threads: 2 })] });
    await using plain = await createRuntime({ backends: [referenceBackend()] });
    const quantized = await quantize(weightOf(96, 256, 'f32'), hqq());
    const x = seededTensor(1, [3, 256]);
    const results: Float32Array[] = [];
    for (const runtime of [native, plain]) {
      using linear = await runtime.linear(quantized);
      const backend: Backend = await runtime.backend(runtime === native ? 'cpu' : 'reference');
      const input = backend.alloc(x);
      const output = backend.alloc({ dtype: 'f32', shape: [3, 96] });
      backend.write(input, x.data);
      linear.forward(input, output);
      results.push(toFloat32(await backend.read(output)));
    }
    const largest = Math.max(...results[1]!.map(Math.abs));
    for (const [i, y] of results[0]!.entries()) expect(Math.abs(y - results[1]![i]!)).toBeLessThan(4e-6 * largest);
  });
});
