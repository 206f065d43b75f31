// What a runtime opens and gives back, with providers that note what happens to them.

import { sampleWeight } from '@lowbit/testing';
import { expect, it } from 'vitest';
import { disposeAll } from '../dispose.ts';
import { referenceBackend } from '../reference/index.ts';
import { createRuntime } from '../runtime.ts';
import type { BackendProvider } from '../spec/backend.ts';
import { float32Tensor } from '../tensor.ts';

function noted(name: string, log: string[], fails = false): BackendProvider {
  const inner = referenceBackend({ name });
  return {
    ...inner,
    async open(options) {
      const backend = await inner.open(options);
      log.push(`open ${name}`);
      const dispose = backend[Symbol.asyncDispose].bind(backend);
      backend[Symbol.asyncDispose] = async () => {
        log.push(`dispose ${name}`);
        await dispose();
        if (fails) throw new Error(`${name} fails`);
      };
      return backend;
    },
  };
}

it('leaves backends closed that no linear needs', async () => {
  const log: string[] = [];
  await using runtime = await createRuntime({ backends: [noted('a', log), noted('b', log)] });
  const weight = { format: { kind: 'dense', dtype: 'f32' }, shape: [1, 2], parts: { weight: float32Tensor([1, 2], [1, 2]) } } as const;
  using linear = await runtime.linear(weight);
  expect(linear.shape).toEqual([1, 2]);
  expect(log).toEqual(['open a']);
});

it('keeps scales and zeros off the device where asked, and gives the rest back', async () => {
  const provider = referenceBackend();
  await using runtime = await createRuntime({ backends: [provider] });
  const backend = await runtime.backend();
  const weight = sampleWeight({ kind: 'affine', levels: 4, group: 16, axis: 1, scale: 'f16', zero: 'f16', packing: '2bit_u8' }, [32, 64]);
  const plain = await runtime.linear(weight);
  const offloaded = await runtime.linear(weight, { offloadMeta: true });
  expect([plain.bytes, offloaded.bytes]).toEqual([32 * 32 + 128 * 8, 32 * 32]);
  expect(await offloaded.dequantize()).toEqual(await plain.dequantize());
  expect(backend.allocated()).toBe(plain.bytes + offloaded.bytes);
  plain[Symbol.dispose]();
  offloaded[Symbol.dispose]();
  expect(backend.allocated()).toBe(0);
});

it('gives every backend back, in reverse order, although one fails', async () => {
  const log: string[] = [];
  const runtime = await createRuntime({ backends: [noted('a', log), noted('b', log, true)] });
  await runtime.backend('b');
  await expect(runtime[Symbol.asyncDispose]()).rejects.toThrow('b fails');
  expect(log).toEqual(['open a', 'open b', 'dispose b', 'dispose a']);
});

it('disposeAll loses no failure', async () => {
  const fail = (text: string) => () => Promise.reject(new Error(text));
  await expect(disposeAll([fail('one'), () => {}, fail('two')])).rejects.toMatchObject({
    errors: [expect.objectContaining({ message: 'two' }), expect.objectContaining({ message: 'one' })],
  });
  await expect(disposeAll([])).resolves.toBeUndefined();
});
