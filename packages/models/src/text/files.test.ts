import { describe, expect, it } from 'vitest';
import { jsonFile, type TextFiles, textFile } from './files.ts';

const MOST = 64 * 2 ** 20;
const RULES = { maxBytes: MOST, code: 'ERR_TOKENIZER' } as const;
const bytes = (text: string) => new TextEncoder().encode(text);
const source = (data: Uint8Array | undefined): TextFiles => ({ label: 'a model', file: async () => data });

describe('jsonFile', () => {
  it('reads an object, and nothing where there is no file', async () => {
    const file = await jsonFile(source(bytes('\ufeff{"a": [1, "x", null], "__proto__": {"b": true}}')), 'f.json', RULES);
    expect(Object.keys(file!)).toEqual(['a', '__proto__']);
    expect(file!.a).toEqual([1, 'x', null]);
    expect(file!.constructor).toBe(undefined);
    expect(await jsonFile(source(undefined), 'f.json', RULES)).toBe(undefined);
  });

  it.each([
    ['half an object', bytes('{"a": 1'), 'ERR_TOKENIZER', /f\.json: bad JSON: an early end/],
    ['a list', bytes('[1]'), 'ERR_TOKENIZER', /f\.json holds no JSON object/],
    ['no UTF-8', new Uint8Array([0x22, 0xff, 0x22]), 'ERR_TOKENIZER', /f\.json: not UTF-8/],
    ['deep nesting', bytes(`{"a":${'['.repeat(100_000)}`), 'ERR_TOKENIZER', /nesting deeper than 64/],
    ['too many bytes', new Uint8Array(MOST + 1), 'ERR_LIMIT', /more than 67108864/],
  ])('refuses %s', async (_, data, code, message) => {
    await expect(jsonFile(source(data), 'f.json', RULES)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('refuses 60 MiB of empty lists before they take a gigabyte', async () => {
    const flood = bytes(`{"a":[${'[],'.repeat(20 * 2 ** 20)}`);
    const before = process.memoryUsage().heapUsed;
    const error = await jsonFile(source(flood), 'tokenizer.json', RULES).catch((reason: unknown) => reason);
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(600 * 2 ** 20); // the text itself takes 60
    expect(error).toMatchObject({ code: 'ERR_TOKENIZER', message: expect.stringMatching(/more than 5000000 values/) });
  });

  it('takes a tokenizer.json as large as any there is: 262,144 tokens, 580,000 merges as pairs, 6,415 added tokens', async () => {
    const token = (i: number) => `\u2581tok${(i % 262_144).toString(36)}`;
    const list = (count: number, item: (i: number) => string) => Array.from({ length: count }, (_, i) => item(i)).join(',\n      ');
    const vocab = list(262_144, (i) => `"${token(i)}": ${i}`);
    const merges = list(580_000, (i) => `["${token(i)}", "${token(i * 7)}"]`);
    const added = list(
      6415,
      (i) => `{"id": ${i}, "content": "<unused${i}>", "single_word": false, "lstrip": false, "rstrip": false, "special": true}`,
    );
    const text = `{"version": "1.0", "added_tokens": [${added}], "model": {"type": "BPE", "vocab": {${vocab}}, "merges": [${merges}]}}`;
    const file = (await jsonFile(source(bytes(text)), 'tokenizer.json', RULES)) as {
      readonly added_tokens: readonly unknown[];
      readonly model: { readonly vocab: Record<string, number>; readonly merges: readonly unknown[] };
    };
    expect(file.added_tokens.length).toBe(6415);
    expect(file.model.vocab[token(262_143)]).toBe(262_143);
    expect(file.model.merges[579_999]).toEqual([token(579_999), token(579_999 * 7)]);
  });
});

describe('textFile', () => {
  it('refuses what is no text', async () => {
    expect(await textFile(source(bytes('{{ x }}')), 'f.jinja', RULES)).toBe('{{ x }}');
    await expect(textFile(source(new Uint8Array([0xff])), 'f.jinja', RULES)).rejects.toMatchObject({ code: 'ERR_TOKENIZER' });
  });
});
