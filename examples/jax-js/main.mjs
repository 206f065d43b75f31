// @ts-check
// Quantizes the linear layers of a model of jax-js by tag, and compares what it then says with lowbit's own model, patched by the same rules.
//   node examples/jax-js/main.mjs

import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { defaultDevice, init } from '@jax-js/jax';
import { createRuntime, patchLinears, referenceBackend, toFloat32 } from '@lowbit/core';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint } from '@lowbit/hub';
import { loadModel } from '@lowbit/models';
import { JaxLlama } from './llama.mjs';

const TOKENS = 64;
/** The patterns of these rules are tags, the part of a path that repeats across layers. */
const rules = [
  { match: 'self_attn.*', use: hqq({ bits: 8, groupSize: 64 }) },
  { match: 'mlp.*', use: hqq({ bits: 4, groupSize: 64 }) },
  { match: 'mlp.down_proj', use: /** @type {const} */ ('keep') },
];

await init('wasm');
defaultDevice('wasm');
const runtime = await createRuntime({ backends: [referenceBackend()] });
const checkpoint = await openCheckpoint(fileURLToPath(new URL('../tiny-llama', import.meta.url)));
const own = await loadModel(checkpoint, { runtime });
const jax = await JaxLlama.load(checkpoint, await runtime.backend());
try {
  const text = await readFile(new URL('../tiny-llama/eval.txt', import.meta.url), 'utf8');
  const ids = own.tokenizer.encode(text.slice(0, 2000)).slice(0, TOKENS);

  /** Mean negative log-likelihood of each next token, in nats. @param {Float32Array} logits */
  const nll = (logits) => {
    const vocab = logits.length / ids.length;
    let sum = 0;
    for (let i = 0; i + 1 < ids.length; i++) {
      const row = logits.subarray(i * vocab, (i + 1) * vocab);
      const top = row.reduce((a, b) => Math.max(a, b));
      sum += top + Math.log(row.reduce((total, x) => total + Math.exp(x - top), 0)) - row[ids[i + 1]];
    }
    return sum / (ids.length - 1);
  };
  const measure = async () => {
    const [theirs, ours] = [await jax.logits(ids), toFloat32(await own.logits(ids))];
    const apart = theirs.reduce((most, x, i) => Math.max(most, Math.abs(x - ours[i])), 0);
    return { bytes: jax.bytes, nll: nll(theirs), ownNll: nll(ours), apart };
  };

  const before = await measure();
  const replaced = await patchLinears(jax, rules, { runtime });
  await patchLinears(own, rules, { runtime });
  const after = await measure();

  /** @param {{ bytes: number, nll: number, ownNll: number, apart: number }} result */
  const row = ({ bytes, nll, ownNll, apart }) =>
    `${(bytes / 1e6).toFixed(2)} MB of linears, ${nll.toFixed(4)} nats per token (lowbit's own model ${ownNll.toFixed(4)}, logits at most ${apart.toExponential(1)} apart)`;
  console.log(
    `${replaced.length} linear layers of a model of jax-js, quantized by tag and run by lowbit, on ${ids.length} tokens of text:`,
  );
  console.log(`  floating point  ${row(before)}`);
  console.log(`  quantized       ${row(after)}`);
} finally {
  jax[Symbol.dispose]();
  await own[Symbol.asyncDispose]();
  await checkpoint[Symbol.asyncDispose]();
  await runtime[Symbol.asyncDispose]();
}
