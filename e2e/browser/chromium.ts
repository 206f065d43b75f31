// A real browser for tests, and a server for its pages that allows them nothing but themselves.

import { createReadStream, existsSync } from 'node:fs';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join, resolve, sep } from 'node:path';
import { pipeline } from 'node:stream';
import { type BrowserContext, chromium } from 'playwright-core';
import { needs } from '../../fixtures/needs.ts';

const PATHS = [process.env.LOWBIT_CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
const executablePath = PATHS.find((path): path is string => path !== undefined && existsSync(path));

/** Skips the running test without Chromium; LOWBIT_CHROMIUM may say where it is. */
export function needsChromium(context: { skip(reason: string): void }): void {
  needs(context, 'chromium', executablePath !== undefined, 'there is no Chromium (Debian: apt-get install chromium)');
}

export const hasChromium: boolean = executablePath !== undefined;

export interface TestBrowser extends AsyncDisposable {
  readonly context: BrowserContext;
}

/** A GPU in software. The last as in fixtures/webgpu.ts. */
export const SOFTWARE_GPU: readonly string[] = [
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--enable-features=Vulkan',
  '--use-vulkan=swiftshader',
  '--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension',
];

/** A browser with a new profile on disk, which goes with it. */
export async function launchBrowser({ args = [] }: { readonly args?: readonly string[] } = {}): Promise<TestBrowser> {
  const profile = await mkdtemp(join(tmpdir(), 'lowbit-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: executablePath!,
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      ...args,
    ],
  });
  return {
    context,
    async [Symbol.asyncDispose]() {
      await context.close();
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    },
  };
}

/** Scripts and workers from this server only, no eval, no inline script or style, no other host. */
const STRICT_CSP: string =
  "default-src 'self'; script-src 'self'; style-src 'self'; worker-src 'self'; connect-src 'self'; img-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'";

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
};

export interface PageServer extends AsyncDisposable {
  readonly url: string;
  /** Addresses that were asked for, in order. */
  readonly requests: readonly string[];
  /** Answers wait for what it gives for their path. */
  hold?: ((path: string) => Promise<void> | undefined) | undefined;
}

/** Serves folders by the path in front of them (`''` for the root), with ranges, every answer under the strict policy. */
export async function servePages(folders: Readonly<Record<string, string>>): Promise<PageServer> {
  const mounts = Object.entries(folders).map(([at, folder]) => ({ at: at === '' ? '/' : `/${at}/`, folder: resolve(folder) }));
  mounts.sort((a, b) => b.at.length - a.at.length);
  const requests: string[] = [];
  const pages: PageServer & { url: string } = {
    url: '',
    requests,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname);
    requests.push(path);
    await pages.hold?.(path);
    response.setHeader('content-security-policy', STRICT_CSP);
    response.setHeader('cache-control', 'no-store');
    response.setHeader('accept-ranges', 'bytes');
    if (path === '/favicon.ico') {
      response.writeHead(204).end(); // browsers ask unasked
      return;
    }
    const mount = mounts.find(({ at }) => path.startsWith(at));
    const inside = path.slice(mount?.at.length);
    const file = mount && resolve(mount.folder, inside === '' || inside.endsWith('/') ? `${inside}index.html` : inside);
    const info = mount && file?.startsWith(mount.folder + sep) ? await stat(file).catch(() => undefined) : undefined;
    if (!file || !info?.isFile()) {
      response.writeHead(404).end();
      return;
    }
    response.setHeader('content-type', TYPES[extname(file)] ?? 'application/octet-stream');
    response.setHeader('etag', `"${info.size}-${info.mtimeMs}"`);
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
    const from = range ? Number(range[1]) : 0;
    const to = range ? Math.min(Number(range[2]) + 1, info.size) : info.size;
    if (range) response.setHeader('content-range', `bytes ${from}-${to - 1}/${info.size}`);
    response.setHeader('content-length', to - from);
    response.writeHead(range ? 206 : 200);
    if (to === from) {
      response.end();
      return;
    }
    pipeline(createReadStream(file, { start: from, end: to - 1 }), response, () => {}); // a page that goes away ends it
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  pages.url = `http://localhost:${(server.address() as AddressInfo).port}`;
  return pages;
}
