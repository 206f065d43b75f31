// In a page: products of 4-bit weights by onnxruntime-web and by lowbit, each on a device of its own of the same adapter. Each run takes x from the host, and
// gives the last product back to it.

import { webgpu } from '../../packages/kernels-webgpu/dist/index.js';
import { ProgramBuilder } from '../../packages/models/dist/index.js';

const numbers = (count) => Float32Array.from({ length: count }, (_, i) => Math.sin(i));

async function lowbit({ size, layers, features }) {
  const backend = await webgpu({ software: true, selfTest: false, ...(features ? { features } : {}) }).open();
  const shape = [size, size];
  const format = { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' };
  const groups = (size * size) / 64;
  const half = (bits) => new Uint8Array(new Uint16Array(groups).fill(bits).buffer);
  const b = new ProgramBuilder({ layers: 1 });
  b.layer = 0;
  let x = b.input('x', { width: size });
  const linears = [];
  for (let layer = 0; layer < layers; layer++) {
    x = b.linear(x, b.addLinear(`${layer}`, shape));
    const codes = Uint8Array.from({ length: (size * size) / 2 }, (_, i) => (i * 2654435761 + layer) >>> 13);
    const parts = {
      codes: { dtype: 'u8', shape: [groups / 2, 64], data: codes },
      scale: { dtype: 'f16', shape: [groups, 1], data: half(0x18cd) },
      zero: { dtype: 'f16', shape: [groups, 1], data: half(0x4780) },
    };
    linears.push(await backend.prepare({ format, shape, parts }));
  }
  b.output('y', x);
  const executable = await backend.compile(b.build(), linears, { contextLength: 4096 });
  return {
    what: `${backend.device.label}, ${backend.device.features.join(' ')}`,
    async run(rows) {
      const id = executable.open();
      const inputs = { x: { dtype: 'f32', shape: [rows, size], data: new Uint8Array(numbers(rows * size).buffer) } };
      const wanted = Uint32Array.from({ length: rows }, (_, i) => i);
      const { y } = await executable.step([{ id, tokens: new Uint32Array(rows), wanted, inputs }]);
      executable.close(id);
      return y.data.byteLength / 4;
    },
  };
}

async function onnxruntime({ size, model }) {
  const ort = await import(/* @vite-ignore */ new URL('/ort/ort.webgpu.bundle.min.mjs', location.href).href);
  ort.env.wasm.wasmPaths = new URL('/ort/', location.href).href;
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(new URL(model, location.href).href, { executionProviders: ['webgpu'] });
  return {
    what: `onnxruntime-web ${ort.env.versions?.web ?? ''}`,
    async run(rows) {
      const X = new ort.Tensor('float32', numbers(rows * size), [rows, size]);
      const { Y } = await session.run({ X });
      return (await Y.getData()).length;
    },
  };
}

const contestants = new Map();
globalThis.contestant = async (label, kind, options) => {
  const made = await (kind === 'lowbit' ? lowbit : onnxruntime)(options);
  contestants.set(label, made);
  return made.what;
};
globalThis.run = async (label, rows, repeat) => {
  const begin = performance.now();
  let numbers;
  for (let i = 0; i < repeat; i++) numbers = await contestants.get(label).run(rows);
  return { elapsed: performance.now() - begin, numbers };
};
