// The queue with real Redis: workers that are killed at random give the folder that one process writes.

import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { digests, ensureBuilt, lowbit, TINY } from '../../e2e/cli-process.ts';
import { needs } from '../../fixtures/needs.ts';

const here = fileURLToPath(new URL('.', import.meta.url));
const hasRedis = spawnSync('redis-server', ['--version']).status === 0;

const WORKERS = 3;
const SHARDS = 12;
const KILLS = 20;

let dir: string;
let redis: ChildProcessWithoutNullStreams | undefined;
let env: NodeJS.ProcessEnv;
const children = new Set<ChildProcessWithoutNullStreams>();

beforeAll(async () => {
  if (!hasRedis) return;
  ensureBuilt();
  dir = await mkdtemp(join(tmpdir(), 'lowbit-scale-'));
  const port = await freePort();
  redis = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', dir]);
  await said(redis, /Ready to accept connections/);
  env = { ...process.env, REDIS_URL: `redis://127.0.0.1:${port}`, LOCK_MS: '2000', RETRY_MS: '500' };
}, 120_000);
afterAll(async () => {
  for (const child of children) child.kill('SIGKILL');
  redis?.kill('SIGKILL');
  if (dir !== undefined) await rm(dir, { recursive: true, force: true });
});

/** Whole numbers below n, the same in every run. */
function dice(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

/** Resolves when the process has said it, rejects if it ends before. */
function said(child: ChildProcessWithoutNullStreams, what: RegExp): Promise<void> {
  return new Promise((resolve, reject) => {
    let text = '';
    const read = (chunk: Buffer) => {
      text += chunk;
      if (what.test(text)) resolve();
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    child.on('close', (code) => reject(new Error(`ended with ${code}: ${text}`)));
  });
}

function script(name: string, ...args: string[]): ChildProcessWithoutNullStreams {
  const child = spawn(process.execPath, [join(here, name), ...args], { env });
  children.add(child);
  child.on('close', () => children.delete(child));
  return child;
}

interface Tally {
  kills: number;
  readonly killed: Set<string>;
  running: boolean;
  readonly lines: string[];
}

/** Keeps one worker alive. While there are kills to spend, it is killed when a share of its own has come as far as the dice say. */
async function worker(tally: Tally, roll: (n: number) => number): Promise<void> {
  while (tally.running) {
    const child = script('worker.mjs');
    const fate = tally.kills < KILLS ? 1 + roll(95) : 200;
    const read = (chunk: Buffer) => {
      for (const line of String(chunk).trim().split('\n')) {
        tally.lines.push(line);
        const [, shard, percent] = /^shard (\d+)\/\d+: (\d+) %$/.exec(line) ?? [];
        if (shard === undefined || Number(percent) < fate || tally.kills >= KILLS || child.killed) continue;
        tally.kills++;
        tally.killed.add(shard);
        child.kill('SIGKILL');
      }
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
    const ended = new Promise((resolve) => child.on('close', resolve));
    const stop = setInterval(() => tally.running || child.kill('SIGKILL'), 100);
    await ended;
    clearInterval(stop);
  }
}

test(`${WORKERS} workers, ${SHARDS} shards, ${KILLS} kills: one identical checkpoint`, { timeout: 600_000 }, async (context) => {
  needs(context, 'redis', hasRedis, 'there is no redis-server (apt-get install redis-server)');
  const [one, out] = [join(dir, 'one'), join(dir, 'out')];
  const single = await lowbit([
    'quantize',
    TINY,
    '-o',
    one,
    '-m',
    'nf4',
    '--double-quant',
    '--shard-size',
    '1MB',
    '--backend',
    'reference',
  ]);
  expect(single).toMatchObject({ code: 0 });

  const tally: Tally = { kills: 0, killed: new Set(), running: true, lines: [] };
  const roll = dice(20261130);
  const workers = Array.from({ length: WORKERS }, () => worker(tally, roll));
  const queue = script('queue.mjs', TINY, out, String(SHARDS));
  let told = '';
  queue.stdout.on('data', (chunk) => {
    told += chunk;
  });
  queue.stderr.on('data', (chunk) => {
    told += chunk;
  });
  const code = await new Promise((resolve) => queue.on('close', resolve));
  tally.running = false;
  await Promise.all(workers);
  expect({ code, told }, tally.lines.join('\n')).toMatchObject({ code: 0, told: expect.stringContaining('"shards":12') });
  console.log(`${tally.kills} kills in ${tally.killed.size} shards of ${SHARDS}`);
  expect(tally.kills).toBe(KILLS);
  expect(digests(out)).toEqual(digests(one));
  expect((await readdir(dir)).sort()).toEqual(['one', 'out']);
});
