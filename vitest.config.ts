import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import { entries } from './tsup.shared.ts';

const root = fileURLToPath(new URL('.', import.meta.url));

/** Every exported entry of every workspace package, mapped to its source: tests need no build. */
function aliases(): { find: RegExp; replacement: string }[] {
  const list: { find: RegExp; replacement: string }[] = [];
  for (const dir of readdirSync(`${root}packages`)) {
    const file = `${root}packages/${dir}/package.json`;
    if (!existsSync(file)) continue;
    const manifest = JSON.parse(readFileSync(file, 'utf8'));
    // Not published: its entry is the source.
    if (typeof manifest.exports?.['.'] === 'string') {
      list.push({ find: new RegExp(`^${manifest.name}$`), replacement: `${root}packages/${dir}/${manifest.exports['.']}` });
    }
    for (const source of Object.values(entries({ exports: manifest.exports }))) {
      const subpath = source.replace(/^src\//, '').replace(/(?:^|\/)index\.ts$|\.ts$/, '');
      const id = subpath ? `${manifest.name}/${subpath}` : manifest.name;
      list.push({ find: new RegExp(`^${id}$`), replacement: `${root}packages/${dir}/${source}` });
    }
  }
  return list;
}

/** What takes seconds a file: every format, every bit pattern, every number of threads. */
const THOROUGH = ['packages/*/src/**/*.thorough.test.ts'];
const GPU = ['packages/kernels-cuda/src/**/*.test.ts', 'packages/kernels-webgpu/src/**/*.test.ts'];

/** Ends what hangs, and says nothing of speed: machines are shared, and one takes ten times as long as another. */
const endsAfter = (seconds: number): { readonly testTimeout: number; readonly hookTimeout: number } => ({
  testTimeout: 1000 * seconds,
  hookTimeout: 1000 * seconds,
});

const config: ReturnType<typeof defineConfig> = defineConfig({
  resolve: { alias: aliases() },
  esbuild: { target: 'node20' },
  test: {
    // Vitest leaves a core to itself, which needs none: of two it would use one.
    maxWorkers: Math.max(2, availableParallelism() - 1),
    // Tests of the packed cache name a folder of their own.
    env: { LOWBIT_CACHE: 'off' },
    reporters: ['default', './tools/summary-reporter.mjs'],
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['packages/*/src/**/*.test.ts', 'tools/**/*.test.mjs', 'fuzz/*.test.ts'],
          exclude: [...GPU, ...THOROUGH, '**/node_modules/**'],
          ...endsAfter(60),
        },
      },
      {
        extends: true,
        // As long as all other unit tests together: for `npm test`, not for every change.
        test: { name: 'thorough', include: THOROUGH, exclude: [...GPU, '**/node_modules/**'], ...endsAfter(300) },
      },
      {
        extends: true,
        // On a GPU, or on what stands in for one, which takes as long as all other unit tests together.
        test: { name: 'gpu', include: GPU, ...endsAfter(300) },
      },
      {
        extends: true,
        test: {
          name: 'e2e',
          include: ['e2e/**/*.test.ts', 'scripts/**/*.test.ts'],
          ...endsAfter(600),
        },
      },
      {
        extends: true,
        // Needs Redis; `npm run test:scale`, not part of `npm test`.
        test: { name: 'scale', include: process.env.LOWBIT_SCALE ? ['examples/scale-out/*.test.ts'] : [] },
      },
    ],
  },
});
export default config;
