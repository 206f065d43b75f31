// What nothing uses: files, dependencies, exported names (types may be exported for what they describe). `npx knip`, a step of `npm test`.
import { readdirSync, readFileSync } from 'node:fs';
import type { KnipConfig } from 'knip';
import { entries } from './tsup.shared.ts';

/** What addons are built with: cmake-js by its command, the headers by CMakeLists.txt. */
const native = ['cmake-js', 'node-addon-api', 'node-api-headers'];
/** Dependencies by package that knip cannot see. */
const unseen: Readonly<Record<string, readonly string[]>> = {
  'kernels-cpu': native,
  'kernels-cuda': native,
  'kernels-webgpu': ['webgpu'], // imported by a name that bundlers do not see
};
/** Modules by package that are started by their path. */
const started: Readonly<Record<string, readonly string[]>> = {
  addon: ['*.mjs'],
  cli: ['src/main.ts'], // by bin/lowbit.js
  core: ['src/workers/echo.worker.ts'],
  'kernels-cpu': ['*.mjs', 'native/test/*.mjs'],
  'kernels-cuda': ['*.mjs'],
};

function packageWorkspaces(): Record<string, { entry: string[]; ignoreDependencies: string[] }> {
  return Object.fromEntries(
    readdirSync('packages').map((name) => {
      const sources = Object.values(entries(JSON.parse(readFileSync(`packages/${name}/package.json`, 'utf8'))));
      return [`packages/${name}`, { entry: [...sources, ...(started[name] ?? [])], ignoreDependencies: [...(unseen[name] ?? [])] }];
    }),
  );
}

const config: KnipConfig = {
  include: ['files', 'dependencies', 'unlisted', 'unresolved', 'binaries', 'exports'],
  ignoreBinaries: ['mount', 'umount', 'unshare', 'mkfifo', 'apt-cache', 'dpkg'], // of the system, in tests and scripts that say so without them
  workspaces: {
    '.': {
      entry: [
        'bench/**/*.mjs',
        'scripts/*.mjs',
        'tools/*.mjs',
        'examples/*.mjs',
        'examples/backend-plugin/*.js',
        'examples/method-plugin/*.js',
        'e2e/**/*.test.ts',
        'e2e/webgpu-page/*',
      ],
      project: ['{bench,scripts,tools,examples,e2e,fixtures,fuzz}/**/*.{ts,mjs,js}', '*.ts'],
    },
    ...packageWorkspaces(),
    // Programs that a queue, a job or the tests start.
    'examples/scale-out': { entry: ['*.mjs', '*.test.ts'], ignoreBinaries: ['redis-server'] },
    // Pages import the packages by name for bundlers; Vite and webpack resolve them.
    'e2e/browser': { entry: ['*.test.ts', 'pages/*.{ts,js}'], ignoreDependencies: ['@lowbit/.*'] },
    website: { entry: ['parts.d.mts'], ignoreDependencies: ['typedoc-plugin-markdown'] }, // named in an option of TypeDoc
    // Programs that tests start.
    'e2e/registry/tools': { entry: ['*.mjs'], ignoreDependencies: ['verdaccio', 'node(18|22)', '@deno/.*', '@oven/.*'] },
  },
};
export default config;
