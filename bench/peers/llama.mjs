// node-llama-cpp: GGUF THREADS

import { compete } from './contestant.mjs';

const { getLlama } = await import(new URL('installed/node_modules/node-llama-cpp/dist/index.js', import.meta.url).href);
const [file, threads] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error', progressLogs: false });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ contextSize: 2048, threads: Number(threads), batchSize: 512 });
const sequence = context.getSequence();
const token = (i) => 300 + ((i * 7919) % 40000);
const tokens = (count) => Array.from({ length: count }, (_, i) => token(i));
const fresh = async (count) => {
  await sequence.clearHistory();
  if (count > 0) await sequence.evaluateWithoutGeneratingNewTokens(tokens(count));
};
await compete({
  async decode({ count, depth }) {
    await fresh(Math.max(1, depth));
    const begin = performance.now();
    for (let i = 0; i < count; i++) await sequence.evaluateWithoutGeneratingNewTokens([token(depth + i)]);
    return performance.now() - begin;
  },
  async prefill({ count }) {
    await fresh(0);
    const begin = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(tokens(count));
    return performance.now() - begin;
  },
  async generate({ count }) {
    await fresh(0);
    let written = 0;
    let begin = 0;
    for await (const _ of sequence.evaluate(tokens(16), { temperature: 0, yieldEogToken: true })) {
      if (written === 0) begin = performance.now();
      if (++written > count) break;
    }
    return performance.now() - begin;
  },
});
