import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { appendFile, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DTYPE_BYTES, elementCount, type TensorSpec } from '@lowbit/core';
import { build } from 'vite';
import { beforeAll, describe, expect, test } from 'vitest';
import { goldenPath, goldenTensors } from '../../../../fixtures/golden.ts';
import { needs } from '../../../../fixtures/needs.ts';
import { failure, folderOf, mount, temporaryFolder } from '../testing.node.ts';
import { JOURNAL_FILE } from './journal.ts';
import { PT_METADATA, planFiles } from './shards.ts';
import { createSafetensorsSink } from './sink.node.ts';
import type { SafetensorsSink, SafetensorsSinkOptions } from './sink.ts';
import { doUnit, JOB, jobBytes, jobLate, jobTensors, runJob } from './sink-job.node.ts';
import { openSafetensors } from './source.node.ts';

const one: ReadonlyMap<string, TensorSpec> = new Map([['a', { dtype: 'f32', shape: [2] }]]);
const eight = new Uint8Array(8).fill(7);
const job: SafetensorsSinkOptions = { fingerprint: 'x' };

async function sizes(folder: string): Promise<Record<string, number>> {
  const names = await readdir(folder);
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, (await stat(join(folder, name))).size])));
}

describe('writing', () => {
  test.each(['hqq/checkpoints-hf4/uniform-b4-g64', 'hqq/checkpoints-hf4/per-tag', 'bnb/checkpoints/float'])(
    '%s: byte for byte as Python wrote it, from many writers in a random order',
    async (name) => {
      await using temp = await temporaryFolder();
      const out = join(temp.path, 'deep', 'out');
      const tensors = goldenTensors(`${name}/model.safetensors`);
      const config = await readFile(goldenPath(`${name}/config.json`));
      const planned = planFiles(tensors, { files: [['config.json', config.byteLength]] });

      const sink = await createSafetensorsSink(out, job);
      await sink.reserve(tensors, PT_METADATA);
      const pieces = [...tensors].flatMap(([tensor, { dtype, shape, data }], t) => {
        const count = elementCount(shape);
        const step = Math.max(1, Math.ceil(count / 3));
        return Array.from({ length: Math.ceil(count / step) }, (_, i) => ({
          tensor,
          at: i * step,
          data: data.subarray(i * step * DTYPE_BYTES[dtype], Math.min(count, (i + 1) * step) * DTYPE_BYTES[dtype]),
          key: Math.imul(t * 31 + i, 2654435761) >>> 0,
        }));
      });
      pieces.sort((a, b) => a.key - b.key);
      await Promise.all(pieces.map((piece) => sink.write(piece.tensor, piece.at, piece.data)));
      await Promise.all([...tensors.keys()].map((tensor) => sink.commit(tensor, null)));
      await sink.writeFile('config.json', config);
      expect(await readdir(join(temp.path, 'deep'))).toEqual(['out.partial', 'out.partial.lock']);
      await sink.close();
      await sink[Symbol.asyncDispose]();

      expect(await readdir(join(temp.path, 'deep'))).toEqual(['out']);
      expect(await sizes(out)).toEqual(Object.fromEntries(planned.map(({ name, bytes }) => [name, bytes])));
      const golden = await readFile(goldenPath(`${name}/model.safetensors`));
      expect(Buffer.compare(await readFile(join(out, 'model.safetensors')), golden)).toBe(0);
    },
  );

  test('shards and index have the planned sizes and read back', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    const tensors = goldenTensors('models/llama-gqa/model.safetensors');
    const options = { shardSize: 100_000, totalParameters: 12 };
    await using sink = await createSafetensorsSink(out, { ...job, ...options });
    await sink.reserve(tensors, {});
    for (const [name, { data }] of tensors) await sink.write(name, 0, data);
    await sink.close();
    const planned = planFiles(tensors, { ...options, metadata: {} });
    expect(planned.length).toBeGreaterThan(3);
    expect(sink.files).toEqual(planned);
    expect(await sizes(out)).toEqual(Object.fromEntries(planned.map(({ name, bytes }) => [name, bytes])));
    const paths = planned.filter(({ name }) => name.endsWith('.safetensors')).map(({ name }) => join(out, name));
    await using source = await openSafetensors(paths);
    for (const [name, { data }] of tensors) expect(Buffer.compare((await source.read(name)).data, data)).toBe(0);
  });

  test('commits right after each other, and commits at once', async () => {
    await using temp = await temporaryFolder();
    await using sink = await createSafetensorsSink(join(temp.path, 'out'), job);
    await sink.reserve(one, {});
    for (let i = 0; i < 50; i++) await sink.commit(`in turn ${i}`, i);
    await Promise.all(Array.from({ length: 200 }, (_, i) => sink.commit(`at once ${i}`, i)));
    await sink.commit('last', null);
    expect(sink.done.size).toBe(251);
  });

  test('writes outside of a tensor, unknown tensors, wrong order of calls', async () => {
    await using temp = await temporaryFolder();
    await using sink = await createSafetensorsSink(join(temp.path, 'out'), job);
    expect((await failure(() => sink.write('a', 0, eight))).message).toMatch(/reserve/);
    expect((await failure(() => sink.commit('a', null))).code).toBe('ERR_BAD_ARGUMENT');
    await sink.reserve(one, {});
    expect((await failure(() => sink.reserve(one, {}))).code).toBe('ERR_BAD_ARGUMENT');
    expect((await failure(() => sink.write('b', 0, eight))).code).toBe('ERR_TENSOR_MISMATCH');
    for (const [at, bytes] of [
      [1, 8],
      [-1, 4],
      [0, 3],
      [0.5, 4],
      [2 ** 53, 4],
    ] as const) {
      expect((await failure(() => sink.write('a', at, new Uint8Array(bytes)))).code).toBe('ERR_BAD_ARGUMENT');
    }
    for (const name of ['../x', 'a/b', '..', '', JOURNAL_FILE, 'x.safetensors', 'model.safetensors.index.json', 'a\\b']) {
      expect((await failure(() => sink.writeFile(name, eight))).code).toBe('ERR_BAD_ARGUMENT');
    }
    await sink.write('a', 1, eight.subarray(4));
    const incomplete = await failure(() => sink.close());
    expect(incomplete.message).toMatch(/"a" was not written completely: byte 0 of 8/);
    await sink.write('a', 0, eight.subarray(4));
    await sink.close();
    expect((await failure(() => sink.write('a', 0, eight))).code).toBe('ERR_DISPOSED');
    expect((await failure(() => sink.writeFile('x', eight))).code).toBe('ERR_DISPOSED');
  });
});

describe('closing', () => {
  test('takes no more work once it has begun, and is done once', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    await using sink = await createSafetensorsSink(out, job);
    await sink.reserve(one, {});
    await sink.write('a', 0, eight);
    const closing = sink.close();
    expect(sink.close()).toBe(closing);
    for (const late of [
      () => sink.write('a', 0, new Uint8Array(8)),
      () => sink.commit('a', null),
      () => sink.writeFile('config.json', eight),
      () => sink.reserve(one, {}),
    ]) {
      expect(await failure(late)).toMatchObject({ code: 'ERR_DISPOSED', message: expect.stringContaining('closing') });
    }
    await closing;
    expect(sink.close()).toBe(closing);
    expect(await readdir(out)).toEqual(['model.safetensors']);
    await using source = await openSafetensors([join(out, 'model.safetensors')]);
    expect((await source.read('a')).data).toEqual(eight);
  });

  test('dispose waits for it', async () => {
    await using temp = await temporaryFolder();
    const sink = await createSafetensorsSink(join(temp.path, 'out'), job);
    await sink.reserve(one, {});
    await sink.write('a', 0, eight);
    const closing = sink.close();
    await sink[Symbol.asyncDispose]();
    await closing;
    expect(await readdir(temp.path)).toEqual(['out']);
  });

  test('after dispose it is an error', async () => {
    await using temp = await temporaryFolder();
    const sink = await createSafetensorsSink(join(temp.path, 'out'), job);
    await sink[Symbol.asyncDispose]();
    expect((await failure(() => sink.close())).code).toBe('ERR_DISPOSED');
  });
});

describe('one writer for an output', () => {
  test('a second run is refused while the first one lives, whatever it asks for', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    await using first = await createSafetensorsSink(out, job);
    await first.reserve(one, {});
    for (const options of [{}, { resume: true }, { overwrite: true }]) {
      const error = await failure(() => createSafetensorsSink(out, { ...job, ...options }));
      expect(error).toMatchObject({ code: 'ERR_OUTPUT_EXISTS', message: expect.stringContaining(`process ${process.pid}`) });
    }
    await first.write('a', 0, eight);
    await first.close();
    expect(await readdir(temp.path)).toEqual(['out']);
  });

  test('the lock of a dead process is taken over, a torn one too; that of another machine is not', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    const dead = spawnSync(process.execPath, ['-e', '']).pid;
    const mine = { pid: dead, host: hostname(), nonce: 'x' };
    for (const text of [JSON.stringify(mine), JSON.stringify({ ...mine, pid: process.pid }), '{"pid"']) {
      await writeFile(`${out}.partial.lock`, text);
      const sink = await createSafetensorsSink(out, job);
      await sink[Symbol.asyncDispose]();
      expect(await readdir(temp.path)).toEqual([]);
    }
    await writeFile(`${out}.partial.lock`, JSON.stringify({ ...mine, host: 'elsewhere' }));
    expect((await failure(() => createSafetensorsSink(out, job))).code).toBe('ERR_OUTPUT_EXISTS');
  });

  test('a run whose lock was taken away does not give the folder its name', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    const sink = await createSafetensorsSink(out, job);
    await sink.reserve(one, {});
    await sink.write('a', 0, eight);
    await writeFile(`${out}.partial.lock`, JSON.stringify({ pid: 1, host: hostname(), nonce: 'other' }));
    expect((await failure(() => sink.close())).code).toBe('ERR_OUTPUT_EXISTS');
    await sink[Symbol.asyncDispose]().then(undefined, () => {});
    expect((await readdir(temp.path)).includes('out')).toBe(false);
  });
});

describe('folders that exist', () => {
  test('the output folder, or unfinished work, is never overwritten without being asked to', async () => {
    await using temp = await temporaryFolder();
    const out = await folderOf(join(temp.path, 'out'), { 'config.json': 'old' });
    const existing = await failure(() => createSafetensorsSink(out, job));
    expect(existing.code).toBe('ERR_OUTPUT_EXISTS');
    expect(existing.hint).toMatch(/overwrite/);
    expect(await readdir(temp.path)).toEqual(['out']);

    await mkdir(`${out}2.partial`);
    const unfinished = await failure(() => createSafetensorsSink(`${out}2`, job));
    expect(unfinished.code).toBe('ERR_OUTPUT_EXISTS');
    expect(unfinished.hint).toMatch(/--resume/);
    await writeFile(join(`${out}2.partial`, 'something'), '');
    const noJournal = await failure(() => createSafetensorsSink(`${out}2`, { ...job, resume: true }));
    expect(noJournal.code).toBe('ERR_OUTPUT_EXISTS');
    expect(noJournal.message).toMatch(/in the way/);
    expect((await failure(() => createSafetensorsSink(`${out}2`, { ...job, overwrite: true }))).code).toBe('ERR_OUTPUT_EXISTS');
    expect(await readdir(temp.path)).toEqual(['out', 'out2.partial']);
    expect((await failure(() => createSafetensorsSink('/', job))).code).toBe('ERR_BAD_ARGUMENT');
  });

  test('overwrite replaces a model folder at close, and nothing else', async () => {
    await using temp = await temporaryFolder();
    const out = await folderOf(join(temp.path, 'out'), { 'config.json': 'old', 'README.md': '', 'model.safetensors': '' });
    const adapters = await folderOf(join(temp.path, 'adapters'), { 'a.safetensors': 'x' });
    await folderOf(`${out}.partial`, { 'left.safetensors': '', [JOURNAL_FILE]: '' });
    const home = await folderOf(join(temp.path, 'home'), { 'letter.txt': 'dear', 'config.json': '{}' });
    const parent = await folderOf(join(temp.path, 'parent'), { 'config.json': '{}' });
    await mkdir(join(parent, 'photos'));
    await symlink(out, join(temp.path, 'link'));
    for (const folder of [home, parent, adapters, join(home, 'letter.txt'), join(temp.path, 'link')]) {
      expect((await failure(() => createSafetensorsSink(folder, { ...job, overwrite: true }))).code).toBe('ERR_OUTPUT_EXISTS');
    }
    await using sink = await createSafetensorsSink(out, { ...job, overwrite: true });
    await sink.reserve(one, {});
    await sink.write('a', 0, eight);
    expect((await readdir(out)).sort()).toEqual(['README.md', 'config.json', 'model.safetensors']);
    await sink.close();
    expect(await readdir(out)).toEqual(['model.safetensors']);
    expect((await readdir(temp.path)).sort()).toEqual(['adapters', 'home', 'link', 'out', 'parent']);
  });

  describe('what a killed overwrite had put aside', () => {
    const model = { 'config.json': 'old', 'model.safetensors': 'old' };
    const aside = (out: string, pid: number) => folderOf(join(dirname(out), `.${basename(out)}.replaced-${pid}`), model);
    const all = async (path: string) => (await readdir(path)).sort();

    async function finish(sink: SafetensorsSink): Promise<void> {
      await sink.reserve(one, {});
      await sink.write('a', 0, eight);
      await sink.close();
    }

    test('goes when the next run is in place, and nothing of another name does', async () => {
      await using temp = await temporaryFolder();
      const out = await folderOf(join(temp.path, 'out'), model);
      for (const pid of [1, process.pid]) await aside(out, pid);
      await aside(join(temp.path, 'out.2'), 1);
      await folderOf(join(temp.path, '.out.replaced-mine'), model);
      const others = ['.out.2.replaced-1', '.out.replaced-mine'];
      const sink = await createSafetensorsSink(out, { ...job, overwrite: true });
      await sink[Symbol.asyncDispose]();
      expect(await all(out)).toEqual(['config.json', 'model.safetensors']);
      await finish(await createSafetensorsSink(out, { ...job, overwrite: true }));
      expect(await all(out)).toEqual(['model.safetensors']);
      expect(await all(temp.path)).toEqual([...others, 'out']);
    });

    test('goes when a resume gives the finished work its name', async () => {
      await using temp = await temporaryFolder();
      const out = join(temp.path, 'out');
      const first = await createSafetensorsSink(out, { ...job, keepPartial: true });
      await first.reserve(one, {});
      await first.write('a', 0, eight);
      await first.commit('a', null);
      await first[Symbol.asyncDispose]();
      await aside(out, 1);
      for (const options of [{}, { fingerprint: 'y', resume: true }])
        await failure(() => createSafetensorsSink(out, { ...job, ...options }));
      expect(await all(temp.path)).toEqual(['.out.replaced-1', 'out.partial']);
      await finish(await createSafetensorsSink(out, { ...job, resume: true }));
      expect(await all(temp.path)).toEqual(['out']);
      expect(await all(out)).toEqual(['model.safetensors']);
    });

    test('comes back where there is nothing else: the newest', async () => {
      await using temp = await temporaryFolder();
      const out = join(temp.path, 'out');
      await aside(out, 2);
      await folderOf(join(temp.path, '.out.replaced-2'), { 'README.md': 'older' });
      await new Promise((resolve) => setTimeout(resolve, 20));
      await aside(out, 1);
      expect((await failure(() => createSafetensorsSink(out, job))).code).toBe('ERR_OUTPUT_EXISTS');
      expect(await all(temp.path)).toEqual(['.out.replaced-2', 'out']);
      expect(await all(out)).toEqual(['config.json', 'model.safetensors']);
    });

    test('comes back before an overwrite drops unfinished work', async () => {
      await using temp = await temporaryFolder();
      const out = join(temp.path, 'out');
      await aside(out, 1);
      await folderOf(`${out}.partial`, { [JOURNAL_FILE]: '' });
      const sink = await createSafetensorsSink(out, { ...job, overwrite: true });
      expect(await all(temp.path)).toEqual(['out', 'out.partial', 'out.partial.lock']);
      await finish(sink);
      expect(await all(temp.path)).toEqual(['out']);
      expect(await all(out)).toEqual(['model.safetensors']);
    });
  });

  test('a folder that appears meanwhile is kept, and so is the finished work', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    const sink = await createSafetensorsSink(out, job);
    await sink.reserve(one, {});
    await sink.write('a', 0, eight);
    await sink.commit('a', 1);
    await mkdir(out);
    expect((await failure(() => sink.close())).code).toBe('ERR_OUTPUT_EXISTS');
    await sink[Symbol.asyncDispose]();
    await rm(out, { recursive: true });
    await using again = await createSafetensorsSink(out, { ...job, resume: true });
    expect(again.done.get('a')).toBe(1);
    await again.reserve(one, {});
    await again.close();
    expect(await readdir(out)).toEqual(['model.safetensors']);
  });

  test('dispose without close removes the work, unless it is to be kept and something was committed', async () => {
    await using temp = await temporaryFolder();
    for (const [keepPartial, committed] of [
      [false, true],
      [true, false], // there is nothing to go on with
      [true, true],
    ]) {
      const sink = await createSafetensorsSink(join(temp.path, 'out'), { ...job, keepPartial: keepPartial! });
      await sink.reserve(one, {});
      if (committed) await sink.commit('a', null);
      await sink[Symbol.asyncDispose]();
      expect(await readdir(temp.path)).toEqual(keepPartial && committed ? ['out.partial'] : []);
    }
  });
});

describe('resuming', () => {
  async function interrupted(out: string, options = job): Promise<void> {
    const sink = await createSafetensorsSink(out, { ...options, keepPartial: true });
    await sink.reserve(new Map([...one, ['b', { dtype: 'u8', shape: [3] }]]), {});
    await sink.write('a', 0, eight);
    await sink.commit('a', { n: 1 });
    await sink.write('b', 0, eight.subarray(0, 1));
    await sink[Symbol.asyncDispose]();
  }

  test('another job, other tensors, another shard size: ERR_JOURNAL_MISMATCH', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    await interrupted(out);
    const other = await failure(() => createSafetensorsSink(out, { fingerprint: 'y', resume: true }));
    expect(other.code).toBe('ERR_JOURNAL_MISMATCH');
    expect(other.hint).toMatch(/delete/);
    const both = new Map<string, TensorSpec>([...one, ['b', { dtype: 'u8', shape: [3] }]]);
    for (const [tensors, options] of [
      [one, {}],
      [both, { shardSize: 8 }],
    ] as const) {
      await using sink = await createSafetensorsSink(out, { ...job, ...options, resume: true, keepPartial: true });
      expect((await failure(() => sink.reserve(tensors, {}))).code).toBe('ERR_JOURNAL_MISMATCH');
    }
    await using sink = await createSafetensorsSink(out, { ...job, resume: true });
    await sink.reserve(both, {});
    expect((await failure(() => sink.close())).message).toMatch(/"b" was not written completely/);
  });

  test('a torn last line is as if that commit had not been; a damaged journal is refused', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    await interrupted(out);
    const journal = join(`${out}.partial`, JOURNAL_FILE);
    await appendFile(journal, '{"units":[{"unit":"b","no');
    const sink = await createSafetensorsSink(out, { ...job, resume: true, keepPartial: true });
    expect([...sink.done]).toEqual([['a', { n: 1 }]]);
    await sink.reserve(new Map<string, TensorSpec>([...one, ['b', { dtype: 'u8', shape: [3] }]]), {});
    await sink.write('b', 0, eight.subarray(0, 3));
    await sink.commit('b', 2);
    await sink[Symbol.asyncDispose]();
    const lines = (await readFile(journal, 'utf8')).split('\n');
    expect(lines).toHaveLength(4);
    await writeFile(journal, lines.toSpliced(1, 1, 'garbage').join('\n'));
    expect((await failure(() => createSafetensorsSink(out, { ...job, resume: true }))).code).toBe('ERR_JOURNAL_MISMATCH');
    await writeFile(journal, 'garbage\n');
    expect((await failure(() => createSafetensorsSink(out, { ...job, resume: true }))).code).toBe('ERR_JOURNAL_MISMATCH');
  });

  test('interrupted before the journal had a line: a fresh start', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    for (const files of [{}, { [JOURNAL_FILE]: '' }, { [JOURNAL_FILE]: '{"low' }]) {
      await mkdir(`${out}.partial`);
      await folderOf(`${out}.partial`, files as Record<string, string>);
      const sink = await createSafetensorsSink(out, { ...job, resume: true });
      expect(sink.done.size).toBe(0);
      await sink.reserve(one, {});
      await sink.write('a', 0, eight);
      await sink.commit('a', null);
      await sink.close();
      expect(await readdir(out)).toEqual(['model.safetensors']);
      await rm(out, { recursive: true });
    }
  });

  test('killed after the folder got its name, before the journal was removed: a resume finishes', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    const whole = join(temp.path, 'whole');
    await runJob(whole, () => {});
    let commits = 0;
    const blocked = runJob(out, () => ++commits === JOB.units && mkdirSync(out));
    expect((await failure(() => blocked)).code).toBe('ERR_OUTPUT_EXISTS');
    await rm(out, { recursive: true });
    await rename(`${out}.partial`, out);
    const dead = { pid: spawnSync(process.execPath, ['-e', '']).pid, host: hostname(), nonce: 'x' };
    await writeFile(`${out}.partial.lock`, JSON.stringify(dead));
    const before = await sizes(out);
    expect(before[JOURNAL_FILE]).toBeGreaterThan(0);

    for (const options of [{ fingerprint: JOB.fingerprint }, { fingerprint: 'another', resume: true }]) {
      expect((await failure(() => createSafetensorsSink(out, options))).code).toBe('ERR_OUTPUT_EXISTS');
      expect(await sizes(out)).toEqual(before);
    }
    const again = { fingerprint: JOB.fingerprint, shardSize: JOB.shardSize, resume: true };
    await (await createSafetensorsSink(out, again))[Symbol.asyncDispose](); // finished work is never thrown away
    expect((await readdir(temp.path)).sort()).toEqual(['out.partial', 'whole']);
    await rename(`${out}.partial`, out);

    await runJob(out, () => commits++);
    expect(commits).toBe(JOB.units);
    expect((await readdir(temp.path)).sort()).toEqual(['out', 'whole']);
    expect((await readdir(out)).sort()).toEqual((await readdir(whole)).sort());
    for (const name of await readdir(whole)) {
      expect(Buffer.compare(await readFile(join(out, name)), await readFile(join(whole, name)))).toBe(0);
    }
  });

  test('resume without anything to resume is a fresh start', async () => {
    await using temp = await temporaryFolder();
    await using sink = await createSafetensorsSink(join(temp.path, 'out'), { ...job, resume: true });
    expect(sink.done.size).toBe(0);
  });
});

describe('a killed process', () => {
  let script = '';
  let bundle: Awaited<ReturnType<typeof temporaryFolder>>;
  beforeAll(async () => {
    bundle = await temporaryFolder();
    script = join(bundle.path, 'job.mjs');
    const source = (name: string) => fileURLToPath(new URL(`../../../core/src/${name}`, import.meta.url));
    await build({
      configFile: false,
      logLevel: 'error',
      resolve: {
        alias: [
          { find: /^@lowbit\/core\/layouts$/, replacement: source('layouts/index.ts') },
          { find: /^@lowbit\/core$/, replacement: source('index.ts') },
        ],
      },
      ssr: { noExternal: true },
      build: {
        ssr: fileURLToPath(new URL('./sink-job.node.ts', import.meta.url)),
        target: 'node20',
        outDir: bundle.path,
        rollupOptions: { output: { entryFileNames: 'job.mjs' } },
      },
    });
    return () => bundle[Symbol.asyncDispose]();
  });

  /** Runs the job in a process and kills it after so many commits; resolves to the units that it said were committed. */
  async function runAndKill(out: string, commits: number): Promise<Set<string>> {
    const child: ChildProcess = spawn(process.execPath, [script], {
      env: { ...process.env, LOWBIT_SINK_JOB: out },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    await new Promise<void>((resolve) => {
      child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
        text += chunk;
        if (text.split('\n').length > commits) child.kill('SIGKILL');
      });
      child.once('close', () => resolve());
    });
    return new Set(
      text
        .split('\n')
        .slice(0, -1)
        .map((line) => line.replace('committed ', '')),
    );
  }

  test('what it had committed is there, and finishing gives the same bytes', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    const whole = join(temp.path, 'whole');
    await runJob(whole, () => {});

    let committed = new Set<string>();
    for (const commits of [1, 6, 9]) committed = new Set([...committed, ...(await runAndKill(out, commits))]);
    expect(await readdir(temp.path)).toEqual(['out.partial', 'out.partial.lock', 'whole']);
    expect(committed.size).toBeGreaterThan(10);
    expect(committed.size).toBeLessThan(JOB.units);

    await using sink = await createSafetensorsSink(out, { fingerprint: JOB.fingerprint, shardSize: JOB.shardSize, resume: true });
    for (const unit of committed) expect(sink.done.has(unit)).toBe(true);
    await sink.reserve(jobTensors(), PT_METADATA, jobLate);
    for (let i = 0; i < JOB.units; i++) if (!sink.done.has(`unit.${i}`)) await doUnit(sink, i);
    await sink.writeFile('config.json', new TextEncoder().encode('{}\n'));
    await sink.close();

    expect(await readdir(out)).toEqual(await readdir(whole));
    for (const name of await readdir(whole)) {
      expect(Buffer.compare(await readFile(join(out, name)), await readFile(join(whole, name)))).toBe(0);
    }
    await using source = await openSafetensors(
      (await readdir(out)).filter((name) => name.endsWith('.safetensors')).map((name) => join(out, name)),
    );
    expect(Buffer.compare((await source.read('unit.13')).data, jobBytes('unit.13', 0, 2 * JOB.elements))).toBe(0);
    expect(await source.read('late.13')).toMatchObject({ shape: [18], data: jobBytes('late.13', 0, 18) });
  });
});

describe('disks that refuse', () => {
  test('a full disk: told before writing where it can be foreseen, and when it happens', async (context) => {
    await using temp = await temporaryFolder();
    const disk = join(temp.path, 'disk');
    await mkdir(disk);
    using mounted = mount(disk, 'size=1m');
    needs(context, 'mounts', mounted !== undefined, 'mounting a tmpfs needs a right that this user lacks');
    const tensors = (bytes: number) => new Map<string, TensorSpec>([['a', { dtype: 'u8', shape: [bytes] }]]);
    {
      await using sink = await createSafetensorsSink(join(disk, 'large'), job);
      const error = await failure(() => sink.reserve(tensors(1 << 21), {}));
      expect(error.code).toBe('ERR_IO');
      expect(error.message).toMatch(/bytes are needed, \d+ are free/);
      expect(error.hint).toMatch(/space/);
    }
    const sink = await createSafetensorsSink(join(disk, 'out'), { ...job, keepPartial: true });
    await sink.reserve(tensors(800_000), {});
    await sink.write('a', 0, new Uint8Array(100_000).fill(1));
    await sink.commit('first', null);
    await writeFile(join(disk, 'other'), new Uint8Array(600_000));
    const error = await failure(() => sink.write('a', 100_000, new Uint8Array(700_000).fill(2)));
    expect(error.code).toBe('ERR_IO');
    expect(error.message).toMatch(/out\.partial.*model\.safetensors: the disk is full/);
    expect(error.hint).toMatch(/space/);
    await sink[Symbol.asyncDispose]();

    await rm(join(disk, 'other'));
    await using again = await createSafetensorsSink(join(disk, 'out'), { ...job, resume: true });
    expect(again.done.has('first')).toBe(true);
    await again.reserve(tensors(800_000), {});
    await again.write('a', 100_000, new Uint8Array(700_000).fill(2));
    await again.close();
    expect(await readdir(disk)).toEqual(['out']);
  });

  test('a read-only disk', async (context) => {
    await using temp = await temporaryFolder();
    const disk = join(temp.path, 'disk');
    await mkdir(disk);
    using mounted = mount(disk, 'ro,size=64k');
    needs(context, 'mounts', mounted !== undefined, 'mounting a tmpfs needs a right that this user lacks');
    const error = await failure(() => createSafetensorsSink(join(disk, 'out'), job));
    expect(error.code).toBe('ERR_IO');
    expect(error.message).toMatch(/read-only/);
    expect(error.details).toMatchObject({ errno: 'EROFS', path: join(disk, 'out.partial.lock') });
  });

  test('a path through a file', async () => {
    await using temp = await temporaryFolder();
    await writeFile(join(temp.path, 'file'), '');
    const error = await failure(() => createSafetensorsSink(join(temp.path, 'file', 'out'), job));
    expect(error.code).toBe('ERR_IO');
    expect(error.hint).toBeTruthy();
  });

  test('a folder without permission', async (context) => {
    await using temp = await temporaryFolder();
    needs(context, 'permissions', process.getuid?.() !== 0 && process.platform !== 'win32', 'root may write everywhere');
    await mkdir(join(temp.path, 'locked'), { mode: 0o500 });
    const error = await failure(() => createSafetensorsSink(join(temp.path, 'locked', 'out'), job));
    expect(error.code).toBe('ERR_IO');
    expect(error.message).toMatch(/permission denied/);
  });
});
