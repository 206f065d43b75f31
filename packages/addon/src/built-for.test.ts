import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Addon, platformPackage } from './addon.node.ts';
import { builtFor, cLibraryOf } from './built-for.node.ts';

let dir = '';
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'lowbit-built-for-'));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

/** A file with the header of a library, and nothing behind it. */
function library(name: string, write: (head: Buffer) => void, bytes = 512): string {
  const head = Buffer.alloc(bytes);
  write(head);
  writeFileSync(join(dir, name), head);
  return join(dir, name);
}
const elf = (machine: number) => (head: Buffer) => {
  head.write('\x7fELF\x02\x01\x01', 'latin1');
  head.writeUInt16LE(3, 16); // a shared object
  head.writeUInt16LE(machine, 18);
};
const mach = (head: Buffer): void => {
  head.writeUInt32LE(0xfeedfacf, 0);
  head.writeUInt32LE(0x0100000c, 4);
};
const pe = (head: Buffer): void => {
  head.write('MZ', 'latin1');
  head.writeUInt32LE(128, 60);
  head.write('PE\0\0', 128, 'latin1');
  head.writeUInt16LE(0x8664, 132);
};

it('knows libraries of other machines by their headers', () => {
  expect(builtFor(library('a', elf(183)))).toBe('linux-arm64');
  expect(builtFor(library('b', elf(62)))).toBe('linux-x64');
  expect(builtFor(library('c', elf(8)))).toBe('linux-machine 8');
  expect(builtFor(library('d', mach))).toBe('darwin-arm64');
  expect(builtFor(library('e', pe))).toBe('win32-x64');
});

it('knows nothing of what is no library', () => {
  expect(builtFor(library('f', () => {}))).toBeUndefined();
  expect(builtFor(library('g', (head) => head.write('MZ'), 64))).toBeUndefined();
  expect(builtFor(library('h', (head) => head.write('\x7fELF', 'latin1'), 19))).toBeUndefined();
  expect(builtFor(join(dir, 'absent'))).toBeUndefined();
  expect(builtFor(dir)).toBeUndefined();
});

it('says of an addon for another machine that it is one, and of garbage what the system says', () => {
  const foreign = library('foreign.node', process.arch === 'arm64' ? elf(62) : elf(183));
  const here = `${process.platform}-${process.arch}`;
  const other = process.arch === 'arm64' ? 'linux-x64' : 'linux-arm64';
  const addon = new Addon({
    ...{ backend: 'made', package: '@lowbit/kernels-made', file: 'lowbit_made.node', from: import.meta.url, variable: 'LOWBIT_MADE_ADDON' },
    ...{ abi: 1, functions: [], build: '' },
  });
  expect(() => addon.load({ path: foreign })).toThrow(
    expect.objectContaining({
      code: 'ERR_BACKEND_UNAVAILABLE',
      message: expect.stringContaining(`it is built for ${other}, and this is ${here}`),
      details: { rungs: [expect.objectContaining({ rung: 'path', tried: foreign })] },
    }),
  );
  writeFileSync(join(dir, 'garbage.node'), 'this is no library');
  expect(() => addon.load({ path: join(dir, 'garbage.node') })).toThrow(
    expect.objectContaining({ code: 'ERR_BACKEND_UNAVAILABLE', message: expect.stringContaining('garbage.node') }),
  );
});

/** A shared object for Linux on this machine that asks for libraries: headers, a dynamic section and its names, loaded at 0x1000 from the file's beginning. */
const asking =
  (...names: readonly string[]) =>
  (head: Buffer): void => {
    elf(process.arch === 'arm64' ? 183 : 62)(head);
    const number = (value: number, at: number) => head.writeBigUInt64LE(BigInt(value), at);
    number(64, 32); // segments
    head.writeUInt16LE(56, 54);
    head.writeUInt16LE(2, 56);
    head.writeUInt32LE(1, 64); // loaded
    number(0, 72);
    number(0x1000, 80);
    number(head.byteLength, 96);
    head.writeUInt32LE(2, 120); // dynamic
    number(200, 128);
    number(16 * (names.length + 2), 152);
    let text = 400;
    for (const [i, name] of names.entries()) {
      number(1, 200 + 16 * i);
      number(text - 400, 208 + 16 * i);
      text += head.write(`${name}\0`, text, 'latin1');
    }
    number(5, 200 + 16 * names.length);
    number(0x1000 + 400, 208 + 16 * names.length);
  };

describe('the C library of a library', () => {
  it('is told by the libraries that it asks for', () => {
    expect(cLibraryOf(library('glibc', asking('libm.so.6', 'libc.so.6')))).toBe('gnu');
    expect(cLibraryOf(library('loader', asking('ld-linux-x86-64.so.2')))).toBe('gnu');
    expect(cLibraryOf(library('alpine', asking('libc.musl-x86_64.so.1')))).toBe('musl');
    expect(cLibraryOf(library('zig', asking('libc.so')))).toBe('musl');
    expect(cLibraryOf(library('neither', asking('libstdc++.so.6')))).toBeUndefined();
    if (process.platform === 'linux') expect(platformPackage('x')).toBe(`x-linux-${process.arch}-${cLibraryOf(process.execPath)}`);
  });

  it('is not told, and nothing is thrown, by what is broken', () => {
    const whole = Buffer.alloc(512);
    asking('libc.so.6')(whole);
    expect(cLibraryOf(join(dir, 'absent'))).toBeUndefined();
    for (let length = 0; length < 400; length += 7) {
      writeFileSync(join(dir, 'cut'), whole.subarray(0, length));
      expect(cLibraryOf(join(dir, 'cut'))).toBeUndefined();
    }
    for (let at = 0; at < 400; at++) {
      const broken = Buffer.from(whole);
      broken[at] = 0xff;
      writeFileSync(join(dir, 'broken'), broken);
      expect(['gnu', undefined]).toContain(cLibraryOf(join(dir, 'broken')));
    }
  });

  it.runIf(process.platform === 'linux')('other than this one is refused before it is loaded, with the package that is needed', () => {
    const here = platformPackage('@lowbit/kernels-made');
    const foreign = library('foreign-libc.node', asking(here.endsWith('musl') ? 'libc.so.6' : 'libc.so'));
    const tried: string[] = [];
    const addon = new Addon({
      ...{
        backend: 'made',
        package: '@lowbit/kernels-made',
        file: 'lowbit_made.node',
        from: import.meta.url,
        variable: 'LOWBIT_MADE_ADDON',
      },
      ...{ abi: 1, functions: [], build: '' },
    });
    expect(() => addon.load({ path: foreign, load: (id) => tried.push(id) })).toThrow(
      expect.objectContaining({
        code: 'ERR_BACKEND_UNAVAILABLE',
        message: expect.stringMatching(/it is built for Linux with (?:musl|glibc), and this Node\.js is for (?:glibc|musl)/),
        hint: expect.stringContaining(here),
      }),
    );
    expect(tried).toEqual([]);
  });
});
