// Quantizing from a hub, killed where it happens to be: what is there is never taken for a whole model, and the next run goes on to the same bytes.
// bench/hub-kills.mjs does it a hundred times.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type HubServer, startHub } from '../fixtures/hub-server.ts';
import { digests, ensureBuilt, lowbit, lowbitJson, main, TINY } from './cli-process.ts';

const NAME = 'org/tiny';
let hub: HubServer;
let dir = '';
let env: Record<string, string> = {};
beforeAll(async () => {
  ensureBuilt();
  hub = await startHub();
  hub.repos.set(NAME, { files: new Map(readdirSync(TINY).map((name) => [name, new Uint8Array(readFileSync(join(TINY, name)))])) });
  dir = mkdtempSync(join(tmpdir(), 'lowbit-hub-kills-'));
  env = { HF_ENDPOINT: hub.url, HF_HOME: join(dir, 'hf'), HF_TOKEN: '', HF_HUB_OFFLINE: '', HF_HUB_CACHE: '', XDG_CACHE_HOME: '' };
});
afterAll(async () => {
  rmSync(dir, { recursive: true, force: true });
  await hub[Symbol.asyncDispose]();
});

const ARGS = ['quantize', NAME, '-m', 'hqq', '--resume', '--threads', '1', '--backend', 'reference', '--json', '-o'];

/** Kills the command once so many bytes have been sent to it. True if it was killed, not done. */
async function killedAfter(bytes: number, out: string): Promise<boolean> {
  const child = spawn(process.execPath, [main, ...ARGS, out], { env: { ...process.env, ...env }, stdio: 'ignore' });
  const from = hub.requests.length;
  const watch = setInterval(() => {
    if (hub.requests.slice(from).reduce((sum, { sent }) => sum + sent, 0) >= bytes) child.kill('SIGKILL');
  }, 1);
  const signal = await new Promise((done) => child.on('close', (_, signal) => done(signal)));
  clearInterval(watch);
  return signal === 'SIGKILL';
}

it.skipIf(process.platform === 'win32')('goes on after kills, to the bytes of a run that nobody disturbed', async () => {
  const calm = join(dir, 'calm');
  expect((await lowbit([...ARGS, calm], { env })).code).toBe(0);
  const out = join(dir, 'killed');
  let kills = 0;
  for (const bytes of [1, 2_000_000, 4_000_000, 6_000_000]) {
    kills += (await killedAfter(bytes, out)) ? 1 : 0;
    if (existsSync(out)) expect(digests(out)).toEqual(digests(calm));
  }
  expect(kills).toBeGreaterThanOrEqual(3);
  const { code, json, stderr } = await lowbitJson<{ resumed: number }>([...ARGS, out], { env });
  expect(code, stderr).toBe(0);
  expect(json.resumed).toBeGreaterThan(0);
  expect(digests(out)).toEqual(digests(calm));
  expect(existsSync(`${out}.partial`)).toBe(false);
});
