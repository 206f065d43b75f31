// The page about deployment, as far as one machine allows: its commands without a network, its function bundled and called where nothing but /tmp can be written.
import { execFile, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { needs } from '../fixtures/needs.ts';
import { ensureBuilt, main, TINY } from './cli-process.ts';
import { blocksOf, root } from './markdown.ts';
import { commandsOf } from './shell.ts';

const page = blocksOf('docs/deployment.md');
/** A network of its own, with no way out, and a table of mounts of its own. */
const APART = ['-rnm'];
const apart = spawnSync('unshare', [...APART, 'true'], { stdio: 'ignore' }).status === 0;
const needsUnshare = (context: { skip(reason: string): void }): void =>
  needs(context, 'unshare', apart, 'this machine gives no namespaces (unshare -rnm)');

const dir = mkdtempSync(join(tmpdir(), 'lowbit-deployment-'));
beforeAll(() => ensureBuilt());
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** Runs a script of the shell apart from the network. */
const shell = (script: string, args: readonly string[], options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {}) =>
  promisify(execFile)('unshare', [...APART, 'sh', '-c', script, 'sh', ...args], { cwd: root, ...options });

describe('offline', () => {
  const commands = page.filter(({ language }) => language === 'sh').flatMap((block) => commandsOf(block));

  it.for(commands)('$text', async ({ words, env }, context) => {
    needsUnshare(context);
    expect(words.slice(0, 2)).toEqual(['npx', 'lowbit']);
    const { HF_HUB_OFFLINE: _, LOWBIT_CACHE: __, ...outside } = process.env;
    const { stdout } = await shell('exec "$@"', [process.execPath, main, ...words.slice(2), '--backend', 'reference', '--temp', '0'], {
      env: { ...outside, HOME: dir, ...env },
    });
    expect(stdout).toMatch(/\w{2}/);
    expect(readdirSync(dir).filter((name) => name.startsWith('.'))).toEqual([]); // nothing cached
  });

  it('a name that the cache lacks is ERR_OFFLINE_MISS', async (context) => {
    needsUnshare(context);
    const failure = async (env: Readonly<Record<string, string>>): Promise<string> => {
      const { HF_HUB_OFFLINE: _, ...outside } = process.env;
      const error = await shell('exec "$@"', [process.execPath, main, 'estimate', 'org/name', '--json'], {
        env: { ...outside, HOME: dir, ...env },
      }).then(
        () => undefined,
        (thrown: { readonly stdout: string }) => thrown,
      );
      return JSON.parse(error!.stdout).error.code;
    };
    expect(await failure({ HF_HUB_OFFLINE: '1' })).toBe('ERR_OFFLINE_MISS');
  });
});

describe('serverless', () => {
  it('the function of the page runs, bundled, where only /tmp can be written and there is no network', async (context) => {
    needsUnshare(context);
    const [block] = page.filter(({ language, code }) => language === 'ts' && code.includes('async function handler'));
    const at = join(dir, 'function');
    mkdirSync(at);
    writeFileSync(join(dir, 'handler.ts'), block!.code);
    const esbuild = createRequire(new URL('browser/package.json', import.meta.url))('esbuild') as {
      build(options: object): Promise<unknown>;
    };
    await esbuild.build({
      ...{
        entryPoints: [join(dir, 'handler.ts')],
        outfile: join(at, 'handler.mjs'),
        bundle: true,
        platform: 'node',
        format: 'esm',
        target: 'node20',
      },
      ...{ external: ['@lowbit/kernels-cpu'], nodePaths: [join(root, 'node_modules')], logLevel: 'error' },
    });
    // What the page keeps outside the bundle, with what it depends on.
    const modules = join(at, 'node_modules/@lowbit');
    for (const name of ['core', 'addon', 'kernels-cpu']) {
      mkdirSync(join(modules, name), { recursive: true });
      for (const part of ['dist', 'package.json'])
        cpSync(join(root, 'packages', name, part), join(modules, name, part), { recursive: true });
    }
    const addon = 'build/Release/lowbit_cpu.node';
    if (existsSync(join(root, 'packages/kernels-cpu', addon)))
      cpSync(join(root, 'packages/kernels-cpu', addon), join(modules, 'kernels-cpu', addon));
    cpSync(TINY, join(at, 'examples/tiny-llama'), { recursive: true });
    // As a platform mounts it: read-only. That it is, is seen first.
    const script =
      'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd "$1" && ! touch here 2>/dev/null && exec "$2" handler.mjs';
    const { stdout, stderr } = await shell(script, [at, process.execPath], { env: { PATH: process.env.PATH, HOME: '/nonexistent' } });
    expect(stderr).toBe('');
    const lines = stdout.trim().split('\n');
    expect(lines.length).toBeGreaterThanOrEqual(2);
    expect(lines[0]).toMatch(/\w/);
    expect(readdirSync(at).sort()).toEqual(['examples', 'handler.mjs', 'node_modules']);
  });
});

describe('Docker', () => {
  const [block] = page.filter(({ language }) => language === 'dockerfile');
  const instructions = block!.code.trim().split('\n');

  it('copies what installs before what changes often, and ends as an ordinary user', () => {
    const order = (pattern: RegExp): number => instructions.findIndex((line) => pattern.test(line));
    for (const line of instructions) expect(line).toMatch(/^(?:FROM|WORKDIR|COPY|RUN|ENV|VOLUME|USER|CMD) \S/);
    expect(order(/^COPY package\.json package-lock\.json/)).toBeLessThan(order(/^RUN npm ci --omit=dev$/));
    expect(order(/^RUN npm ci/)).toBeLessThan(order(/^COPY model/));
    expect(order(/^COPY model/)).toBeLessThan(order(/^COPY server\.mjs/));
    expect(order(/^USER node$/)).toBeLessThan(order(/^CMD \["node", "server\.mjs"\]$/));
    expect(instructions.filter((line) => line.startsWith('RUN'))).toEqual(['RUN npm ci --omit=dev']); // install.test.ts installs from a registry
  });
});
