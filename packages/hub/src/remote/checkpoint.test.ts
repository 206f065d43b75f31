import { describe, expect, it } from 'vitest';
import { NAME, quickClient, smallHub } from '../../../../fixtures/small-hub.ts';
import { failure } from '../testing.node.ts';
import { openRemoteCheckpoint } from './checkpoint.ts';

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
});
