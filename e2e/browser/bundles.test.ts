// A page of twenty lines, built by Vite, webpack and esbuild, served under a strict policy: each build runs the example model in Chromium and writes
// the tokens that Node writes. Each may be so large and no larger.

import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { createRuntime, referenceBackend } from '@lowbit/core';
import { openCheckpoint } from '@lowbit/hub';
import { llama, loadModel } from '@lowbit/models';
import { build as esbuild } from 'esbuild';
import { build as vite } from 'vite';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import webpack from 'webpack';
import { hasChromium, launchBrowser, needsChromium, servePages, type TestBrowser } from './chromium.ts';

const ROOT = fileURLToPath(new URL('.', import.meta.url));
const ENTRY = join(ROOT, 'pages/twenty-lines.js');
const TINY_LLAMA = fileURLToPath(new URL('../../examples/tiny-llama', import.meta.url));
const PROMPT = 'And the LORD said unto Moses,';
const HTML = '<!doctype html><html lang="en"><title>twenty lines</title><script type="module" src="./page.js"></script></html>';
let expected: readonly number[];
let files: Record<string, number>;
let browser: TestBrowser | undefined;

beforeAll(async () => {
  if (!hasChromium) return;
  browser = await launchBrowser();
  const names = (await readdir(TINY_LLAMA)).filter((name) => /\.(?:json|safetensors)$/.test(name));
  files = Object.fromEntries(await Promise.all(names.map(async (name) => [name, (await stat(join(TINY_LLAMA, name))).size] as const)));
  await using runtime = await createRuntime({ backends: [referenceBackend()] });
  await using checkpoint = await openCheckpoint(TINY_LLAMA);
  await using model = await loadModel(checkpoint, { runtime, adapters: [llama] });
  expected = (await model.generate({ prompt: PROMPT, maxTokens: 12, temperature: 0 })).ids;
});
afterAll(async () => {
  await browser?.[Symbol.asyncDispose]();
});

const BUNDLERS: Readonly<Record<string, (outDir: string) => Promise<unknown>>> = {
  vite: (outDir) =>
    vite({
      configFile: false,
      root: ROOT,
      logLevel: 'error',
      build: {
        outDir,
        emptyOutDir: false,
        target: 'es2022',
        rollupOptions: { input: ENTRY, output: { entryFileNames: 'page.js' } },
      },
    }),
  webpack: (outDir) =>
    new Promise((resolve, reject) => {
      const compiler = webpack({
        mode: 'production',
        context: ROOT,
        entry: ENTRY,
        target: ['web', 'es2022'],
        output: { path: outDir, filename: 'page.js' },
        performance: { hints: false },
        resolve: { tsconfig: false }, // the root's paths lead to sources for Node
      });
      compiler!.run((error, stats) => {
        compiler!.close(() => {
          if (error || stats?.hasErrors()) reject(error ?? new Error(stats!.toString({ all: false, errors: true })));
          else resolve(stats);
        });
      });
    }),
  esbuild: (outDir) =>
    esbuild({
      entryPoints: [ENTRY],
      outdir: outDir,
      entryNames: 'page',
      bundle: true,
      splitting: true,
      minify: true,
      format: 'esm',
      platform: 'browser',
      target: 'es2022',
      logLevel: 'error',
      tsconfigRaw: {},
    }),
};

/** Kilobytes, gzipped, of the scripts that the page loads: model runtime, all layouts and the tokenizer; decoders of images are chunks that it leaves. Measured:
 * 138 (esbuild), and a tenth; 146 with the decoders. */
const BUDGET = 152;

describe.each(Object.entries(BUNDLERS))('%s', (_, bundle) => {
  it('builds a page that writes what Node writes', async (context) => {
    needsChromium(context);
    const folder = await mkdtemp(join(tmpdir(), 'lowbit-bundle-'));
    try {
      await bundle(folder);
      await writeFile(join(folder, 'index.html'), HTML);
      const scripts = (await readdir(folder, { recursive: true })).filter((name) => name.endsWith('.js'));
      const texts = await Promise.all(scripts.map((name) => readFile(join(folder, name), 'utf8')));
      expect(texts.join('\n')).not.toMatch(/\beval\(|\bnew Function\(|from\s*["']node:|import\(["']node:/);

      await using server = await servePages({ '': folder, model: TINY_LLAMA });
      const page = await browser!.context.newPage();
      const complaints: string[] = [];
      const loaded = new Set<string>();
      page.on('request', (request) => void loaded.add(new URL(request.url()).pathname.slice(1)));
      page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
      page.on('pageerror', (error) => complaints.push(error.message));
      await page.addInitScript(`globalThis.files = ${JSON.stringify(files)}; globalThis.prompt = ${JSON.stringify(PROMPT)};`);
      await page.goto(`${server.url}/`);
      // Asked again and again: the policy keeps the page from evaluating a condition of ours.
      await vi.waitFor(
        async () => expect(await page.evaluate('globalThis.ids !== undefined || globalThis.failure !== undefined')).toBe(true),
        {
          timeout: 120_000,
          interval: 100,
        },
      );
      expect(complaints).toEqual([]);
      expect(await page.evaluate('globalThis.failure')).toBeUndefined();
      expect(await page.evaluate('globalThis.ids')).toEqual(expected);
      expect(await page.evaluate('globalThis.left')).toBe(0);
      await page.close();
      const taken = texts.filter((_, i) => loaded.has(scripts[i]!));
      const size = (await promisify(gzip)(taken.join('\n'))).byteLength / 1000;
      expect(size).toBeGreaterThan(BUDGET / 2);
      expect(size).toBeLessThan(BUDGET);
      // What is not loaded is there, for a page that shows images.
      expect(taken.length).toBeLessThan(texts.length);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
