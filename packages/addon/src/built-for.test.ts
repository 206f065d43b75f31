import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Addon } from './addon.node.ts';
import { builtFor } from './built-for.node.ts';

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
