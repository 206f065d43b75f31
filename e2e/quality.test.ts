// The quality figures of the Python libraries, repeated: weight errors of every HQQ, bitsandbytes and HIGGS row, perplexities, and where kernels-cpu runs
// them KL divergences and shares of equal first tokens. Procedure: fixtures/golden/QUALITY.md.
//
// The reference backend is the specification, and takes minutes for a row: one row of the tiny model runs on it always. Others run on kernels-cpu where
// that is built, a tenth of the time: two of the tiny model always, the rest with LOWBIT_SLOW=1, those of SmolLM2 when LOWBIT_SMOLLM2 names its folder as
// well. LOWBIT_QUALITY_BACKEND, reference or cpu, says for all rows where they run.

import { fileURLToPath } from 'node:url';
import { fp4, int8, nf4 } from '@lowbit/bnb';
import {
  type BackendProvider,
  createRuntime,
  type DType,
  dequantize,
  elementCount,
  linearTag,
  patchLinears,
  type Quantizer,
  quantizationError,
  quantize,
  type Runtime,
  referenceBackend,
  toFloat32,
} from '@lowbit/core';
import { type HiggsBits, type HiggsDim, higgs } from '@lowbit/higgs';
import { type HqqBits, hqq } from '@lowbit/hqq';
import { type FolderCheckpoint, openCheckpoint } from '@lowbit/hub';
import { cpu } from '@lowbit/kernels-cpu';
import { type Divergence, klDivergence, type LanguageModel, llama, loadModel, perplexity } from '@lowbit/models';
import { describe, expect, it } from 'vitest';
import { goldenJson } from '../fixtures/golden.ts';
import { needs } from '../fixtures/needs.ts';

interface Row {
  method: string;
  ppl: number;
  kl: number;
  top1: number;
  weight_error: number;
}
const { models } = goldenJson<{ models: Record<'tiny' | 'smollm2', { rows: Row[]; predictions: number }> }>('quality.json');
const slow = process.env.LOWBIT_SLOW === '1';
const SMOLLM2 = process.env.LOWBIT_SMOLLM2;
const native = (await cpu().probe()).ok;
/** The rows that are measured always: on the reference, and where it is built on kernels-cpu. */
const ALWAYS: Readonly<Record<string, 'reference' | 'cpu'>> = {
  'hqq-4bit-g64-axis1': 'reference',
  'hqq-8bit-g64-axis1': 'cpu',
  'bnb-nf4': 'cpu',
};

/** The backend that a row runs on. */
function backendOf(method: string): BackendProvider {
  const chosen = process.env.LOWBIT_QUALITY_BACKEND ?? ALWAYS[method] ?? 'cpu';
  return chosen === 'cpu' && (native || process.env.LOWBIT_QUALITY_BACKEND === 'cpu') ? cpu() : referenceBackend();
}

interface TinyIds {
  bos: number;
  windows: number;
  ids: number[];
}

const subjects = {
  tiny: {
    folder: fileURLToPath(new URL('../examples/tiny-llama', import.meta.url)),
    windows(): number[][] {
      const { ids, windows, bos } = goldenJson<TinyIds>('quality-ids-tiny.json');
      return Array.from({ length: windows }, (_, i) => [bos, ...ids.slice(255 * i, 255 * (i + 1))]);
    },
  },
  smollm2: {
    folder: SMOLLM2 ?? '',
    windows: () => goldenJson<{ windows: { ids: number[] }[] }>('quality-ids-smollm2.json').windows.map((window) => window.ids),
  },
};

const BNB: Readonly<Record<string, Quantizer>> = {
  'bnb-nf4': nf4(),
  'bnb-nf4-dq': nf4({ doubleQuant: true }),
  'bnb-fp4': fp4(),
  'bnb-int8': int8(),
};

const parse = (method: string): Quantizer | undefined => {
  if (Object.hasOwn(BNB, method)) return BNB[method];
  const [, higgsBits, p, hadamard] = /^higgs-([234])bit-p([12])-h(\d+)$/.exec(method) ?? [];
  if (higgsBits !== undefined) {
    const hadamardSize = Number(hadamard);
    return higgs({
      bits: Number(higgsBits) as HiggsBits,
      p: Number(p) as HiggsDim,
      hadamardSize,
      groupSize: Math.min(256, hadamardSize),
    });
  }
  const [, bits, group, axis] = /^hqq-(\d)bit-g(\d+)-axis([01])$/.exec(method) ?? [];
  return bits === undefined ? undefined : hqq({ bits: Number(bits) as HqqBits, groupSize: Number(group), axis: Number(axis) as 0 | 1 });
};

/** What scales are stored in: bfloat16 for HIGGS, as its procedure says, float32 for the others. */
const metaDtype = ({ method }: Quantizer): DType => (method === 'higgs' ? 'bf16' : 'f32');

async function relativeWeightError(checkpoint: FolderCheckpoint, quantizer: Quantizer): Promise<number> {
  let [error, norm] = [0, 0];
  for (const { path } of llama.linears(checkpoint.config, checkpoint.source.entries)) {
    if (linearTag(path) === 'lm_head') continue;
    const weight = await checkpoint.tensor(`${path}.weight`);
    error +=
      quantizationError(weight, await quantize(weight, quantizer, { metaDtype: metaDtype(quantizer) })).mse * elementCount(weight.shape);
    norm += toFloat32(weight).reduce((sum, w) => sum + w * w, 0);
  }
  return error / norm;
}

/**
 * Every linear of the decoder blocks by its quantized weight, expanded to float32. Of LLM.int8 the figure is for the weights alone: a backend would
 * round activations, too. Formats that the backend does not run are measured in this way as well.
 */
async function expandLinears(model: LanguageModel, quantizer: Quantizer, runtime: Runtime): Promise<void> {
  for (const { path } of [...model.linears()].filter(({ path }) => linearTag(path) !== 'lm_head')) {
    const { weight, bias } = await model.weight(path);
    const quantized = await quantize(weight, quantizer, { metaDtype: metaDtype(quantizer) });
    const expanded = { format: { kind: 'dense', dtype: 'f32' }, shape: quantized.shape, parts: { weight: dequantize(quantized) } } as const;
    await model.replace(path, await runtime.linear(expanded, { bias }));
  }
}

/** The model with every linear of the decoder blocks quantized with float32 scales (HIGGS: bfloat16), as QUALITY.md has it. */
async function quantizedModel(checkpoint: FolderCheckpoint, quantizer: Quantizer | undefined, runtime: Runtime): Promise<LanguageModel> {
  const model = await loadModel(checkpoint, { runtime });
  const format = quantizer?.format([128, 512], metaDtype(quantizer));
  const backend = await runtime.backend(runtime.backends[0]!);
  const runs = format && backend.supports({ format, shape: [128, 512], use: 'linear' }).level !== 'none';
  if (quantizer && (format?.kind === 'int8' || !runs)) await expandLinears(model, quantizer, runtime);
  else if (quantizer)
    await patchLinears(model, [{ match: ['self_attn.*', 'mlp.*'], use: quantizer }], { runtime, metaDtype: metaDtype(quantizer) });
  return model;
}

interface Measured {
  readonly perplexity: number;
  readonly tokens: number;
  /** Against the model in 16 bits; absent where that would have taken minutes. */
  readonly divergence?: Divergence;
}

/** Windows scored on their own; with `both` beside the model in 16 bits. */
async function measure(
  checkpoint: FolderCheckpoint,
  windows: number[][],
  quantizer: Quantizer | undefined,
  backend: BackendProvider,
  both: boolean,
): Promise<Measured> {
  await using runtime = await createRuntime({ backends: [backend] });
  await using model = await quantizedModel(checkpoint, quantizer, runtime);
  const contextLength = windows[0]!.length;
  if (both) {
    await using reference = await loadModel(checkpoint, { runtime });
    const divergence = await klDivergence(reference, model, windows, { contextLength });
    return { perplexity: divergence.model.perplexity, tokens: divergence.tokens, divergence };
  }
  let [sum, tokens] = [0, 0];
  for (const ids of windows) {
    const part = await perplexity(model, ids, { contextLength });
    sum += part.nll * part.tokens;
    tokens += part.tokens;
  }
  return { perplexity: Math.exp(sum / tokens), tokens };
}

describe.each(['tiny', 'smollm2'] as const)('%s', (name) => {
  const subject = subjects[name];
  const { rows, predictions } = models[name];

  for (const row of rows.filter(({ method }) => parse(method))) {
    it(`weight error of ${row.method}`, async (context) => {
      needs(
        context,
        'smollm2',
        name === 'tiny' || SMOLLM2 !== undefined,
        'LOWBIT_SMOLLM2 does not name the folder of SmolLM2-135M-Instruct',
      );
      await using checkpoint = await openCheckpoint(subject.folder);
      const error = await relativeWeightError(checkpoint, parse(row.method)!);
      // 0.1 %, and half of the last digit of the figure, which has six decimals
      expect(Math.abs(error - row.weight_error)).toBeLessThanOrEqual(1e-3 * row.weight_error + 5e-7);
    });
  }

  for (const row of rows.filter(({ method }) => method === 'bf16' || parse(method))) {
    const always = name === 'tiny' ? ALWAYS[row.method] : undefined;
    it(`perplexity and divergence of ${row.method}`, { timeout: 14_400_000 }, async (context) => {
      needs(
        context,
        'smollm2',
        name === 'tiny' || SMOLLM2 !== undefined,
        'LOWBIT_SMOLLM2 does not name the folder of SmolLM2-135M-Instruct',
      );
      if (always === 'cpu')
        needs(context, 'kernels-cpu', slow || native, 'the addon of kernels-cpu is not built, and LOWBIT_SLOW is not 1');
      else needs(context, 'slow', slow || always !== undefined, 'LOWBIT_SLOW is not 1');
      await using checkpoint = await openCheckpoint(subject.folder);
      const backend = backendOf(row.method);
      const both = row.method !== 'bf16' && (backend.name === 'cpu' || slow);
      const measured = await measure(checkpoint, subject.windows(), parse(row.method), backend, both);
      const { divergence } = measured;
      console.info(
        `${name} ${row.method} on ${backend.name}: perplexity ${measured.perplexity.toFixed(4)}, Python ${row.ppl}`,
        divergence ? `KL ${divergence.kl.toFixed(5)}, Python ${row.kl}; top-1 ${divergence.top1.toFixed(4)}, Python ${row.top1}` : '',
      );
      if (divergence) {
        expect(Math.abs(divergence.kl - row.kl)).toBeLessThanOrEqual(row.kl < 0.001 ? 2e-5 : 0.02 * row.kl);
        // Both are of the same positions, so only near ties of the two likeliest tokens can differ.
        expect(Math.abs(divergence.top1 - row.top1)).toBeLessThanOrEqual(0.005);
      }
      expect(measured.tokens).toBe(predictions);
      if (row.ppl < 120) expect(Math.abs(measured.perplexity / row.ppl - 1)).toBeLessThan(0.005);
    });
  }
});
