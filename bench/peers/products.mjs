// lowbit's products: THREADS PRECISION, 16 layers [4096, 4096] of HQQ 4 bits in groups of 64, one after another

import { cpu } from '../../packages/kernels-cpu/dist/index.js';
import { compete } from './contestant.mjs';

const [threads, precision] = process.argv.slice(2);
const backend = await cpu({ threads: Number(threads), precision }).open();
const shape = [4096, 4096];
const format = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
const groups = (4096 * 4096) / 64;
const half = (bits) => new Uint8Array(new Uint16Array(groups).fill(bits).buffer);
const linears = [];
for (let layer = 0; layer < 16; layer++) {
  const codes = Uint8Array.from({ length: (4096 * 4096) / 2 }, (_, i) => (i * 2654435761 + layer) >>> 13);
  const parts = {
    codes: { dtype: 'u8', shape: [groups / 2, 64], data: codes },
    scale: { dtype: 'f16', shape: [groups, 1], data: half(0x18cd) },
    zero: { dtype: 'f16', shape: [groups, 1], data: half(0x4780) },
  };
  linears.push(await backend.prepare({ format, shape, parts }));
}
const tensors = new Map();
await compete({
  async product({ rows }) {
    if (!tensors.has(rows)) {
      const pair = [0, 1].map(() => backend.alloc({ dtype: 'f32', shape: [rows, 4096] }));
      backend.write(pair[0], new Uint8Array(Float32Array.from({ length: rows * 4096 }, (_, i) => Math.sin(i)).buffer));
      tensors.set(rows, pair);
    }
    const [x, y] = tensors.get(rows);
    const begin = performance.now();
    for (const [i, linear] of linears.entries()) linear.forward(i % 2 === 0 ? x : y, i % 2 === 0 ? y : x);
    const ms = performance.now() - begin;
    backend.write(x, new Uint8Array(Float32Array.from({ length: rows * 4096 }, (_, i) => Math.sin(i)).buffer));
    return ms;
  },
});
