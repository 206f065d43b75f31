// @ts-check
// What bringing a weight to the CUDA backend takes of the thread of JavaScript, without a GPU: the driver's own calls are left out, be they the fake one's
// memory or its emulated kernels. Beside it what unpacking and casting on that thread takes, which is how weights were brought before.
// Usage: node bench/cuda-load.mjs
import { createRequire } from 'node:module';
import { cpus } from 'node:os';
import { performance } from 'node:perf_hooks';
import { codecFor, writeFloat32 } from '@lowbit/core';
import { cuda } from '@lowbit/kernels-cuda';
import { sampleWeight } from '@lowbit/testing';
import { median } from './spread.mjs';

const PAIRS = 7;
const SHAPE = /** @type {const} */ ([2048, 4096]);
const release = new URL('../packages/kernels-cuda/build/Release/', import.meta.url);
const native = createRequire(import.meta.url)(new URL('lowbit_cuda.node', release).pathname);
const driver = new URL('liblowbit_fake_cuda.so', release).pathname;
let sent = 0;
/** @type {import('@lowbit/kernels-cuda').CudaBinding} */
const binding = {
  ...native,
  launch: () => {},
  createBuffer: () => /** @type {any} */ (1),
  freeBuffer: () => {},
  bufferAddress: () => 0n,
  writeBuffer: () => {},
  uploadBuffer: async (_buffer, _at, bytes) => {
    sent += bytes.byteLength;
  },
  readBuffer: async () => {},
};

const affine = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
/** @type {Readonly<Record<string, import('@lowbit/core').Format>>} */
const FORMATS = {
  hqq8: { ...affine, levels: 256, packing: '8bit_u8' },
  hqq4: affine,
  hqq3: { ...affine, levels: 8, packing: '3bit_32' },
  hqq2: { ...affine, levels: 4, packing: '2bit_u8' },
  nf4: { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' },
  higgs4: {
    ...{ kind: 'codebook', bits: 4, dim: 2, group: 256, table: 'higgs', scale: 'f16', packing: 'flute4_p2_t32' },
    rotate: { kind: 'hadamard', block: 512 },
  },
  int8: { kind: 'int8', threshold: 6 },
};

/** @type {(values: readonly number[]) => number} */

const backend = await cuda({ driver, binding }).open();
console.log(
  `${cpus()[0]?.model}, node ${process.version}, [${SHAPE.join(', ')}], ms of the thread of JavaScript, medians of ${PAIRS} pairs`,
);
console.log('| format | MB brought | now | unpacked in JavaScript |\n|---|---|---|---|');
for (const [name, format] of Object.entries(FORMATS)) {
  const weight = sampleWeight(format, SHAPE);
  const codec = codecFor(format);
  /** @type {number[]} */
  const now = [];
  /** @type {number[]} */
  const before = [];
  for (let i = 0; i <= PAIRS; i++) {
    sent = 0;
    const began = performance.now();
    const linear = await backend.prepare(weight); // nothing in it waits
    now.push(performance.now() - began);
    linear[Symbol.dispose]();
    const start = performance.now();
    for (let row = 0; row < SHAPE[0]; row += 256) codec.unpackRows(weight, row, row + 256);
    const numbers = codec.numbers(weight);
    if (numbers) writeFloat32('f16', numbers.scale);
    if (numbers?.zero) writeFloat32('f16', numbers.zero);
    before.push(performance.now() - start);
  }
  const [a, b] = [median(now.slice(1)), median(before.slice(1))];
  console.log(`| ${name} | ${(sent / 1e6).toFixed(1)} | ${a.toFixed(2)} | ${b.toFixed(2)} |`);
}
await backend[Symbol.asyncDispose]();
