// The command and a hub: models by name in every command, quantized while they are fetched, pushed, and found again in the cache.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CacheReport, DoctorReport, InspectReport, LoginReport, PullReport, PushReport, QuantizeModelReport } from 'lowbit';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { HUB_TOKEN, type HubServer, startHub } from '../fixtures/hub-server.ts';
import { digests, ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

const NAME = 'org/tiny-llama';
let hub: HubServer;
let dir = '';
let env: Record<string, string> = {};
beforeAll(async () => {
  ensureBuilt();
  hub = await startHub();
  const names = readdirSync(TINY);
  const files = new Map(names.map((name) => [name, new Uint8Array(readFileSync(join(TINY, name)))]));
  hub.repos.set(NAME, { files, info: { pipeline_tag: 'text-generation', cardData: { license: 'mit' } } });
  dir = mkdtempSync(join(tmpdir(), 'lowbit-hub-cli-'));
  env = { HF_ENDPOINT: hub.url, HF_HOME: join(dir, 'hf'), HF_TOKEN: '', HF_HUB_OFFLINE: '', HF_HUB_CACHE: '', XDG_CACHE_HOME: '' };
});
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true });
  await hub[Symbol.asyncDispose]();
});

it('inspects and quantizes without a copy on disk, to the bytes of a local run', async () => {
  const inspected = await lowbitJson<InspectReport>(['inspect', NAME], { env });
  expect(inspected.json).toMatchObject({
    path: expect.stringMatching(/^org\/tiny-llama@[0-9a-f]{40}$/),
    architecture: { modelType: 'llama' },
  });
  const fetched = hub.requests.reduce((sum, { sent }) => sum + sent, 0);
  expect(fetched).toBeLessThan(2_000_000);
  const { code, json } = await lowbitJson<QuantizeModelReport>(['quantize', NAME, '-o', join(dir, 'remote'), '-m', 'hqq'], { env });
  expect(code).toBe(0);
  expect(json.source).toBe(inspected.json.path);
  expect(existsSync(join(dir, 'hf'))).toBe(false);
  expect((await lowbit(['quantize', TINY, '-o', join(dir, 'local'), '-m', 'hqq'])).code).toBe(0);
  expect(digests(join(dir, 'remote'))).toEqual(digests(join(dir, 'local')));
});

it('fetches a model first where the default has to read it as a whole, and says so', async () => {
  const few = ['--skip', 'model.layers.{1,2,3,4,5}.**'];
  const own = { ...env, HF_HOME: join(dir, 'hf-default') };
  const plan = await lowbit(['quantize', NAME, '--dry-run', ...few], { env: own });
  expect([plan.code, existsSync(own.HF_HOME), plan.stderr]).toEqual([0, false, '']);
  const out = join(dir, 'remote-default');
  const made = await lowbit(['quantize', NAME, '-o', out, ...few], { env: own });
  expect(made.code, made.stderr).toBe(0);
  expect(made.stderr).toMatch(
    /^org\/tiny-llama@[0-9a-f]{40} is fetched into the cache first, 11\.5 MB of weights, .* With --importance none it is quantized while it is fetched\.$/m,
  );
  const again = await lowbit(['quantize', NAME, '-o', out, '--overwrite', ...few], { env: own });
  expect([again.code, again.stderr]).toEqual([0, expect.not.stringContaining('is fetched')]);
  expect((await lowbit(['quantize', TINY, '-o', join(dir, 'local-default'), ...few])).code).toBe(0);
  expect(digests(out)).toEqual(digests(join(dir, 'local-default')));
});

it('pulls, runs offline by name, lists and removes', async () => {
  const pulled = await lowbitJson<PullReport>(['pull', NAME], { env });
  expect([pulled.code, pulled.json.received]).toEqual([0, pulled.json.bytes]);
  const offline = { ...env, HF_HUB_OFFLINE: '1' };
  const answer = await lowbit(['generate', NAME, '-p', 'It was', '--max-tokens', '4', '--temp', '0', '--backend', 'reference'], {
    env: offline,
  });
  expect(answer.code, answer.stderr).toBe(0);
  const missing = await lowbitJson(['generate', 'org/other', '-p', 'x'], { env: offline });
  expect([missing.code, missing.json.error.code]).toEqual([1, 'ERR_OFFLINE_MISS']);
  const { downloads } = (await lowbitJson<CacheReport>(['cache'], { env })).json;
  expect(downloads).toMatchObject({ dir: join(dir, 'hf/hub'), models: [{ name: NAME, bytes: pulled.json.bytes, refs: ['main'] }] });
  expect((await lowbit(['cache', 'ls'], { env })).stdout).toContain('Models, shared with Python');
  expect((await lowbit(['cache', 'rm', NAME], { env })).code).toBe(2); // no terminal to ask on
  expect((await lowbit(['cache', 'rm', NAME, '--yes'], { env })).stdout).toContain(`Removed ${NAME}`);
  expect(existsSync(pulled.json.folder)).toBe(false);
});

it('pushes what it has quantized, after a look at it', async () => {
  const args = ['push', join(dir, 'remote'), 'tester/tiny-4bit', '--base-model', NAME];
  const asked = await lowbitJson(args, { env: { ...env, HF_TOKEN: HUB_TOKEN } });
  expect([asked.code, asked.json.error.code]).toEqual([2, 'ERR_USAGE']);
  const look = await lowbit([...args, '--dry-run'], { env });
  expect(look.stdout).toContain('Nothing was sent');
  expect(look.stdout).toMatch(/license: mit\nbase_model: org\/tiny-llama\nbase_model_relation: quantized/);
  expect(hub.repos.has('tester/tiny-4bit')).toBe(false);
  const pushed = await lowbitJson<PushReport>([...args, '--yes', '--private'], { env: { ...env, HF_TOKEN: HUB_TOKEN } });
  expect([pushed.code, pushed.json.url]).toEqual([0, `${hub.url}/tester/tiny-4bit`]);
  const { files } = hub.repos.get('tester/tiny-4bit')!;
  expect(Buffer.from(files.get('model.safetensors') as Uint8Array).equals(readFileSync(join(dir, 'remote/model.safetensors')))).toBe(true);
});

it('quantizes and pushes in one step, keeping nothing, on a network that fails', async () => {
  const work = mkdtempSync(join(dir, 'push-'));
  const tokened = { ...env, HF_TOKEN: HUB_TOKEN };
  // Other bytes than those that the hub has from the push before.
  const args = ['quantize', NAME, '-m', 'hqq', '-b', '8', '--push', 'tester/one-step', '--private'];
  const local = join(dir, 'local-8');
  expect((await lowbit(['quantize', TINY, '-m', 'hqq', '-b', '8', '-o', local])).code).toBe(0);
  const quantizing = () => hub.requests.length;

  // What must not fail after hours fails before anything is fetched.
  const before = quantizing();
  const refused = [
    await lowbitJson(args, { env: tokened, cwd: work }), // nobody to ask
    await lowbitJson(['quantize', NAME, '--push', 'no name', '--yes'], { env: tokened, cwd: work }),
    await lowbitJson(['quantize', NAME, '-o', 'x', '--private'], { env: tokened, cwd: work }),
    await lowbitJson([...args, '--yes', '--overwrite'], { env: tokened, cwd: work }),
    await lowbitJson([...args, '--yes'], { env, cwd: work }), // no token
  ];
  expect(refused.map(({ code, json }) => [code, json.error.code])).toEqual([
    [2, 'ERR_USAGE'],
    [2, 'ERR_USAGE'],
    [2, 'ERR_USAGE'],
    [2, 'ERR_USAGE'],
    [1, 'ERR_ACCESS_DENIED'],
  ]);
  expect(quantizing()).toBe(before);
  const wrong = await lowbitJson([...args, '--yes'], { env: { ...env, HF_TOKEN: 'hf_wrong' }, cwd: work });
  expect([wrong.json.error.code, JSON.stringify(wrong).includes('hf_wrong')]).toEqual(['ERR_ACCESS_DENIED', false]);

  const look = await lowbit([...args, '--dry-run'], { env, cwd: work });
  expect(look.code, look.stderr).toBe(0);
  expect(look.stdout).toMatch(/tester\/one-step \(private\)[\s\S]*README\.md[\s\S]*model\.safetensors[\s\S]*base_model: org\/tiny-llama\n/);
  expect(look.stdout).toContain('Nothing was written');
  expect([readdirSync(work), hub.repos.has('tester/one-step')]).toEqual([[], false]);

  // Uploads that the storage refuses: nothing is there, and the model stays where the error says.
  hub.fault = ({ method }) => (method === 'PUT' ? { kind: 'status', status: 403 } : undefined);
  const failed = await lowbitJson([...args, '--yes'], { env: tokened, cwd: work });
  expect([failed.code, failed.json.error.hint]).toEqual([1, expect.stringContaining('lowbit push')]);
  expect([readdirSync(work), hub.repos.get('tester/one-step')?.files.size ?? 0]).toEqual([['one-step'], 0]);
  expect(digests(join(work, 'one-step'))).toEqual(digests(local));
  rmSync(join(work, 'one-step'), { recursive: true });

  // Cut connections, full queues and failing uploads on the way.
  let count = 0;
  hub.fault = ({ method }) => {
    if (method === 'PUT') return count++ < 2 ? { kind: 'status', status: 503 } : undefined;
    return method === 'GET' && count++ % 3 === 0 ? { kind: 'cut', after: 50_000 } : undefined;
  };
  const done = await lowbitJson<{ source: string; pushed: PushReport }>([...args, '--yes'], { env: tokened, cwd: work });
  hub.fault = undefined;
  expect(done.code, done.stderr).toBe(0);
  expect(done.json.pushed).toMatchObject({ to: 'tester/one-step', url: `${hub.url}/tester/one-step` });
  expect(readdirSync(work)).toEqual([]);
  const there = hub.repos.get('tester/one-step')!;
  expect(there.private).toBe(true);
  for (const [name, content] of there.files) {
    if (name === 'README.md') continue;
    expect(Buffer.from(content as Uint8Array).equals(readFileSync(join(local, name))), name).toBe(true);
  }
  const card = Buffer.from(there.files.get('README.md') as Uint8Array).toString();
  expect(card).toMatch(/license: mit\nbase_model: org\/tiny-llama\nbase_model_relation: quantized/);
  expect(card).toContain(`at commit \`${done.json.source.split('@')[1]}\``);
  expect(card).toMatch(/squared error of the weights: [\d.]+[\s\S]*## Loads in/);
});

it('pushes what a method of a stranger made, and tells how to try again', async () => {
  const work = mkdtempSync(join(dir, 'push-method-'));
  const tokened = { ...env, HF_TOKEN: HUB_TOKEN };
  const plugin = fileURLToPath(new URL('../examples/method-plugin', import.meta.url));
  const args = ['quantize', TINY, '-m', plugin, '--push', 'tester/by-plugin', '--yes'];
  hub.fault = ({ method }) => (method === 'PUT' ? { kind: 'status', status: 403 } : undefined);
  const failed = await lowbitJson(args, { env: tokened, cwd: work });
  hub.fault = undefined;
  const importance = ['-b', '4', '--preset', 'best4', '--resume'];
  hub.fault = ({ method }) => (method === 'PUT' ? { kind: 'status', status: 403 } : undefined);
  const kept = await lowbitJson(['quantize', TINY, '--push', 'tester/weighed', '--yes', ...importance], { env: tokened, cwd: work });
  hub.fault = undefined;
  expect([kept.code, readdirSync(work).sort()]).toEqual([1, ['by-plugin', 'weighed']]);
  rmSync(join(work, 'weighed'), { recursive: true });
  const again = `lowbit push ${join(work, 'by-plugin')} tester/by-plugin --plugin ${plugin}`;
  expect([failed.code, failed.json.error.hint]).toEqual([1, expect.stringContaining(again)]);
  const pushed = await lowbitJson<PushReport>([...again.split(' ').slice(1), '--yes'], { env: tokened, cwd: work });
  expect([pushed.code, pushed.json.card]).toEqual([0, expect.stringContaining('- rtn\n')]);
  rmSync(join(work, 'by-plugin'), { recursive: true });
  expect((await lowbit([...args, '-b', '8'], { env: tokened, cwd: work })).code).toBe(0);
  expect(readdirSync(work)).toEqual([]);
  expect(hub.repos.get('tester/by-plugin')!.files.has('model.safetensors')).toBe(true);
});

it('puts what was measured into the card', async () => {
  const ids = join(dir, 'ids.json');
  writeFileSync(ids, JSON.stringify([0, 5, 300, 17, 44, 1000, 7, 7, 90, 12, 55, 230]));
  const quality = join(dir, 'remote', 'quality.json');
  const compared = await lowbit(['compare', join(dir, 'remote'), TINY, '--ids', ids, '--out', quality, '--backend', 'reference']);
  expect(compared.code, compared.stderr).toBe(0);
  expect(JSON.parse(readFileSync(quality, 'utf8'))).toMatchObject({ text: 'ids.json', kl: expect.any(Number) });
  const args = ['push', join(dir, 'remote'), 'tester/measured', '--dry-run'];
  const { json } = await lowbitJson<PushReport>(args, { env });
  expect(json.card).toMatch(
    /model-index:\n- name: measured[\s\S]*## Quality\n\nMeasured on 11 tokens of ids\.json[\s\S]*\| perplexity \| /,
  );
  expect(json.files.map(({ name }) => name)).not.toContain('quality.json');
  writeFileSync(quality, '{"kl": "none"}');
  const damaged = await lowbitJson(args, { env });
  expect([damaged.code, damaged.json.error.code]).toEqual([1, 'ERR_BAD_ARGUMENT']);
  rmSync(quality);
});

it('takes a GGUF file of a repository, in ranges and downloaded', async () => {
  hub.repos.set('org/files', {
    files: new Map([['small.gguf', new Uint8Array(readFileSync(new URL('../fixtures/golden/gguf/tiny.gguf', import.meta.url)))]]),
    info: {},
  });
  const inspected = await lowbitJson<InspectReport>(['inspect', 'org/files/small.gguf'], { env });
  expect(inspected.json).toMatchObject({
    path: expect.stringMatching(/^org\/files@[0-9a-f]{40}\/small\.gguf$/),
    architecture: { modelType: 'llama' },
  });
  const out = join(dir, 'of-gguf');
  const quantized = await lowbitJson(['quantize', 'org/files/small.gguf', '-o', out, '-g', '16'], { env });
  expect(quantized.code, quantized.stderr).toBe(0);
  const text = await lowbit(['generate', out, '-p', 'ab ab', '--max-tokens', '3', '--temp', '0', '--backend', 'reference']);
  expect(text.code, text.stderr).toBe(0);
  const whole = await lowbit(
    ['generate', 'org/files/small.gguf', '-p', 'ab ab', '--max-tokens', '3', '--temp', '0', '--backend', 'reference'],
    { env },
  );
  expect(whole.code, whole.stderr).toBe(0);
  const missing = await lowbitJson(['inspect', 'org/files/large.gguf'], { env });
  expect([missing.code, missing.json.error.code, missing.json.error.hint]).toEqual([
    1,
    'ERR_NOT_FOUND',
    expect.stringMatching(/^It has small\.gguf\. Nothing here has that name/),
  ]);
  const card = await lowbitJson<{ push: PushReport }>(['quantize', 'org/files/small.gguf', '-g', '16', '--push', 'tester/x', '--dry-run'], {
    env,
  });
  expect(card.json.push.card).toContain('base_model: org/files\n');
});

it('says which token is used, and never shows it', async () => {
  const none = await lowbitJson<LoginReport>(['login'], { env });
  expect(none.json).toEqual({ endpoint: hub.url, token: null, user: null, role: null });
  const found = await lowbit(['login'], { env: { ...env, HF_TOKEN: HUB_TOKEN } });
  expect(found.stdout).toMatch(/found in HF_TOKEN[\s\S]*tester \(write\)/);
  const wrong = await lowbit(['login'], { env: { ...env, HF_TOKEN: 'hf_wrong' } });
  expect([wrong.code, wrong.stderr.includes('ERR_ACCESS_DENIED')]).toEqual([1, true]);
  const { code, json, stderr } = await lowbitJson<DoctorReport>(['doctor'], { env: { ...env, HF_TOKEN: HUB_TOKEN } });
  expect([code, json.findings.map(({ name }) => name)]).toEqual([
    0,
    ['backend cpu', 'backend reference', 'memory', 'hub', 'models', 'packed weights'],
  ]);
  expect(json.findings.find(({ name }) => name === 'hub')).toMatchObject({ state: 'good', facts: expect.stringContaining('of tester') });
  for (const text of [found.stdout, wrong.stdout, wrong.stderr, JSON.stringify(json), stderr])
    expect(text).not.toMatch(/hf_testtoken|hf_wrong/);
});
