// For README.md: which families there are, made of the adapters and of the golden models that they are checked with.

import { adapterFor, type LinearSite, linearTag } from '@lowbit/core';
import { defaultAdapters } from '../adapters/index.ts';
import { type Contents, fuseExperts, type GoldenReaders, goldenContents, goldenFolders } from './memory-checkpoint.ts';

/** What people call the models of each `model_type`. A family without a line here is missing from the table, which its test notices. */
export const MODELS: Readonly<Record<string, string>> = {
  llama: 'Llama 1 to 3.3, SmolLM2, TinyLlama and others published under its name',
  mistral: 'Mistral 7B and others of its form, sliding window or not',
  mixtral: 'Mixtral 8x7B, 8x22B',
  gemma: 'Gemma 1',
  gemma2: 'Gemma 2',
  gemma3_text: 'Gemma 3, text only (1B, and text models saved by themselves)',
  phi3: 'Phi-3, Phi-3.5 mini, Phi-4 and Phi-4 mini, LongRoPE',
  phi: 'Phi-1, Phi-1.5, Phi-2',
  qwen2: 'Qwen2, Qwen2.5',
  qwen3: 'Qwen3',
  qwen2_moe: 'Qwen1.5-MoE, Qwen2-57B-A14B',
  qwen3_moe: 'Qwen3-30B-A3B, Qwen3-235B-A22B',
  granite: 'Granite 3',
  olmo2: 'OLMo 2',
  smollm3: 'SmolLM3',
  starcoder2: 'StarCoder2',
  gpt2: 'GPT-2',
  gpt_neox: 'GPT-NeoX, Pythia',
  bloom: 'BLOOM, BLOOMZ',
  opt: 'OPT, OPT-350m among them',
  t5: 'T5 v1.1, flan-t5; T5',
  llava: 'LLaVA 1.5, BakLLaVA and others of a CLIP tower and a Llama, Mistral or Qwen2',
  clip: 'CLIP, both towers: the one for images runs, the one for text is quantized',
  clip_vision_model: 'the image tower of CLIP',
  timm: 'vision transformers (`vit_*`) under the names of timm, the image towers of CLIP among them',
};

const code = (texts: Iterable<string>): string => [...texts].map((text) => `\`${text}\``).join(' ');

/** Tags with what they begin with in common written once: `mlp.{gate_proj, up_proj}`. */
function grouped(sites: readonly LinearSite[]): readonly string[] {
  const byModule = new Map<string, Set<string>>();
  for (const { path } of sites) {
    const tag = linearTag(path);
    const end = tag.lastIndexOf('.');
    const module = end < 0 ? '' : tag.slice(0, end);
    byModule.set(module, (byModule.get(module) ?? new Set()).add(tag.slice(end + 1)));
  }
  return [...byModule].flatMap(([module, names]) => {
    if (module === '') return [...names];
    return [names.size === 1 ? `${module}.${[...names][0]}` : `${module}.{${[...names].join(',')}}`];
  });
}

/** A golden model, or what its manifest says of it: `mixtral-fused` is the other Mixtral under other names. None of one that is not here. */
function contentsOf(golden: GoldenReaders & { hasGolden(path: string): boolean }, folder: string): readonly Contents[] {
  if (folder === 'mixtral-fused') return [fuseExperts(goldenContents(golden, 'mixtral-published'))];
  return golden.hasGolden(`models/${folder}/expected.safetensors`) ? [goldenContents(golden, folder)] : [];
}

/** The table of README.md: a row for every family, in the order of `defaultAdapters`. `variants` are folders of further models that it is checked with, by `model_type`. */
export function supportTable(
  golden: GoldenReaders & { hasGolden(path: string): boolean },
  variants: ReadonlyMap<string, readonly string[]>,
): string {
  const variant = (folder: string): Contents => ({
    label: folder,
    config: golden.goldenJson(`${folder}/config.json`),
    tensors: golden.goldenTensors(`${folder}/model.safetensors`),
    files: {},
  });
  const rows = defaultAdapters.flatMap(({ modelTypes }) =>
    modelTypes.map((type) => {
      const folders = goldenFolders(golden, type);
      const others = variants.get(type) ?? [];
      const models = folders.length > 0 ? folders.flatMap((folder) => contentsOf(golden, folder)) : others.map(variant);
      const linears = ({ config, tensors }: Contents): readonly LinearSite[] =>
        adapterFor(config, defaultAdapters).linears(config, tensors);
      const sites = models.flatMap(linears);
      // A head is there in models whose embeddings are not tied to it.
      const untied = models.flatMap((model) => linears({ ...model, config: { ...model.config, tie_word_embeddings: false } }));
      const kept = grouped(untied.filter(({ keep }) => keep));
      const quantized = grouped(sites.filter(({ keep }) => !keep));
      return [
        `\`${type}\``,
        MODELS[type] ?? '?',
        code(quantized),
        code(kept),
        [...folders, ...others.map((folder) => folder.slice(folder.indexOf('/') + 1))].join(', '),
      ];
    }),
  );
  const head = ['`model_type`', 'models', 'linears, by tag', 'in floating point by default', 'checked with'];
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
