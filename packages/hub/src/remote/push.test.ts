import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { float32Tensor } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { HUB_TOKEN, type HubFault } from '../../../../fixtures/hub-server.ts';
import { NAME, settingsOf, smallHub } from '../../../../fixtures/small-hub.ts';
import { storages, torchFile } from '../pickle/testing.ts';
import { failure, folderOf, temporaryFolder } from '../testing.node.ts';
import { modelCard } from './card.ts';
import { downloadModel } from './download.node.ts';
import { planPush, pushModel } from './push.node.ts';

const TO = 'tester/small-4bit';

async function subject() {
  const hub = await smallHub();
  const dir = await temporaryFolder();
  const { folder } = await downloadModel(NAME, { settings: settingsOf(hub, dir.path) });
  const settings = settingsOf(hub, dir.path, { token: HUB_TOKEN });
  const dispose = async () => {
    await hub[Symbol.asyncDispose]();
    await dir[Symbol.asyncDispose]();
  };
  return { hub, dir: dir.path, folder, settings, [Symbol.asyncDispose]: dispose };
}

describe('pushing', () => {
  it.each([undefined, 65_536])('sends what a model is, with a card; parts of %s bytes', async (partSize) => {
    await using at = await subject();
    at.hub.partSize = partSize;
    const before = at.hub.requests.length;
    const card = { baseModel: NAME, license: 'apache-2.0', layout: 'hqq' };
    const plan = await planPush(at.folder, { to: TO, card });
    expect(at.hub.requests.length).toBe(before);
    const shares: number[] = [];
    const onProgress = ({ done, total }: { done: number; total: number }) => void shares.push(done / total);
    const pushed = await pushModel(at.folder, { to: TO, card, private: true, settings: at.settings, onProgress });
    expect(pushed).toMatchObject({ ...plan, url: `${at.hub.url}/${TO}` });
    const there = at.hub.repos.get(TO)!;
    expect(there.private).toBe(true);
    expect([...there.files.keys()].sort()).toEqual(plan.files.map(({ name }) => name).sort());
    const source = at.hub.repos.get(NAME)!.files;
    for (const [name, content] of there.files) {
      if (name !== 'README.md') expect(Buffer.from(content as Uint8Array).equals(source.get(name) as Uint8Array), name).toBe(true);
    }
    expect(String(Buffer.from(there.files.get('README.md') as Uint8Array))).toBe(plan.card);
    expect(plan.card).toMatch(
      /^---\nlibrary_name: transformers\nlicense: apache-2.0\nbase_model: org\/small\nbase_model_relation: quantized\ntags:\n- lowbit\n- hqq\n---\n/,
    );
    expect([shares.at(-1), shares.length > 3]).toEqual([1, true]);
    expect(new Set(at.hub.requests.filter(({ host }) => host === 'storage').map(({ authorization }) => authorization))).toEqual(
      new Set([undefined]),
    );

    // Again: everything is there already.
    const uploads = () => at.hub.requests.filter(({ method }) => method === 'PUT').length;
    const sent = uploads();
    await pushModel(at.folder, { to: TO, card, settings: at.settings });
    expect(uploads()).toBe(sent);
  });

  it('outlasts a storage that fails, and stops when it is told to', async () => {
    await using at = await subject();
    const stop = new AbortController();
    const reason = new Error('enough');
    const work = pushModel(at.folder, {
      to: 'tester/other',
      settings: at.settings,
      signal: stop.signal,
      onProgress: () => stop.abort(reason),
    });
    await expect(work).rejects.toBe(reason);
    expect(at.hub.repos.get('tester/other')?.files.size ?? 0).toBe(0);
    let count = 0;
    at.hub.fault = ({ method }): HubFault | undefined => (method === 'PUT' && count++ < 2 ? { kind: 'status', status: 503 } : undefined);
    await pushModel(at.folder, { to: TO, settings: at.settings });
  });

  it('sends shards of PyTorch with the index that is theirs', async () => {
    await using dir = await temporaryFolder();
    const shard = (name: string): Uint8Array => {
      const { add, data } = storages();
      return torchFile(new Map([[name, add(float32Tensor([2], [1, 2]))]]), data);
    };
    const [first, second] = ['pytorch_model-00001-of-00002.bin', 'pytorch_model-00002-of-00002.bin'];
    const folder = await folderOf(dir.path, {
      'config.json': '{}',
      'pytorch_model.bin.index.json': JSON.stringify({ weight_map: { a: first, b: second } }),
      [first]: shard('a'),
      [second]: shard('b'),
    });
    const { files } = await planPush(folder, { to: TO });
    expect(files.map(({ name }) => name)).toEqual(['README.md', 'config.json', first, second, 'pytorch_model.bin.index.json']);
  });

  it('refuses what is not finished, and those who may not', async () => {
    await using at = await subject();
    const half = join(at.dir, 'half.partial');
    await mkdir(half);
    await writeFile(join(half, '.lowbit-journal.jsonl'), '{}\n');
    const push = (folder: string, more: object = {}) => failure(() => pushModel(folder, { to: TO, settings: at.settings, ...more }));
    expect(await push(half)).toMatchObject({ code: 'ERR_BAD_CHECKPOINT', hint: expect.stringContaining('--resume') });
    const odd = join(at.dir, 'odd');
    await mkdir(odd);
    await symlink('.lowbit-journal.jsonl', join(odd, '.lowbit-journal.jsonl')); // a circle: whether there is a journal cannot be told
    expect(await push(odd)).toMatchObject({ code: 'ERR_IO', details: { errno: 'ELOOP' } });
    expect((await push(join(at.dir, 'nowhere'))).code).toBe('ERR_NOT_FOUND');
    expect((await push(at.folder, { to: '../x' })).code).toBe('ERR_BAD_ARGUMENT');
    const none = await push(at.folder, { settings: settingsOf(at.hub, at.dir) });
    expect(none).toMatchObject({ code: 'ERR_ACCESS_DENIED', hint: expect.stringContaining('HF_TOKEN') });
    const wrong = await push(at.folder, { settings: settingsOf(at.hub, at.dir, { token: 'hf_secret_and_wrong' }) });
    expect(wrong.code).toBe('ERR_ACCESS_DENIED');
    expect(JSON.stringify([wrong.message, wrong.hint, wrong.details, String(wrong.cause), wrong.stack])).not.toContain('hf_secret');
    expect(at.hub.repos.has(TO)).toBe(false);
  });
});

it('values of a card stay texts', () => {
  const card = modelCard('x', {
    layout: 'hqq',
    license: 'no',
    pipelineTag: 'a: b\n- c',
    recipe: ['4 bits'],
    loadsIn: [],
    quality: [
      ['KL | x', '0', '0.1'],
      ['back\\| x', '0', '0.1'],
    ],
  });
  expect(card).toContain('pipeline_tag: "a: b\\n- c"\nlicense: "no"\n');
  expect(card).toContain('| KL \\| x | 0 | 0.1 |');
  expect(card).toContain('| back\\\\\\| x | 0 | 0.1 |');
});
