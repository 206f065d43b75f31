import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { startHub } from '../../../../fixtures/hub-server.ts';
import { quickClient, settingsOf } from '../../../../fixtures/small-hub.ts';
import { filesFolder } from '../browser/blob-folder.ts';
import { openCheckpoint as openInBrowser } from '../browser/quantize.ts';
import { openCheckpoint } from '../checkpoint.node.ts';
import { openRemoteCheckpoint } from '../remote/checkpoint.ts';
import { downloadModel } from '../remote/download.node.ts';
import { openHubCheckpoint } from '../remote/open.node.ts';
import { readHubName } from '../remote/repo.ts';
import { failure, temporaryFolder } from '../testing.node.ts';
import { ggufFolder } from './folder.ts';
import { f32Bytes, type GgufToWrite, SMALL_LLAMA, smallLlamaTensors, type TensorToWrite, type Value, writeGguf } from './testing.ts';

const TOKENIZER: Readonly<Record<string, Value>> = {
  'tokenizer.ggml.model': { text: 'gpt2' },
  'tokenizer.ggml.pre': { text: 'gpt-2' },
  'tokenizer.ggml.tokens': { texts: ['<s>', 'a', 'b', 'ab'] },
  'tokenizer.ggml.token_type': { i32s: [3, 1, 1, 1] },
  'tokenizer.ggml.merges': { texts: ['a b'] },
  'tokenizer.ggml.bos_token_id': { u32: 0 },
};
const small = (more: Readonly<Record<string, Value>> = {}, tensors: readonly TensorToWrite[] = smallLlamaTensors()): GgufToWrite => ({
  metadata: { ...SMALL_LLAMA, ...more },
  tensors,
});

async function opened(model: GgufToWrite): Promise<AsyncDisposable & { readonly checkpoint: Awaited<ReturnType<typeof openCheckpoint>> }> {
  const temp = await temporaryFolder();
  try {
    await writeFile(join(temp.path, 'm.gguf'), writeGguf(model));
    const checkpoint = await openCheckpoint(join(temp.path, 'm.gguf'));
    return {
      checkpoint,
      async [Symbol.asyncDispose]() {
        await checkpoint[Symbol.asyncDispose]();
        await temp[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await temp[Symbol.asyncDispose]();
    throw error;
  }
}

describe('a file as a folder', () => {
  test('what it has: nothing of the folder around it', async () => {
    await using temp = await temporaryFolder();
    await writeFile(join(temp.path, 'm.gguf'), writeGguf(small(TOKENIZER)));
    for (const other of ['config.json', 'tokenizer.json', 'LICENSE', 'model.safetensors'])
      await writeFile(join(temp.path, other), 'not its own');
    await using checkpoint = await openCheckpoint(join(temp.path, 'm.gguf'));
    expect([checkpoint.folder, checkpoint.label]).toEqual([temp.path, join(temp.path, 'm.gguf')]);
    expect(checkpoint.config).toMatchObject({
      model_type: 'llama',
      head_dim: 8,
      vocab_size: 48,
      tie_word_embeddings: true,
      torch_dtype: 'float32',
    });
    expect(checkpoint.files).toEqual(['generation_config.json', 'tokenizer.json', 'tokenizer_config.json']);
    expect((await checkpoint.linear('model.layers.0.self_attn.q_proj')).shape).toEqual([32, 32]);
    expect(await checkpoint.file('LICENSE')).toBeUndefined();
    expect((await failure(() => checkpoint.file('tokenizer.json', 10))).code).toBe('ERR_LIMIT');
  });

  test('without a tokenizer it is a model of token ids; one of an unknown kind is told of, and refused where it is asked for', async () => {
    await using none = await opened(small());
    expect([none.checkpoint.files, none.checkpoint.notes]).toEqual([['generation_config.json'], []]);
    for (const [more, said] of [
      [{ 'tokenizer.ggml.pre': { text: 'from-mars' } }, /split in the way "from-mars"/],
      [{ 'tokenizer.ggml.model': { text: 'bert' } }, /a tokenizer of the kind "bert"/],
      [{ 'tokenizer.ggml.token_type': { i32s: [1] } }, /4 tokens and the types of 1/],
      [{ 'tokenizer.ggml.merges': { texts: ['ab'] } }, /merge "ab"/],
      [{ 'tokenizer.ggml.bos_token_id': { u32: 99 } }, /bos_token_id is 99, and it has 4 tokens/],
      [{ 'tokenizer.ggml.model': { text: 'llama' } }, /4 tokens and the scores of 0/],
      [{ 'tokenizer.ggml.model': { text: 'llama' }, 'tokenizer.ggml.scores': { f32s: [0, 0, Number.NaN, 0] } }, /a score is NaN/],
    ] as const) {
      await using file = await opened(small({ ...TOKENIZER, ...(more as Record<string, Value>) }));
      expect(file.checkpoint.files).toEqual(['generation_config.json']);
      expect(file.checkpoint.notes).toEqual([expect.stringMatching(said)]);
      const error = await failure(() => file.checkpoint.file('tokenizer.json'));
      expect([error.code, said.test(error.message)]).toEqual(['ERR_TOKENIZER', true]);
    }
  });

  test.each<[string, Readonly<Record<string, Value>>, string, RegExp]>([
    ['an unknown architecture', { 'general.architecture': { text: 'mamba' } }, 'ERR_UNSUPPORTED_ARCH', /"mamba" is not read/],
    ['__proto__ as architecture', { 'general.architecture': { text: '__proto__' } }, 'ERR_UNSUPPORTED_ARCH', /"__proto__" is not read/],
    ['a part of a split model', { 'split.count': { u32: 3 } }, 'ERR_UNSUPPORTED_FORMAT', /one of 3 parts/],
    ['no heads', { 'llama.attention.head_count': { u32: 0 } }, 'ERR_BAD_CHECKPOINT', /head_count/],
    ['heads that do not divide', { 'llama.attention.head_count': { u32: 5 } }, 'ERR_UNSUPPORTED_ARCH', /5 heads/],
    ['heads that differ by layer', { 'llama.attention.head_count_kv': { i32s: [2, 4] } }, 'ERR_UNSUPPORTED_ARCH', /layers that differ/],
    ['values of another length', { 'llama.attention.value_length': { u32: 16 } }, 'ERR_UNSUPPORTED_ARCH', /values of 16/],
    ['a head larger than any', { 'llama.attention.key_length': { u32: 2 ** 20 } }, 'ERR_UNSUPPORTED_ARCH', /keys of 1048576/],
    ['heads that q does not have', { 'llama.attention.key_length': { u32: 16 } }, 'ERR_BAD_CHECKPOINT', /32 rows, not 4 heads of 16/],
    ['too many experts', { 'llama.expert_count': { u32: 2 ** 30 } }, 'ERR_UNSUPPORTED_ARCH', /1073741824 experts/],
    ['unknown rotary scaling', { 'llama.rope.scaling.type': { text: 'mrope' } }, 'ERR_UNSUPPORTED_ARCH', /"mrope"/],
    ['a missing number', { 'llama.context_length': { text: 'long' } }, 'ERR_BAD_CHECKPOINT', /context_length/],
  ])('%s', async (_, more, code, message) => {
    const error = await failure(async () => {
      await using _ = await opened(small(more));
    });
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
    expect(error.hint).toBeTruthy();
  });

  test.each<[string, TensorToWrite, string, RegExp]>([
    ['a tensor that the architecture does not have', vector('blk.0.ssm_a.weight'), 'ERR_UNSUPPORTED_ARCH', /"blk\.0\.ssm_a\.weight"/],
    ['a name that is none', vector('../../x'), 'ERR_UNSUPPORTED_ARCH', /x/],
    ['two tensors of one name', vector('blk.00.attn_norm.weight'), 'ERR_UNSUPPORTED_ARCH', /blk\.00/],
    [
      'a type that is not read',
      { name: 'output.weight', shape: [256], type: 16, data: new Uint8Array(66) },
      'ERR_UNSUPPORTED_FORMAT',
      /IQ2_XXS/,
    ],
    ['rope_freqs that are no list', { ...vector('rope_freqs.weight'), shape: [1, 4] }, 'ERR_BAD_CHECKPOINT', /rope_freqs/],
    ['rope_freqs of nothing known', vector('rope_freqs.weight', [1, 7, 3, 8]), 'ERR_UNSUPPORTED_ARCH', /not those of Llama 3/],
  ])('%s', async (_, tensor, code, message) => {
    const error = await failure(async () => {
      await using _ = await opened(small({}, [...smallLlamaTensors(), tensor]));
    });
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(message)]);
  });

  test('a file that became shorter is an error when it is read', async () => {
    await using temp = await temporaryFolder();
    const path = join(temp.path, 'm.gguf');
    const bytes = writeGguf(small());
    await writeFile(path, bytes);
    await using checkpoint = await openCheckpoint(path);
    await writeFile(path, bytes.subarray(0, bytes.byteLength - 4096));
    const error = await failure(() => checkpoint.tensor('model.layers.0.mlp.down_proj.weight'));
    expect([error.code, error.message]).toEqual(['ERR_BAD_CHECKPOINT', expect.stringMatching(/became shorter/)]);
  });

  test('a folder of nothing else says what to name; a file that is not there is ERR_NOT_FOUND', async () => {
    await using temp = await temporaryFolder();
    await writeFile(join(temp.path, 'config.json'), '{}');
    await writeFile(join(temp.path, 'm.gguf'), writeGguf(small()));
    expect((await failure(() => openCheckpoint(temp.path))).hint).toBe(`Name the file itself: ${join(temp.path, 'm.gguf')}.`);
    expect((await failure(() => openCheckpoint(join(temp.path, 'other.gguf')))).code).toBe('ERR_NOT_FOUND');
  });

  test('in a browser: a chosen file', async () => {
    const file = Object.assign(new Blob([new Uint8Array(writeGguf(small(TOKENIZER)))]), { name: 'm.gguf', webkitRelativePath: '' });
    await using checkpoint = await openInBrowser(await ggufFolder(filesFolder([file as never]), 'm.gguf'));
    expect(checkpoint.config.model_type).toBe('llama');
    expect((await checkpoint.tensor('model.norm.weight')).shape).toEqual([32]);
    const error = await failure(async () => ggufFolder(filesFolder([file as never]), 'other.gguf'));
    expect([error.code, error.hint]).toEqual(['ERR_NOT_FOUND', 'It has m.gguf.']);
  });
});

function vector(name: string, values: readonly number[] = [1, 1, 1, 1]): TensorToWrite {
  return { name, shape: [values.length], type: 0, data: f32Bytes(values) };
}

describe('a file of a model on a hub', () => {
  test.each([
    ['org/name/m.gguf', { repo: { name: 'org/name', revision: 'main' }, file: 'm.gguf' }],
    ['org/name@v1/q4/m.gguf', { repo: { name: 'org/name', revision: 'v1' }, file: 'q4/m.gguf' }],
    ['org/name', { repo: { name: 'org/name', revision: 'main' } }],
    ['folder/m.gguf', undefined],
    ['./org/name/m.gguf', undefined],
    ['/org/name/m.gguf', undefined],
    ['org/name/m.safetensors', undefined],
  ])('%s', (name, expected) => {
    expect(readHubName(name)).toEqual(expected);
  });

  test('opened in ranges, downloaded alone, found offline; names that lead out are refused', async () => {
    await using hub = await startHub();
    await using temp = await temporaryFolder();
    // Large enough that what is not asked for would be seen.
    const embedding = { name: 'token_embd.weight', shape: [80_000, 32], type: 0, data: new Uint8Array(80_000 * 32 * 4) };
    const bytes = new Uint8Array(writeGguf(small(TOKENIZER, [...smallLlamaTensors().slice(1), embedding])));
    const text = (value: string) => new TextEncoder().encode(value);
    hub.repos.set('org/files', {
      files: new Map([
        ['q8/m.gguf', bytes],
        ['other.gguf', text('GGUF')],
        ['LICENSE', text('MIT\n')],
        ['README.md', text('# files\n')],
      ]),
      info: {},
    });
    const client = quickClient(hub);
    const settings = settingsOf(hub, temp.path);
    await using remote = await openRemoteCheckpoint('org/files/q8/m.gguf', { client });
    const q = await remote.tensor('model.layers.0.self_attn.q_proj.weight');
    const fetched = hub.requests.reduce((sum, { sent }) => sum + sent, 0);
    expect(fetched).toBeLessThan(2 ** 20 + 100_000);
    expect(remote.files).toEqual(['LICENSE', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']);

    const downloaded = await downloadModel('org/files/q8/m.gguf', { settings, client });
    expect(downloaded.files.map(({ name }) => name)).toEqual(['LICENSE', 'q8/m.gguf']);
    expect(downloaded.file).toBe(join(downloaded.folder, 'q8/m.gguf'));
    await using local = await openCheckpoint(downloaded.file!);
    expect(Buffer.from((await local.tensor('model.layers.0.self_attn.q_proj.weight')).data).equals(q.data)).toBe(true);

    const before = hub.requests.length;
    await using cached = await openHubCheckpoint('org/files/q8/m.gguf', { settings: { ...settings, offline: true }, client });
    expect([cached.config.model_type, hub.requests.length]).toEqual(['llama', before]);

    const missing = await failure(() => openRemoteCheckpoint('org/files/q4.gguf', { client }));
    expect([missing.code, missing.hint]).toEqual(['ERR_NOT_FOUND', 'It has other.gguf.']);
    expect((await failure(() => downloadModel('org/files/q4.gguf', { settings, client }))).code).toBe('ERR_NOT_FOUND');
    expect((await failure(() => openRemoteCheckpoint('org/files/../x/m.gguf', { client }))).code).toBe('ERR_BAD_ARGUMENT');
  });
});
