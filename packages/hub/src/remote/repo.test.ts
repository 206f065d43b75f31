import { describe, expect, it } from 'vitest';
import { failure, folderOf, temporaryFolder } from '../testing.node.ts';
import { parseRepoName, readRepoName } from './repo.ts';
import { hubSettings } from './settings.node.ts';

describe('names of models', () => {
  it.each([
    ['org/name', 'org/name', 'main'],
    ['HuggingFaceTB/SmolLM2-135M', 'HuggingFaceTB/SmolLM2-135M', 'main'],
    ['org/name@v1.0', 'org/name', 'v1.0'],
    ['org/name@refs/pr/3', 'org/name', 'refs/pr/3'],
    [`a/b@${'0'.repeat(40)}`, 'a/b', '0'.repeat(40)],
  ])('reads %s', (text, name, revision) => {
    expect(readRepoName(text)).toEqual({ name, revision });
  });

  it.each([
    'gpt2',
    './model',
    '../model',
    'a/../b',
    'a/b/c',
    '/a/b',
    'a\\b',
    'org/na--me',
    'org/na..me',
    'org/name@',
    'org/name@../x',
    'org/name@a@b',
    'org/.name',
    'org/name@/x',
    'C:/x',
    'org/na me',
    'org/name\0',
    `o/${'n'.repeat(96)}`,
  ])('takes %j for something else', async (text) => {
    expect(readRepoName(text)).toBe(undefined);
    expect((await failure(() => parseRepoName(text))).code).toBe('ERR_BAD_ARGUMENT');
  });
});

describe('settings', () => {
  it('follow the variables of the Python libraries, the nearest first', async () => {
    await using dir = await temporaryFolder();
    const home = await folderOf(dir.path, {
      '.cache/huggingface/token': 'hf_of_home\n',
      'elsewhere/token': ' hf_elsewhere ',
      other: 'hf_other',
    });
    const base = { HOME: home };
    expect(await hubSettings(base)).toEqual({
      endpoint: 'https://huggingface.co',
      cacheDir: `${home}/.cache/huggingface/hub`,
      token: 'hf_of_home',
      tokenFrom: `${home}/.cache/huggingface/token`,
      offline: false,
      timeoutMs: 10_000,
    });
    expect(await hubSettings({ ...base, XDG_CACHE_HOME: `${home}/x` })).toMatchObject({
      cacheDir: `${home}/x/huggingface/hub`,
      token: undefined,
    });
    expect(await hubSettings({ ...base, HF_HOME: '~/elsewhere' })).toMatchObject({
      cacheDir: `${home}/elsewhere/hub`,
      token: 'hf_elsewhere',
    });
    expect(await hubSettings({ ...base, HF_HOME: `${home}/elsewhere`, HF_HUB_CACHE: `${home}/c` })).toMatchObject({
      cacheDir: `${home}/c`,
      token: 'hf_elsewhere',
    });
    expect((await hubSettings({ ...base, HUGGINGFACE_HUB_CACHE: `${home}/old` })).cacheDir).toBe(`${home}/old`);
    expect((await hubSettings({ ...base, HF_TOKEN_PATH: `${home}/other` })).token).toBe('hf_other');
    expect(await hubSettings({ ...base, HF_TOKEN: ' hf_env\n' })).toMatchObject({ token: 'hf_env', tokenFrom: 'HF_TOKEN' });
    expect((await hubSettings({ ...base, HF_HUB_DISABLE_IMPLICIT_TOKEN: '1' })).token).toBe(undefined);
    expect(
      await hubSettings({ ...base, HF_ENDPOINT: 'https://hub.example/', HF_HUB_OFFLINE: 'yes', HF_HUB_DOWNLOAD_TIMEOUT: '30' }),
    ).toMatchObject({
      endpoint: 'https://hub.example',
      offline: true,
      timeoutMs: 30_000,
    });
  });

  it.each([
    ['Infinity', 2 ** 31 - 1],
    ['3000000', 2 ** 31 - 1],
    ['-1', 10_000],
    ['soon', 10_000],
  ])('a timeout of %s is one that a timer can wait', async (text, timeoutMs) => {
    await using dir = await temporaryFolder();
    expect((await hubSettings({ HOME: dir.path, HF_HUB_DOWNLOAD_TIMEOUT: text })).timeoutMs).toBe(timeoutMs);
  });

  it('a token that cannot be one is refused by the place it is in, and not told', async () => {
    await using dir = await temporaryFolder();
    const home = await folderOf(dir.path, { token: 'hf_one\nhf_two', empty: '\n' });
    for (const [env, from] of [
      [{ HF_TOKEN: 'hf_one hf_two' }, 'HF_TOKEN'],
      [{ HUGGING_FACE_HUB_TOKEN: 'hf_\u00e9' }, 'HUGGING_FACE_HUB_TOKEN'],
      [{ HF_TOKEN_PATH: `${home}/token` }, `${home}/token`],
    ] as const) {
      const error = await failure(() => hubSettings({ HOME: home, ...env }));
      expect(error).toMatchObject({ code: 'ERR_BAD_ARGUMENT', message: expect.stringContaining(from), hint: expect.any(String) });
      expect(JSON.stringify([error.message, error.hint, error.details])).not.toContain('hf_');
    }
    expect((await hubSettings({ HOME: home, HF_TOKEN: ' ', HF_TOKEN_PATH: `${home}/empty` })).token).toBe(undefined);
  });
});
