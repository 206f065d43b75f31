// What users install: from a registry, into blank projects, exactly what they named. Each is type-checked and run in every runtime that there is.

import { existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { needs } from '../../fixtures/needs.ts';
import { ensureBuilt, TINY } from '../cli-process.ts';
import { type LocalRegistry, must, OLD_NODE, pack, publishedPackages, RUNTIMES, run, startRegistry, toolsProblem } from './registry.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const problem = toolsProblem();
const registryOnly = (context: { skip(reason: string): void }): void => needs(context, 'registry', problem === undefined, problem ?? '');

let registry: LocalRegistry;
beforeAll(async () => {
  if (problem !== undefined) return;
  ensureBuilt();
  const dir = mkdtempSync(join(tmpdir(), 'lowbit-registry-'));
  registry = await startRegistry(dir);
  registry.publish(pack(publishedPackages(), join(dir, 'archives')));
});
afterAll(() => registry?.stop());

/** Bytes of a folder. */
const bytes = (path: string): number =>
  statSync(path).isDirectory() ? readdirSync(path).reduce((sum, name) => sum + bytes(join(path, name)), 0) : statSync(path).size;

/** Everything below a folder with its size and when it was last written. */
function state(path: string): string[] {
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) => {
      const { size, mtimeMs, ctimeMs } = lstatSync(join(path, name));
      return `${name} ${size} ${mtimeMs} ${ctimeMs}`;
    });
}

/** All packages below node_modules, by name. */
function installed(project: string): string[] {
  const modules = join(project, 'node_modules');
  return readdirSync(modules)
    .filter((name) => !name.startsWith('.'))
    .flatMap((name) => (name.startsWith('@') ? readdirSync(join(modules, name)).map((inner) => `${name}/${inner}`) : [name]))
    .sort();
}

/** A program that quantizes a weight with one method, multiplies by it, and prints the error in thousandths of the weight. */
const program = (method: string, quantizer: string): string => `
import { createRuntime, quantize, referenceBackend } from '@lowbit/core';
import { ${quantizer} } from '@lowbit/${method}';

const weight = { dtype: 'f32' as const, shape: [64, 128], data: new Uint8Array(Float32Array.from({ length: 64 * 128 }, (_, i) => Math.sin(i * i)).buffer) };
const quantized = await quantize(weight, ${quantizer}());
const runtime = await createRuntime({ backends: [referenceBackend()] });
try {
  const linear = await runtime.linear(quantized);
  const { data } = await linear.dequantize();
  const numbers = new Float32Array(data.buffer, data.byteOffset, data.byteLength / 4);
  let [error, norm] = [0, 0];
  for (const [i, value] of numbers.entries()) {
    error += (value - Math.sin(i * i)) ** 2;
    norm += Math.sin(i * i) ** 2;
  }
  console.log(Math.round((1000 * error) / norm));
  linear[Symbol.dispose]();
} finally {
  await runtime[Symbol.asyncDispose]();
}
`;

const METHODS = [
  { method: 'hqq', quantizer: 'hqq', most: 15 },
  { method: 'bnb', quantizer: 'nf4', most: 30 },
  { method: 'higgs', quantizer: 'higgs', most: 15 },
] as const;

describe.each(METHODS)('@lowbit/core and @lowbit/$method', ({ method, quantizer, most }) => {
  let project = '';
  beforeAll(() => {
    if (problem !== undefined) return;
    project = registry.project(method);
    must('npm', ['install', '@lowbit/core', `@lowbit/${method}`], project);
    writeFileSync(join(project, 'main.ts'), program(method, quantizer));
    writeFileSync(join(project, 'main.mjs'), program(method, quantizer).replace(' as const', ''));
  });

  it('are all that is installed', (context) => {
    registryOnly(context);
    expect(installed(project)).toEqual(['@lowbit/core', `@lowbit/${method}`].sort());
    expect(bytes(join(project, 'node_modules'))).toBeLessThan(500_000);
  });

  it.for(['nodenext', 'bundler'])('type-check with moduleResolution %s', (resolution, context) => {
    registryOnly(context);
    const module = resolution === 'nodenext' ? 'nodenext' : 'esnext';
    const lib = ['es2022', 'esnext.disposable', 'dom'];
    const compilerOptions = { target: 'es2022', lib, types: [], strict: true, noEmit: true, module, moduleResolution: resolution };
    writeFileSync(join(project, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['main.ts'] }));
    const { status, output } = run(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', '.'], project);
    expect([status, output]).toEqual([0, '']);
  });

  it.for(Object.keys(RUNTIMES))('run in %s', (runtime, context) => {
    registryOnly(context);
    const [command, ...args] = RUNTIMES[runtime]!;
    const error = Number(must(command!, [...args, 'main.mjs'], project));
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(most);
  });

  it('are what require gives, where Node requires modules', (context) => {
    registryOnly(context);
    writeFileSync(
      join(project, 'main.cjs'),
      `console.log(typeof require('@lowbit/core').quantize, typeof require('@lowbit/${method}').${quantizer});`,
    );
    expect(must(RUNTIMES['node 22']![0]!, ['--no-warnings', 'main.cjs'], project)).toBe('function function\n');
  });
});

describe('lowbit', () => {
  let project = '';
  beforeAll(() => {
    if (problem !== undefined) return;
    project = registry.project('command');
    must('npm', ['install', 'lowbit'], project);
  });

  it('takes less than 15 MB, and nothing in it runs at install', (context) => {
    registryOnly(context);
    expect(bytes(join(project, 'node_modules'))).toBeLessThan(15_000_000);
    const scripts = installed(project).flatMap((name) => {
      const manifest = JSON.parse(readFileSync(join(project, 'node_modules', name, 'package.json'), 'utf8'));
      const own = Object.keys(manifest.scripts ?? {}).filter((key) => /^(pre|post)?install$/.test(key));
      return [...own, ...(existsSync(join(project, 'node_modules', name, 'binding.gyp')) ? ['binding.gyp'] : [])].map(
        (key) => `${name}: ${key}`,
      );
    });
    expect(scripts).toEqual([]);
  });

  it('is run by npx without a compiler, a GPU, or a network after the install', (context) => {
    registryOnly(context);
    const bin = join(project, 'node_modules/.bin/lowbit');
    const out = join(project, 'tiny-hqq4');
    const before = state(join(project, 'node_modules'));
    // Nothing on the PATH; and where the system lets us, no network at all.
    const env = { PATH: '/nowhere', HOME: project };
    const alone = run('/usr/bin/unshare', ['-rn', '/bin/true'], project, env).status === 0 ? ['/usr/bin/unshare', '-rn'] : [];
    const [command, ...args] = [...alone, process.execPath, bin];
    must(command!, [...args, 'quantize', TINY, '-o', out, '-m', 'hqq', '-b', '4', '-g', '64'], project, env);
    expect(readdirSync(out)).toContain('model.safetensors');
    const said = must(command!, [...args, 'generate', out, '-p', 'It was', '--max-tokens', '4', '--backend', 'reference'], project, env);
    expect(said).toContain('4 tokens');
    // Nothing is written there, so it may be read-only.
    expect(state(join(project, 'node_modules'))).toEqual(before);
    const { status, output } = run('npx', ['--no-install', 'lowbit', '--version'], project);
    expect([status, output.trim()]).toEqual([0, JSON.parse(readFileSync(join(root, 'packages/cli/package.json'), 'utf8')).version]);
  });

  it('says on an old Node what it needs', (context) => {
    registryOnly(context);
    const { status, output } = run(OLD_NODE, ['node_modules/lowbit/bin/lowbit.js', 'quantize', TINY], project);
    expect(status).toBe(1);
    expect(output).toMatch(/^error: lowbit needs Node\.js 20\.17 or later, this is 18\.\d+\.\d+\nhint: .*\n$/);
  });

  it('says without an addon which package would bring it, and runs on', (context) => {
    registryOnly(context);
    const { status, output } = run(
      process.execPath,
      ['node_modules/.bin/lowbit', 'generate', TINY, '-p', 'It', '--max-tokens', '1', '--backend', 'cpu'],
      project,
    );
    expect(status).toBe(1);
    expect(output).toContain('Install @lowbit/kernels-cpu-linux-x64-');
  });
});
