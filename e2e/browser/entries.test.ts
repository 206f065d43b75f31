// Every entry that a browser may import, bundled for one: nothing of Node, nothing that a strict content security policy forbids, and a bounded size.

import { gzipSync } from 'node:zlib';
import { build, type Metafile } from 'esbuild';
import { describe, expect, it } from 'vitest';

/** Entry -> most kilobytes, minified and gzipped, with everything it imports. Measured sizes and a tenth. */
const BUDGETS: Readonly<Record<string, number>> = {
  '@lowbit/core': 59,
  '@lowbit/hqq': 39,
  '@lowbit/bnb': 34,
  '@lowbit/higgs': 32,
  '@lowbit/hub': 88, // a tenth of it reads GGUF, for those who name ggufFolder
  '@lowbit/hub/browser': 88,
  '@lowbit/hub/safetensors': 9.9,
  '@lowbit/kernels-webgpu': 84,
  '@lowbit/models': 118, // 3 of them are feedback
  '@lowbit/models/allocation': 8.7,
  '@lowbit/models/json-schema': 13.6,
};
/** Imports that no bundler follows and no browser comes to: packages of Node (sharp, webgpu), looked for where `process.versions` says that this is Node. */
const DYNAMIC: Readonly<Record<string, number>> = { '@lowbit/models': 1, '@lowbit/kernels-webgpu': 1 };

async function bundle(entry: string): Promise<{ readonly text: string; readonly metafile: Metafile }> {
  const { outputFiles, metafile } = await build({
    stdin: { contents: `export * from '${entry}';`, resolveDir: import.meta.dirname },
    bundle: true,
    write: false,
    format: 'esm',
    platform: 'browser',
    target: 'es2022',
    minify: true,
    metafile: true,
    logLevel: 'silent',
    tsconfigRaw: {},
    external: ['node:*'], // left in the output, to be named
  });
  return { text: outputFiles[0]!.text, metafile };
}

describe.each(Object.entries(BUDGETS))('%s', (entry, kilobytes) => {
  it('runs in a browser with a strict policy, and is small', async () => {
    const { text, metafile } = await bundle(entry);
    const imports = Object.values(metafile.outputs).flatMap((output) => output.imports.map(({ path }) => path));
    expect(imports).toEqual([]);
    const modules = Object.values(metafile.inputs).flatMap((input) => input.imports.map(({ path }) => path));
    expect(modules.filter((path) => path.startsWith('node:'))).toEqual([]);
    expect(text.match(/\beval\(|\bFunction\(|\brequire\(/g)).toBeNull();
    // A literal name would be resolved, and a missing package be an error of whoever bundles this.
    expect(text.match(/\bimport\(/g) ?? []).toHaveLength(DYNAMIC[entry] ?? 0);
    expect(text.match(/\bimport\(["'`]/g)).toBeNull();
    const size = gzipSync(text).byteLength / 1000;
    expect(size).toBeGreaterThan(1);
    expect(size).toBeLessThan(kilobytes);
  });
});
