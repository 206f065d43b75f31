// Quantizing straight from a hub: the same bytes as from a folder, no more of the model fetched than is needed, and nothing of it kept.

import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { int8, nf4 } from '@lowbit/bnb';
import { isLowbitError, type Quantizer } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { createHubClient, openCheckpoint, openRemoteCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { llama } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type HubServer, startHub } from '../fixtures/hub-server.ts';
import { digests, TINY } from './cli-process.ts';

const NAME = 'org/tiny';
let hub: HubServer;
let dir = '';
beforeAll(async () => {
  hub = await startHub();
  const names = readdirSync(TINY);
  hub.repos.set(NAME, { files: new Map(names.map((name) => [name, new Uint8Array(readFileSync(join(TINY, name)))])) });
  dir = mkdtempSync(join(tmpdir(), 'lowbit-hub-remote-'));
});
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true });
  await hub[Symbol.asyncDispose]();
});

const client = () => createHubClient({ endpoint: hub.url, timeoutMs: 30_000, delayMs: 1 });
const size = (name: string): number => (hub.repos.get(NAME)!.files.get(name) as Uint8Array).byteLength;

describe.each<[string, Quantizer]>([
  ['hqq', hqq()],
  ['nf4', nf4({ doubleQuant: true })],
  ['int8', int8()],
  ['higgs', higgs({ bits: 4 })],
])('%s', (method, quantizer) => {
  it('makes the same folder, fetches each byte of weights once, and goes on where connections break', async () => {
    const options = { quantizer, adapters: [llama] };
    await using folder = await openCheckpoint(TINY);
    await quantizeCheckpoint(folder, { ...options, out: join(dir, `${method}-local`) });

    const from = hub.requests.length;
    let cuts = 0;
    hub.fault = ({ host }) => (host === 'storage' && cuts++ % 3 === 1 ? { kind: 'cut', after: 65_536 } : undefined);
    const remote = client();
    await using checkpoint = await openRemoteCheckpoint(NAME, { client: remote });
    const opened = remote.traffic.bytes;
    const { files } = await quantizeCheckpoint(checkpoint, { ...options, out: join(dir, `${method}-remote`) });
    hub.fault = undefined;
    expect(digests(join(dir, `${method}-remote`))).toEqual(digests(join(dir, `${method}-local`)));

    // Of weights: the file, but for its header, which opening has read.
    const needed = [...checkpoint.source.entries.keys()].length > 0 ? size('model.safetensors') : 0;
    const carried = files.map(({ name }) => name).filter((name) => !/safetensors|^config/.test(name));
    const small = carried.reduce((sum, name) => sum + size(name), 0);
    const header = checkpoint.source.files.reduce((sum, file) => sum + file.size, 0) - weightBytes(checkpoint.source.entries);
    expect(remote.traffic.bytes - opened).toBe(needed - header + small);
    expect(hub.requests.length - from).toBeLessThan(160);
  });
});

function weightBytes(entries: ReadonlyMap<string, { dtype: string; shape: readonly number[] }>): number {
  const widths: Record<string, number> = { bf16: 2, f16: 2, f32: 4 };
  return [...entries.values()].reduce((sum, { dtype, shape }) => sum + widths[dtype]! * shape.reduce((a, b) => a * b, 1), 0);
}

it('stops when it is told to, and leaves nothing', async () => {
  const stop = new AbortController();
  await using checkpoint = await openRemoteCheckpoint(NAME, { client: client() });
  const reason = new Error('enough');
  const work = quantizeCheckpoint(checkpoint, {
    ...{ out: join(dir, 'stopped'), quantizer: hqq(), adapters: [llama], signal: stop.signal },
    onProgress: ({ done, total }) => void (done > total / 3 && stop.abort(reason)),
  });
  await expect(work).rejects.toBe(reason);
  expect(readdirSync(dir).filter((name) => name.startsWith('stopped'))).toEqual([]);
});

it('resumes from another server of the same contents, and refuses other ones', async () => {
  const out = join(dir, 'resumed');
  const options = { out, quantizer: hqq(), adapters: [llama], resume: true };
  const stop = new AbortController();
  await using first = await openRemoteCheckpoint(NAME, { client: client() });
  const onProgress = ({ done, total }: { done: number; total: number }) => void (done > total / 3 && stop.abort());
  await expect(quantizeCheckpoint(first, { ...options, signal: stop.signal, onProgress })).rejects.toThrow();
  await using other = await startHub();
  other.repos.set('me/copy', { files: new Map(hub.repos.get(NAME)!.files) });
  const copy = createHubClient({ endpoint: other.url });
  cpSync(`${out}.partial`, join(dir, 'changed.partial'), { recursive: true });
  await using second = await openRemoteCheckpoint('me/copy', { client: copy });
  const { resumed } = await quantizeCheckpoint(second, options);
  expect(resumed).toBeGreaterThan(0);
  expect(digests(out)).toEqual(digests(join(dir, 'hqq-local')));

  const { files } = other.repos.get('me/copy')!;
  const changed = (files.get('model.safetensors') as Uint8Array).slice();
  changed[changed.length - 1]! ^= 1;
  files.set('model.safetensors', changed);
  await using third = await openRemoteCheckpoint('me/copy', { client: createHubClient({ endpoint: other.url }) });
  const refused = await quantizeCheckpoint(third, { ...options, out: join(dir, 'changed') }).catch((error: unknown) => error);
  expect(isLowbitError(refused, 'ERR_JOURNAL_MISMATCH')).toBe(true);
});
