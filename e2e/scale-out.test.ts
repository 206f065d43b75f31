// quantizeShard and mergeShards: whatever the division, the order, the machine and the interruptions, the folder is the one of quantizeCheckpoint.

import { createHash } from 'node:crypto';
import { appendFile, cp, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { fp4, int8, nf4 } from '@lowbit/bnb';
import type { Importance } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { mergeShards, openCheckpoint, quantizeCheckpoint, quantizeShard } from '@lowbit/hub';
import { llama } from '@lowbit/models';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { goldenPath } from '../fixtures/golden.ts';

const TINY = fileURLToPath(new URL('../examples/tiny-llama', import.meta.url));
const FLOAT = goldenPath('bnb/checkpoints/float');

let dir: string;
let made = 0;
/** A new name for an output. */
const place = () => join(dir, `out-${++made}`);
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'lowbit-shards-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

type Settings = Omit<Parameters<typeof quantizeCheckpoint>[1], 'out'>;
const simple: Settings = { quantizer: hqq(), adapters: [llama] };

async function whole(source: string, settings: Settings): Promise<string> {
  const out = place();
  await using checkpoint = await openCheckpoint(source);
  await quantizeCheckpoint(checkpoint, { ...settings, out });
  return out;
}

async function shard(source: string, out: string, index: number, count: number, settings: Settings & { overwrite?: boolean | undefined }) {
  await using checkpoint = await openCheckpoint(source);
  const { resume: _, ...rest } = settings;
  return await quantizeShard(checkpoint, { ...rest, out, shard: { index, count } });
}

async function digests(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder)).sort();
  const texts = names.map(async (name) => [
    name,
    createHash('sha256')
      .update(await readFile(join(folder, name)))
      .digest('hex'),
  ]);
  return Object.fromEntries(await Promise.all(texts));
}

/** Nothing is left beside the output. */
async function expectAlone(out: string): Promise<void> {
  expect((await readdir(dir)).filter((name) => name.startsWith(`${out.slice(dir.length + 1)}.`))).toEqual([]);
}

describe('the same folder, byte for byte', () => {
  const importance = new Map<string, Importance>();
  const cases: Record<string, { source?: string; settings: Settings; counts: readonly number[] }> = {
    'hqq, one file': { settings: simple, counts: [1, 3] },
    'hqq, many files': { settings: { ...simple, shardSize: 700_000 }, counts: [4] },
    'hqq-safetensors, which splits files itself': { settings: { ...simple, layout: 'hqq-safetensors' }, counts: [3] },
    'rules, a kept layer, another dtype': {
      settings: {
        ...simple,
        dtype: 'bf16',
        rules: [
          { match: '*.v_proj', use: hqq({ bits: 8 }) },
          { match: 'mlp.down_proj', use: 'keep' },
        ],
      },
      counts: [2],
    },
    'nf4 with double quantization: late tensors in one file': {
      settings: { quantizer: nf4({ doubleQuant: true }), adapters: [llama] },
      counts: [3],
    },
    'fp4 with double quantization and int8: late tensors in many files': {
      settings: {
        quantizer: fp4({ doubleQuant: true }),
        rules: [{ match: 'mlp.*', use: int8() }],
        adapters: [llama],
        shardSize: 400_000,
      },
      counts: [5],
    },
    higgs: { settings: { quantizer: higgs({ groupSize: 64, hadamardSize: 64 }), adapters: [llama] }, counts: [2] },
    'least squares with importance': {
      source: FLOAT,
      settings: { quantizer: hqq({ solver: 'least-squares' }), importance, adapters: [llama] },
      counts: [3],
    },
    'more shards than work': { source: FLOAT, settings: simple, counts: [64] },
  };
  beforeAll(async () => {
    await using source = await openCheckpoint(FLOAT);
    for (const { site } of (await import('@lowbit/hub').then((hub) => hub.planQuantization(source, simple))).plan.linears) {
      const moments = Float32Array.from({ length: site.shape[1] }, (_, i) => 1 + ((i * 37) % 11));
      importance.set(site.path, {
        kind: 'diagonal',
        moments: { dtype: 'f32', shape: [site.shape[1]], data: new Uint8Array(moments.buffer) },
        rows: 100,
      });
    }
  });

  it.each(Object.entries(cases))('%s', async (_, { source = FLOAT, settings, counts }) => {
    const expected = await digests(await whole(source, settings));
    for (const count of counts) {
      const out = place();
      // Last to first, two at a time.
      for (let index = count; index >= 1; index -= 2) {
        await Promise.all([
          shard(source, out, index, count, settings),
          ...(index > 1 ? [shard(source, out, index - 1, count, settings)] : []),
        ]);
      }
      const report = await mergeShards(out);
      expect(await digests(out)).toEqual(expected);
      expect(report.shards).toBe(count);
      expect(Object.fromEntries(report.files.map(({ name, bytes }) => [name, bytes]))).toEqual(
        Object.fromEntries(await Promise.all((await readdir(out)).map(async (name) => [name, (await stat(join(out, name))).size]))),
      );
      await expectAlone(out);
    }
  });

  it('reports what the single run reports', async () => {
    await using source = await openCheckpoint(FLOAT);
    const one = await quantizeCheckpoint(source, { ...simple, out: place() });
    const out = place();
    for (const index of [1, 2]) await shard(FLOAT, out, index, 2, simple);
    const merged = await mergeShards(out, { keepShards: true });
    expect(merged.weightError).toBe(one.weightError);
    expect(merged.loadsIn).toEqual(one.loadsIn);
    expect(merged.linears.map(({ path }) => path)).toEqual(one.linears.map(({ path }) => path));
    expect((await readdir(`${out}.shards`)).sort()).toEqual(['00001-of-00002', '00002-of-00002']);
  });

  it('shares are about equal', async () => {
    const out = place();
    const settings = { ...simple, quantizer: hqq({ optimize: false }) };
    const reports = await Promise.all([1, 2, 3, 4].map((index) => shard(TINY, out, index, 4, settings)));
    const all = (await stat(join(TINY, 'model.safetensors'))).size - (await headerBytes(TINY));
    expect(reports.reduce((sum, { sourceBytes }) => sum + sourceBytes, 0)).toBe(all);
    const sizes = new Map(reports[0]!.planned.plan.linears.map(({ site }) => [site.path, site.shape[0] * site.shape[1]]));
    const weights = reports.map(({ linears }) => linears.reduce((sum, { path }) => sum + sizes.get(path)!, 0));
    expect(Math.max(...weights) / Math.min(...weights)).toBeLessThan(1.5);
  });
});

async function headerBytes(folder: string): Promise<number> {
  const bytes = await readFile(join(folder, 'model.safetensors'));
  return 8 + Number(bytes.readBigUInt64LE(0));
}

describe('machines of their own', () => {
  it('a copy of the source elsewhere, with other times, makes shards of the same job; gathered from several places they merge', async () => {
    const copy = join(dir, 'copy');
    await cp(FLOAT, copy, { recursive: true });
    for (const name of await readdir(copy)) await utimes(join(copy, name), 1, 1);
    const [here, there, out] = [place(), place(), place()];
    await shard(FLOAT, here, 1, 2, simple);
    await shard(copy, there, 2, 2, simple);
    await mergeShards(out, { from: [join(`${there}.shards`, '00002-of-00002'), `${here}.shards`] });
    expect(await digests(out)).toEqual(await digests(await whole(FLOAT, simple)));
  });

  it('a holder of another machine that is silent is dead; one that is not lives', async () => {
    const out = place();
    const lock = join(`${out}.shards`, '00001-of-00001.partial.lock');
    await mkdir(`${out}.shards`);
    const owner = { pid: 1, host: 'elsewhere', nonce: 'x', beatMs: 1000 };
    await writeFile(lock, JSON.stringify(owner));
    const busy = { code: 'ERR_OUTPUT_EXISTS', message: expect.stringContaining('process 1 on elsewhere') };
    await expect(shard(FLOAT, out, 1, 1, simple)).rejects.toMatchObject(busy);
    const old = Date.now() / 1000 - 60;
    await utimes(lock, old, old);
    await shard(FLOAT, out, 1, 1, simple);
    expect(await readdir(`${out}.shards`)).toEqual(['00001-of-00001']);
  });
});

describe('interrupted', () => {
  /** Aborts at the nth report of progress. */
  const stopAt = (n: number) => {
    const controller = new AbortController();
    let seen = 0;
    return { signal: controller.signal, onProgress: () => ++seen === n && controller.abort() };
  };

  it('a shard goes on where it was', async () => {
    const out = place();
    const settings = { ...simple, quantizer: nf4({ doubleQuant: true }) };
    await expect(shard(FLOAT, out, 1, 2, { ...settings, ...stopAt(4) })).rejects.toMatchObject({ name: 'AbortError' });
    expect(await readdir(`${out}.shards`)).toEqual(['00001-of-00002.partial']);
    expect((await shard(FLOAT, out, 1, 2, settings)).resumed).toBeGreaterThan(0);
    const again = await shard(FLOAT, out, 1, 2, settings);
    expect(again).toMatchObject({ finished: true });
    await shard(FLOAT, out, 2, 2, settings);
    await mergeShards(out);
    expect(await digests(out)).toEqual(await digests(await whole(FLOAT, settings)));
  });

  it('merging goes on where it was, also with shards that are half gone', async () => {
    const settings = { ...simple, quantizer: nf4({ doubleQuant: true }), shardSize: 300_000 };
    const expected = await digests(await whole(FLOAT, settings));
    const out = place();
    for (const index of [1, 2, 3]) await shard(FLOAT, out, index, 3, settings);
    let stops = 0;
    for (let n = 1; ; n += 7) {
      const stop = stopAt(n);
      const outcome = await mergeShards(out, stop).catch((error: unknown) => error);
      if (!stop.signal.aborted) break;
      expect(outcome).toMatchObject({ name: 'AbortError' });
      stops++;
      // A worker whose job comes twice finds its shard done.
      expect(await shard(FLOAT, out, 1, 3, settings)).toMatchObject({ finished: true });
    }
    expect(stops).toBeGreaterThan(2);
    expect(await digests(out)).toEqual(expected);
    await expectAlone(out);
  });

  it('a merge that was killed after the output had its name clears up, and says what it made', async () => {
    const out = place();
    for (const index of [1, 2]) await shard(FLOAT, out, index, 2, simple);
    const kept = join(dir, 'kept');
    await cp(`${out}.shards`, kept, { recursive: true });
    const report = await mergeShards(out);
    const expected = await digests(out);
    await rename(kept, `${out}.shards`);
    const { job } = JSON.parse(await readFile(join(`${out}.shards`, '00001-of-00002', 'shard.json'), 'utf8'));
    const { ms: _, ...merged } = report;
    await writeFile(join(`${out}.shards`, 'merged.json'), JSON.stringify({ job, merged }));
    await writeFile(join(out, '.lowbit-journal.jsonl'), '');
    expect(await mergeShards(out)).toEqual({ ...merged, ms: expect.any(Number) });
    expect(await digests(out)).toEqual(expected);
    await expectAlone(out);
  });
});

describe('refused', () => {
  it('shards that there are not', async () => {
    for (const [index, count] of [
      [0, 4],
      [5, 4],
      [1, 0],
      [1.5, 2],
      [1, 100_000],
    ] as const) {
      await expect(shard(FLOAT, place(), index, count, simple)).rejects.toMatchObject({
        code: 'ERR_BAD_ARGUMENT',
        message: `there is no shard ${index}/${count}`,
      });
    }
  });

  it('missing shards, named with what is known of them', async () => {
    const out = place();
    await expect(mergeShards(out)).rejects.toMatchObject({ code: 'ERR_NOT_FOUND' });
    await shard(FLOAT, out, 2, 4, simple);
    await writeFile(
      join(`${out}.shards`, '00001-of-00004.partial.lock'),
      JSON.stringify({ pid: process.ppid, host: (await import('node:os')).hostname(), nonce: 'x' }),
    );
    await mkdir(join(`${out}.shards`, '00003-of-00004.partial'));
    await expect(mergeShards(out)).rejects.toMatchObject({
      code: 'ERR_NOT_FOUND',
      message: expect.stringMatching(/not finished: 1\/4 \(process \d+ on .+ is at it\), 3\/4 \(interrupted\), 4\/4 \(missing\)$/),
      details: { missing: [1, 3, 4].map((index) => ({ index, count: 4 })) },
    });
    expect(await readdir(dir)).not.toContain(`${out.slice(dir.length + 1)}.partial`);
  });

  it('other settings, another source, another version, another division', async () => {
    const out = place();
    await shard(FLOAT, out, 1, 2, simple);
    const other = { ...simple, quantizer: hqq({ bits: 3 }) };
    // The same shard again, with other settings.
    await expect(shard(FLOAT, out, 1, 2, other)).rejects.toMatchObject({
      code: 'ERR_JOURNAL_MISMATCH',
      message: expect.stringContaining('shard 1/2 is there already, of other settings'),
    });
    const mismatch = (problem: string) => ({ code: 'ERR_JOURNAL_MISMATCH', message: expect.stringContaining(problem) });
    for (const settings of [other, { ...simple, shardSize: 300_000 }, { ...simple, allowNonFinite: true }]) {
      await shard(FLOAT, out, 2, 2, { ...settings, overwrite: true });
      await expect(mergeShards(out)).rejects.toMatchObject(mismatch('shard 2/2 was made from other settings than shard 1/2'));
    }
    const copy = join(dir, 'changed');
    await cp(FLOAT, copy, { recursive: true });
    const weights = await readFile(join(copy, 'model.safetensors'));
    const start = await headerBytes(copy);
    for (let i = start; i < weights.length; i += 2) weights[i]! ^= 1; // last digits of every number
    await writeFile(join(copy, 'model.safetensors'), weights);
    await shard(copy, out, 2, 2, { ...simple, overwrite: true });
    await expect(mergeShards(out)).rejects.toMatchObject(mismatch('shard 2/2 was made from another source than shard 1/2'));

    await shard(FLOAT, out, 2, 2, { ...simple, overwrite: true });
    const manifest = join(`${out}.shards`, '00002-of-00002', 'shard.json');
    const { job, ...rest } = JSON.parse(await readFile(manifest, 'utf8'));
    await writeFile(manifest, JSON.stringify({ ...rest, job: { ...job, version: '99.0.0' } }));
    await expect(mergeShards(out)).rejects.toMatchObject(mismatch('another version of lowbit (99.0.0, not'));

    await shard(FLOAT, out, 1, 3, simple);
    await expect(mergeShards(out)).rejects.toMatchObject(mismatch('is one of 2 shards'));
  });

  it('a shard that is there twice', async () => {
    const [out, other] = [place(), place()];
    for (const to of [out, other]) await shard(FLOAT, to, 1, 2, simple);
    await expect(mergeShards(out, { from: [`${out}.shards`, `${other}.shards`] })).rejects.toMatchObject({
      code: 'ERR_BAD_ARGUMENT',
      message: expect.stringContaining('shard 1/2 is there twice'),
    });
  });

  it('merging while a worker is at a shard, working while shards are merged, an output that exists', async () => {
    const out = place();
    for (const index of [1, 2]) await shard(FLOAT, out, index, 2, simple);
    const busy = expect.objectContaining({ code: 'ERR_OUTPUT_EXISTS' });
    let during: unknown;
    const work = shard(FLOAT, out, 2, 2, {
      ...simple,
      overwrite: true,
      onProgress: () => {
        during ??= mergeShards(out).catch((error: unknown) => error);
      },
    });
    await work;
    expect(await during).toMatchObject({ code: 'ERR_NOT_FOUND', message: expect.stringContaining('2/2 (process') });
    let meanwhile: Promise<unknown> | undefined;
    await mergeShards(out, {
      keepShards: true,
      onProgress: () => {
        meanwhile ??= shard(FLOAT, out, 2, 2, { ...simple, overwrite: true }).catch((error: unknown) => error);
      },
    });
    expect(await meanwhile).toEqual(busy);
    await expect(mergeShards(out)).rejects.toEqual(busy);
    await mergeShards(out, { overwrite: true });
    await expect(mergeShards(out)).rejects.toMatchObject({ message: expect.stringContaining('they were merged before') });
    await expect(shard(FLOAT, out, 1, 2, simple)).rejects.toEqual(busy);
  });

  it('damaged shards, before anything is written', async () => {
    const out = place();
    for (const index of [1, 2]) await shard(FLOAT, out, index, 2, simple);
    const kept = join(dir, 'intact');
    await cp(`${out}.shards`, kept, { recursive: true });
    const second = join(`${out}.shards`, '00002-of-00002');
    const damages: [string, (folder: string) => Promise<unknown>][] = [
      ['it is no JSON', (folder) => writeFile(join(folder, 'shard.json'), '{')],
      ['is not of a shard', (folder) => writeFile(join(folder, 'shard.json'), '{}')],
      ['which is not there', (folder) => rm(join(folder, 'model.safetensors'))],
      ['', (folder) => truncate(join(folder, 'model.safetensors'), 4000)],
      ['', (folder) => appendFile(join(folder, 'model.safetensors'), 'x')],
      [
        'which is not its own',
        async (folder) => {
          const manifest = JSON.parse(await readFile(join(folder, 'shard.json'), 'utf8'));
          manifest.files[0][1].push('model.embed_tokens.weight');
          await writeFile(join(folder, 'shard.json'), JSON.stringify(manifest));
        },
      ],
      [
        'is damaged',
        async (folder) => {
          const manifest = JSON.parse(await readFile(join(folder, 'shard.json'), 'utf8'));
          manifest.files[0][0] = '../../model.safetensors';
          await writeFile(join(folder, 'shard.json'), JSON.stringify(manifest));
        },
      ],
      [
        'that no shard reports',
        async (folder) => {
          const manifest = JSON.parse(await readFile(join(folder, 'shard.json'), 'utf8'));
          manifest.linears.pop();
          await writeFile(join(folder, 'shard.json'), JSON.stringify(manifest));
        },
      ],
      ['tensors; it has', (folder) => cp(join(kept, '00001-of-00002', 'model.safetensors'), join(folder, 'model.safetensors'))],
      [
        'is another tensor there',
        async (folder) => {
          const bytes = await readFile(join(folder, 'model.safetensors'));
          bytes.write('I8', bytes.indexOf('"U8"') + 1, 'latin1');
          await writeFile(join(folder, 'model.safetensors'), bytes);
        },
      ],
    ];
    for (const [message, damage] of damages) {
      await damage(second);
      const error = await mergeShards(out).catch((thrown: unknown) => thrown);
      expect(error, message).toMatchObject({
        code: expect.stringMatching(/^ERR_BAD_(CHECKPOINT|SAFETENSORS)$/),
        message: expect.stringContaining(message),
      });
      expect(await readdir(dir)).not.toContain(`${out.slice(dir.length + 1)}.partial`);
      await rm(second, { recursive: true });
      await cp(join(kept, '00002-of-00002'), second, { recursive: true });
    }
    await mergeShards(out);
  });
});
