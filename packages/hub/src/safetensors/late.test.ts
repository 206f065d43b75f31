import { mkdir, open, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { TensorSpec } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { failure, temporaryFolder } from '../testing.node.ts';
import { headerLength } from './header.ts';
import { PT_METADATA, planFiles } from './shards.ts';
import { createSafetensorsSink } from './sink.node.ts';
import type { SafetensorsSink, SafetensorsSinkOptions } from './sink.ts';
import { openSafetensors } from './source.node.ts';

const job: SafetensorsSinkOptions = { fingerprint: 'x' };
const specs = (most: readonly number[]): Map<string, TensorSpec> =>
  new Map<string, TensorSpec>([
    ...most.map((length, i): [string, TensorSpec] => [`late.${i}`, { dtype: 'u8', shape: [length] }]),
    ['wide', { dtype: 'f32', shape: [3] }],
    ['zz', { dtype: 'u8', shape: [5] }],
  ]);
const late = (tensors: ReadonlyMap<string, TensorSpec>) => new Set([...tensors.keys()].filter((name) => name.startsWith('late.')));
const text = (i: number, length: number) => Uint8Array.from({ length }, (_, j) => 65 + ((i + j) % 26));

async function fill(sink: SafetensorsSink, lengths: readonly number[]): Promise<void> {
  await sink.write('wide', 0, new Uint8Array(12).fill(1));
  await sink.write('zz', 0, new Uint8Array(5).fill(2));
  for (const [i, length] of lengths.entries()) await sink.write(`late.${i}`, 0, text(i, length));
  await sink.commit('all', null);
}

async function contents(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder)).sort();
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, (await readFile(join(folder, name))).toString('latin1')])));
}

describe('late tensors', () => {
  test('have the length they were written with, behind all others; no file is larger than planned', async () => {
    const sizes = fc.array(
      fc.nat({ max: 300 }).chain((most) => fc.tuple(fc.constant(most), fc.nat({ max: most }))),
      { maxLength: 12 },
    );
    await fc.assert(
      fc.asyncProperty(sizes, fc.constantFrom(undefined, 30, 200), async (pairs, shardSize) => {
        await using temp = await temporaryFolder();
        const out = join(temp.path, 'out');
        const tensors = specs(pairs.map(([most]) => most));
        const planned = planFiles(tensors, { shardSize, late: late(tensors) });
        await using sink = await createSafetensorsSink(out, { ...job, shardSize });
        await sink.reserve(tensors, PT_METADATA, late(tensors));
        expect(sink.files).toEqual(planned);
        await fill(
          sink,
          pairs.map(([, length]) => length),
        );
        await sink.close();
        const files = await Promise.all(sink.files.map(async ({ name }) => ({ name, bytes: (await stat(join(out, name))).size })));
        expect(sink.files).toEqual(files);
        for (const [i, { name, bytes }] of files.entries()) {
          expect(name).toBe(planned[i]!.name);
          expect(bytes).toBeLessThanOrEqual(planned[i]!.bytes);
        }
        const paths = files.filter(({ name }) => name.endsWith('.safetensors')).map(({ name }) => join(out, name));
        await using source = await openSafetensors(paths);
        let total = 17;
        for (const [i, [, length]] of pairs.entries()) {
          expect(await source.read(`late.${i}`)).toEqual({ dtype: 'u8', shape: [length], data: text(i, length) });
          total += length;
        }
        expect((await source.read('zz')).data).toEqual(new Uint8Array(5).fill(2));
        for (const { header } of source.files) {
          const ends = [...header.tensors].map(([name, { start }]) => [name.startsWith('late.') ? 1 : 0, start] as const);
          expect(ends).toEqual(ends.toSorted(([a, x], [b, y]) => a - b || x - y));
        }
        const index = await readFile(join(out, 'model.safetensors.index.json'), 'utf8').catch(() => undefined);
        expect(index === undefined).toBe(paths.length === 1);
        if (index !== undefined) expect(JSON.parse(index).metadata.total_size).toBe(total);
      }),
      { numRuns: 40 },
    );
  });

  test('with their largest lengths, files are as large as planned, and the header has no more spaces than without', async () => {
    await using temp = await temporaryFolder();
    const tensors = specs([30, 40]);
    await using sink = await createSafetensorsSink(join(temp.path, 'out'), job);
    await sink.reserve(tensors, PT_METADATA, late(tensors));
    const before = [...sink.files];
    await fill(sink, [30, 40]);
    await sink.close();
    expect(sink.files).toEqual(before);
    const bytes = await readFile(join(temp.path, 'out', 'model.safetensors'));
    const header = bytes.toString('utf8', 8, 8 + headerLength(bytes, bytes.byteLength, 'x'));
    expect(header.length - header.trimEnd().length).toBeLessThan(8);
  });

  test('wrong calls', async () => {
    await using temp = await temporaryFolder();
    const tensors = specs([4]);
    {
      await using sink = await createSafetensorsSink(join(temp.path, 'wide'), job);
      expect((await failure(() => sink.reserve(tensors, {}, new Set(['wide'])))).message).toMatch(/"wide" cannot be a late tensor/);
    }
    await using sink = await createSafetensorsSink(join(temp.path, 'out'), job);
    await sink.reserve(tensors, {}, late(tensors));
    expect((await failure(() => sink.write('late.0', 0, new Uint8Array(5)))).hint).toMatch(/at most 4/);
    expect((await failure(() => sink.write('late.0', 1, new Uint8Array(1)))).code).toBe('ERR_BAD_ARGUMENT');
    await fill(sink, []);
    expect((await failure(() => sink.close())).message).toBe('"late.0" was not written');
    await sink.write('late.0', 0, text(0, 3));
    await sink.write('late.0', 0, text(0, 2)); // the last write counts
    await sink.close();
    await using source = await openSafetensors(join(temp.path, 'out', 'model.safetensors'));
    expect((await source.read('late.0')).data).toEqual(text(0, 2));
  });
});

describe('resuming', () => {
  const tensors = specs([40, 7, 900]);
  const lengths = [31, 7, 80];
  const shardSize = 60;

  async function start(out: string, more: Partial<SafetensorsSinkOptions> = {}): Promise<SafetensorsSink> {
    const sink = await createSafetensorsSink(out, { ...job, shardSize, resume: true, keepPartial: true, ...more });
    await sink.reserve(tensors, PT_METADATA, late(tensors));
    return sink;
  }

  async function whole(path: string): Promise<Record<string, string>> {
    await using sink = await start(path);
    await fill(sink, lengths);
    await sink.close();
    return contents(path);
  }

  test('what was committed needs not be written again; what was not does', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    const first = await start(out);
    await fill(first, lengths.slice(0, 2));
    await first.write('late.2', 0, text(2, 80)); // and no commit
    await first[Symbol.asyncDispose]();
    await using second = await start(out);
    expect(second.done.has('all')).toBe(true);
    expect((await failure(() => second.close())).message).toBe('"late.2" was not written');
    await second.write('late.2', 0, text(2, 80));
    await second.close();
    expect(await contents(out)).toEqual(await whole(join(temp.path, 'whole')));
  });

  test.each([
    ['whole', undefined],
    ['with a torn header', 40],
    ['not cut yet', -1],
  ])('interrupted while closing, the final files %s', async (_what, damage) => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    const first = await start(out);
    await fill(first, lengths);
    await mkdir(out); // appears meanwhile, so that close fails at its very end
    expect((await failure(() => first.close())).code).toBe('ERR_OUTPUT_EXISTS');
    await first[Symbol.asyncDispose]();
    await rm(out, { recursive: true });
    const shards = (await readdir(`${out}.partial`)).filter((name) => name.endsWith('.safetensors'));
    expect(shards.length).toBeGreaterThan(1);
    for (const name of shards) {
      const handle = await open(join(`${out}.partial`, name), 'r+');
      if (damage === -1) await handle.truncate((await handle.stat()).size + 100);
      else if (damage !== undefined) await handle.write(Buffer.alloc(damage, 0x20), 0, damage, 8);
      await handle.close();
    }
    await using second = await start(out);
    await second.close();
    expect(await contents(out)).toEqual(await whole(join(temp.path, 'whole')));
  });

  test('other late tensors or another shard size: ERR_JOURNAL_MISMATCH, before and after an interrupted close', async () => {
    await using temp = await temporaryFolder();
    const out = join(temp.path, 'out');
    const first = await start(out);
    await fill(first, lengths);
    const attempt = async (reserved: ReadonlyMap<string, TensorSpec>, names: ReadonlySet<string>, size = shardSize) => {
      await using sink = await createSafetensorsSink(out, { ...job, shardSize: size, resume: true, keepPartial: true });
      return (await failure(() => sink.reserve(reserved, PT_METADATA, names))).code;
    };
    for (const close of [false, true]) {
      if (close) {
        const again = await start(out);
        await mkdir(out);
        await failure(() => again.close());
        await again[Symbol.asyncDispose]();
        await rm(out, { recursive: true });
      } else {
        await first[Symbol.asyncDispose]();
      }
      expect(await attempt(specs([40, 6, 900]), late(tensors))).toBe('ERR_JOURNAL_MISMATCH');
      expect(await attempt(tensors, new Set())).toBe('ERR_JOURNAL_MISMATCH');
      expect(await attempt(tensors, late(tensors), 10_000)).toBe('ERR_JOURNAL_MISMATCH');
    }
    await using last = await start(out);
    await last.close();
    expect(await contents(out)).toEqual(await whole(join(temp.path, 'whole')));
  });
});
