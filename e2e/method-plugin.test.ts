// A method of a stranger by the command: chosen by its path, stored in its own layout, read again only where a person names it.

import { spawnSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { digests, ensureBuilt, lowbit, lowbitJson, TINY } from './cli-process.ts';

const PLUGIN = fileURLToPath(new URL('../examples/method-plugin', import.meta.url));

let dir: string;
beforeAll(async () => {
  ensureBuilt();
  dir = await mkdtemp(join(tmpdir(), 'lowbit-method-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

test('passes the conformance kit in the test runner of Node.js', () => {
  const { stdout } = spawnSync(process.execPath, ['--test', '--test-reporter=tap'], { cwd: PLUGIN, encoding: 'utf8' });
  expect(stdout).toMatch(/^# fail 0$/m);
  expect(Number(/^# pass (\d+)$/m.exec(stdout)?.[1])).toBeGreaterThan(30);
});

describe('the command', () => {
  let out: string;
  beforeAll(async () => {
    out = join(dir, 'rtn');
    const { code, stdout, stderr } = await lowbit(['quantize', TINY, '-o', out, '-m', PLUGIN, '-b', '8', '-g', '64']);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    expect(stdout).toContain('lowbit, with --plugin lowbit-method-rtn or its path.');
    expect(stdout).toContain(`lowbit generate ${out} --plugin ${PLUGIN} -p`);
  });

  test('quantizes by a folder or a file, the same in shards, kept layers and 4 bits too', async () => {
    const config = JSON.parse(await readFile(join(out, 'config.json'), 'utf8'));
    expect(config.quantization_config).toEqual({ quant_method: 'rtn', plugin: 'lowbit-method-rtn' });
    const shards = join(dir, 'shards');
    for (const index of [2, 1]) {
      const args = ['quantize', TINY, '-o', shards, '-m', join(PLUGIN, 'index.js'), '-b', '8', '-g', '64', '--shard', `${index}/2`];
      expect(await lowbit(args)).toMatchObject({ code: 0 });
    }
    expect(await lowbit(['merge-shards', shards])).toMatchObject({ code: 0 });
    expect(digests(shards)).toEqual(digests(out));
    const four = await lowbitJson<{ tags: { tag: string; format: string }[]; summary: { bitsPerWeight: number } }>([
      'quantize',
      TINY,
      '--dry-run',
      '-m',
      PLUGIN,
      '--skip',
      'mlp.*',
    ]);
    expect(four).toMatchObject({ code: 0, json: { layout: 'rtn', summary: { bitsPerWeight: 4.5 } } });
  });

  test('runs, measures and inspects the folder with --plugin, on the backend of the machine and the reference', async () => {
    const run = ['generate', out, '--plugin', PLUGIN, '-p', 'It was a fine', '--max-tokens', '8', '--temp', '0'];
    const original = await lowbit(['generate', TINY, ...run.slice(4), '--backend', 'reference', '-q']);
    for (const backend of ['auto', 'reference']) {
      const result = await lowbit([...run, '--backend', backend, '-q']);
      expect(result).toMatchObject({ code: 0, stdout: original.stdout });
    }
    const ids = join(dir, 'ids.json');
    await writeFile(ids, JSON.stringify([Array.from({ length: 48 }, (_, i) => 1 + ((i * 37) % 500))]));
    const { json } = await lowbitJson<{ kl: number }>(['compare', out, TINY, '--ids', ids, '--plugin', PLUGIN]);
    expect(json.kl).toBeGreaterThan(0);
    expect(json.kl).toBeLessThan(0.01);
    const text = join(dir, 'short.txt');
    await writeFile(text, 'It was a fine morning, and the sea was as still as a pond.');
    const report = ['report', out, out, '--data', text, '--prompt', 'It was', '--max-tokens', '4', '-o', join(dir, 'report.html')];
    expect(await lowbit([...report, '--plugin', PLUGIN])).toMatchObject({ code: 0 });
    const inspected = await lowbitJson<{ quantization: object }>(['inspect', out, '--plugin', PLUGIN]);
    expect(inspected).toMatchObject({ code: 0, json: { quantization: { layout: 'rtn', linears: 42 } } });
  });

  test('never executes what a folder names', async () => {
    const trap = join(dir, 'trap', 'node_modules', 'lowbit-method-rtn');
    await mkdir(trap, { recursive: true });
    await writeFile(join(trap, 'package.json'), JSON.stringify({ name: 'lowbit-method-rtn', type: 'module', exports: './index.js' }));
    await writeFile(
      join(trap, 'index.js'),
      `import { writeFileSync } from 'node:fs'; writeFileSync(${JSON.stringify(join(dir, 'sprung'))}, '');`,
    );
    const cwd = join(dir, 'trap');
    for (const args of [
      ['inspect', out],
      ['generate', out, '-p', 'x'],
      ['quantize', out, '-o', join(dir, 'again')],
    ]) {
      const { code, json } = await lowbitJson(args, { cwd });
      expect({ code, json }).toMatchObject({
        code: 1,
        json: {
          error: {
            code: 'ERR_UNSUPPORTED_FORMAT',
            hint: expect.stringContaining('pass --plugin lowbit-method-rtn'),
            details: { plugin: 'lowbit-method-rtn' },
          },
        },
      });
    }
    await expect(stat(join(dir, 'sprung'))).rejects.toThrow('ENOENT');
    // Named by a person it is.
    expect((await lowbitJson(['inspect', out, '--plugin', 'lowbit-method-rtn'], { cwd })).json.error.code).toBe('ERR_BAD_ARGUMENT');
    expect((await stat(join(dir, 'sprung'))).size).toBe(0);
  });

  test('gets importance, if it says that it uses any', async () => {
    const module = join(dir, 'using.mjs');
    await writeFile(
      module,
      `import rtn from ${JSON.stringify(pathToFileURL(join(PLUGIN, 'index.js')).href)};
import { writeFileSync } from 'node:fs';
const quantizer = (settings) => {
  const own = rtn.quantizer(settings);
  return { ...own, usesImportance: true, quantize(weight, format, out, options) {
    if (options.importance !== undefined) writeFileSync(${JSON.stringify(join(dir, 'important'))}, '');
    return own.quantize(weight, format, out, options);
  } };
};
export default { ...rtn, quantizer };`,
    );
    const args = ['quantize', TINY, '-o', join(dir, 'using'), '--importance', 'weights', '-m'];
    expect((await lowbit([...args, PLUGIN])).code).toBe(2);
    expect(await lowbit([...args, module])).toMatchObject({ code: 0 });
    expect((await stat(join(dir, 'important'))).isFile()).toBe(true);
  });

  test('says what is wrong with a method', async () => {
    const module = async (name: string, text: string) => {
      await writeFile(join(dir, name), text);
      return join(dir, name);
    };
    const whole = `name: 'x', layouts: [], quantizer: () => ({ spec: 1, method: 'x', config: {}, identity: 'x', format: () => ({}), quantize: async () => ({}) })`;
    for (const [method, code, message] of [
      [
        await module('next.mjs', `export default { spec: 2, ${whole} };`),
        'ERR_BAD_ARGUMENT',
        'keeps version 2 of the contract; this lowbit keeps version 1',
      ],
      [await module('layout.mjs', `export default { spec: 1, ${whole}, layouts: [{ spec: 3 }] };`), 'ERR_BAD_ARGUMENT', 'the layout of'],
      [await module('none.mjs', 'export default 1;'), 'ERR_BAD_ARGUMENT', 'exports no method'],
      [await module('half.mjs', "export const method = { spec: 1, name: 'x' };"), 'ERR_BAD_ARGUMENT', 'something that is no method'],
      [await module('broken.mjs', "throw new Error('at once');"), 'ERR_UNSUPPORTED_FORMAT', 'could not be loaded: at once'],
      [join(dir, 'nowhere.mjs'), 'ERR_NOT_FOUND', 'the file does not exist'],
      ['lowbit-method-that-is-not-there', 'ERR_NOT_FOUND', 'no package of that name is installed here'],
    ] as const) {
      const { json } = await lowbitJson(['quantize', TINY, '-o', join(dir, 'never'), '-m', method], { cwd: dir });
      expect(json.error, method).toMatchObject({ code, message: expect.stringContaining(message) });
    }
    for (const [args, message] of [
      [['-m', 'hqqq'], '"hqqq" is not one of hqq'],
      [['-m', PLUGIN, '--axis', '0'], 'axis'],
      [['-m', PLUGIN, '-b', '3'], 'rtn has no 3 bits'],
      [['-m', PLUGIN, '--target-bits', '4'], '--target-bits and --target-size share out methods of lowbit'],
      [['-m', PLUGIN, '--preset', 'best4'], '--preset best4 is for hqq'],
    ] as const) {
      const { code, stderr } = await lowbit(['quantize', TINY, '-o', join(dir, 'never'), ...args]);
      expect({ code, stderr }, message).toMatchObject({ code: 2, stderr: expect.stringContaining(message) });
    }
  });
});
