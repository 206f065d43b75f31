// One build for every package. The entries are read from package.json: each `exports` subpath and each `bin` that points
// to dist/X.js is built from src/X.ts, so a new entry point is declared once, in package.json.
// After it, tools/compact-declarations.mjs shortens the declarations.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'tsup';

type Exports = Record<string, string | { readonly default?: string }>;
interface Manifest {
  readonly exports?: Exports;
  readonly bin?: Record<string, string>;
}

/** Entry points of the package in the current directory, as tsup wants them: `{ 'layouts/index': 'src/layouts/index.ts' }`. */
export function entries(manifest: Manifest): Record<string, string> {
  const outputs = [
    ...Object.values(manifest.exports ?? {}).map((target) => (typeof target === 'string' ? target : target.default)),
    ...Object.values(manifest.bin ?? {}),
  ];
  const found: Record<string, string> = {};
  for (const output of outputs) {
    const name = output?.match(/^(?:\.\/)?dist\/(.+)\.js$/)?.[1];
    if (name) found[name] = `src/${name}.ts`;
  }
  return found;
}

const root = fileURLToPath(new URL('.', import.meta.url));
/** Packages that are not published are compiled into those that import them: scripts as any devDependency is, declarations by these paths. */
export const UNPUBLISHED = {
  '@lowbit/layouts': ['packages/layouts/src/index.ts'],
  '@lowbit/program': ['packages/program/src/index.ts'],
};

/** The tsup configuration of a package; `extra` names further entries (workers) that are not exported. */
export function library(extra: readonly string[] = []): ReturnType<typeof defineConfig> {
  const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Manifest;
  return defineConfig({
    entry: { ...entries(manifest), ...Object.fromEntries(extra.map((name) => [name, `src/${name}.ts`])) },
    format: 'esm',
    target: 'node20',
    platform: 'neutral',
    external: [/^node:/],
    removeNodeProtocol: false,
    tsconfig: '../../tsconfig.build.json',
    dts: { compilerOptions: { baseUrl: root, paths: UNPUBLISHED } },
    splitting: true,
    treeshake: false,
    // Minified for the install size (goal: core and one method under 300 kB); lines stay short enough to be printed with an error.
    esbuildOptions(options) {
      options.minifyWhitespace = true;
      options.minifySyntax = true;
      options.minifyIdentifiers = true;
      options.lineLimit = 500;
    },
    sourcemap: false,
    clean: true,
    silent: true,
  });
}
