// A local npm registry (verdaccio) with the packages of this workspace in it, and the runtimes that install proofs run in. Its tools are apart from the
// workspace (tools/, with a lockfile of their own) and are installed when they are first needed.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));
const tools = fileURLToPath(new URL('tools', import.meta.url));
const inTools = (path: string): string => join(tools, 'node_modules', path);

/** Other runtimes by name: the command that runs a module. */
export const RUNTIMES: Readonly<Record<string, readonly string[]>> = {
  'node 20': [process.execPath],
  'node 22': [inTools('node22/bin/node')],
  bun: [inTools('@oven/bun-linux-x64/bin/bun'), 'run'],
  deno: [inTools('@deno/linux-x64-glibc/deno'), 'run', '--allow-all', '--node-modules-dir=manual'],
};
export const OLD_NODE: string = inTools('node18/bin/node');

export interface Ran {
  readonly status: number | null;
  readonly output: string;
}

/** Runs a command to its end; what it printed, whatever became of it. */
export function run(command: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = process.env): Ran {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, env, encoding: 'utf8' });
  return { status, output: `${stdout}${stderr}${error?.message ?? ''}` };
}

/** As `run`, but for what must work. */
export function must(command: string, args: readonly string[], cwd: string, env?: NodeJS.ProcessEnv): string {
  const { status, output } = run(command, args, cwd, env);
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} in ${cwd} exited with ${status}:\n${output}`);
  return output;
}

/** Why there can be no registry here; undefined if there can. Installs the tools once. */
export function toolsProblem(): string | undefined {
  if (process.platform !== 'linux' || process.arch !== 'x64') return 'the tools of install proofs are those of linux-x64';
  const stamp = inTools('.installed');
  const lock = readFileSync(join(tools, 'package-lock.json'), 'utf8');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return undefined;
  const { status, output } = run('npm', ['ci'], tools);
  if (status !== 0) return `the tools of install proofs could not be installed: ${output.trim().split('\n').at(0)}`;
  writeFileSync(stamp, lock);
  return undefined;
}

/** Folders of the packages that are published. */
export function publishedPackages(workspace: string = root): string[] {
  return readdirSync(join(workspace, 'packages'))
    .map((name) => join(workspace, 'packages', name))
    .filter((folder) => existsSync(join(folder, 'package.json')))
    .filter((folder) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).private !== true);
}

/** Packs folders of the workspace as a release would: paths of their archives. */
export function pack(folders: readonly string[], into: string): string[] {
  mkdirSync(into, { recursive: true });
  for (const folder of folders) must(join(root, 'node_modules/.bin/pnpm'), ['pack', '--pack-destination', into], folder);
  return readdirSync(into)
    .filter((name) => name.endsWith('.tgz'))
    .map((name) => join(into, name));
}

export interface LocalRegistry {
  readonly url: string;
  publish(archives: readonly string[]): void;
  /** A new folder with a package.json, whose npm uses this registry and a cache of its own, and runs no scripts. */
  project(name: string, manifest?: object): string;
  stop(): Promise<void>;
}

/** Starts the registry over a folder. What it does not have comes from the registry that npm is set up to use. */
export async function startRegistry(dir: string): Promise<LocalRegistry> {
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

async function serve(dir: string, url: string, port: number): Promise<ChildProcess> {
  const log = openSync(join(dir, 'verdaccio.out'), 'w');
  const args = [inTools('verdaccio/bin/verdaccio'), '--config', join(dir, 'verdaccio.yaml'), '--listen', `127.0.0.1:${port}`];
  const server = spawn(RUNTIMES['node 22']![0]!, args, { cwd: dir, stdio: ['ignore', log, log] });
  while (server.exitCode === null) {
    const answer = await fetch(`${url}-/ping`).catch(() => undefined);
    if (answer?.ok) return server;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`the registry ended: ${readFileSync(join(dir, 'verdaccio.out'), 'utf8')}`);
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0));
    });
  });
}
