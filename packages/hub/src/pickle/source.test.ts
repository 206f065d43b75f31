import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { elements, type HostTensor, isLowbitError, type LowbitError } from '@lowbit/core';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { goldenPath } from '../../../../fixtures/golden.ts';
import { openCheckpoint } from '../checkpoint.node.ts';
import { failure, folderOf, temporaryFolder } from '../testing.node.ts';
import { openTorchFile } from './source.node.ts';
import type { TorchSource } from './source.ts';
import { gather } from './strided.ts';
import { ascii, le, type Picklable, pickle, type Raw, tensor, torchFile, type View, type ZipPart, zip } from './testing.ts';

let temp: AsyncDisposable & { readonly path: string };
beforeAll(async () => {
  temp = await temporaryFolder();
});
afterAll(() => temp[Symbol.asyncDispose]());

let files = 0;
async function saved(bytes: Uint8Array): Promise<string> {
  const path = join(temp.path, `${files++}.bin`);
  await writeFile(path, bytes);
  return path;
}

async function withFile<T>(bytes: Uint8Array, use: (source: TorchSource) => Promise<T> | T): Promise<T> {
  await using source = await openTorchFile(await saved(bytes));
  return await use(source);
}

async function refusal(bytes: Uint8Array): Promise<LowbitError> {
  return failure(async () => withFile(bytes, () => undefined));
}

const dict = (items: Readonly<Record<string, Picklable>>): Map<Picklable, Picklable> => new Map(Object.entries(items));
const counting = (count: number): Uint8Array => new Uint8Array(Float32Array.from({ length: count }, (_, i) => i).buffer);
const numbers = (value: HostTensor): number[] => [...elements(value)].map(Number);
/** One view of a storage of 24 counting numbers. */
const one = (view: Partial<View>, bytes = counting(24)) =>
  torchFile(dict({ x: tensor({ dtype: 'f32', key: '0', count: 24, shape: [24], ...view }) }), { 0: bytes });

describe('tensors', () => {
  test('whole, in ranges, empty, scalar, shared and nested', async () => {
    const view = { dtype: 'f32', key: '0', count: 24 } as const;
    const content = dict({
      'a.weight': tensor({ ...view, shape: [4, 6] }),
      'b.weight': tensor({ ...view, shape: [2, 3], offset: 18 }),
      scalar: tensor({ ...view, shape: [], offset: 7 }),
      empty: tensor({ ...view, shape: [0, 6] }),
      epoch: 3,
      more: dict({ c: tensor({ ...view, shape: [24] }), lr: 0.1 }),
    });
    await withFile(torchFile(content, { 0: counting(24) }), async (source) => {
      expect([...source.entries.keys()]).toEqual(['a.weight', 'b.weight', 'scalar', 'empty', 'more.c']);
      expect(source.entries.get('a.weight')).toEqual({ dtype: 'f32', shape: [4, 6] });
      expect(numbers(await source.read('a.weight'))).toEqual(Array.from({ length: 24 }, (_, i) => i));
      expect(await source.read('b.weight', { range: [1, 4] })).toEqual({ dtype: 'f32', shape: [3], data: counting(24).slice(76, 88) });
      expect(numbers(await source.read('scalar'))).toEqual([7]);
      expect((await source.read('empty')).data.byteLength).toBe(0);
      expect((source.files[0]!.content as Map<string, unknown>).get('epoch')).toBe(3);
      expect((await failure(() => source.read('a.weight', { range: [0, 25] }))).code).toBe('ERR_BAD_ARGUMENT');
      expect((await failure(() => source.read('epoch'))).code).toBe('ERR_TENSOR_MISMATCH');
      await expect(source.read('scalar', { signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough');
    });
    const source = await openTorchFile(await saved(one({})));
    await source[Symbol.asyncDispose]();
    expect((await failure(() => source.read('x'))).code).toBe('ERR_DISPOSED');
  });

  test.each<[string, Partial<View>, number[]]>([
    ['transposed', { shape: [4, 3], strides: [1, 4] }, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]],
    ['columns', { shape: [4, 2], strides: [6, 1], offset: 2 }, [2, 3, 8, 9, 14, 15, 20, 21]],
    ['every third', { shape: [3], strides: [3], offset: 1 }, [1, 4, 7]],
    ['permuted', { shape: [2, 2, 3], strides: [1, 12, 4] }, [0, 4, 8, 12, 16, 20, 1, 5, 9, 13, 17, 21]],
    ['an extent of one with any stride', { shape: [2, 1, 3], strides: [3, 99, 1] }, [0, 1, 2, 3, 4, 5]],
    ['overlapping rows', { shape: [3, 2], strides: [1, 1] }, [0, 1, 1, 2, 2, 3]],
  ])('%s', async (_, view, expected) => {
    await withFile(one(view), async (source) => {
      expect(numbers(await source.read('x'))).toEqual(expected);
      const ranged = await source.read('x', { range: [1, 3] });
      expect(ranged.shape).toEqual([2]);
      expect(numbers(ranged)).toEqual(expected.slice(1, 3));
    });
  });

  test('gathering takes a window of the storage at a time', async () => {
    const view = { kind: 'tensor', storage: { kind: 'storage', key: '0', dtype: 'f32', count: 24 }, dtype: 'f32' } as const;
    const all = counting(24);
    const reads: number[] = [];
    const read = async (at: number, length: number) => {
      reads.push(length);
      return all.subarray(at, at + length);
    };
    const into = new Uint8Array(96);
    await gather({ ...view, shape: [6, 4], strides: [1, 6], offset: 0 }, 0, 24, into, read, 20);
    expect(Math.max(...reads)).toBe(20);
    expect([...new Float32Array(into.buffer)].slice(0, 5)).toEqual([0, 6, 12, 18, 1]);
  });

  test.each<[string, Partial<View>, RegExp]>([
    ['past the end', { shape: [25] }, /element 24 of a storage that has 24/],
    ['an offset past the end', { shape: [1], offset: 24 }, /element 24/],
    ['a stride past the end', { shape: [2], strides: [24] }, /element 24/],
    ['a terabyte of nothing', { shape: [2 ** 30], strides: [0] }, /1073741824 elements over a storage of 24/],
    ['overlapping rows of more than there is', { shape: [20, 5], strides: [1, 1] }, /100 elements over a storage of 24/],
    ['an overflow', { shape: [2 ** 30, 2 ** 30], strides: [2 ** 30, 1] }, /overflows/],
    ['an overflow that an extent of zero hides', { shape: [2 ** 30, 2 ** 30, 0], strides: [0, 0, 0] }, /overflows/],
    ['a storage that claims more', { count: 2 ** 30 }, /should have 4294967296 bytes, the archive's entry has 96/],
    ['a storage that claims less', { count: 12, shape: [12] }, /should have 48 bytes/],
    ['a storage that is not there', { key: '1' }, /the archive's entry has 0/],
    ['a storage that is another entry', { key: '..' }, /the archive's entry has 0/],
  ])('%s', async (_, view, message) => {
    const error = await refusal(one(view));
    expect(error.code).toBe('ERR_BAD_PICKLE');
    expect(error.message).toMatch(message);
    expect(error.details.tensor).toBe('x');
  });

  test('names that clash, no names, things without end', async () => {
    const x = tensor({ dtype: 'f32', key: '0', count: 24, shape: [24] });
    const clash = await refusal(torchFile(dict({ 'a.b': x, a: dict({ b: x }) }), { 0: counting(24) }));
    expect(clash).toMatchObject({ code: 'ERR_BAD_CHECKPOINT', details: { tensor: 'a.b' } });
    expect((await refusal(torchFile(dict({ epoch: 1 })))).message).toMatch(/no tensors by name/);
    expect((await refusal(torchFile(x, { 0: counting(24) }))).message).toMatch(/no tensors by name/);
    // A dictionary of ten references to one of ten references to ...
    let code = [0x7d, 0x71, 0];
    for (let level = 1; level <= 30; level++) {
      const items = Array.from({ length: 10 }, (_, i) => [0x4b, i, 0x68, level - 1]).flat();
      code = [...code, 0x7d, 0x28, ...items, 0x75, 0x71, level];
    }
    const laughs: Raw = { raw: [0x28, ...code, 0x74] };
    const outer: Raw = { raw: [0x7d, 0x4b, 0, ...laughs.raw, 0x73, 0x4b, 1, 0x68, 30, 0x73] };
    expect((await refusal(torchFile(outer))).message).toMatch(/more than 2000000 items/);
  });

  test('shards', async () => {
    const a = one({});
    const b = torchFile(dict({ y: tensor({ dtype: 'u8', key: '0', count: 3, shape: [3] }) }), { 0: Uint8Array.of(1, 2, 3) });
    const paths = [await saved(a), await saved(b)];
    await using source = await openTorchFile(paths, { label: 'both' });
    expect([...source.entries.keys()]).toEqual(['x', 'y']);
    expect(numbers(await source.read('y'))).toEqual([1, 2, 3]);
    const twice = await failure(() => openTorchFile([paths[0]!, paths[0]!]));
    expect(twice.code).toBe('ERR_BAD_CHECKPOINT');

    const index = (map: object) => JSON.stringify({ metadata: {}, weight_map: map });
    const shards = { 'config.json': '{}', 'p-1.bin': a, 'p-2.bin': b };
    const open = async (name: string, map: object) =>
      openCheckpoint(await folderOf(join(temp.path, name), { ...shards, 'pytorch_model.bin.index.json': index(map) }));
    await using checkpoint = await open('s1', { x: 'p-1.bin', y: 'p-2.bin' });
    expect([...checkpoint.source.entries.keys()]).toEqual(['x', 'y']);
    expect(checkpoint.source.files.map(({ size }) => size)).toEqual([a.byteLength, b.byteLength]);
    expect(checkpoint.files).toEqual([]);
    expect((await failure(() => open('s2', { x: 'p-2.bin', y: 'p-1.bin' }))).code).toBe('ERR_BAD_CHECKPOINT');
    expect((await failure(() => open('s3', { x: '../p-1.bin' }))).code).toBe('ERR_BAD_CHECKPOINT');
    expect((await failure(() => open('s4', { x: 'p-3.bin' }))).code).toBe('ERR_NOT_FOUND');
    expect((await failure(() => open('s5', { x: 'config.json' }))).message).toMatch(/no bin file/);
  });
});

describe('archives', () => {
  const content = pickle(dict({ x: tensor({ dtype: 'u8', key: '0', count: 4, shape: [4] }) }));
  const parts = (change: Partial<Record<'pickle' | 'storage', Partial<ZipPart>>> = {}, more: ZipPart[] = []): Uint8Array =>
    zip([
      { name: 'm/data.pkl', data: content, ...change.pickle },
      { name: 'm/data/0', data: Uint8Array.of(1, 2, 3, 4), ...change.storage },
      ...more,
    ]);
  const file = (name: string, text = ''): ZipPart => ({ name, data: Uint8Array.from(ascii(text)) });
  const deflated = (data: Uint8Array, size = data.byteLength) => {
    const packed = new Uint8Array(deflateRawSync(data));
    return { data: packed, claim: { method: 8, size } };
  };

  test('compressed ones, as other tools pack them', async () => {
    await withFile(parts({ pickle: deflated(content), storage: deflated(Uint8Array.of(1, 2, 3, 4)) }), async (source) => {
      expect(numbers(await source.read('x', { range: [1, 3] }))).toEqual([2, 3]);
    });
  });

  test('with a comment, with 64-bit records', async () => {
    const bytes = parts();
    const commented = new Uint8Array([...bytes.slice(0, -2), ...le(5, 2), ...ascii('hello')]);
    await withFile(commented, async (source) => expect(numbers(await source.read('x'))).toEqual([1, 2, 3, 4]));
    // The golden files have 64-bit end records; sizes of 64 bits need an extra field, made here for the last entry.
    const wide = zip64(content);
    await withFile(wide, async (source) => expect(numbers(await source.read('x'))).toEqual([1, 2, 3, 4]));
  });

  const misnamed = parts();
  misnamed[30] = 0x6e;
  const bomb = deflated(new Uint8Array(32 * 1024 * 1024));
  test.each<[string, Uint8Array, string, RegExp]>([
    ['nothing', new Uint8Array(0), 'ERR_BAD_PICKLE', /no PyTorch file/],
    ['text', Uint8Array.from(ascii('version https://git-lfs.github.com/spec/v1')), 'ERR_BAD_PICKLE', /no PyTorch file/],
    ['a bare pickle', content, 'ERR_BAD_PICKLE', /no PyTorch file/],
    [
      'the format before 1.6',
      Uint8Array.of(0x80, 2, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e),
      'ERR_UNSUPPORTED_FORMAT',
      /before 1\.6/,
    ],
    ['a zip of something else', zip([file('a/b.txt')]), 'ERR_BAD_PICKLE', /without a data\.pkl/],
    ['an empty zip', zip([]), 'ERR_BAD_PICKLE', /no PyTorch file/],
    ['two models', parts({}, [file('n/data.pkl')]), 'ERR_BAD_PICKLE', /several data\.pkl/],
    ['TorchScript', parts({}, [file('m/constants.pkl')]), 'ERR_UNSUPPORTED_FORMAT', /TorchScript/],
    ['big-endian', parts({}, [file('m/byteorder', 'big')]), 'ERR_UNSUPPORTED_FORMAT', /big-endian/],
    ['a byte order of many bytes', parts({}, [file('m/byteorder', 'little'.repeat(9))]), 'ERR_LIMIT', /byteorder/],
    ['two entries of one name', parts({}, [file('m/data/0', 'abcd')]), 'ERR_BAD_PICKLE', /two entries/],
    ['entries that overlap', parts({}, [{ ...file('m/data/1', 'abcd'), claim: { header: 10 } }]), 'ERR_BAD_PICKLE', /overlaps/],
    ['entries that are the same bytes', parts({}, [{ ...file('m/data/1', 'abcd'), claim: { header: 0 } }]), 'ERR_BAD_PICKLE', /overlaps/],
    [
      'an entry that goes on into the next',
      parts({ pickle: { claim: { size: content.byteLength + 9, packed: content.byteLength + 9 } } }),
      'ERR_BAD_PICKLE',
      /overlaps/,
    ],
    ['an entry of 4 GB', parts({ storage: { claim: { size: 0xffff_fff0, packed: 0xffff_fff0 } } }), 'ERR_BAD_PICKLE', /overlaps/],
    ['an entry behind the file', parts({ storage: { claim: { header: 0xffff_fff0 } } }), 'ERR_BAD_PICKLE', /overlaps/],
    [
      '64-bit sizes without them',
      parts({ storage: { claim: { size: 0xffff_ffff, packed: 0xffff_ffff } } }),
      'ERR_BAD_PICKLE',
      /sound sizes/,
    ],
    ['stored in other than its size', parts({ storage: { claim: { size: 9 } } }), 'ERR_BAD_PICKLE', /stored, but/],
    ['encrypted', parts({ storage: { claim: { flags: 1 } } }), 'ERR_BAD_PICKLE', /encrypted/],
    ['compressed in another way', parts({ storage: { claim: { method: 14 } } }), 'ERR_BAD_PICKLE', /method 14/],
    ['a header of another name than the directory has', misnamed, 'ERR_BAD_PICKLE', /does not agree/],
    [
      'a pickle that is a bomb and says so',
      parts({ pickle: { ...bomb, claim: { method: 8, size: 2 ** 31 } } }),
      'ERR_LIMIT',
      /claims 2147483648 bytes/,
    ],
    [
      'a pickle that is a bomb and does not say so',
      parts({ pickle: { ...bomb, claim: { method: 8, size: 1000 } } }),
      'ERR_BAD_PICKLE',
      /more than the 1000 bytes/,
    ],
    ['a pickle that is shorter than it says', parts({ pickle: deflated(content, 9999) }), 'ERR_BAD_PICKLE', /9999 are claimed/],
    [
      'a pickle whose compression is damaged',
      parts({ pickle: { data: new Uint8Array(40).fill(255), claim: { method: 8, size: 99 } } }),
      'ERR_BAD_PICKLE',
      /damaged/,
    ],
    ['a name of a thousand bytes', parts({}, [file('x'.repeat(1000))]), 'ERR_BAD_PICKLE', /a name of 1000 bytes/],
    ['a name of nothing', parts({}, [file('')]), 'ERR_BAD_PICKLE', /a name of 0 bytes/],
    ['a name that is not UTF-8', parts({}, [file('\xff\xfe')]), 'ERR_BAD_PICKLE', /UTF-8/],
  ])('%s', async (_, bytes, code, message) => {
    const error = await refusal(bytes);
    expect(error.message).toMatch(message);
    expect(error.code).toBe(code);
    expect(error.hint).toBeTruthy();
  });

  test('a compressed storage over the bound', async () => {
    const size = 32 * 1024 * 1024;
    const claim = pickle(dict({ x: tensor({ dtype: 'u8', key: '0', count: size, shape: [size] }) }));
    await withFile(parts({ pickle: { data: claim }, storage: bomb }), async (source) => {
      expect((await failure(() => source.read('x', { range: [0, 1] }))).code).toBe('ERR_LIMIT');
    });
  });

  test('a directory that claims more than there is', async () => {
    const bytes = parts();
    const end = bytes.byteLength - 22;
    const claim = (offset: number, value: number[]) => {
      const changed = bytes.slice();
      changed.set(value, end + offset);
      return changed;
    };
    expect((await refusal(claim(10, [0xff, 0xfe]))).message).toMatch(/65279 entries in a directory of/);
    expect((await refusal(claim(10, [3, 0]))).message).toMatch(/entries in a directory|cut off/);
    expect((await refusal(claim(12, [0xff, 0xff, 0xff, 0x7f]))).message).toMatch(/directory claims bytes/);
    expect((await refusal(claim(16, [0xff, 0xff, 0xff, 0x7f]))).message).toMatch(/directory claims bytes/);
    expect((await refusal(claim(4, [1, 0]))).message).toMatch(/disks/);
  });

  test('no file, a folder', async () => {
    expect((await failure(() => openTorchFile(join(temp.path, 'none')))).code).toBe('ERR_NOT_FOUND');
    expect((await failure(() => openTorchFile(temp.path))).code).toBe('ERR_IO');
  });

  /** The same file with 64-bit sizes and offsets for the storage. */
  function zip64(data: Uint8Array): Uint8Array {
    const storage = { name: 'm/data/0', data: Uint8Array.of(1, 2, 3, 4) };
    const plain = zip([{ name: 'm/data.pkl', data }, storage]);
    const view = new DataView(plain.buffer);
    const directory = view.getUint32(plain.byteLength - 6, true);
    const entry = directory + 46 + 'm/data.pkl'.length;
    const header = view.getUint32(entry + 42, true);
    const fixed = [...plain.slice(entry, entry + 46)];
    for (const at of [20, 24, 42]) fixed.splice(at, 4, 0xff, 0xff, 0xff, 0xff);
    fixed.splice(30, 2, ...le(28 + 8, 2));
    const extra = [...le(0x7777, 2), ...le(4, 2), 1, 2, 3, 4, ...le(1, 2), ...le(24, 2), ...le(4, 8), ...le(4, 8), ...le(header, 8)];
    const central = [...plain.slice(directory, entry), ...fixed, ...ascii(storage.name), ...extra];
    const at64 = directory + central.length;
    const record = [0x50, 0x4b, 6, 6, ...le(44, 8), ...le(45, 2), ...le(45, 2), ...le(0, 8), ...le(2, 8), ...le(2, 8)];
    const locator = [0x50, 0x4b, 6, 7, ...le(0, 4), ...le(at64, 8), ...le(1, 4)];
    const end = [0x50, 0x4b, 5, 6, ...le(0, 4), 0xff, 0xff, 0xff, 0xff, ...Array(8).fill(0xff), 0, 0];
    return Uint8Array.from([
      ...plain.slice(0, directory),
      ...central,
      ...record,
      ...le(central.length, 8),
      ...le(directory, 8),
      ...locator,
      ...end,
    ]);
  }
});

describe('real files', () => {
  test.each(['hqq/checkpoints/dynamic-bf16/qmodel.pt', 'hqq/old-0.1.8/layers.pt'])('%s cut off anywhere', async (golden) => {
    const bytes = await readFile(goldenPath(golden));
    for (let i = 0; i < 40; i++) {
      const error = await refusal(bytes.subarray(0, Math.floor((bytes.byteLength * i) / 40)));
      expect(error.code).toBe('ERR_BAD_PICKLE');
      expect(error.message).toMatch(/cut off|no PyTorch file/);
    }
  });

  test('with bytes changed: our errors or tensors of the right size, never more memory than the file', async () => {
    const bytes = await readFile(goldenPath('hqq/old-0.1.8/layers.pt'));
    const directory = bytes.readUInt32LE(bytes.byteLength - 6);
    // Most of a file is padding and numbers: changes go to the pickle, the directory, and anywhere.
    const place = fc.oneof(fc.nat(6700), fc.integer({ min: directory, max: bytes.byteLength - 1 }), fc.nat(bytes.byteLength - 1));
    const changes = fc.array(fc.tuple(place, fc.nat(255)), { minLength: 1, maxLength: 5 });
    let opened = 0;
    await fc.assert(
      fc.asyncProperty(changes, async (list) => {
        const changed = new Uint8Array(bytes);
        for (const [at, value] of list) changed[at] = value;
        const path = join(temp.path, 'fuzz.bin');
        await writeFile(path, changed);
        try {
          await using source = await openTorchFile(path);
          for (const [name, { shape }] of source.entries) {
            const { data } = await source.read(name);
            if (data.byteLength > changed.byteLength || shape.length > 64) throw new Error(`${name} is too large`);
          }
          opened++;
        } catch (error) {
          if (!isLowbitError(error)) throw error;
        }
      }),
      { numRuns: 400 },
    );
    expect(opened).toBeGreaterThan(10);
  });

  test('are read in ranges', async () => {
    await using source = await openTorchFile(goldenPath('hqq/checkpoints/dynamic-bf16/qmodel.pt'));
    const name = 'model.embed_tokens.weight';
    const whole = await source.read(name);
    const part = await source.read(name, { range: [1000, 1010] });
    expect(part.data).toEqual(whole.data.subarray(2000, 2020));
  });
});
