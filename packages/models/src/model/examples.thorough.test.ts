// Real models: the tiny one in examples/, and SmolLM2-135M-Instruct where LOWBIT_SMOLLM2 names its folder.

import { existsSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { createRuntime, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../../../../fixtures/golden.ts';
import { needs } from '../../../../fixtures/needs.ts';
import { perplexity } from '../evaluate/perplexity.ts';
import { type Contents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import type { LanguageModel } from './language-model.ts';
import { loadModel } from './load-model.ts';

function folderContents(folder: string): Contents {
  const text = (name: string): string => readFileSync(join(folder, name), 'utf8');
  const names = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'generation_config.json'];
  return {
    label: folder,
    config: JSON.parse(text('config.json')),
    tensors: goldenTensors(relative(goldenPath('.'), join(folder, 'model.safetensors'))),
    files: Object.fromEntries(names.filter((name) => existsSync(join(folder, name))).map((name) => [name, text(name)])),
  };
}

let runtime: Runtime;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
});
afterAll(() => runtime[Symbol.asyncDispose]());

describe('tiny-llama', () => {
  const folder = goldenPath('../../examples/tiny-llama');
  let model: LanguageModel;
  beforeAll(async () => {
    model = await loadModel(memoryCheckpoint(folderContents(folder)), { runtime });
  });
  afterAll(() => model[Symbol.asyncDispose]());

  test('the greedy sample of its card', async () => {
    const card = readFileSync(join(folder, 'README.md'), 'utf8');
    const [, prompt, sample] = /^> \*\*(.+?)\*\* \(greedy\)( .+)$/m.exec(card)!;
    const { text } = await model.generate({ prompt: prompt!, temperature: 0, maxTokens: 60 });
    expect(text.startsWith(sample!)).toBe(true);
  });

  test('a sampled continuation is reproducible', async () => {
    const options = { prompt: 'It was a fine morning, and', topK: 40, maxTokens: 30, seed: 42 };
    const first = await model.generate(options);
    expect(first).toMatchObject({ finishReason: 'length', seed: 42, usage: { completionTokens: 30 } });
    expect((await model.generate(options)).text).toBe(first.text);
    expect(first.text).toMatchInlineSnapshot(
      `" the first, and the two. And he sent unto them, and said, Thus saith the Lord GOD; Behold, I have given you this day"`,
    );
  });

  test('perplexity over the first windows of the reference run', async () => {
    const { ids, bos } = goldenJson<{ ids: number[]; bos: number }>('quality-ids-tiny.json');
    const text = readFileSync(join(folder, 'eval.txt'), 'utf8');
    expect(model.tokenizer.encode(text, { addSpecialTokens: false })).toEqual(ids);
    const result = await perplexity(model, ids.slice(0, 600), { contextLength: 256, prefixIds: [bos], dropPartial: true });
    expect(result.tokens).toBe(510);
    expect(Math.abs(result.perplexity / 39.45 - 1)).toBeLessThan(0.5); // a short stretch of a text whose whole has 39.45
  });
});

const smollm2 = process.env.LOWBIT_SMOLLM2;

describe('SmolLM2-135M-Instruct', () => {
  interface Chat {
    readonly question: string;
    readonly prompt: string;
    readonly prompt_ids: number[];
    readonly greedy_ids: number[];
    readonly first_end_token_at: number | null;
    readonly answer: string;
    readonly last_position: { readonly top10_ids: number[]; readonly top10_logits: number[] };
  }
  const expected = goldenJson<{ chats: Chat[]; tokenizer_vectors: { text: string; ids: number[] }[] }>('smollm2/expected.json');
  let model: LanguageModel;
  beforeAll(async () => {
    if (smollm2) model = await loadModel(memoryCheckpoint(folderContents(smollm2)), { runtime });
  });
  beforeEach((context) => needs(context, 'smollm2', Boolean(smollm2), 'LOWBIT_SMOLLM2 does not name its folder'));
  afterAll(() => model?.[Symbol.asyncDispose]());

  test('token ids', () => {
    for (const { text, ids } of expected.tokenizer_vectors) expect(model.tokenizer.encode(text)).toEqual(ids);
  });

  test.each(expected.chats.map((chat) => [chat.question, chat] as const))(
    '%s',
    async (question, chat) => {
      const messages = [{ role: 'user', content: question }];
      const prompt = model.tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
      expect(prompt).toBe(chat.prompt);
      expect(model.tokenizer.encode(prompt, { addSpecialTokens: false })).toEqual(chat.prompt_ids);
      const logits = toFloat32(await model.logits(chat.prompt_ids)).subarray(-model.vocab);
      for (const [i, id] of chat.last_position.top10_ids.entries()) {
        expect(Math.abs(logits[id]! - chat.last_position.top10_logits[i]!)).toBeLessThan(1e-3);
      }
      const result = await model.generate({ messages, temperature: 0, maxTokens: chat.greedy_ids.length, ignoreEos: true });
      expect(result.ids).toEqual(chat.greedy_ids);
      if (chat.first_end_token_at !== null) {
        const answer = await model.generate({ messages, temperature: 0 });
        expect(answer).toMatchObject({ text: chat.answer, finishReason: 'stop' });
        expect(answer.ids).toHaveLength(chat.first_end_token_at + 1);
      }
    },
    600_000,
  );
});
