// @ts-check
// `npm run release:dry`: the steps of a release from a clean clone of the last commit, into a local registry that ends with it. Versions and changelogs come from
// the changesets; nothing of it is kept. Prints what was published, and installs `lowbit` from there.
//
// Usage: node scripts/release-dry.mjs [--keep DIR] (DIR: a new folder where the clone, its changelogs and the archives stay)
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, delimiter, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { must, pack, publishedPackages, run, startRegistry, toolsProblem } from '../e2e/registry/registry.mjs';
import { addPlatforms } from './add-platforms.mjs';
import { root } from './workspace.mjs';

const { values } = parseArgs({ options: { keep: { type: 'string' } } });
const dir = values.keep ? resolve(values.keep) : mkdtempSync(join(tmpdir(), 'lowbit-release-'));
const clone = join(dir, 'clone');

/** @type {(what: string) => void} */
const say = (what) => console.log(`== ${what}`);

async function main() {
  const problem = toolsProblem();
  if (problem !== undefined) throw new Error(problem);
  if (run('git', ['status', '--porcelain'], root).output.trim() !== '') console.warn('What is not committed is not in this release.');
  say('a clean clone of the last commit');
  must('git', ['clone', '--quiet', root, clone], root);
  const { packageManager } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  must('npx', ['--yes', packageManager, 'install', '--frozen-lockfile'], clone, { ...process.env, CI: 'true' });
  say('versions and changelogs');
  must(join(clone, 'node_modules/.bin/changeset'), ['version'], clone);
  say('build');
  const bin = join(clone, 'node_modules/.bin');
  const path = `${bin}${delimiter}${process.env.PATH}`;
  must(join(bin, 'turbo'), ['run', 'build'], clone, { ...process.env, PATH: path, TURBO_TELEMETRY_DISABLED: '1', LOWBIT_REQUIRE: '' });
  say('publish');
  const registryDir = mkdtempSync(join(tmpdir(), 'lowbit-registry-'));
  const registry = await startRegistry(registryDir);
  try {
    // The addon of this machine, by what decision 015 says of a release's order: packages of platforms first, then the package that names them.
    const native = join(clone, 'packages/kernels-cpu');
    const platform = join(dir, 'platform');
    must(process.execPath, [join(native, 'pack-platform.mjs'), '--out', platform], clone);
    addPlatforms(native, [platform]);
    const archives = pack([platform, ...publishedPackages(clone)], join(dir, 'archives'));
    registry.publish(archives);
    for (const archive of archives) console.log(`  ${basename(archive)}  ${statSync(archive).size} bytes`);
    say('install');
    const project = registry.project('project');
    console.log(must('npm', ['install', 'lowbit'], project).trim());
    const { version } = JSON.parse(readFileSync(join(clone, 'packages/cli/package.json'), 'utf8'));
    const said = must(process.execPath, [join(project, 'node_modules/.bin/lowbit'), '--version'], project).trim();
    if (said !== version) throw new Error(`lowbit says that it is ${said}, ${version} was published`);
    const model = join(root, 'examples/tiny-llama');
    const flags = ['generate', model, '-p', 'It was', '--max-tokens', '8', '--temp', '0', '--backend', 'cpu'];
    const answer = must(process.execPath, [join(project, 'node_modules/.bin/lowbit'), ...flags], project);
    console.log(`lowbit ${said} runs, natively: ${answer.trim()}`);
  } finally {
    await registry.stop();
  }
}

try {
  await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  if (!values.keep) rmSync(dir, { recursive: true, force: true });
}
