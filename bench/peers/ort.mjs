// onnxruntime-node: ONNX THREADS, MatMulNBits of 16 layers [4096, 4096]

import { createRequire } from 'node:module';
import { compete } from './contestant.mjs';

const ort = createRequire(new URL('installed/package.json', import.meta.url))('onnxruntime-node');
const [file, threads] = process.argv.slice(2);
const session = await ort.InferenceSession.create(file, {
  intraOpNumThreads: Number(threads),
  interOpNumThreads: 1,
  executionMode: 'sequential',
});
const inputs = new Map();
await compete({
  async product({ rows }) {
    if (!inputs.has(rows)) {
      inputs.set(
        rows,
        new ort.Tensor(
          'float32',
          Float32Array.from({ length: rows * 4096 }, (_, i) => Math.sin(i)),
          [rows, 4096],
        ),
      );
    }
    const begin = performance.now();
    await session.run({ X: inputs.get(rows) });
    return performance.now() - begin;
  },
});
