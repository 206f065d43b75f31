// How far `precision: 'fast'` of kernels-cpu is from the reference backend, on every instruction set of the machine: perplexity within 0.1 %, and no token's
// likelihood far off, which a mean may hide.
import { fileURLToPath } from 'node:url';
import { nf4 } from '@lowbit/bnb';
import { type BackendProvider, createRuntime, patchLinears, type Quantizer, referenceBackend } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint } from '@lowbit/hub';
import { cpu, type Isa } from '@lowbit/kernels-cpu';
import { loadModel, perplexity } from '@lowbit/models';
import { describe, expect, it } from 'vitest';
import { goldenJson } from '../fixtures/golden.ts';
import { needs } from '../fixtures/needs.ts';

const folder = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url));
const { ids, bos } = goldenJson<{ bos: number; ids: number[] }>('quality-ids-tiny.json');
const WINDOWS = 2;
const windows = Array.from({ length: WINDOWS }, (_, i) => [bos, ...ids.slice(255 * i, 255 * (i + 1))]);
/** From the best one of a processor down: what another processor would run. */
const ISAS: readonly Isa[] = ['amx', 'avx512', 'avx2', 'i8mm', 'dotprod', 'neon', 'scalar'];

/** Negative log-likelihoods of all tokens of the windows, every linear of the decoder blocks quantized. */
async function likelihoods(backend: BackendProvider, quantizer: Quantizer): Promise<number[]> {
  await using runtime = await createRuntime({ backends: [backend] });
  await using checkpoint = await openCheckpoint(folder);
  await using model = await loadModel(checkpoint, { runtime });
  await patchLinears(model, [{ match: ['self_attn.*', 'mlp.*'], use: quantizer }], { runtime, metaDtype: 'f16' });
  const found: number[] = [];
  for (const window of windows) {
    const { tokens } = await perplexity(model, window, { contextLength: window.length, onToken: (_, nll) => found.push(nll) });
    expect(tokens).toBe(255);
  }
  return found;
}

describe("precision: 'fast'", () => {
  it.for([
    ['HQQ 4 bits', hqq()],
    ['HQQ 2 bits', hqq({ bits: 2, groupSize: 16 })],
    ['NF4', nf4()],
    ['HIGGS 4 bits', higgs()],
  ] as const)('%s: perplexity within a thousandth of the reference', async ([name, quantizer], context) => {
    const probe = await cpu().probe();
    needs(context, 'kernels-cpu', probe.ok, probe.ok ? '' : probe.reason);
    const expected = await likelihoods(referenceBackend(), quantizer);
    let first: number[] | undefined;
    for (const isa of ISAS) {
      const backend = cpu({ isa, threads: 2, precision: 'fast' });
      if (!(await backend.probe()).ok) continue;
      const found = await likelihoods(backend, quantizer);
      const off = found.map((nll, i) => nll - expected[i]!);
      const mean = off.reduce((sum, d) => sum + d, 0) / off.length;
      const spread = Math.sqrt(off.reduce((sum, d) => sum + d * d, 0) / off.length);
      console.info(`${name}, ${isa}: perplexity ${(100 * Math.expm1(mean)).toFixed(4)} % off, tokens by ${spread.toFixed(5)} nats`);
      expect(Math.abs(Math.expm1(mean)), isa).toBeLessThan(1e-3);
      expect(spread, isa).toBeLessThan(2e-3);
      first ??= found;
    }
    expect(first, 'no instruction set').toBeDefined();
  });
});
