// The browser's store in Chromium: the conformance kit of sinks and sources in a window and in a worker, tabs that are closed in mid-save, several tabs,
// a full quota, and the bytes that Node writes.

import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, quantizeCheckpoint } from '@lowbit/hub';
import { llama } from '@lowbit/models';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { type BuiltPages, buildPages } from './build-pages.ts';
import { hasChromium, launchBrowser, needsChromium, type PageServer, servePages, type TestBrowser } from './chromium.ts';

const TINY_LLAMA = fileURLToPath(new URL('../../examples/tiny-llama', import.meta.url));
let pages: BuiltPages;
let server: PageServer;
let browser: TestBrowser;

beforeAll(async () => {
  if (!hasChromium) return;
  pages = await buildPages(['store', 'store-worker']);
  server = await servePages({ '': pages.folder, 'tiny-llama': TINY_LLAMA });
  browser = await launchBrowser();
});
afterAll(async () => {
  await browser?.[Symbol.asyncDispose]();
  await server?.[Symbol.asyncDispose]();
  await pages?.[Symbol.asyncDispose]();
});
beforeEach((context) => needsChromium(context));

type Side = 'window' | 'worker';
interface Tab {
  readonly page: Page;
  /** Runs a command of pages/store-commands.ts: its value, or its error. */
  // biome-ignore lint/suspicious/noExplicitAny: pages are typed apart, with the library of the DOM
  run(name: string, ...args: readonly unknown[]): Promise<any>;
}

interface Outcome {
  readonly outcome: string;
  readonly reason?: string;
}

interface Model {
  readonly name: string;
  readonly state: string;
}

interface Reply {
  readonly value?: unknown;
  readonly error?: { readonly message: string; readonly hint?: string };
}

async function openTab(side: Side): Promise<Tab> {
  const page = await browser.context.newPage();
  await page.goto(`${server.url}/store.html`);
  return {
    page,
    async run(name, ...args) {
      const reply = (await page.evaluate(
        ([side, name, args]) =>
          (globalThis as unknown as { lowbit: Record<string, (name: string, args: unknown) => Promise<Reply>> }).lowbit[side]!(name, args),
        [side, name, args] as const,
      )) as Reply;
      if (reply.error) throw Object.assign(new Error(`${reply.error.message} ${reply.error.hint ?? ''}`), reply.error);
      return reply.value;
    },
  };
}

/** What a closed tab held is given back a moment later. */
const released = (work: () => Promise<unknown>) => vi.waitFor(work, { timeout: 20_000, interval: 50 });

const PLACES: readonly (readonly [side: Side, kind: 'opfs' | 'cache'])[] = [
  ['worker', 'opfs'],
  ['window', 'opfs'],
  ['worker', 'cache'],
];

async function states(tab: Pick<Tab, 'run'>, kind: string, name: string): Promise<readonly string[]> {
  const models: Model[] = await tab.run('models', kind);
  return models.filter((model) => model.name.startsWith(name)).map(({ state }) => state);
}

describe.each(PLACES)('in a %s, %s', (side, kind) => {
  it('passes the conformance kit of sinks and sources', async () => {
    const { page, run } = await openTab(side);
    const outcomes: Outcome[] = await run('conformance', kind);
    expect(outcomes.length).toBeGreaterThan(30);
    const skipped = outcomes.filter(({ outcome }) => outcome === 'skipped');
    expect(skipped.map(({ reason }) => reason)).toEqual(['runs cannot be resumed']); // of the sink that keeps nothing
    expect(outcomes.filter(({ outcome }) => outcome === 'failed')).toEqual([]);
    await page.close();
  });

  it('a tab that is closed in mid-save leaves work that is never a model, and that is continued or removed', async () => {
    const name = `closed-${side}-${kind}`;
    const first = await openTab(side);
    await first.run('begin', kind, name);
    await first.page.close();

    const { page, run } = await openTab(side);
    expect(await states({ run }, kind, name)).toEqual(['unfinished']);
    await expect(run('read', kind, name)).rejects.toMatchObject({ code: 'ERR_NOT_FOUND' });
    await released(() =>
      expect(run('save', kind, name)).rejects.toMatchObject({
        code: 'ERR_OUTPUT_EXISTS',
        message: expect.stringMatching(/left from an interrupted run/),
      }),
    );
    expect(await run('resume', kind, name)).toEqual(['first']);
    expect(await states({ run }, kind, name)).toEqual(['whole']);
    expect(await run('check', kind, name)).toEqual([]);

    const again = await openTab(side);
    await again.run('begin', kind, `${name}-2`);
    await again.page.close();
    await released(() => run('remove', kind, `${name}-2`));
    await run('remove', kind, name);
    expect(await states({ run }, kind, name)).toEqual([]);
    await page.close();
  });

  it('a second tab neither writes what is being written nor removes what is being read', async () => {
    const name = `tabs-${side}-${kind}`;
    const [a, b] = [await openTab(side), await openTab(side)];
    await a.run('begin', kind, name);
    await expect(b.run('save', kind, name, { overwrite: true })).rejects.toMatchObject({
      code: 'ERR_OUTPUT_EXISTS',
      message: expect.stringMatching(/another tab/),
    });
    await expect(b.run('remove', kind, name)).rejects.toMatchObject({ code: 'ERR_IO', message: expect.stringMatching(/being written/) });
    await a.page.close();
    await released(() => b.run('save', kind, name, { overwrite: true }));

    const c = await openTab(side);
    await c.run('read', kind, name);
    await expect(b.run('remove', kind, name)).rejects.toMatchObject({ code: 'ERR_IO', message: expect.stringMatching(/being read/) });
    // Replacing leaves what the other tab reads until nobody does.
    await b.run('save', kind, name, { overwrite: true });
    expect(await b.run('check', kind, name)).toEqual([]);
    await c.page.close();
    await released(() => b.run('remove', kind, name));
    expect(await states(b, kind, name)).toEqual([]);
    await b.page.close();
  });

  it('says before writing that there is no room, and leaves nothing', async () => {
    const { page, run } = await openTab(side);
    const cdp = await browser.context.newCDPSession(page);
    const name = `quota-${side}-${kind}`;
    const details = { exception: 'QuotaExceededError' };
    await expect(run('reserve', kind, name, 2 ** 45)).rejects.toMatchObject({
      code: 'ERR_IO',
      message: expect.stringMatching(/bytes are needed/),
      details,
    });
    // Chromium tells pages of more room than there is; taking it says the truth.
    await cdp.send('Storage.overrideQuotaForOrigin', { origin: server.url, quotaSize: 20_000_000 });
    try {
      await expect(run('reserve', kind, name, 50_000_000)).rejects.toMatchObject({
        code: 'ERR_IO',
        message: expect.stringMatching(/no more room/),
        details,
      });
    } finally {
      await cdp.send('Storage.overrideQuotaForOrigin', { origin: server.url });
    }
    expect(await states({ run }, kind, name)).toEqual([]);
    await page.close();
  });
});

it('writes the bytes that Node writes, and reads no more than it is asked to', async () => {
  const names = (await readdir(TINY_LLAMA)).filter((file) => /\.(json|safetensors)$/.test(file));
  const files = Object.fromEntries(
    await Promise.all(names.map(async (file) => [file, (await stat(join(TINY_LLAMA, file))).size] as const)),
  );
  const { page, run } = await openTab('worker');
  const inBrowser = await run('quantize', 'opfs', 'tiny', `${server.url}/tiny-llama`, files);
  await page.close();

  const out = await mkdtemp(join(tmpdir(), 'lowbit-node-'));
  try {
    await using source = await openCheckpoint(TINY_LLAMA);
    await quantizeCheckpoint(source, { out: join(out, 'tiny'), quantizer: hqq({ bits: 4 }), adapters: [llama] });
    const inNode = Object.fromEntries(
      await Promise.all(
        (await readdir(join(out, 'tiny'))).map(async (file) => [
          file,
          createHash('sha256')
            .update(await readFile(join(out, 'tiny', file)))
            .digest('hex'),
        ]),
      ),
    );
    expect(inBrowser).toEqual(inNode);
  } finally {
    await rm(out, { recursive: true, force: true });
  }
});
