// @ts-check
// Install and build, shared by `npm test` and `npm run demo`: both must work on a clean clone with nothing but Node and npm.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The repository root. */
export const root = fileURLToPath(new URL('..', import.meta.url));
const bin = join(root, 'node_modules', '.bin');
const stamp = join(root, 'node_modules', '.lowbit-install');

/**
 * Runs a command in the repository root with the installed tools first on PATH.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} [env] added to the environment
 * @returns {boolean} whether it ended well
 */
export function run(command, args, env = {}) {
  const result = spawnSync(command, args, {
    cwd: root,
    stdio: 'inherit',
    shell: process.platform === 'win32',
    env: { ...process.env, TURBO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1', PATH: `${bin}${delimiter}${process.env.PATH}`, ...env },
  });
  if (result.error) console.error(`${command}: ${result.error.message}`);
  return result.status === 0;
}

/** What the content of node_modules depends on. */
function fingerprint() {
  const files = ['package.json', 'pnpm-lock.yaml', 'pnpm-workspace.yaml'];
  for (const dir of readdirSync(join(root, 'packages'))) files.push(`packages/${dir}/package.json`);
  for (const dir of ['examples/jax-js', 'examples/playground', 'examples/scale-out', 'e2e/browser', 'website'])
    files.push(`${dir}/package.json`);
  const hash = createHash('sha256').update(`${process.platform} ${process.arch}\n`);
  for (const file of files.filter((name) => existsSync(join(root, name)))) {
    hash.update(`${file}\n`).update(readFileSync(join(root, file)));
  }
  return hash.digest('hex');
}

/**
 * Installs exactly what the lockfile says with the pinned pnpm; does nothing when node_modules is already in step.
 * @returns {boolean}
 */
export function install() {
  const wanted = fingerprint();
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return true;
  const { packageManager } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  // CI=true: never ask before replacing a node_modules that another tool made.
  if (!run('npx', ['--yes', packageManager, 'install', '--frozen-lockfile'], { CI: 'true' })) return false;
  writeFileSync(stamp, wanted);
  return true;
}

/**
 * Builds every package (cached: an unchanged package costs nothing).
 * @returns {boolean}
 */
export function build() {
  return run('turbo', ['run', 'build']);
}
