// The conformance kit in a page of headless Chromium, under a content security policy that allows next to nothing, on its software adapter.
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Outcome } from '@lowbit/testing';
import { chromium } from 'playwright-core';
import { build } from 'vite';
import { afterAll, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';

const CHROMIUM = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) => existsSync(path));
/** WebGPU on SwiftShader; the last as in fixtures/webgpu.ts. */
const FLAGS = [
  '--headless=new',
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--enable-features=Vulkan',
  '--use-vulkan=swiftshader',
  '--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension',
];
const POLICY = "default-src 'none'; script-src 'self'";
const GROUPS = [
  'operations',
  'sequences',
  'lifetime',
  'format: dense f16',
  'format: affine 4 bits',
  'format: affine 3 bits, axis 0',
  'format: codebook 4 bits, a short last block',
  'format: codebook of pairs, rotated',
  'format: int8',
];

const dir = mkdtempSync(join(tmpdir(), 'lowbit-webgpu-page-'));
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Of the built packages, as a user's bundler sees them. */
async function bundle(): Promise<string> {
  await build({
    configFile: false,
    logLevel: 'error',
    build: {
      outDir: dir,
      target: 'es2022',
      minify: true,
      lib: { entry: fileURLToPath(new URL('webgpu-page/kit.ts', import.meta.url)), formats: ['es'], fileName: () => 'kit.js' },
    },
  });
  return readFileSync(join(dir, 'kit.js'), 'utf8');
}

function serve(script: string): Promise<{ readonly server: Server; readonly url: string }> {
  const server = createServer(({ url }, response) => {
    response.setHeader('content-security-policy', POLICY);
    if (url === '/kit.js') response.setHeader('content-type', 'text/javascript').end(script);
    else
      response.setHeader('content-type', 'text/html').end('<!doctype html><title>kit</title><script type="module" src="/kit.js"></script>');
  });
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve({ server, url: `http://127.0.0.1:${(server.address() as { port: number }).port}/` }));
  });
}

it('the kit passes in headless Chromium, bundled, with a strict content security policy', async (context) => {
  needs(context, 'chromium', CHROMIUM !== undefined, 'there is no Chromium (apt-get install chromium)');
  const built = ['core', 'testing', 'kernels-webgpu'].every((name) => existsSync(new URL(`../packages/${name}/dist`, import.meta.url)));
  needs(context, 'build', built, 'the packages are not built');
  const script = await bundle();
  expect(script).not.toMatch(/\beval\(|new Function|SharedArrayBuffer\(/);
  const { server, url } = await serve(script);
  const browser = await chromium.launch({ executablePath: CHROMIUM!, args: FLAGS });
  try {
    const page = await browser.newPage();
    const complaints: string[] = [];
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('console', (message) => {
      if (/Content Security Policy/.test(message.text())) complaints.push(message.text());
    });
    await page.goto(url);
    await page.waitForFunction('typeof lowbitKit === "function"');
    const { probe, outcomes } = (await page.evaluate(`lowbitKit(${JSON.stringify(GROUPS)})`)) as {
      probe: unknown;
      outcomes: readonly Outcome[];
    };
    expect(probe).toMatchObject({ ok: true });
    expect(outcomes.filter(({ outcome }) => outcome !== 'passed')).toEqual([]);
    expect(outcomes.length).toBeGreaterThan(80);
    expect(complaints).toEqual([]);
  } finally {
    await browser.close();
    server.close();
  }
});
