// Backends and methods of strangers: folders of their own that know lowbit from a registry alone.

import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { needs } from '../../fixtures/needs.ts';
import { digests, ensureBuilt, TINY } from '../cli-process.ts';
import { type LocalRegistry, must, pack, publishedPackages, run, startRegistry, toolsProblem } from './registry.mjs';

const examples = fileURLToPath(new URL('../../examples', import.meta.url));
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

/** Runs tiny-llama whole on the reference backend, then with the ends of its feed-forward blocks on the plugin. */
const PROGRAM = `
import { createRuntime, referenceBackend } from '@lowbit/core';
import { openCheckpoint } from '@lowbit/hub';
import { loadModel } from '@lowbit/models';
import plain from './index.js';

const told = [];
const runtime = await createRuntime({ backends: [plain(), referenceBackend()], allowDequant: true });
const checkpoint = await openCheckpoint(process.argv[2]);
for (const options of [{}, { deviceMap: { '': 'reference', 'mlp.down_proj': 'plain' } }]) {
  const model = await loadModel(checkpoint, { runtime, ...options });
  const { text } = await model.generate({ prompt: 'It was', maxTokens: 8, temperature: 0 });
  const placed = model.placement.filter(({ backend }) => backend === 'plain').flatMap(({ linears }) => linears);
  told.push({ text, placed: placed.length });
  await model[Symbol.asyncDispose]();
}
const held = (await Promise.all(['plain', 'reference'].map((name) => runtime.backend(name)))).map((backend) => backend.allocated());
await runtime[Symbol.asyncDispose]();
console.log(JSON.stringify({ told, held }));
`;

describe('examples/backend-plugin', () => {
  let project = '';
  beforeAll(() => {
    if (problem !== undefined) return;
    project = registry.project('plugin');
    cpSync(join(examples, 'backend-plugin'), project, { recursive: true });
    const npmrc = readFileSync(join(project, '.npmrc'), 'utf8');
    must('npm', ['install'], project);
    must('npm', ['install', '--no-save', '@lowbit/hub', '@lowbit/models'], project);
    writeFileSync(join(project, '.npmrc'), npmrc);
    writeFileSync(join(project, 'program.mjs'), PROGRAM);
  });

  it('passes the conformance kit in the test runner of Node.js', (context) => {
    registryOnly(context);
    const output = must('npm', ['test'], project);
    expect(output).toMatch(/^# fail 0$/m);
    expect(Number(/^# pass (\d+)$/m.exec(output)?.[1])).toBeGreaterThan(100);
  });

  it('runs the ends of feed-forward blocks, and gives all memory back', (context) => {
    registryOnly(context);
    const { told, held } = JSON.parse(must(process.execPath, ['program.mjs', TINY], project));
    expect(told).toEqual([
      { text: expect.any(String), placed: 0 },
      { text: told[0].text, placed: 6 },
    ]);
    expect(told[0].text.length).toBeGreaterThan(4);
    expect(held).toEqual([0, 0]);
  });

  it('works beside another copy of core', (context) => {
    registryOnly(context);
    const plugin = join(project, 'node_modules/plugin');
    mkdirSync(join(plugin, 'node_modules/@lowbit'), { recursive: true });
    for (const name of ['index.js', 'package.json']) cpSync(join(project, name), join(plugin, name));
    cpSync(join(project, 'node_modules/@lowbit/core'), join(plugin, 'node_modules/@lowbit/core'), { recursive: true });
    writeFileSync(join(project, 'twice.mjs'), PROGRAM.replace('./index.js', './node_modules/plugin/index.js'));
    const once = JSON.parse(must(process.execPath, ['program.mjs', TINY], project));
    expect(JSON.parse(must(process.execPath, ['twice.mjs', TINY], project))).toEqual(once);
  });

  it('is refused by name where it keeps another version of the contract', (context) => {
    registryOnly(context);
    writeFileSync(
      join(project, 'next.mjs'),
      "import { createRuntime } from '@lowbit/core';\nimport plain from './index.js';\nawait createRuntime({ backends: [{ ...plain(), spec: 2 }] });\n",
    );
    const { status, output } = run(process.execPath, ['next.mjs'], project);
    expect(status).toBe(1);
    expect(output).toContain("code: 'ERR_BACKEND_UNAVAILABLE'");
    expect(output).toContain("backend 'plain' keeps version 2 of the contract");
  });
});

describe('examples/method-plugin', () => {
  const NAME = 'lowbit-method-rtn';
  let [author, user] = ['', ''];
  /** The command that the registry gave, in the project of a user: methods are found from there. */
  const lowbit = (...args: string[]) => run(join(user, 'node_modules/.bin/lowbit'), args, user);
  const errorOf = (...args: string[]): Record<string, unknown> => {
    const { status, output } = lowbit(...args, '--json');
    return { status, ...JSON.parse(output) };
  };
  const quantized = (out: string, method: string): Record<string, string> => {
    const { status, output } = lowbit('quantize', TINY, '-o', out, '-m', method, '-b', '8', '-g', '64');
    expect({ status, output }).toMatchObject({ status: 0, output: expect.stringContaining(`with --plugin ${NAME} or its path`) });
    return digests(join(user, out));
  };

  beforeAll(() => {
    if (problem !== undefined) return;
    author = registry.project('method');
    const npmrc = readFileSync(join(author, '.npmrc'), 'utf8');
    cpSync(join(examples, 'method-plugin'), author, { recursive: true });
    writeFileSync(join(author, '.npmrc'), npmrc);
    must('npm', ['install'], author);
    must('npm', ['pack'], author);
    user = registry.project('user');
    must('npm', ['install', 'lowbit', join(author, `${NAME}-1.0.0.tgz`)], user);
  });

  it('passes the conformance kits in the test runner of Node.js', (context) => {
    registryOnly(context);
    const output = must('npm', ['test'], author);
    expect(output).toMatch(/^# fail 0$/m);
    expect(Number(/^# pass (\d+)$/m.exec(output)?.[1])).toBeGreaterThan(30);
  });

  it('quantizes and runs as an installed package, and the same beside another copy of core', (context) => {
    registryOnly(context);
    const plugin = join(user, 'node_modules', NAME);
    expect(existsSync(join(plugin, 'node_modules'))).toBe(false);
    const once = quantized('once', NAME);
    expect(quantized('by-path', author)).toEqual(once);

    mkdirSync(join(plugin, 'node_modules/@lowbit'), { recursive: true });
    cpSync(join(user, 'node_modules/@lowbit/core'), join(plugin, 'node_modules/@lowbit/core'), { recursive: true });
    expect(quantized('twice', NAME)).toEqual(once);
    const generate = ['-p', 'It was a fine', '--max-tokens', '8', '--temp', '0', '-q'];
    const original = lowbit('generate', TINY, ...generate);
    expect(original).toMatchObject({ status: 0, output: expect.stringMatching(/\w{2}/) });
    expect(lowbit('generate', 'twice', '--plugin', NAME, ...generate)).toEqual(original);
    expect(errorOf('generate', 'twice', ...generate)).toMatchObject({ status: 1, error: { code: 'ERR_UNSUPPORTED_FORMAT' } });
    // An error of the other copy is one of lowbit: by its code it is wrong usage.
    expect(errorOf('quantize', TINY, '-o', 'never', '-m', NAME, '-b', '3')).toMatchObject({
      status: 2,
      error: { code: 'ERR_USAGE', message: expect.stringContaining('rtn has no 3 bits') },
    });
  });

  it('is refused by name where a part of it keeps another version of the contract', (context) => {
    registryOnly(context);
    for (const [what, text, status, code] of [
      ['method', '{ ...plugin, spec: 2 }', 1, 'ERR_BAD_ARGUMENT'],
      ['layout', '{ ...plugin, layouts: [{ ...plugin.layouts[0], spec: 2 }] }', 1, 'ERR_BAD_ARGUMENT'],
      ['quantizer', '{ ...plugin, quantizer: (flags) => ({ ...plugin.quantizer(flags), spec: 2 }) }', 2, 'ERR_USAGE'],
    ] as const) {
      const file = `./next-${what}.mjs`;
      writeFileSync(join(user, file), `import plugin from '${NAME}';\nexport default ${text};\n`);
      const message = `the ${what} of ${file} keeps version 2 of the contract; this lowbit keeps version 1`;
      expect(errorOf('quantize', TINY, '-o', 'never', '-m', file)).toMatchObject({ status, error: { code, message } });
    }
  });
});
