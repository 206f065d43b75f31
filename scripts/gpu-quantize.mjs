// @ts-check
// Quantizing on the GPU, for gpu-check.mjs: over what moving the weights alone takes (goal Q1), and beside the TypeScript on one thread (goal Q2).
import { fp4, nf4 } from '@lowbit/bnb';
import { quantize } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { seededTensor } from '@lowbit/testing';
import { median } from './gpu-common.mjs';

/**
 * @typedef {import('@lowbit/core').Backend} Backend
 * @typedef {import('@lowbit/core').HostTensor} HostTensor
 * @typedef {import('@lowbit/core').Quantizer} Quantizer
 */

/** @type {Readonly<Record<string, () => Quantizer>>} */
const METHODS = {
  'hqq4 g64': () => hqq({ bits: 4, groupSize: 64 }),
  'hqq4 g64, least squares': () => hqq({ bits: 4, groupSize: 64, solver: 'least-squares' }),
  nf4: () => nf4(),
  'fp4, searched': () => fp4({ scale: 'search' }),
  higgs4: () => higgs({ bits: 4, groupSize: 256 }),
};

/** @type {(work: () => Promise<unknown> | unknown) => Promise<number>} milliseconds */
async function timed(work) {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/** @type {(shape: readonly [number, number], seed: number) => HostTensor} bf16: the upper halves of numbers */
function weightOf(shape, seed) {
  const { data } = seededTensor(seed, shape, 0.1);
  const from = new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2);
  return { dtype: 'bf16', shape, data: new Uint8Array(from.filter((_, i) => i % 2 === 1).buffer) };
}

/**
 * Of each method: `overFloor`, a stream of matrices, two at a time, over the longer of reading them once from memory and bringing them to the device (dense, with nothing done to
 * them); `overReference`, one matrix in TypeScript over the same on the GPU. Pairs are interleaved; medians.
 * @param {Backend} backend
 * @param {{ readonly small: boolean }} settings
 */
export async function quantizing(backend, { small }) {
  const runtime = { routine: (/** @type {string} */ name) => backend.routines?.get(name) };
  const rounds = small ? 1 : 9;
  const stream = Array.from({ length: small ? 2 : 8 }, (_, i) => weightOf(small ? [64, 128] : [4096, 4096], i + 1));
  const one = weightOf(small ? [64, 128] : [1024, 4096], 99);
  const copy = new Uint8Array(stream[0]?.data.length ?? 0);
  const found = [];
  for (const [method, make] of Object.entries(METHODS)) {
    const quantizer = make();
    const options = /** @type {const} */ ({ metaDtype: 'f16' });
    /** @type {{ floor: number[], stream: number[], reference: number[], gpu: number[] }} */
    const times = { floor: [], stream: [], reference: [], gpu: [] };
    for (let round = 0; round <= rounds; round++) {
      const read = await timed(() => {
        for (const { data } of stream) copy.set(data);
      });
      const brought = await timed(async () => {
        for (const weight of stream) {
          const linear = await backend.prepare({
            format: { kind: 'dense', dtype: 'bf16' },
            shape: /** @type {[number, number]} */ (weight.shape),
            parts: { weight },
          });
          linear[Symbol.dispose](); // which waits for what was enqueued
        }
      });
      times.floor.push(Math.max(read, brought));
      times.stream.push(
        await timed(async () => {
          const waiting = [...stream];
          const lane = async () => {
            for (let weight = waiting.shift(); weight; weight = waiting.shift()) await quantize(weight, quantizer, { ...options, runtime });
          };
          await Promise.all([lane(), lane()]);
        }),
      );
      // The TypeScript takes seconds: three rounds say enough.
      if (round > 3) continue;
      times.gpu.push(await timed(() => quantize(one, quantizer, { ...options, runtime })));
      times.reference.push(await timed(() => quantize(one, quantizer, options)));
    }
    const after = /** @type {(list: readonly number[]) => readonly number[]} */ ((list) => list.slice(1));
    const ratios = /** @type {(a: readonly number[], b: readonly number[]) => number} */ (
      (a, b) => median(after(a).map((value, i) => value / (after(b)[i] ?? Number.NaN)))
    );
    found.push({
      method,
      weights: stream.reduce((sum, { shape }) => sum + (shape[0] ?? 0) * (shape[1] ?? 0), 0),
      milliseconds: median(after(times.stream)),
      overFloor: ratios(times.stream, times.floor),
      overReference: ratios(times.reference, times.gpu),
    });
  }
  return found;
}
