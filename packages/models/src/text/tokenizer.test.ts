import type { JsonObject } from '@lowbit/core';
import { describe, expect, test } from 'vitest';
import { goldenJson } from '../../../../fixtures/golden.ts';
import type { ChatMessage } from './chat-template.ts';
import { createTokenizer, loadTokenizer } from './tokenizer.ts';

interface Expected {
  readonly strings: { text: string; ids: number[]; ids_plain: number[]; decoded: string; decoded_skip: string }[];
  readonly streams: { ids: number[]; decoded_prefixes: string[] }[];
  readonly chats: {
    messages: ChatMessage[];
    add_generation_prompt: boolean;
    tools: JsonObject[] | null;
    rendered?: string;
    ids?: number[];
    error?: string;
  }[];
}

const encoder = new TextEncoder();
/** A checkpoint with the given files. */
const files = (contents: Record<string, string>) => ({
  label: 'test',
  file: async (name: string) => (contents[name] === undefined ? undefined : encoder.encode(contents[name])),
});

describe.each(['llama3', 'mistral', 'gemma', 'unigram'])('tokenizer-%s', (name) => {
  const expected = goldenJson<Expected>(`models/tokenizer-${name}/expected.json`);
  const json = goldenJson<JsonObject>(`models/tokenizer-${name}/tokenizer.json`);
  const config = goldenJson<JsonObject>(`models/tokenizer-${name}/tokenizer_config.json`);
  const tokenizer = createTokenizer(json, config);

  test.each(expected.strings.map((s) => [JSON.stringify(s.text), s] as const))('string %s', (_, s) => {
    expect(tokenizer.encode(s.text)).toEqual(s.ids);
    expect(tokenizer.encode(s.text, { addSpecialTokens: false })).toEqual(s.ids_plain);
    expect(tokenizer.decode(s.ids, { skipSpecialTokens: false })).toBe(s.decoded);
    expect(tokenizer.decode(s.ids)).toBe(s.decoded_skip);
  });

  test.each(expected.streams.map((s, i) => [i, s] as const))('stream %i', (_, { ids, decoded_prefixes: prefixes }) => {
    for (const [i, text] of prefixes.entries()) expect(tokenizer.decode(ids.slice(0, i + 1))).toBe(text);
    const stream = tokenizer.decodeStream();
    const pieces = ids.map((id) => stream.push(id));
    expect([...pieces, stream.end()].join('')).toBe(prefixes.at(-1));
    for (const piece of pieces) {
      expect(piece).not.toContain('\ufffd');
      expect(encoder.encode(piece).length).toBe(Buffer.byteLength(piece)); // no lone surrogate
    }
  });

  test.runIf(expected.chats.length > 0).each(expected.chats.map((c, i) => [i, c] as const))('chat %i', (_, chat) => {
    const render = () =>
      tokenizer.applyChatTemplate(chat.messages, { tools: chat.tools ?? undefined, addGenerationPrompt: chat.add_generation_prompt });
    if (chat.error !== undefined) {
      expect(render).toThrow(expect.objectContaining({ code: 'ERR_TOKENIZER', message: chat.error }));
      return;
    }
    expect(render()).toBe(chat.rendered);
    expect(tokenizer.encode(render(), { addSpecialTokens: false })).toEqual(chat.ids);
  });

  test('special token ids', () => {
    expect(tokenizer.bosId).toBe(tokenizer.tokenId(config.bos_token as string));
    expect(tokenizer.eosId).toBe(tokenizer.tokenId(config.eos_token as string));
    expect(tokenizer.bosId).toBeTypeOf('number');
  });
});

describe('files', () => {
  const json = JSON.stringify(goldenJson('models/tokenizer-llama3/tokenizer.json'));
  const chat = [{ role: 'user', content: 'hi' }];

  test('the template file goes before tokenizer_config.json, then its string or named list', async () => {
    const config = JSON.stringify({ chat_template: 'from config {{ messages[0].content }}' });
    const both = await loadTokenizer(
      files({ 'tokenizer.json': json, 'tokenizer_config.json': config, 'chat_template.jinja': 'from file' }),
    );
    expect(both.applyChatTemplate(chat)).toBe('from file');
    const one = await loadTokenizer(files({ 'tokenizer.json': json, 'tokenizer_config.json': config }));
    expect(one.applyChatTemplate(chat)).toBe('from config hi');
    const named = JSON.stringify({
      chat_template: [
        { name: 'default', template: 'plain' },
        { name: 'tool_use', template: 'tools {{ tools | length }}' },
      ],
    });
    const list = await loadTokenizer(files({ 'tokenizer.json': json, 'tokenizer_config.json': named }));
    expect(list.applyChatTemplate(chat)).toBe('plain');
    expect(list.applyChatTemplate(chat, { tools: [{ type: 'function' }] })).toBe('tools 1');
    expect(list.applyChatTemplate(chat, { template: 'tool_use', tools: [] })).toBe('tools 0');
    expect(list.chatTemplates).toEqual(['default', 'tool_use']);
    expect(list.applyChatTemplate(chat, { template: 'own {{ x }}', variables: { x: 3 } })).toBe('own 3');
  });

  test('special_tokens_map.json serves where the config has none', async () => {
    const map = JSON.stringify({ bos_token: { content: '<|begin_of_text|>' }, eos_token: '<|eot_id|>' });
    const tokenizer = await loadTokenizer(files({ 'tokenizer.json': json, 'special_tokens_map.json': map }));
    expect([tokenizer.bosId, tokenizer.eosId]).toEqual([tokenizer.tokenId('<|begin_of_text|>'), tokenizer.tokenId('<|eot_id|>')]);
    expect(tokenizer.applyChatTemplate(chat, { template: '{{ bos_token }}' })).toBe('<|begin_of_text|>');
  });

  test.each([
    ['missing', {}],
    ['no JSON', { 'tokenizer.json': '{' }],
    ['a list', { 'tokenizer.json': '[]' }],
    ['empty', { 'tokenizer.json': '{}' }],
    [
      'half',
      {
        'tokenizer.json':
          '{"added_tokens":[],"model":{"type":"Nonsense"},"decoder":null,"post_processor":null,"pre_tokenizer":null,"normalizer":null}',
      },
    ],
    ['a bad config', { 'tokenizer.json': json, 'tokenizer_config.json': 'x' }],
    ['a bad template', { 'tokenizer.json': json, 'tokenizer_config.json': '{"chat_template":3}' }],
  ])('%s is ERR_TOKENIZER', async (_, contents) => {
    await expect(loadTokenizer(files(contents))).rejects.toThrow(expect.objectContaining({ code: 'ERR_TOKENIZER' }));
  });

  test('no template and a malformed one', async () => {
    const tokenizer = await loadTokenizer(files({ 'tokenizer.json': json }));
    const failure = expect.objectContaining({ code: 'ERR_TOKENIZER' });
    expect(() => tokenizer.applyChatTemplate(chat)).toThrow(failure);
    expect(() => tokenizer.applyChatTemplate(chat, { template: '{% if %}' })).toThrow(failure);
  });

  test('an oversized file is ERR_LIMIT even if the source does not bound it', async () => {
    const source = { label: 'test', file: async () => new Uint8Array(65 * 2 ** 20) };
    await expect(loadTokenizer(source)).rejects.toThrow(expect.objectContaining({ code: 'ERR_LIMIT' }));
  });

  test('decoding nothing and ids past the vocabulary', () => {
    const tokenizer = createTokenizer(JSON.parse(json));
    expect(tokenizer.decode([])).toBe('');
    expect(tokenizer.decode([999_999])).toBe('');
    expect(() => tokenizer.decode([-1])).toThrow(expect.objectContaining({ code: 'ERR_BAD_ARGUMENT' }));
  });
});
