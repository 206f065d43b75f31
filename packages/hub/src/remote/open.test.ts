import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { NAME, settingsOf, smallHub } from '../../../../fixtures/small-hub.ts';
import { temporaryFolder } from '../testing.node.ts';
import { downloadModel } from './download.node.ts';
import { openHubCheckpoint } from './open.node.ts';

const SHARD = 'model-00001-of-00002.safetensors';

/** A cache in which `lost` are not there. */
async function subject(lost: readonly string[]) {
  const hub = await smallHub();
  const dir = await temporaryFolder();
  const settings = settingsOf(hub, dir.path);
  const { folder } = await downloadModel(NAME, { settings });
  for (const name of lost) await rm(join(folder, name));
  hub.requests.length = 0;
  const dispose = async () => {
    await hub[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  };
  return { hub, settings, folder, [Symbol.asyncDispose]: dispose };
}

describe('a model of a hub', () => {
  it('that the cache has whole is read there', async () => {
    await using at = await subject([]);
    await using checkpoint = await openHubCheckpoint(NAME, { settings: at.settings });
    await checkpoint.source.read('a');
    expect(checkpoint).toMatchObject({ folder: at.folder, files: ['LICENSE', 'tokenizer.json'], notes: [] });
    expect(at.hub.requests.every(({ url }) => url.startsWith('/api/'))).toBe(true);
  });

  it('of which the cache has config and weights alone has its tokenizer, and no weights are fetched', async () => {
    await using at = await subject(['tokenizer.json', 'LICENSE']);
    await using checkpoint = await openHubCheckpoint(NAME, { settings: at.settings });
    expect(checkpoint.files).toContain('tokenizer.json');
    expect(Buffer.from((await checkpoint.file('tokenizer.json'))!).toString()).toBe('{}');
    const { data } = await checkpoint.source.read('a');
    const shard = await readFile(join(at.folder, SHARD));
    expect(shard.includes(Buffer.from(data))).toBe(true);
    expect(at.hub.requests.filter(({ host, url }) => host === 'storage' || url.includes('.safetensors'))).toEqual([]);
    expect(await readdir(at.folder)).not.toContain('tokenizer.json'); // nothing is kept
  });

  it('of which the cache lacks a shard or the index is read in ranges there', async () => {
    for (const lost of [SHARD, 'model.safetensors.index.json']) {
      await using at = await subject([lost]);
      await using checkpoint = await openHubCheckpoint(NAME, { settings: at.settings });
      const { data } = await checkpoint.source.read('a');
      expect(Buffer.from(at.hub.repos.get(NAME)!.files.get(SHARD) as Uint8Array).includes(Buffer.from(data))).toBe(true);
      expect(checkpoint).toMatchObject({ remote: { name: NAME } });
    }
  });

  it('is taken as it is offline, with a note where it has no tokenizer', async () => {
    await using at = await subject(['tokenizer.json']);
    const offline = { ...at.settings, offline: true };
    await using checkpoint = await openHubCheckpoint(NAME, { settings: offline });
    expect(checkpoint).toMatchObject({ folder: at.folder, notes: [expect.stringContaining('lowbit pull org/small')] });
    expect(at.hub.requests).toEqual([]);
  });
});
