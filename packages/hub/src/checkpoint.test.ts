import { cp, mkdir, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { dequantize, type JsonObject } from '@lowbit/core';
import { describe, expect, test } from 'vitest';
import { goldenJson, goldenPath, goldenTensors } from '../../../fixtures/golden.ts';
import { openCheckpoint } from './checkpoint.node.ts';
import { writeConfig } from './config-file.ts';
import { failure, folderOf, rawFile, temporaryFolder } from './testing.node.ts';

const tiny = rawFile('{"m.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}', 16);

describe('golden folders', () => {
  test.each(['uniform-b4-g64', 'per-tag'])('%s', async (name) => {
    const folder = `hqq/checkpoints-hf4/${name}`;
    const golden = goldenTensors(`${folder}/model.safetensors`);
    const { cases } = goldenJson<{ readonly cases: readonly { readonly name: string; readonly quantized_linears: readonly string[] }[] }>(
      'hqq/checkpoints-hf4/cases.json',
    );
    await using checkpoint = await openCheckpoint(goldenPath(folder));
    expect(checkpoint.layout).toBe('hqq');
    expect([...checkpoint.quantized.keys()].sort()).toEqual(
      [...cases.find((item) => item.name === `hf4-${name}`)!.quantized_linears].sort(),
    );
    expect(checkpoint.config.model_type).toBe('llama');
    expect(checkpoint.files).toEqual(['generation_config.json']);
    for (const path of checkpoint.quantized.keys()) {
      const weight = await checkpoint.linear(path);
      expect(Buffer.compare(weight.parts.codes!.data, golden.get(`${path}.W_q`)!.data)).toBe(0);
      expect(weight.parts.scale!.shape).toEqual(golden.get(`${path}.scale`)!.shape);
      expect(Buffer.compare(weight.parts.zero!.data, golden.get(`${path}.zero`)!.data)).toBe(0);
      expect(dequantize(weight).shape).toEqual(weight.shape);
    }
    const head = await checkpoint.linear('lm_head');
    expect(head).toMatchObject({ format: { kind: 'dense' }, shape: [320, 128] });
    expect(Buffer.compare(head.parts.weight!.data, golden.get('lm_head.weight')!.data)).toBe(0);
    expect(Buffer.compare((await checkpoint.tensor('model.norm.weight')).data, golden.get('model.norm.weight')!.data)).toBe(0);
    expect(Buffer.from((await checkpoint.file('config.json'))!).equals(await readFile(join(goldenPath(folder), 'config.json')))).toBe(true);
    expect(checkpoint.fileBytes.get('generation_config.json')).toBe((await checkpoint.file('generation_config.json'))!.byteLength);
  });

  test('several shards', async () => {
    await using checkpoint = await openCheckpoint(goldenPath('models/llama-sharded'));
    expect(checkpoint.layout).toBeUndefined();
    expect(checkpoint.source.entries.size).toBe(21);
    expect((await checkpoint.linear('model.layers.1.mlp.down_proj')).shape).toEqual([64, 64]);
    expect(checkpoint.files).toEqual(['config.v5.json']); // expected.safetensors holds tensors
  });

  test('hqq tensors without a quantization_config (save_to_safetensors of hqq)', async () => {
    await using temp = await temporaryFolder();
    const folder = goldenPath('hqq/checkpoints-hf4/per-tag');
    const { quantization_config: _, ...config } = goldenJson<JsonObject>('hqq/checkpoints-hf4/per-tag/config.json');
    await cp(join(folder, 'model.safetensors'), join(temp.path, 'model.safetensors'));
    await writeFile(join(temp.path, 'config.json'), JSON.stringify(config));
    await using checkpoint = await openCheckpoint(temp.path);
    expect([checkpoint.layout, checkpoint.quantized.size]).toEqual(['hqq-safetensors', 14]);
  });
});

describe('folders that are no checkpoint', () => {
  test('each failure says what is missing and what is there', async () => {
    await using temp = await temporaryFolder();
    const open = (name: string, files: Record<string, string | Uint8Array>) =>
      failure(async () => openCheckpoint(await folderOf(join(temp.path, name), files)));
    expect(await failure(() => openCheckpoint(join(temp.path, 'none')))).toMatchObject({ code: 'ERR_NOT_FOUND' });
    await writeFile(join(temp.path, 'file'), '');
    expect(await failure(() => openCheckpoint(join(temp.path, 'file')))).toMatchObject({ code: 'ERR_IO' });

    const noConfig = await open('a', { 'model.safetensors': tiny });
    expect(noConfig.code).toBe('ERR_NOT_FOUND');
    expect(noConfig.message).toMatch(/no config\.json/);

    const other = await open('b', { 'config.json': '{}', 'consolidated.00.pth': '' });
    expect(other.code).toBe('ERR_NOT_FOUND');
    expect(other.message).toMatch(/there is consolidated\.00\.pth/);
    expect(other.hint).toMatch(/save_pretrained/);
    expect((await open('c', { 'config.json': '{}', 'm.gguf': '' })).hint).toMatch(/Name the file itself: .*m\.gguf/);
    expect((await open('d', { 'config.json': '{}', 'weights.safetensors': tiny })).hint).toMatch(/model\.safetensors/);
    expect((await open('e', { 'config.json': '{}' })).code).toBe('ERR_NOT_FOUND');
  });

  test.each([
    ['not JSON', '{"a":', 'ERR_BAD_CHECKPOINT'],
    ['an array', '[]', 'ERR_BAD_CHECKPOINT'],
    ['too deep', `{"a":${'['.repeat(5000)}${']'.repeat(5000)}}`, 'ERR_BAD_CHECKPOINT'],
    ['not UTF-8', Uint8Array.of(0x7b, 0xff, 0x7d), 'ERR_BAD_CHECKPOINT'],
    ['too large', new Uint8Array(16 * 1024 * 1024 + 1).fill(0x20), 'ERR_LIMIT'],
  ])('config.json: %s', async (_what, config, code) => {
    await using temp = await temporaryFolder();
    const folder = await folderOf(temp.path, { 'config.json': config, 'model.safetensors': tiny });
    const error = await failure(() => openCheckpoint(folder));
    expect(error.code).toBe(code);
    expect(error.message).toContain('config.json');
  });

  test('Python writes Infinity; a key such as __proto__ is data', async () => {
    await using temp = await temporaryFolder();
    const folder = await folderOf(temp.path, { 'config.json': '{"a": Infinity, "__proto__": {"b": 1}}', 'model.safetensors': tiny });
    await using checkpoint = await openCheckpoint(folder);
    expect(checkpoint.config.a).toBe(Number.POSITIVE_INFINITY);
    expect(checkpoint.config.b).toBeUndefined();
    expect(checkpoint.config.constructor).toBeUndefined();
  });

  test.each([
    ['gptq', { quant_method: 'gptq' }, /"gptq"/],
    ['no method', { bits: 4 }, /does not name/],
  ])('quantized in an unknown way: %s', async (_what, block, message) => {
    await using temp = await temporaryFolder();
    const folder = await folderOf(temp.path, { 'config.json': JSON.stringify({ quantization_config: block }), 'model.safetensors': tiny });
    const error = await failure(() => openCheckpoint(folder));
    expect(error.code).toBe('ERR_UNSUPPORTED_FORMAT');
    expect(error.message).toMatch(message);
    expect(error.hint).toMatch(/reads hqq/);
  });

  test('config.json says hqq, but no layer is', async () => {
    await using temp = await temporaryFolder();
    const folder = await folderOf(temp.path, {
      'config.json': '{"quantization_config":{"quant_method":"hqq"}}',
      'model.safetensors': tiny,
    });
    expect((await failure(() => openCheckpoint(folder))).code).toBe('ERR_BAD_CHECKPOINT');
  });

  test('linears that are not there, or no matrices', async () => {
    await using temp = await temporaryFolder();
    const vector = rawFile('{"n.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8);
    await using checkpoint = await openCheckpoint(await folderOf(temp.path, { 'config.json': '{}', 'model.safetensors': vector }));
    expect(await failure(() => checkpoint.linear('n'))).toMatchObject({ code: 'ERR_TENSOR_MISMATCH' });
    expect((await failure(() => checkpoint.linear('model.nope'))).message).toMatch(/"model\.nope"/);
  });
});

describe('the index', () => {
  async function sharded(path: string, edit: (index: { weight_map: Record<string, unknown> }) => unknown): Promise<string> {
    await cp(goldenPath('models/llama-sharded'), path, { recursive: true });
    const file = join(path, 'model.safetensors.index.json');
    const index = JSON.parse(await readFile(file, 'utf8'));
    await writeFile(file, JSON.stringify(edit(index) ?? index));
    return path;
  }

  test.each<readonly [what: string, file: unknown, code: string]>([
    ['parent folder', '../model-00001-of-00003.safetensors', 'ERR_BAD_CHECKPOINT'],
    ['hidden parent', 'x/../../y.safetensors', 'ERR_BAD_CHECKPOINT'],
    ['backslashes', '..\\y.safetensors', 'ERR_BAD_CHECKPOINT'],
    ['absolute', '/etc/y.safetensors', 'ERR_BAD_CHECKPOINT'],
    ['drive', 'C:y.safetensors', 'ERR_BAD_CHECKPOINT'],
    ['NUL', 'a\0.safetensors', 'ERR_BAD_CHECKPOINT'],
    ['another kind of file', 'config.json', 'ERR_BAD_CHECKPOINT'],
    ['number', 3, 'ERR_BAD_CHECKPOINT'],
    ['missing shard', 'model-00009-of-00003.safetensors', 'ERR_NOT_FOUND'],
    ['wrong shard', 'model-00001-of-00003.safetensors', 'ERR_BAD_CHECKPOINT'],
  ])('a tensor in: %s', async (_what, file, code) => {
    await using temp = await temporaryFolder();
    const folder = await sharded(join(temp.path, 'm'), (index) => void Object.assign(index.weight_map, { 'lm_head.weight': file }));
    const error = await failure(() => openCheckpoint(folder));
    expect(error.code).toBe(code);
    if (typeof file === 'string') expect(error.message).toContain(JSON.stringify(file).slice(1, -1));
  });

  test('tensors that are listed and absent, or present and unlisted; no weight_map', async () => {
    await using temp = await temporaryFolder();
    const extra = await sharded(
      join(temp.path, 'a'),
      (index) => void Object.assign(index.weight_map, { ghost: 'model-00001-of-00003.safetensors' }),
    );
    expect((await failure(() => openCheckpoint(extra))).message).toMatch(/"ghost".*not there/);
    const less = await sharded(join(temp.path, 'b'), (index) => void delete index.weight_map['lm_head.weight']);
    expect((await failure(() => openCheckpoint(less))).message).toMatch(/"lm_head\.weight".*does not list/);
    const none = await sharded(join(temp.path, 'c'), () => ({ weight_map: [] }));
    expect((await failure(() => openCheckpoint(none))).message).toMatch(/no weight_map/);
  });

  test('a missing or truncated shard is named', async () => {
    await using temp = await temporaryFolder();
    const folder = await sharded(join(temp.path, 'm'), () => undefined);
    const shard = join(folder, 'model-00002-of-00003.safetensors');
    await truncate(shard, 5000);
    expect(await failure(() => openCheckpoint(folder))).toMatchObject({
      code: 'ERR_BAD_SAFETENSORS',
      message: expect.stringContaining('model-00002'),
    });
    await rm(shard);
    expect(await failure(() => openCheckpoint(folder))).toMatchObject({
      code: 'ERR_NOT_FOUND',
      message: expect.stringContaining('model-00002'),
    });
  });
});

describe('other files', () => {
  test('file() stays in the folder and has a limit', async () => {
    await using temp = await temporaryFolder();
    await writeFile(join(temp.path, 'secret'), 'secret');
    const folder = await folderOf(join(temp.path, 'm'), {
      'config.json': '{}',
      'model.safetensors': tiny,
      'tokenizer.json': '{}',
      '.hidden': '',
      'x.bin': '',
      'sub/a.txt': 'a',
    });
    await symlink('../secret', join(folder, 'link.txt'));
    await symlink('tokenizer.json', join(folder, 'inner.txt'));
    await symlink('nowhere', join(folder, 'dangling.txt'));
    await using checkpoint = await openCheckpoint(folder);
    expect(checkpoint.files).toEqual(['inner.txt', 'tokenizer.json']);
    expect(await checkpoint.file('nope.json')).toBeUndefined();
    expect(await checkpoint.file('dangling.txt')).toBeUndefined();
    expect(await checkpoint.file('sub')).toBeUndefined();
    expect(Buffer.from((await checkpoint.file('sub/a.txt'))!).toString()).toBe('a');
    expect(Buffer.from((await checkpoint.file('inner.txt'))!).toString()).toBe('{}');
    for (const name of ['../secret', 'link.txt', join(temp.path, 'secret'), 'sub/../../secret', '', '.', './config.json']) {
      expect((await failure(() => checkpoint.file(name))).code).toBe('ERR_BAD_CHECKPOINT');
    }
    expect((await failure(() => checkpoint.file('tokenizer.json', 1))).code).toBe('ERR_LIMIT');
  });

  test('a shard that is a link out of the folder is refused; the links of the Hugging Face cache are not', async () => {
    await using temp = await temporaryFolder();
    await writeFile(join(temp.path, 'w.safetensors'), tiny);
    const folder = await folderOf(join(temp.path, 'm'), { 'config.json': '{}' });
    await symlink('../w.safetensors', join(folder, 'model.safetensors'));
    expect((await failure(() => openCheckpoint(folder))).code).toBe('ERR_BAD_CHECKPOINT');

    const repo = join(temp.path, 'models--org--name');
    const snapshot = join(repo, 'snapshots', '0123');
    await mkdir(snapshot, { recursive: true });
    await mkdir(join(repo, 'blobs'));
    await rename(join(temp.path, 'w.safetensors'), join(repo, 'blobs', 'aa'));
    await writeFile(join(repo, 'blobs', 'bb'), '{}');
    await symlink('../../blobs/aa', join(snapshot, 'model.safetensors'));
    await symlink('../../blobs/bb', join(snapshot, 'config.json'));
    await symlink('../../blobs/bb', join(snapshot, 'tokenizer.json'));
    await using checkpoint = await openCheckpoint(snapshot);
    expect(checkpoint.files).toEqual(['tokenizer.json']);
    expect((await checkpoint.linear('m')).shape).toEqual([2, 2]);
  });
});

describe('writeConfig', () => {
  test.each(['uniform-b4-g64', 'per-tag'])('%s: a golden config.json is written back byte for byte', async (name) => {
    const bytes = await readFile(goldenPath(`hqq/checkpoints-hf4/${name}/config.json`));
    await using checkpoint = await openCheckpoint(goldenPath(`hqq/checkpoints-hf4/${name}`));
    expect(Buffer.from(writeConfig(checkpoint.config, bytes)).toString()).toBe(bytes.toString());
  });

  test('from the float model: what differs from transformers 4.57 is what it adds itself', async () => {
    const original = await readFile(goldenPath('bnb/checkpoints/float/config.json'));
    const golden = (await readFile(goldenPath('hqq/checkpoints-hf4/uniform-b4-g64/config.json'), 'utf8')).split('\n');
    await using source = await openCheckpoint(goldenPath('bnb/checkpoints/float'));
    const quantization_config = goldenJson<JsonObject>('hqq/checkpoints-hf4/uniform-b4-g64/config.json').quantization_config!;
    const ours = Buffer.from(writeConfig({ ...source.config, dtype: 'float16', quantization_config }, original))
      .toString()
      .split('\n');
    expect(ours.filter((line) => !golden.includes(line))).toEqual(['  "pad_token_id": null,', '  "transformers_version": "5.23.0",']);
    expect(golden.filter((line) => !ours.includes(line))).toEqual([
      '  "rope_scaling": null,',
      '  "rope_theta": 10000.0,',
      '  "transformers_version": "4.57.6",',
    ]);
  });

  test('numbers that changed, moved or are new are written as JavaScript does', () => {
    const original = new TextEncoder().encode('{"a": 1.0, "b": 1e-05, "c": [1.0, {"d": 2.0}], "n": NaN}');
    const text = Buffer.from(writeConfig({ a: 1, b: 2, c: [1, { d: 2, e: 0.5 }], n: Number.NaN }, original)).toString();
    expect(JSON.parse(text.replace('NaN', '0'))).toEqual({ a: 1, b: 2, c: [1, { d: 2, e: 0.5 }], n: 0 });
    expect(text).toContain('"a": 1.0');
    expect(text).toContain('"d": 2.0');
    expect(text).toContain('"n": NaN');
    expect(text.endsWith('}\n')).toBe(true);
  });
});
