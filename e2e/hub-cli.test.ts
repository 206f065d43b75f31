// The command and a hub: models by name in every command, quantized while they are fetched, pushed, and found again in the cache.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
  const { code, json } = await lowbitJson<QuantizeModelReport>(['quantize', NAME, '-o', join(dir, 'remote')], { env });
  expect(code).toBe(0);
  expect(json.source).toBe(inspected.json.path);
  expect(existsSync(join(dir, 'hf'))).toBe(false);
  expect((await lowbit(['quantize', TINY, '-o', join(dir, 'local')])).code).toBe(0);
  expect(digests(join(dir, 'remote'))).toEqual(digests(join(dir, 'local')));
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
