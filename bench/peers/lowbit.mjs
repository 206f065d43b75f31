// lowbit: MODEL THREADS PRECISION HEAD_BITS (0: as stored)

import { createRuntime } from '../../packages/core/dist/index.js';
import { hqq } from '../../packages/hqq/dist/index.js';
import { openCheckpoint } from '../../packages/hub/dist/index.js';
import { cpu } from '../../packages/kernels-cpu/dist/index.js';
import { benchModel, loadModel } from '../../packages/models/dist/index.js';
import { compete } from './contestant.mjs';

const [folder, threads, precision, headBits] = process.argv.slice(2);
const runtime = await createRuntime({ backends: [cpu({ threads: Number(threads), precision, cache: false })] });
await runtime.backend('cpu');
const checkpoint = await openCheckpoint(folder);
const model = await loadModel(checkpoint, { runtime, ...(Number(headBits) > 0 ? { head: hqq({ bits: Number(headBits) }) } : {}) });
const once = async (options) => {
  const [result] = await benchModel(model, { prompt: 0, generate: 0, ...options, repetitions: 1, warmup: false });
  return result.milliseconds[0];
};
await compete({
  decode: ({ count, depth }) => once({ generate: count, depth }),
  prefill: ({ count }) => once({ prompt: count }),
  async generate({ count }) {
    const ids = Array.from({ length: 16 }, (_, i) => 300 + i);
    const { timings } = await model.generate({ ids, maxTokens: count + 1, temperature: 0, ignoreEos: true });
    return timings.decodeMs;
  },
});
