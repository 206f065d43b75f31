// @ts-check
// What the site has and in which order. A page is a file of the repository; links between files become links between pages (stage/links.mjs).
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The repository. */
export const root = fileURLToPath(new URL('..', import.meta.url));

/**
 * @typedef {object} Page
 * @property {string} text in the sidebar
 * @property {string} source file in the repository
 * @property {string} route address in the site, without extension
 * @property {string} [section] heading: this section of the file alone
 */
/** @typedef {{ readonly text: string, readonly pages: readonly Page[] }} Section */

/** @type {(text: string, source: string, route?: string) => Page} */
const page = (text, source, route = source.replace(/^docs\//, '').replace(/\.md$/, '')) => ({ text, source, route });
/** @type {(name: string, text?: string) => Page} */
const readme = (name, text = `@lowbit/${name}`) => page(text, `packages/${name}/README.md`, `packages/${name}`);

/** @type {(file: string) => string} the first heading of a file of the repository */
function titleOf(file) {
  return /^# (.+)$/m.exec(readFileSync(join(root, file), 'utf8'))?.[1] ?? file;
}

/** @type {Page[]} */
const decisions = readdirSync(join(root, 'docs/decisions'))
  .filter((name) => name.endsWith('.md'))
  .sort()
  .map((name) => page(titleOf(`docs/decisions/${name}`).replace(/^(\d+)\. /, '$1 '), `docs/decisions/${name}`));

/** @type {readonly Section[]} */
export const sections = [
  {
    text: 'Start',
    pages: [
      page('Start here', 'docs/start.md'),
      page('lowbit in code', 'docs/library.md'),
      page('Choosing bits and method', 'docs/choosing.md'),
      page('Quality per bit', 'docs/quality.md'),
    ],
  },
  {
    text: 'Methods',
    pages: [
      page('HQQ', 'docs/methods/hqq.md'),
      page('bitsandbytes', 'docs/methods/bitsandbytes.md'),
      page('HIGGS', 'docs/methods/higgs.md'),
      page('Sharing out bits', 'docs/allocation.md'),
    ],
  },
  {
    text: 'From Python',
    pages: [
      page('What differs', 'docs/from-python.md'),
      page('From hqq', 'docs/from-python/hqq.md'),
      page('From bitsandbytes', 'docs/from-python/bitsandbytes.md'),
      page('From HIGGS', 'docs/from-python/higgs.md'),
      page('HQQ in depth', 'docs/hqq.md'),
      page('HIGGS in depth', 'docs/higgs.md'),
      page('HIGGS in files', 'docs/higgs-files.md'),
    ],
  },
  {
    text: 'Backends',
    pages: [
      page('How one is chosen', 'docs/backends.md'),
      page('Native CPU', 'docs/native-cpu.md'),
      readme('kernels-cuda', 'CUDA'),
      readme('kernels-webgpu', 'WebGPU'),
    ],
  },
  {
    text: 'Extend',
    pages: [
      page('Write a backend', 'docs/extend/backend.md'),
      page('Write a method', 'docs/extend/method.md'),
      page('Write a model adapter', 'docs/extend/adapter.md'),
      page('The example backend', 'examples/backend-plugin/README.md', 'examples/backend-plugin'),
      page('A Llama in jax-js', 'examples/jax-js/README.md', 'examples/jax-js'),
    ],
  },
  {
    text: 'Run it',
    pages: [
      page('Deployment', 'docs/deployment.md'),
      page('Errors, code by code', 'docs/errors.md'),
      page('Compatibility', 'docs/compatibility.md'),
      page('Benchmarks', 'docs/benchmarks.md'),
    ],
  },
  {
    text: 'Packages',
    pages: [
      readme('cli', 'lowbit, the command'),
      readme('core'),
      readme('hqq'),
      readme('bnb'),
      readme('higgs'),
      readme('hub'),
      readme('models'),
      readme('kernels-cpu'),
      readme('testing'),
      readme('addon'),
      page('The playground', 'examples/playground/README.md', 'examples/playground'),
      page('The example model', 'examples/tiny-llama/README.md', 'examples/tiny-llama'),
    ],
  },
  {
    text: 'How it is built',
    pages: [
      page('Architecture', 'ARCHITECTURE.md', 'architecture'),
      { text: 'Glossary', source: 'README.md', route: 'glossary', section: 'Words' },
      page('Contributing', 'CONTRIBUTING.md', 'contributing'),
      page('Security', 'SECURITY.md', 'security'),
    ],
  },
  { text: 'Decisions', pages: decisions },
];

/** @type {readonly Page[]} */
export const pages = sections.flatMap((section) => section.pages);

/** @type {(section: string) => readonly Page[]} */
export const publishedPages = (section) => sections.find(({ text }) => text === section)?.pages ?? [];

/** Folders of the repository that have a page: what a link to them means. */
export const folders = new Map(
  pages.filter(({ source }) => source.endsWith('/README.md')).map(({ source, route }) => [source.slice(0, -'/README.md'.length), route]),
);

/** @type {() => { readonly name: string, readonly source: string }[]} every entry of every package that users import */
export function publicEntries() {
  return readdirSync(join(root, 'packages')).flatMap((dir) => {
    const file = join(root, 'packages', dir, 'package.json');
    if (!existsSync(file)) return [];
    /** @type {{ name: string, private?: boolean, exports: Record<string, string | { types?: string }> }} */
    const manifest = JSON.parse(readFileSync(file, 'utf8'));
    if (manifest.private) return [];
    return Object.entries(manifest.exports).flatMap(([path, target]) => {
      if (typeof target === 'string' || target.types === undefined) return [];
      const built = /^\.\/dist\/(.+)\.d\.ts$/.exec(target.types)?.[1];
      const source = `packages/${dir}/${built === undefined ? target.types.slice(2) : `src/${built}.ts`}`;
      if (!existsSync(join(root, source))) throw new Error(`${manifest.name}: no source of its entry ${path}`);
      return [{ name: `${manifest.name}${path.slice(1)}`, source }];
    });
  });
}
