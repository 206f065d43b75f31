// @ts-check
// A local npm registry (verdaccio) with the packages of this workspace in it, and the runtimes that install proofs run in. Its tools are apart from the
// workspace (tools/, with a lockfile of their own) and are installed when they are first needed.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const tools = fileURLToPath(new URL('tools', import.meta.url));
/** @type {(path: string) => string} */
const inTools = (path) => join(tools, 'node_modules', path);

const NODE_22 = inTools('node22/bin/node');
export const RUNTIMES = {
  'node 20': [process.execPath],
  'node 22': [NODE_22],
  bun: [inTools('@oven/bun-linux-x64/bin/bun'), 'run'],
  deno: [inTools('@deno/linux-x64-glibc/deno'), 'run', '--allow-all', '--node-modules-dir=manual'],
};
export const OLD_NODE = inTools('node18/bin/node');

/** @type {typeof import('./registry.mjs').run} */
export function run(command, args, cwd, env = process.env) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, env, encoding: 'utf8' });
  return { status, output: `${stdout}${stderr}${error?.message ?? ''}` };
}

/** @type {typeof import('./registry.mjs').must} */
export function must(command, args, cwd, env) {
  const { status, output } = run(command, args, cwd, env);
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} in ${cwd} exited with ${status}:\n${output}`);
  return output;
}

/** @type {typeof import('./registry.mjs').toolsProblem} */
export function toolsProblem() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'the tools of install proofs are those of linux-x64';
  const stamp = inTools('.installed');
  const lock = readFileSync(join(tools, 'package-lock.json'), 'utf8');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return undefined;
  const { status, output } = run('npm', ['ci'], tools);
  if (status !== 0) return `the tools of install proofs could not be installed: ${output.trim().split('\n').at(0)}`;
  writeFileSync(stamp, lock);
  return undefined;
}

/** @type {typeof import('./registry.mjs').publishedPackages} */
export function publishedPackages(workspace = root) {
  return readdirSync(join(workspace, 'packages'))
    .map((name) => join(workspace, 'packages', name))
    .filter((folder) => existsSync(join(folder, 'package.json')))
    .filter((folder) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).private !== true);
}

/** @type {typeof import('./registry.mjs').pack} */
export function pack(folders, into) {
  mkdirSync(into, { recursive: true });
  for (const folder of folders) must(join(root, 'node_modules/.bin/pnpm'), ['pack', '--pack-destination', into], folder);
  return readdirSync(into)
    .filter((name) => name.endsWith('.tgz'))
    .map((name) => join(into, name));
}

/** @type {typeof import('./registry.mjs').startRegistry} */
export async function startRegistry(dir) {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}/`;
  const upstream = must('npm', ['config', 'get', 'registry'], dir).trim();
  const open = '{ access: $all, publish: $all, unpublish: $all }';
  const config = [
    `storage: ${JSON.stringify(join(dir, 'storage'))}`,
    `uplinks: { upstream: { url: ${JSON.stringify(upstream)}, max_fails: 10, timeout: 60s } }`,
    `packages: { '@lowbit/*': ${open}, lowbit: ${open}, '**': { access: $all, proxy: upstream } }`,
    'max_body_size: 100mb',
    'log: { type: stdout, format: pretty, level: warn }',
  ];
  writeFileSync(join(dir, 'verdaccio.yaml'), `${config.join('\n')}\n`);
  const npmrc = join(dir, 'npmrc');
  // npm publishes to nobody without a token; this registry takes any.
  writeFileSync(
    npmrc,
    `registry=${url}\n//127.0.0.1:${port}/:_authToken=any\ncache=${join(dir, 'npm-cache')}\nignore-scripts=true\naudit=false\nfund=false\nupdate-notifier=false\n`,
  );
  const server = await serve(dir, url, port);
  return {
    url,
    publish(archives) {
      for (const archive of archives) must('npm', ['publish', archive, '--userconfig', npmrc], dir);
    },
    project(name, manifest = {}) {
      const folder = join(dir, name);
      mkdirSync(folder);
      writeFileSync(join(folder, 'package.json'), JSON.stringify({ private: true, type: 'module', ...manifest }));
      writeFileSync(join(folder, '.npmrc'), readFileSync(npmrc));
      return folder;
    },
    async stop() {
      if (server.exitCode === null) {
        const ended = new Promise((resolve) => server.once('exit', resolve));
        server.kill();
        await ended;
      }
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** @type {(dir: string, url: string, port: number) => Promise<import('node:child_process').ChildProcess>} */
async function serve(dir, url, port) {
  const log = openSync(join(dir, 'verdaccio.out'), 'w');
  const args = [inTools('verdaccio/bin/verdaccio'), '--config', join(dir, 'verdaccio.yaml'), '--listen', `127.0.0.1:${port}`];
  const server = spawn(NODE_22, args, { cwd: dir, stdio: ['ignore', log, log] });
  while (server.exitCode === null) {
    const answer = await fetch(`${url}-/ping`).catch(() => undefined);
    if (answer?.ok) return server;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`the registry ended: ${readFileSync(join(dir, 'verdaccio.out'), 'utf8')}`);
}

/** @type {() => Promise<number>} */
function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}
