// The conformance kit on the sources and the sink of this package.

import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type SinkSubject, sampleTensors, sinkConformance, sourceConformance } from '@lowbit/testing';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { startHub } from '../../../fixtures/hub-server.ts';
import { openTorchFile } from './pickle/source.node.ts';
import { storages, torchFile } from './pickle/testing.ts';
import { openRemoteCheckpoint } from './remote/checkpoint.ts';
import { createHubClient } from './remote/client.ts';
import { createSafetensorsSink } from './safetensors/sink.node.ts';
import { openSafetensors } from './safetensors/source.node.ts';
import { temporaryFolder } from './testing.node.ts';

const runner = { describe, it };
let temp: Awaited<ReturnType<typeof temporaryFolder>>;
let folders = 0;
beforeAll(async () => {
  temp = await temporaryFolder();
});
afterAll(() => temp[Symbol.asyncDispose]());
const newFolder = () => join(temp.path, `${folders++}`);

const whole = (folder: string) => openSafetensors(join(folder, 'model.safetensors'));
const inShards = async (folder: string) =>
  openSafetensors((await readdir(folder)).filter((name) => /-of-0000[2-9]\.safetensors$/.test(name)).map((name) => join(folder, name)));

async function subject(folder: string, keepPartial: boolean): Promise<SinkSubject> {
  const sink = await createSafetensorsSink(folder, { fingerprint: 'conformance', resume: true, keepPartial });
  return {
    sink,
    open: () => whole(folder),
    async again() {
      await sink[Symbol.asyncDispose]();
      return subject(folder, true);
    },
  };
}

for (const keepPartial of [false, true]) {
  const name = keepPartial ? 'safetensors, kept to resume' : 'safetensors';
  sinkConformance(
    name,
    async () => {
      const made = await subject(newFolder(), keepPartial);
      return keepPartial ? made : { sink: made.sink, open: made.open };
    },
    runner,
  );
}

async function written(shardSize?: number): Promise<string> {
  const folder = newFolder();
  await using sink = await createSafetensorsSink(folder, { fingerprint: 'conformance', ...(shardSize === undefined ? {} : { shardSize }) });
  const tensors = Object.entries(sampleTensors());
  await sink.reserve(new Map(tensors), {});
  for (const [name, { data }] of tensors) await sink.write(name, 0, data);
  await sink.close();
  return folder;
}

sourceConformance('safetensors', async () => ({ source: await whole(await written()) }), runner);
sourceConformance('safetensors in shards', async () => ({ source: await inShards(await written(1000)) }), runner);

sourceConformance(
  'a model on a hub',
  async () => {
    const hub = await startHub();
    const content = new Uint8Array(await readFile(join(await written(), 'model.safetensors')));
    hub.repos.set('org/name', {
      files: new Map([
        ['config.json', Buffer.from('{}')],
        ['model.safetensors', content],
      ]),
    });
    const { source } = await openRemoteCheckpoint('org/name', { client: createHubClient({ endpoint: hub.url }) });
    const dispose = async () => {
      await source[Symbol.asyncDispose]();
      await hub[Symbol.asyncDispose]();
    };
    return { source: { ...source, [Symbol.asyncDispose]: dispose } };
  },
  runner,
);

sourceConformance(
  'torch.save',
  async () => {
    const { add, data } = storages();
    const content = new Map(Object.entries(sampleTensors()).map(([name, value]) => [name, add(value)]));
    const path = `${newFolder()}.bin`;
    await writeFile(path, torchFile(content, data));
    return { source: await openTorchFile(path) };
  },
  runner,
);
