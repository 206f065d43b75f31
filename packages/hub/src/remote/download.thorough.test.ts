import { writeFileSync } from 'node:fs';
import { lstat, mkdir, readdir, readFile, readlink, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { commitOf, etagOf, HUB_TOKEN, type HubFault, type HubRequest, type HubServer } from '../../../../fixtures/hub-server.ts';
import { needs } from '../../../../fixtures/needs.ts';
import { NAME, noise, quickClient, settingsOf, smallHub } from '../../../../fixtures/small-hub.ts';
import { openFolder, readInside } from '../folder.node.ts';
import { failure, mount, temporaryFolder } from '../testing.node.ts';
import { listHubCache, removeFromHubCache } from './cache.node.ts';
import { type DownloadOptions, downloadModel } from './download.node.ts';

const WANTED = [
  'LICENSE',
  'config.json',
  'tokenizer.json',
  'model.safetensors.index.json',
  'model-00001-of-00002.safetensors',
  'model-00002-of-00002.safetensors',
];
const SHARD = 'model-00001-of-00002.safetensors';

function pull(hub: HubServer, cacheDir: string, more: DownloadOptions & { name?: string } = {}) {
  const { name = NAME, ...rest } = more;
  return downloadModel(name, { settings: settingsOf(hub, cacheDir), client: quickClient(hub), ...rest });
}

async function expectWhole(hub: HubServer, folder: string): Promise<void> {
  const { files } = hub.repos.get(NAME)!;
  for (const name of WANTED) expect((await readFile(join(folder, name))).equals(files.get(name) as Uint8Array), name).toBe(true);
}

const ofWeights = ({ host, url }: HubRequest): boolean => host === 'storage' || /\.safetensors$/.test(url);

describe('downloading', () => {
  it('fetches what a model needs into the layout of the Python cache, and nothing twice', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const events: number[] = [];
    const first = await pull(hub, dir.path, { onProgress: ({ done, total }) => events.push(done / total) });
    const repo = hub.repos.get(NAME)!;
    const commit = commitOf(repo);
    expect(first.folder).toBe(join(dir.path, 'models--org--small', 'snapshots', commit));
    expect((await readdir(first.folder)).sort()).toEqual([...WANTED].sort());
    await expectWhole(hub, first.folder);
    expect(await readFile(join(dir.path, 'models--org--small/refs/main'), 'utf8')).toBe(commit);
    expect(await readlink(join(first.folder, SHARD))).toBe(`../../blobs/${etagOf(SHARD, repo.files.get(SHARD)!)}`);
    expect((await readdir(join(dir.path, 'models--org--small/blobs'))).sort()).toEqual(
      WANTED.map((name) => etagOf(name, repo.files.get(name)!)).sort(),
    );
    expect(events.at(-1)).toBe(1);
    expect(events).toEqual([...events].sort((a, b) => a - b));
    expect(first.received).toBe(WANTED.reduce((sum, name) => sum + (repo.files.get(name) as Uint8Array).byteLength, 0));

    const before = hub.requests.length;
    const second = await pull(hub, dir.path);
    expect([second.folder, second.received, second.files.every(({ cached }) => cached)]).toEqual([first.folder, 0, true]);
    expect(hub.requests.slice(before).some(ofWeights)).toBe(false);
    // The folder reads as any other, though its files are links.
    expect(await readInside(await openFolder(first.folder), 'config.json', 100)).toEqual(repo.files.get('config.json'));
  });

  it('works offline with what is there, and says what is not', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const offline = { settings: settingsOf(hub, dir.path, { offline: true }) };
    expect(await failure(() => downloadModel(NAME, offline))).toMatchObject({
      code: 'ERR_OFFLINE_MISS',
      hint: expect.stringContaining('lowbit pull'),
    });
    const { folder } = await pull(hub, dir.path);
    const before = hub.requests.length;
    expect((await downloadModel(NAME, offline)).folder).toBe(folder);
    expect((await downloadModel(`${NAME}@${commitOf(hub.repos.get(NAME)!)}`, offline)).folder).toBe(folder);
    expect((await failure(() => downloadModel(`${NAME}@v2`, offline))).code).toBe('ERR_OFFLINE_MISS');
    expect(hub.requests.length).toBe(before);
  });

  it('takes patterns', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const { files } = await pull(hub, dir.path, { allow: ['*.json', 'images/'], ignore: ['tokenizer*'] });
    expect(files.map(({ name }) => name).sort()).toEqual(['config.json', 'images/logo.png', 'model.safetensors.index.json']);
  });

  it('without links puts the files themselves into the snapshot', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const { folder } = await pull(hub, dir.path, { links: false });
    await expectWhole(hub, folder);
    expect((await lstat(join(folder, SHARD))).isFile()).toBe(true);
    expect(await readdir(join(dir.path, 'models--org--small/blobs'))).toEqual([]);
    const before = hub.requests.length;
    expect((await pull(hub, dir.path, { links: false })).received).toBe(0);
    expect(hub.requests.slice(before).some(ofWeights)).toBe(false);
  });

  it('goes on where connections break, every 64 kB, and receives nothing twice', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    hub.fault = ({ host }) => (host === 'storage' ? { kind: 'cut', after: 65_536 } : undefined);
    const { folder, received } = await pull(hub, dir.path);
    await expectWhole(hub, folder);
    const total = WANTED.reduce((sum, name) => sum + (hub.repos.get(NAME)!.files.get(name) as Uint8Array).byteLength, 0);
    expect(received).toBe(total);
  });

  it('takes up what a killed run left, and starts over where that is wrong', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const content = hub.repos.get(NAME)!.files.get(SHARD) as Uint8Array;
    const blobs = join(dir.path, 'models--org--small/blobs');
    await mkdir(blobs, { recursive: true });
    const left = join(blobs, `${etagOf(SHARD, content)}.lowbit.incomplete`);
    await writeFile(left, content.subarray(0, 100_000));
    const { folder } = await pull(hub, dir.path);
    await expectWhole(hub, folder);
    expect(hub.requests.some(({ range }) => range === `bytes=100000-${content.byteLength - 1}`)).toBe(true);

    await removeFromHubCache(dir.path, NAME);
    await mkdir(blobs, { recursive: true });
    await writeFile(left, noise(100_000, 99));
    expect(await failure(() => pull(hub, dir.path))).toMatchObject({ code: 'ERR_INTEGRITY', details: { resumed: true } });
    await expectWhole(hub, (await pull(hub, dir.path)).folder);
  });

  it.each<[string, (request: HubRequest, count: number) => HubFault | undefined]>([
    ['a connection that is reset', (_, count) => (count < 3 ? { kind: 'reset' } : undefined)],
    ['429 with Retry-After', (_, count) => (count < 4 ? { kind: 'status', status: 429, headers: { 'Retry-After': '0' } } : undefined)],
    ['errors of the server', (_, count) => (count % 3 === 0 ? { kind: 'status', status: 503 } : undefined)],
    ['bytes that end early', ({ host }, count) => (host === 'storage' && count < 12 ? { kind: 'cut', after: 1 } : undefined)],
  ])('outlasts %s', async (_name, fault) => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    let count = 0;
    hub.fault = (request) => fault(request, count++);
    await expectWhole(hub, (await pull(hub, dir.path)).folder);
  });

  it('outlasts a server that falls silent', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    let silences = 0;
    hub.fault = ({ host }) => (host === 'storage' && silences++ < 4 ? { kind: 'stall', after: 50_000 } : undefined);
    // On a busy machine others are silent that long, too.
    await expectWhole(hub, (await pull(hub, dir.path, { client: quickClient(hub, { timeoutMs: 250, attempts: 100 }) })).folder);
    expect(silences).toBeGreaterThan(4);
  });

  it('asks for a new link when one has expired', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    hub.linkUses = 1;
    hub.fault = ({ host }) => (host === 'storage' ? { kind: 'cut', after: 70_000 } : undefined);
    await expectWhole(hub, (await pull(hub, dir.path)).folder);
    expect(hub.requests.filter(({ host }) => host === 'storage').length).toBeGreaterThan(6);
  });

  it.each<[string, HubFault, string]>([
    ['another content under the same name', { kind: 'corrupt', at: 1234 }, 'ERR_INTEGRITY'],
    ['another length', { kind: 'total', more: 5 }, 'ERR_INTEGRITY'],
    ['another digest', { kind: 'headers', headers: { 'X-Linked-Etag': `"${'0'.repeat(64)}"` } }, 'ERR_INTEGRITY'],
    ['another commit', { kind: 'headers', headers: { 'X-Repo-Commit': '1'.repeat(40) } }, 'ERR_INTEGRITY'],
    ['a redirect to a file', { kind: 'headers', headers: { Location: 'file:///etc/passwd' } }, 'ERR_NETWORK'],
    ['a wait of an hour', { kind: 'status', status: 429, headers: { 'Retry-After': '3600' } }, 'ERR_NETWORK'],
    ['errors without an end', { kind: 'status', status: 500 }, 'ERR_NETWORK'],
    ['silence without an end', { kind: 'stall', after: 0 }, 'ERR_NETWORK'],
  ])('gives up on %s, and leaves nothing that looks whole', async (_name, fault, code) => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    hub.fault = (request) => (ofWeights(request) ? fault : undefined);
    const timing = fault.kind === 'stall' ? { timeoutMs: 500 } : {};
    const error = await failure(() => pull(hub, dir.path, { client: quickClient(hub, { attempts: 2, ...timing }) }));
    expect([error.code, error.hint === undefined]).toEqual([code, false]);
    const left = await readdir(join(dir.path, 'models--org--small/blobs')).catch(() => []);
    const etags = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'].map((name) =>
      etagOf(name, hub.repos.get(NAME)!.files.get(name)!),
    );
    expect(left.filter((name) => etags.includes(name))).toEqual([]);
    hub.fault = undefined;
    await expectWhole(hub, (await pull(hub, dir.path)).folder);
  });

  it('stops when it is told to, and goes on later', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const stop = new AbortController();
    hub.fault = ({ host }) => (host === 'storage' ? { kind: 'stall', after: 65_536 } : undefined);
    const reason = new Error('enough');
    const work = pull(hub, dir.path, {
      signal: stop.signal,
      client: quickClient(hub, { timeoutMs: 60_000 }),
      onProgress: ({ done }) => void (done > 100_000 && stop.abort(reason)),
    });
    await expect(work).rejects.toBe(reason);
    hub.fault = undefined;
    const { folder, received } = await pull(hub, dir.path);
    await expectWhole(hub, folder);
    expect(received).toBeLessThan(350_000);
  });

  it('is the same whatever fails, and in whatever order', async () => {
    await using hub = await smallHub();
    const kinds = fc.oneof(
      fc.record({ kind: fc.constant('cut' as const), after: fc.integer({ min: 0, max: 150_000 }) }),
      fc.constant<HubFault>({ kind: 'reset' }),
      fc.constant<HubFault>({ kind: 'status', status: 502 }),
      fc.constant(undefined),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(kinds, { minLength: 1, maxLength: 12 }), fc.integer({ min: 1, max: 4 }), async (faults, parallel) => {
        await using dir = await temporaryFolder();
        const queue = [...faults];
        hub.fault = () => queue.shift();
        const client = quickClient(hub, { attempts: 20 });
        await expectWhole(hub, (await pull(hub, dir.path, { client, parallel })).folder);
      }),
      { seed: 5, numRuns: 10 },
    );
  });
});

describe('a full disk', () => {
  it('is told before anything is fetched where it can be foreseen', async (context) => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    using mounted = mount(dir.path, 'size=200k');
    needs(context, 'mounts', mounted !== undefined, 'mounting a tmpfs needs a right that this user lacks');
    expect(await failure(() => pull(hub, dir.path))).toMatchObject({
      code: 'ERR_IO',
      message: expect.stringMatching(/cannot download into .*: \d+ bytes are needed, \d+ are free on that disk/),
      details: { errno: 'ENOSPC' },
    });
    expect(hub.requests.some(ofWeights)).toBe(false);
  });

  it('in the middle of a download leaves nothing that looks whole, and with room again it goes on', async (context) => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    using mounted = mount(dir.path, 'size=700k');
    needs(context, 'mounts', mounted !== undefined, 'mounting a tmpfs needs a right that this user lacks');
    const other = join(dir.path, 'other');
    let filled = false;
    const onProgress = ({ done }: { readonly done: number }) => {
      if (filled || done === 0) return;
      filled = true;
      try {
        writeFileSync(other, new Uint8Array(700_000));
      } catch {
        // what was left is taken
      }
    };
    expect(await failure(() => pull(hub, dir.path, { onProgress }))).toMatchObject({
      code: 'ERR_IO',
      message: expect.stringMatching(/the disk is full/),
      details: { errno: 'ENOSPC' },
    });
    expect(await failure(() => downloadModel(NAME, { settings: settingsOf(hub, dir.path, { offline: true }) }))).toMatchObject({
      code: 'ERR_OFFLINE_MISS',
    });
    await rm(other);
    const { folder } = await pull(hub, dir.path);
    await expectWhole(hub, folder);
  });
});

describe('strangers', () => {
  it('a token goes to the hub alone', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    hub.repos.get(NAME)!.private = true;
    const { folder } = await pull(hub, dir.path, { client: quickClient(hub, { token: HUB_TOKEN }) });
    await expectWhole(hub, folder);
    const told = (host: string) =>
      new Set(hub.requests.filter((request) => request.host === host).map(({ authorization }) => authorization));
    expect([told('hub'), told('storage')]).toEqual([new Set([`Bearer ${HUB_TOKEN}`]), new Set([undefined])]);
  });

  it.each<[string, string, string]>([
    ['private', 'ERR_NOT_FOUND', 'HF_TOKEN'],
    ['gated', 'ERR_GATED_REPO', 'Agree to them on'],
  ])('%s models are named as what they are', async (kind, code, hint) => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    Object.assign(hub.repos.get(NAME)!, { [kind]: true });
    const error = await failure(() => pull(hub, dir.path));
    expect([error.code, error.hint]).toEqual([code, expect.stringContaining(hint)]);
    const refused = await failure(() => pull(hub, dir.path, { client: quickClient(hub, { token: 'hf_wrong' }) }));
    expect(refused.code).toBe(code);
    expect(JSON.stringify([refused.message, refused.hint, refused.details])).not.toContain('hf_wrong');
  });

  it('unknown names and revisions are told apart', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    expect((await failure(() => pull(hub, dir.path, { name: 'org/other' }))).message).toContain('there is no model org/other');
    expect((await failure(() => pull(hub, dir.path, { name: `${NAME}@v9` }))).message).toContain('no such revision');
    await hub[Symbol.asyncDispose]();
    expect(await failure(() => pull(hub, dir.path))).toMatchObject({
      code: 'ERR_NETWORK',
      hint: expect.stringContaining('HF_HUB_OFFLINE'),
    });
  });

  it.each(['../../evil.json', 'a/../../evil.json', '/etc/evil.json', 'C:\\evil.json', 'a\\..\\..\\evil.json'])(
    'a file called %s is refused',
    async (name) => {
      await using hub = await smallHub();
      await using dir = await temporaryFolder();
      hub.repos.get(NAME)!.files.set(name, noise(10, 1));
      expect((await failure(() => pull(hub, join(dir.path, 'cache'), { allow: ['*.json'] }))).code).toBe('ERR_BAD_CHECKPOINT');
      expect(await readdir(dir.path)).toEqual([]);
      await expectWhole(hub, (await pull(hub, join(dir.path, 'cache'))).folder); // nobody asked for it
    },
  );

  it.each<[string, object]>([
    ['a digest that is a path', { oid: '../../x' }],
    ['no size', { size: -1 }],
    ['a size that is a text', { size: '5' }],
  ])('a listing with %s is refused', async (_name, wrong) => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const swapped: typeof fetch = async (url, init) => {
      const response = await fetch(url, init);
      if (!String(url).includes('/tree/')) return response;
      const items = (await response.json()) as object[];
      return Response.json(items.map((item) => ({ ...item, lfs: undefined, ...wrong })));
    };
    expect((await failure(() => pull(hub, dir.path, { client: quickClient(hub, { fetch: swapped }) }))).code).toBe('ERR_BAD_CHECKPOINT');
  });

  it('a missing shard, and an index that leads elsewhere', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const { files } = hub.repos.get(NAME)!;
    const shard = files.get(SHARD)!;
    files.delete(SHARD);
    expect((await failure(() => pull(hub, dir.path))).message).toContain(SHARD);
    files.set(SHARD, shard);
    files.set('model.safetensors.index.json', new TextEncoder().encode('{"weight_map": {"a": "../../x.safetensors"}}'));
    expect((await failure(() => pull(hub, dir.path))).code).toBe('ERR_BAD_CHECKPOINT');
  });

  it('lists of many pages are read to their end', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    hub.pageSize = 2;
    await expectWhole(hub, (await pull(hub, dir.path)).folder);
  });
});

describe('the cache', () => {
  it('is listed and given back', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    expect(await listHubCache(join(dir.path, 'nowhere'))).toEqual([]);
    const { folder, received } = await pull(hub, dir.path);
    const [repo, ...others] = await listHubCache(dir.path);
    expect(others).toEqual([]);
    expect(repo).toMatchObject({ name: NAME, commits: [commitOf(hub.repos.get(NAME)!)], refs: ['main'], unfinished: 0 });
    expect(repo!.bytes).toBe(received);
    await removeFromHubCache(dir.path, NAME);
    await expect(stat(folder)).rejects.toThrow('ENOENT');
    expect((await failure(() => removeFromHubCache(dir.path, NAME))).code).toBe('ERR_NOT_FOUND');
    expect((await failure(() => removeFromHubCache(dir.path, '../x'))).code).toBe('ERR_BAD_ARGUMENT');
  });

  it('a content that was shortened is fetched again', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const { folder } = await pull(hub, dir.path);
    await truncate(join(folder, SHARD), 1000);
    await expectWhole(hub, (await pull(hub, dir.path)).folder);
  });

  it('two at a time fetch each content once', async () => {
    await using hub = await smallHub();
    await using dir = await temporaryFolder();
    const both = await Promise.all([pull(hub, dir.path), pull(hub, dir.path)]);
    for (const { folder } of both) await expectWhole(hub, folder);
    const sizes = WANTED.map((name) => (hub.repos.get(NAME)!.files.get(name) as Uint8Array).byteLength);
    expect(both[0].received + both[1].received).toBe(sizes.reduce((a, b) => a + b));
  });
});
