// Pages of these tests, bundled for browsers from the built packages.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

export interface BuiltPages extends AsyncDisposable {
  readonly folder: string;
}

/** Bundles modules of `pages/`; `NAME.html` loads the script of that name. */
export async function buildPages(names: readonly string[]): Promise<BuiltPages> {
  const folder = await mkdtemp(join(tmpdir(), 'lowbit-pages-'));
  await build({
    entryPoints: names.map((name) => fileURLToPath(new URL(`pages/${name}.ts`, import.meta.url))),
    outdir: folder,
    bundle: true,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    logLevel: 'error',
    tsconfigRaw: {}, // the root's paths lead to sources for Node
  });
  for (const name of names) {
    const html = `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>${name}</title><script type="module" src="/${name}.js"></script></head><body></body></html>`;
    await writeFile(join(folder, `${name}.html`), html);
  }
  return { folder, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) };
}
