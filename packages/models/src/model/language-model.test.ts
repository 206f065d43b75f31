import { createRuntime, patchLinears, type Quantizer, type Runtime, referenceBackend, toFloat32 } from '@lowbit/core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as golden from '../../../../fixtures/golden.ts';
import { goldenContents, memoryCheckpoint } from '../testing/memory-checkpoint.ts';
import type { TokenEvent } from './generate-options.ts';
import type { LanguageModel } from './language-model.ts';
import { loadModel } from './load-model.ts';

const tokenizerFiles = Object.fromEntries(
  ['tokenizer.json', 'tokenizer_config.json'].map((name) => [name, JSON.stringify(golden.goldenJson(`models/tokenizer-llama3/${name}`))]),
);
/** A small trained model with the tokenizer it was trained with. */
const contents = { ...goldenContents(golden, 'perplexity'), files: tokenizerFiles };

let runtime: Runtime;
let model: LanguageModel;
beforeAll(async () => {
  runtime = await createRuntime({ backends: [referenceBackend()] });
  model = await loadModel(memoryCheckpoint(contents), { runtime, contextLength: 128 });
});
afterAll(async () => {
  await model[Symbol.asyncDispose]();
  await runtime[Symbol.asyncDispose]();
});

const prompt = 'The small river carries';
const greedy = { prompt, temperature: 0, maxTokens: 40, ignoreEos: true };
const code = (value: string) => expect.objectContaining({ code: value });

async function collect(stream: AsyncIterable<TokenEvent>): Promise<TokenEvent[]> {
  const events: TokenEvent[] = [];
  for await (const event of stream) events.push(event);
  return events;
}

describe('generating', () => {
  test('a first prompt that does not fit is refused before any weight is read', async () => {
    const source = memoryCheckpoint(contents);
    const read: string[] = [];
    const watched = {
      ...source,
      linear: (path: string) => {
        read.push(path);
        return source.linear(path);
      },
    };
    const options = { runtime, contextLength: 16 };
    await expect(loadModel(watched, { ...options, firstPrompt: `${prompt} `.repeat(8) })).rejects.toThrow(code('ERR_LIMIT'));
    expect(read).toEqual([]);
    await using loaded = await loadModel(watched, { ...options, firstPrompt: prompt });
    expect(read.length).toBeGreaterThan(0);
    await expect(loaded.generate({ prompt: `${prompt} `.repeat(8) })).rejects.toThrow(code('ERR_LIMIT'));
  });

  test('text, ids, usage and timings belong together', async () => {
    const result = await model.generate(greedy);
    expect(result.text).toBe(model.tokenizer.decode(result.ids));
    expect(result.text).toMatch(/^ the \w+/);
    expect(result.finishReason).toBe('length');
    expect(result.usage).toEqual({
      promptTokens: model.tokenizer.encode(prompt).length,
      cachedTokens: 0,
      completionTokens: 40,
      guessedTokens: 0,
    });
    expect(result.timings.tokensPerSecond).toBeGreaterThan(0);
  });

  test('a stream gives the same, piece by piece', async () => {
    const result = await model.generate(greedy);
    const events = await collect(model.stream(greedy));
    expect(events.map(({ id }) => id)).toEqual(result.ids);
    expect(events.map(({ text }) => text).join('')).toBe(result.text);
    expect(events.filter((event) => event.result)).toHaveLength(1);
    expect(events.at(-1)!.result!.text).toBe(result.text);
  });

  test('the same seed gives the same tokens, another one others', async () => {
    const sampled = { prompt, maxTokens: 24, temperature: 1.5, ignoreEos: true };
    const first = await model.generate({ ...sampled, seed: 1 });
    expect((await model.generate({ ...sampled, seed: 1 })).ids).toEqual(first.ids);
    expect((await model.generate({ ...sampled, seed: 2 })).ids).not.toEqual(first.ids);
    const random = await model.generate(sampled);
    expect((await model.generate({ ...sampled, seed: random.seed })).ids).toEqual(random.ids);
  });

  test('stop strings end the text and never leak', async () => {
    const { text } = await model.generate(greedy);
    const stop = text.slice(9, 14);
    const stopped = await model.generate({ ...greedy, stop: ['nowhere to be found', stop] });
    expect(stopped).toMatchObject({ text: text.slice(0, text.indexOf(stop)), finishReason: 'stop' });
    expect(stopped.usage.completionTokens).toBeLessThan(40);
    expect((await collect(model.stream({ ...greedy, stop }))).map((event) => event.text).join('')).toBe(stopped.text);
  });

  test('an end token ends the text and is the last id', async () => {
    const { ids } = await model.generate(greedy);
    const at = ids.findIndex((id, i) => i > 2 && ids.indexOf(id) === i);
    const ending = {
      ...contents,
      files: { ...tokenizerFiles, 'generation_config.json': JSON.stringify({ eos_token_id: [511, ids[at]!] }) },
    };
    await using other = await loadModel(memoryCheckpoint(ending), { runtime });
    const result = await other.generate({ ...greedy, ignoreEos: false });
    expect(result).toMatchObject({ ids: ids.slice(0, at + 1), finishReason: 'stop', text: model.tokenizer.decode(ids.slice(0, at)) });
    expect((await other.generate(greedy)).ids).toEqual(ids);
  });

  test('messages go through the chat template', async () => {
    const messages = [{ role: 'user', content: 'Hello' }];
    const text = model.tokenizer.applyChatTemplate(messages, { addGenerationPrompt: true });
    const ids = model.tokenizer.encode(text, { addSpecialTokens: false });
    const rest = { temperature: 0, maxTokens: 5, ignoreEos: true };
    const result = await model.generate({ messages, ...rest });
    expect(result.usage.promptTokens).toBe(ids.length);
    expect(result.ids).toEqual((await model.generate({ ids, ...rest })).ids);
    const tools = [{ type: 'function', function: { name: 'f' } }];
    expect((await model.generate({ messages, tools, ...rest })).usage.promptTokens).toBeGreaterThan(ids.length);
  });

  test('several at once give what each gives alone', async () => {
    const prompts = ['The', 'A heavy stone', 'When the rain'];
    const alone: string[] = [];
    for (const text of prompts) alone.push((await model.generate({ ...greedy, prompt: text })).text);
    const together = await Promise.all(prompts.map((text) => model.generate({ ...greedy, prompt: text })));
    expect(together.map(({ text }) => text)).toEqual(alone);
  });

  test('the end of the context ends a text', async () => {
    const ids = Array.from({ length: 120 }, (_, i) => (i % 200) + 5);
    const result = await model.generate({ ids, maxTokens: 100, temperature: 0, ignoreEos: true });
    expect(result).toMatchObject({ finishReason: 'context', usage: { completionTokens: 9 } });
  });
});

describe('ending early', () => {
  test('breaking out of a stream frees its cache', async () => {
    for await (const { id } of model.stream(greedy)) {
      expect(id).toBeTypeOf('number');
      expect(model.memory().kvCache).toBeGreaterThan(0);
      break;
    }
    expect(model.memory().kvCache).toBe(0);
  });

  test('an abort rejects with its reason, before and during', async () => {
    await expect(model.generate({ ...greedy, signal: AbortSignal.abort(new Error('no')) })).rejects.toThrow('no');
    const controller = new AbortController();
    const events = collect(
      (async function* () {
        for await (const event of model.stream({ ...greedy, signal: controller.signal })) {
          controller.abort(new Error('enough'));
          yield event;
        }
      })(),
    );
    await expect(events).rejects.toThrow('enough');
    expect(model.memory().kvCache).toBe(0);
  });

  test('after dispose everything is ERR_DISPOSED, running calls included', async () => {
    const own = await loadModel(memoryCheckpoint(contents), { runtime });
    const running = own.generate({ ...greedy, maxTokens: 200 });
    const failure = expect(running).rejects.toThrow(code('ERR_DISPOSED'));
    await own.logits([1, 2]);
    await own[Symbol.asyncDispose]();
    await failure;
    await own[Symbol.asyncDispose]();
    await expect(own.logits([1])).rejects.toThrow(code('ERR_DISPOSED'));
    await expect(own.generate(greedy)).rejects.toThrow(code('ERR_DISPOSED'));
    await expect(own.weight('model.layers.0.mlp.up_proj')).rejects.toThrow(code('ERR_DISPOSED'));
    expect(() => own.memory()).toThrow(code('ERR_DISPOSED'));
  });

  test('all memory comes back', async () => {
    const backend = await runtime.backend();
    const before = backend.allocated();
    const own = await loadModel(memoryCheckpoint(contents), { runtime });
    expect(own.memory().weights).toBeGreaterThan(0);
    await own.generate(greedy);
    await own[Symbol.asyncDispose]();
    expect(backend.allocated()).toBe(before);
    await expect(loadModel(memoryCheckpoint(contents), { runtime, signal: AbortSignal.abort(new Error('no')) })).rejects.toThrow('no');
    expect(backend.allocated()).toBe(before);
  });
});

describe('refusals', () => {
  test.each<[string, Parameters<LanguageModel['generate']>[0]]>([
    ['ERR_BAD_ARGUMENT', {}],
    ['ERR_BAD_ARGUMENT', { prompt: 'a', ids: [1] }],
    ['ERR_BAD_ARGUMENT', { ids: [] }],
    ['ERR_BAD_ARGUMENT', { ids: [517] }],
    ['ERR_BAD_ARGUMENT', { ids: [1.5] }],
    ['ERR_BAD_ARGUMENT', { ids: [-1] }],
    ['ERR_BAD_ARGUMENT', { prompt: 'a', maxTokens: 0 }],
    ['ERR_BAD_ARGUMENT', { prompt: 'a', topP: 2 }],
    ['ERR_BAD_ARGUMENT', { prompt: 'a', stop: '' }],
    ['ERR_BAD_ARGUMENT', { prompt: 'a', seed: -1 }],
    ['ERR_LIMIT', { ids: new Array(129).fill(1) }],
  ])('%s for %j', async (name, options) => {
    await expect(model.generate(options)).rejects.toThrow(code(name));
    expect(model.memory().kvCache).toBe(0);
  });

  test('options that do not exist, by name', async () => {
    const refusal = {
      code: 'ERR_BAD_ARGUMENT',
      message: 'generate and stream: there is no option max_tokens',
      hint: expect.stringMatching(/^Did you mean maxTokens\?/),
    };
    const misspelt = { prompt: 'a', max_tokens: 2 };
    await expect(model.generate(misspelt)).rejects.toMatchObject(refusal);
    await expect(collect(model.stream(misspelt))).rejects.toMatchObject(refusal);
    await expect(loadModel(memoryCheckpoint(contents), { runtime, device_map: 'auto' } as never)).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      message: 'loadModel: there is no option device_map',
      hint: expect.stringMatching(/^Did you mean deviceMap\?/),
    });
  });

  test('the message about a long prompt has both numbers', async () => {
    await expect(model.logits(new Array(200).fill(1))).rejects.toThrow(/200 tokens .* 128/);
    await expect(loadModel(memoryCheckpoint(contents), { runtime, contextLength: 100_000 })).rejects.toThrow(code('ERR_LIMIT'));
    await expect(loadModel(memoryCheckpoint(contents), { runtime, contextLength: 0 })).rejects.toThrow(code('ERR_BAD_ARGUMENT'));
  });

  test('without a tokenizer ids still work, text does not', async () => {
    await using bare = await loadModel(memoryCheckpoint({ ...contents, files: {} }), { runtime });
    const result = await bare.generate({ ids: [1, 2, 3], maxTokens: 3, temperature: 0, ignoreEos: true });
    expect(result).toMatchObject({ text: '', usage: { completionTokens: 3 } });
    expect(() => bare.tokenizer).toThrow(code('ERR_TOKENIZER'));
    await expect(bare.generate({ prompt: 'a' })).rejects.toThrow(code('ERR_TOKENIZER'));
    await expect(bare.generate({ ids: [1], stop: 'x' })).rejects.toThrow(code('ERR_TOKENIZER'));
    await using broken = await loadModel(memoryCheckpoint({ ...contents, files: { 'tokenizer.json': '{' } }), { runtime });
    expect(() => broken.tokenizer).toThrow(code('ERR_TOKENIZER'));
  });

  test('a malformed generation_config.json', async () => {
    const bad = { ...contents, files: { 'generation_config.json': '[]' } };
    await expect(loadModel(memoryCheckpoint(bad), { runtime })).rejects.toThrow(code('ERR_BAD_CHECKPOINT'));
  });
});

describe('logits', () => {
  test('rows of a range are those of the whole', async () => {
    const ids = model.tokenizer.encode('The quiet machine counts the letters.');
    const all = toFloat32(await model.logits(ids));
    const rows: number[] = [];
    for await (const { position, rows: count, logits } of model.logitRows(ids, { from: 3, to: 9 })) {
      expect(logits).toEqual(all.subarray(position * model.vocab, (position + count) * model.vocab));
      for (let i = 0; i < count; i++) rows.push(position + i);
    }
    expect(rows).toEqual([3, 4, 5, 6, 7, 8]);
    await expect(model.logitRows(ids, { from: 5, to: 5 }).next()).rejects.toThrow(code('ERR_BAD_ARGUMENT'));
  });

  test('weights held in another dtype', async () => {
    await using wide = await loadModel(memoryCheckpoint(contents), { runtime, dtype: 'f32' });
    const ids = [5, 6, 7];
    expect(toFloat32(await wide.logits(ids))).toEqual(toFloat32(await model.logits(ids)));
    expect(wide.memory().weights).toBeGreaterThan(1.9 * model.memory().weights);
  });
});

describe('patching', () => {
  /** Keeps the weights in bf16: a quantizer that loses nothing here, where they are bf16 already. */
  const halves: Quantizer = {
    spec: 1,
    method: 'test',
    identity: 'test',
    config: {},
    format: () => ({ kind: 'dense', dtype: 'bf16' }),
    async quantize(weight, _format, out) {
      const values = new Float32Array(weight.shape[0] * weight.shape[1]);
      await weight.read(0, values.length, values);
      await out.write('weight', 0, new Uint8Array(Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16).buffer));
      return { squaredError: 0, squaredWeight: 1, maxAbs: 0 };
    },
  };

  test('a fallback leaves routers and heads alone, a rule does not', async () => {
    await using mixture = await loadModel(memoryCheckpoint(goldenContents(golden, 'mixtral-published')), { runtime });
    const kept = [...mixture.linears()].filter(({ keep }) => keep).map(({ path }) => path);
    expect(kept.some((path) => path.endsWith('.gate'))).toBe(true);
    const replaced = await patchLinears(mixture, [], { runtime, fallback: halves });
    expect(replaced.length).toBeGreaterThan(10);
    expect(replaced.filter((path) => kept.includes(path))).toEqual([]);
    expect(await patchLinears(mixture, [{ match: kept[0]!, use: halves }], { runtime })).toEqual([kept[0]]);
  });

  /** The same with only four of bfloat16's bits after the point. */
  const coarse: Quantizer = {
    ...halves,
    async quantize(weight, format, out, context) {
      const write = (part: string, at: number, data: Uint8Array) =>
        out.write(
          part,
          at,
          data.map((byte, i) => (i % 2 === 0 ? byte & 0xf8 : byte)),
        );
      return halves.quantize(weight, format, { write }, context);
    },
  };

  test('the output layer is quantized as it is loaded', async () => {
    const ids = [5, 6, 7];
    await using same = await loadModel(memoryCheckpoint(contents), { runtime, head: halves });
    expect(toFloat32(await same.logits(ids))).toEqual(toFloat32(await model.logits(ids)));
    await using rough = await loadModel(memoryCheckpoint(contents), { runtime, head: coarse });
    const before = toFloat32(await model.logits(ids));
    const after = toFloat32(await rough.logits(ids));
    const off = after.map((value, i) => Math.abs(value - before[i]!));
    expect(Math.max(...off)).toBeGreaterThan(0);
    expect(Math.max(...off)).toBeLessThan(0.05 * Math.max(...before.map(Math.abs)));
    await expect(loadModel(memoryCheckpoint(contents), { runtime, head: 8 as never })).rejects.toThrow(code('ERR_BAD_ARGUMENT'));
  });

  test('patchLinears replaces linears by tag, in place', async () => {
    const contents = goldenContents(golden, 'llama-bias');
    await using own = await loadModel(memoryCheckpoint(contents), { runtime, dtype: 'f32' });
    const ids = [5, 6, 7, 8];
    const before = await own.logits(ids);
    const { weights } = own.memory();
    const replaced = await patchLinears(own, [{ match: 'mlp.*_proj', use: halves }], { runtime });
    expect(replaced).toHaveLength(6);
    expect(own.memory().weights).toBeLessThan(weights);
    expect(toFloat32(await own.logits(ids))).toEqual(toFloat32(before));
    const { weight, bias } = await own.weight('model.layers.1.mlp.up_proj');
    expect(toFloat32(weight)).toEqual(toFloat32(contents.tensors.get('model.layers.1.mlp.up_proj.weight')!));
    expect(toFloat32(bias!)).toEqual(toFloat32(contents.tensors.get('model.layers.1.mlp.up_proj.bias')!));
    await expect(own.weight('model.norm')).rejects.toThrow(code('ERR_BAD_ARGUMENT'));
  });

  test.each([
    ['a map', { deviceMap: { '': 'b', 'model.layers.0.mlp': 'a', 'model.layers.1.self_attn': 'a' } }, ['a', 'b']],
    [
      'a cut',
      {
        cut: [
          { backend: 'b', layers: 1 },
          { backend: 'a', layers: 1 },
        ],
      },
      ['a', 'b'],
    ],
    ['one backend, not the first', { deviceMap: { '': 'b' } }, ['b']],
  ] as const)('patchLinears leaves each linear on its backend: %s', async (_, where, used) => {
    const contents = goldenContents(golden, 'llama-bias');
    const rules = [{ match: ['mlp.*_proj', 'self_attn.*'], use: coarse }];
    await using single = await loadModel(memoryCheckpoint(contents), { runtime });
    const plain = await single.logits([5, 6, 7]);
    await patchLinears(single, rules, { runtime });
    const expected = await single.logits([5, 6, 7]);
    expect(expected).not.toEqual(plain);

    await using places = await createRuntime({ backends: [referenceBackend({ name: 'a' }), referenceBackend({ name: 'b' })] });
    const own = await loadModel(memoryCheckpoint(contents), { runtime: places, ...where });
    const seen = () => [...own.linears()].map(({ path }) => own.backend(path));
    const before = { seen: seen(), placement: own.placement };
    expect([...new Set(before.seen)].sort()).toEqual(used);
    expect(await patchLinears(own, rules, { runtime: places })).toHaveLength(14);
    expect({ seen: seen(), placement: own.placement }).toEqual(before);
    expect(await own.logits([5, 6, 7])).toEqual(expected);
    await own[Symbol.asyncDispose]();
    for (const name of ['a', 'b']) expect((await places.backend(name)).allocated()).toBe(0);
  });

  test('a tied head is not among the linears', () => {
    expect([...model.linears()].map(({ path }) => path)).not.toContain('lm_head');
    expect([...model.linears()]).toHaveLength(14);
  });
});
