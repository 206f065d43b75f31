// The site of the documentation: built as it is published, every link and anchor followed, looked at in a browser that may reach nothing but the site.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkSite, documentedCodes, errorCodes, pages, publicEntries, undocumented } from '../website/parts.mjs';
import { launchBrowser, needsChromium } from './browser/chromium.ts';
import { root } from './markdown.ts';

const dir = mkdtempSync(join(tmpdir(), 'lowbit-site-'));
let built: ReturnType<typeof spawnSync>;
beforeAll(() => {
  built = spawnSync(process.execPath, ['website/build.mjs', '--out', dir], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, NODE_ENV: 'production' },
  });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const text = (name: string): string => readFileSync(join(dir, name), 'utf8');

it('is built, and its links lead somewhere', () => {
  expect([built.status, built.stderr]).toEqual([0, expect.any(String)]);
  const { problems, count } = checkSite(dir);
  expect(problems).toEqual([]);
  expect(count).toBeGreaterThan(pages.length + publicEntries().length);
});

it('says so where a link or an anchor leads nowhere, or something would be fetched', () => {
  const broken = mkdtempSync(join(tmpdir(), 'lowbit-site-'));
  try {
    const head = '<script src="https://example.com/a.js"></script>';
    writeFileSync(
      join(broken, 'index.html'),
      `${head}<a href="/gone">x</a> <a href="other.html#gone">x</a> <a href="other.html#here">x</a> {{ text }} <code>{{ code }}</code>`,
    );
    writeFileSync(join(broken, 'other.html'), '<p id="here">x</p>');
    writeFileSync(join(broken, 'style.css'), '@font-face { src: url(https://example.com/font.woff2) }');
    expect(checkSite(broken).problems).toEqual([
      'index.html: shows a template, {{ text }}',
      'index.html: a link to /gone, which is not there',
      'index.html: a link to other.html#gone, and other.html has no such anchor',
      expect.stringMatching(/^index\.html: fetches from another host: <script/),
      expect.stringMatching(/^style\.css: fetches from another host: url\(/),
    ]);
  } finally {
    rmSync(broken, { recursive: true, force: true });
  }
});

describe('errors', () => {
  it('each code of the sources has a section, with the packages that have it', () => {
    const codes = [...errorCodes().keys()];
    expect(codes.length).toBeGreaterThan(25);
    expect([...documentedCodes(readFileSync(join(root, 'docs/errors.md'), 'utf8'))].sort()).toEqual(codes);
    const page = text('errors.html');
    for (const code of codes) expect(page).toContain(`id="${code.toLowerCase()}"`);
    expect(text('errors.md')).toMatch(/## ERR_BAD_PICKLE\n\n\*In the sources of [^\n]*@lowbit\/hub/);
  });

  it('each code that TypeScript knows is one of them', () => {
    const source = readFileSync(join(root, 'packages/core/src/spec/errors.ts'), 'utf8');
    for (const [, code] of source.matchAll(/^ {2}\| '(ERR_\w+)'/gm)) expect([...errorCodes().keys()]).toContain(code);
  });
});

it('sees public names without a comment', async () => {
  const sources = mkdtempSync(join(tmpdir(), 'lowbit-site-'));
  try {
    writeFileSync(join(sources, 'a.ts'), '/** It is. */\nexport const one = 1;\nexport interface Two {\n  three: 3;\n}\n');
    writeFileSync(join(sources, 'b.ts'), '/** It does. */\nexport function four(): void {}\nexport function five(): void {}\n');
    writeFileSync(join(sources, 'tsconfig.json'), '{ "compilerOptions": { "types": [] }, "files": ["a.ts", "b.ts"] }');
    const entries = ['a', 'b'].map((name) => ({ name, source: join(sources, `${name}.ts`) }));
    const found = await undocumented(entries, { tsconfig: join(sources, 'tsconfig.json'), basePath: sources });
    expect(found).toEqual(['a: interface Two', 'b: function five']);
  } finally {
    rmSync(sources, { recursive: true, force: true });
  }
});

it('has a list for those who read no HTML, and each page as Markdown', () => {
  const list = text('llms.txt');
  for (const { text: name, route } of pages) expect(list).toContain(`- [${name}](/${route}.md): `);
  expect(text('start.md')).toMatch(/^# Start here\n/);
  expect(text('llms-full.txt')).toContain('# Start here');
  for (const [, to] of list.matchAll(/\]\((\/[^)]*)\)/g)) expect(text(to!.slice(1)).length).toBeGreaterThan(0);
});

describe('in a browser', () => {
  let server: Server;
  beforeAll(async () => {
    const types: Readonly<Record<string, string>> = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css' };
    server = createServer((request, response) => {
      const path = decodeURI(new URL(request.url!, 'http://localhost').pathname);
      try {
        response.setHeader('content-type', types[extname(path)] ?? 'text/html');
        response.end(readFileSync(join(dir, path.endsWith('/') ? `${path}index.html` : path)));
      } catch {
        response.writeHead(404).end();
      }
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  });
  afterAll(() => new Promise((resolve) => server.close(resolve)));

  it('asks no other host for anything, fits a phone, and finds an error by its code', async (context) => {
    needsChromium(context);
    const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    await using browser = await launchBrowser();
    const page = await browser.context.newPage();
    const foreign: string[] = [];
    const failed: string[] = [];
    page.on(
      'request',
      (request) => void (/^(?:data|blob):/.test(request.url()) || request.url().startsWith(origin) || foreign.push(request.url())),
    );
    page.on('pageerror', (error) => void failed.push(error.message));
    await page.setViewportSize({ width: 390, height: 800 });
    for (const path of [
      '/',
      '/start.html',
      '/errors.html',
      '/methods/hqq.html',
      '/from-python/bitsandbytes.html',
      '/api/@lowbit/core.html',
    ]) {
      await page.goto(origin + path, { waitUntil: 'networkidle' });
      const width = await page.evaluate<number>('document.documentElement.scrollWidth');
      expect([path, width]).toEqual([path, 390]);
    }
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.goto(`${origin}/start.html`, { waitUntil: 'networkidle' });
    await page.keyboard.press('Control+k');
    await page.locator('.VPLocalSearchBox input').fill('ERR_BAD_PICKLE');
    const first = page.locator('.VPLocalSearchBox .result').first();
    await first.waitFor();
    expect(await first.getAttribute('href')).toBe('/errors.html#err_bad_pickle');
    expect([foreign, failed]).toEqual([[], []]);
  });
});
