// @ts-check
// Makes the package that brings the addon, with its kernels, to one platform from what was built here: a folder to `npm publish`, or to install from. As
// packages/kernels-cpu/pack-platform.mjs; how a release goes: docs/decisions/015.
//
// Usage: node pack-platform.mjs --out DIR (a new folder). Needs the addon (build-native.mjs, with nvcc) and the package's own build (dist).
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const home = fileURLToPath(new URL('.', import.meta.url));
const addon = join(home, 'build', 'Release', 'lowbit_cuda.node');
/** The goal is 5 MB: an addon that is larger than this has something in it that does not belong there. */
const MOST_BYTES = 2_000_000;

/** @type {(problem: string) => number} */
function fail(problem) {
  console.error(`pack-platform: ${problem}`);
  return 1;
}

async function main() {
  const { values } = parseArgs({ options: { out: { type: 'string' } } });
  if (!values.out) return fail('name a new folder: node pack-platform.mjs --out DIR');
  const out = resolve(values.out);
  if (existsSync(out) && readdirSync(out).length > 0) return fail(`${values.out} is not empty; name a new folder`);
  if (!existsSync(addon)) return fail('the addon is not built: run node build-native.mjs first');
  if (!existsSync(join(home, 'dist', 'index.js'))) return fail('the package is not built: run pnpm build first');
  const bytes = statSync(addon).size;
  if (bytes >= MOST_BYTES) return fail(`the addon has ${bytes} bytes, ${MOST_BYTES} or more; was it built with symbols?`);
  /** @type {import('./dist/index.js').CudaBinding} */
  const native = createRequire(import.meta.url)(addon);
  const image = native.image();
  if (image.bytes === 0) return fail('the addon has no kernels: build it where nvcc is (LOWBIT_NVCC=path node build-native.mjs)');

  const { platformPackage } = await import('./dist/index.js');
  const { version, license, engines } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8'));
  const name = platformPackage();
  const libc = process.platform === 'linux' ? { libc: [name.endsWith('-musl') ? 'musl' : 'glibc'] } : {};
  const toolkit = `${Math.floor(image.version / 1000)}.${(image.version % 1000) / 10}`;
  const manifest = {
    ...{ name, version, description: `The addon of @lowbit/kernels-cuda for ${process.platform}-${process.arch}`, license },
    ...{ os: [process.platform], cpu: [process.arch], ...libc },
    ...{ main: basename(addon), files: [basename(addon), 'README.md', 'LICENSE'], engines, preferUnplugged: true },
    publishConfig: { access: 'public' },
  };
  const readme = `# ${name}

The native addon of @lowbit/kernels-cuda ${version} for ${process.platform} on ${process.arch}, ${bytes} bytes, with kernels for ${image.targets} (CUDA ${toolkit}). Install that package: it takes
this one by itself where it fits. There is nothing to import here.
`;
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  writeFileSync(join(out, 'README.md'), readme);
  copyFileSync(join(home, '..', '..', 'LICENSE'), join(out, 'LICENSE'));
  copyFileSync(addon, join(out, basename(addon)));

  // What was made is what is tried, in a process of its own: it loads, and says what it is. A GPU is not needed for that.
  const code = `const { createRequire } = await import('node:module');
    console.log(createRequire(import.meta.url)(${JSON.stringify(out)}).image().targets);`;
  const tried = spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
  if (tried.status !== 0 || tried.stdout.trim() !== image.targets) {
    rmSync(out, { recursive: true });
    return fail(`what was made does not load: ${tried.stdout}${tried.stderr}`);
  }
  console.log(`${name}@${version}: ${bytes} bytes, kernels for ${image.targets}`);
  return 0;
}

process.exitCode = await main();
