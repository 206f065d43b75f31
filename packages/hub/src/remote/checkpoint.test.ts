import { deflateRawSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { NAME, quickClient, settingsOf, smallHub } from '../../../../fixtures/small-hub.ts';
import { call, torchFile, zip } from '../pickle/testing.ts';
import { failure, temporaryFolder } from '../testing.node.ts';
import { openRemoteCheckpoint } from './checkpoint.ts';
import { downloadModel } from './download.node.ts';

describe('a checkpoint on a hub', () => {
  it('is opened by its headers, and read as far as it is asked for', async () => {
    await using hub = await smallHub();
    const client = quickClient(hub);
    await using checkpoint = await openRemoteCheckpoint(NAME, { client });
    expect([...checkpoint.source.entries.keys()]).toEqual(['a', 'b', 'c']);
    expect(client.traffic.bytes).toBeLessThan(8000); // listings, config, index, headers
    expect(checkpoint.remote).toMatchObject({ name: NAME, license: 'apache-2.0', pipelineTag: 'text-generation', gated: false });
    const before = client.traffic.bytes;
    const shard = hub.repos.get(NAME)!.files.get('model-00001-of-00002.safetensors') as Uint8Array;
    const { data } = await checkpoint.source.read('a', { range: [1000, 2000] });
    const whole = await checkpoint.source.read('a');
    expect(Buffer.from(whole.data.subarray(1000, 2000)).equals(data)).toBe(true);
    expect(Buffer.from(shard).includes(Buffer.from(whole.data))).toBe(true);
    expect(client.traffic.bytes - before).toBe(whole.data.byteLength); // what is there is not fetched again
  });

  it('fetches ahead where a tensor is read from end to end, and each byte once', async () => {
    await using hub = await smallHub();
    const client = quickClient(hub);
    await using checkpoint = await openRemoteCheckpoint(NAME, { client });
    const [bytes, requests] = [client.traffic.bytes, client.traffic.requests];
    const pieces = [];
    for (let at = 0; at < 250_000; at += 10_000) pieces.push(await checkpoint.source.read('a', { range: [at, at + 10_000] }));
    expect([client.traffic.bytes - bytes, client.traffic.requests - requests]).toEqual([250_000, 1]);
    const whole = await checkpoint.source.read('a');
    expect(Buffer.concat(pieces.map(({ data }) => data)).equals(whole.data)).toBe(true);
  });

  it('needs a server that sends parts of files', async () => {
    await using hub = await smallHub();
    hub.fault = ({ host }) => (host === 'storage' ? { kind: 'ignore-range' } : undefined);
    expect(await failure(() => openRemoteCheckpoint(NAME, { client: quickClient(hub) }))).toMatchObject({
      code: 'ERR_NETWORK',
      hint: expect.stringContaining('pass its folder'),
    });
  });

  it('small files are what the listing names', async () => {
    await using hub = await smallHub();
    hub.fault = ({ url }) => (url.endsWith('/config.json') ? { kind: 'corrupt', at: 3 } : undefined);
    expect((await failure(() => openRemoteCheckpoint(NAME, { client: quickClient(hub) }))).code).toBe('ERR_INTEGRITY');
  });

  it.each([['consolidated.00.pth'], ['model.ckpt'], ['optimizer.pt'], ['training_args.bin']])(
    'a repository whose only pickle is %s is refused without a byte of it',
    async (name) => {
      await using hub = await smallHub();
      await using dir = await temporaryFolder();
      const { files } = hub.repos.get(NAME)!;
      for (const other of [...files.keys()]) if (other !== 'config.json') files.delete(other);
      files.set(name, new TextEncoder().encode('cos\nsystem\n(S"exit 1"\ntR.'));
      const client = quickClient(hub);
      const settings = settingsOf(hub, dir.path);
      for (const work of [() => openRemoteCheckpoint(NAME, { client }), () => downloadModel(NAME, { client, settings })]) {
        const error = await failure(work);
        expect([error.code, error.message, error.hint]).toEqual([
          'ERR_NOT_FOUND',
          expect.stringContaining(`there is ${name}`),
          expect.stringContaining('safetensors'),
        ]);
      }
      expect(hub.requests.filter(({ url }) => url.includes(name))).toEqual([]);
    },
  );

  it('a missing shard, and shards that the index does not know', async () => {
    await using hub = await smallHub();
    const { files } = hub.repos.get(NAME)!;
    const client = quickClient(hub);
    const shard = 'model-00002-of-00002.safetensors';
    const content = files.get(shard)!;
    files.delete(shard);
    const missing = await failure(() => openRemoteCheckpoint(NAME, { client }));
    expect([missing.code, missing.details]).toEqual(['ERR_NOT_FOUND', expect.objectContaining({ file: shard })]);
    files.set(shard, content);
    files.set('model.safetensors.index.json', new TextEncoder().encode(JSON.stringify({ weight_map: { a: shard } })));
    expect((await failure(() => openRemoteCheckpoint(NAME, { client }))).code).toBe('ERR_BAD_CHECKPOINT');
  });

  it('a qmodel.pt that is a bomb, or runs something, is neither unpacked nor run', async () => {
    await using hub = await smallHub();
    const { files } = hub.repos.get(NAME)!;
    for (const other of [...files.keys()]) if (other !== 'config.json') files.delete(other);
    const client = quickClient(hub);
    files.set('qmodel.pt', torchFile(call('posix.system', ['exit 1'])));
    const code = await failure(() => openRemoteCheckpoint(NAME, { client }));
    expect([code.code, code.message]).toEqual(['ERR_BAD_PICKLE', expect.stringContaining('posix.system')]);
    const data = new Uint8Array(deflateRawSync(new Uint8Array(32 * 2 ** 20)));
    files.set('qmodel.pt', zip([{ name: 'm/data.pkl', data, claim: { method: 8, size: 2 ** 31 } }]));
    const bomb = await failure(() => openRemoteCheckpoint(NAME, { client }));
    expect([bomb.code, bomb.message]).toEqual(['ERR_LIMIT', expect.stringContaining('claims 2147483648 bytes')]);
  });
});
