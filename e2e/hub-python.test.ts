// One cache for both: what `huggingface_hub` for Python has downloaded is not downloaded again here, and the reverse. Runs where Python has that package
// (LOWBIT_PYTHON names another interpreter than python3).

import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { downloadModel, type HubSettings, listHubCache } from '@lowbit/hub';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type HubRequest, type HubServer, startHub } from '../fixtures/hub-server.ts';
import { needs } from '../fixtures/needs.ts';
import { TINY } from './cli-process.ts';

const python = process.env.LOWBIT_PYTHON ?? 'python3';
const NAME = 'org/tiny';
let hub: HubServer;
let dir = '';
let present = false;

beforeAll(async () => {
  present = (await run('import huggingface_hub', {})).code === 0;
  hub = await startHub();
  const files = new Map(readdirSync(TINY).map((name) => [name, new Uint8Array(readFileSync(join(TINY, name)))]));
  hub.repos.set(NAME, { files });
  dir = mkdtempSync(join(tmpdir(), 'lowbit-hub-python-'));
});
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true });
  await hub[Symbol.asyncDispose]();
});

/** Runs a script; the server lives in this process, so it must not wait for it. */
function run(script: string, env: Readonly<Record<string, string>>): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(python, ['-c', script], {
    env: { ...process.env, HF_HUB_DISABLE_PROGRESS_BARS: '1', HF_HUB_DISABLE_XET: '1', ...env },
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (text) => (stdout += text));
  child.stderr.on('data', (text) => (stderr += text));
  return new Promise((resolve) => {
    child.on('error', () => resolve({ code: -1, stdout, stderr }));
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

async function snapshot(cache: string, env: Readonly<Record<string, string>> = {}): Promise<string> {
  const script = `from huggingface_hub import snapshot_download; print(snapshot_download(${JSON.stringify(NAME)}))`;
  const { code, stdout, stderr } = await run(script, { HF_ENDPOINT: hub.url, HF_HUB_CACHE: cache, ...env });
  expect(code, stderr).toBe(0);
  return stdout.trim().split('\n').at(-1)!;
}

const settings = (cacheDir: string, offline = false): HubSettings => ({
  ...{ endpoint: hub.url, cacheDir, token: undefined, tokenFrom: 'HF_TOKEN', offline, timeoutMs: 10_000 },
});
const content = ({ host, method }: HubRequest): boolean => host === 'storage' && method === 'GET';

it('reads what Python has downloaded', async (context) => {
  needs(context, 'huggingface_hub', present, `${python} has no huggingface_hub`);
  const cache = join(dir, 'of-python');
  const folder = await snapshot(cache);
  const before = hub.requests.length;
  const { folder: same, received } = await downloadModel(NAME, { settings: settings(cache) });
  expect([same, received, hub.requests.slice(before).some(content)]).toEqual([folder, 0, false]);
  expect((await downloadModel(NAME, { settings: settings(cache, true) })).folder).toBe(folder);
});

it('writes what Python takes for its own', async (context) => {
  needs(context, 'huggingface_hub', present, `${python} has no huggingface_hub`);
  const cache = join(dir, 'of-lowbit');
  const { folder } = await downloadModel(NAME, { settings: settings(cache), allow: ['*'] });
  const before = hub.requests.length;
  expect(await snapshot(cache)).toBe(folder);
  expect(hub.requests.slice(before).some(content)).toBe(false);
  expect(await snapshot(cache, { HF_HUB_OFFLINE: '1' })).toBe(folder);
  const script =
    'from huggingface_hub import scan_cache_dir; i = scan_cache_dir(); print([r.repo_id for r in i.repos], i.size_on_disk, len(i.warnings))';
  const scan = await run(script, { HF_HUB_CACHE: cache });
  const [repo] = await listHubCache(cache);
  expect(scan.stdout.trim(), scan.stderr).toBe(`['${NAME}'] ${repo!.bytes} 0`);
});
