// What machine a native library is for, from its header: the system's own words for the wrong one ("cannot open shared object file") send people elsewhere.

import { closeSync, openSync, readSync } from 'node:fs';

const ELF: Readonly<Record<number, string>> = { 3: 'ia32', 40: 'arm', 62: 'x64', 183: 'arm64', 243: 'riscv64' };
const MACH: Readonly<Record<number, string>> = { 16777223: 'x64', 16777228: 'arm64' };
const PE: Readonly<Record<number, string>> = { 332: 'ia32', 34404: 'x64', 43620: 'arm64' };

/** Bytes that are looked at: a Windows header begins within them. */
const HEAD = 4096;

/** The C library that a library for Linux asks for: `gnu` (glibc) or `musl`; undefined where it asks for none, or cannot be read. */
export function cLibraryOf(file: string): 'gnu' | 'musl' | undefined {
  try {
    const handle = openSync(file, 'r');
    try {
      for (const name of neededBy(handle)) {
        if (name === 'libc.so.6' || name.startsWith('ld-linux')) return 'gnu';
        if (name === 'libc.so' || name.startsWith('libc.musl-') || name.startsWith('ld-musl-')) return 'musl';
      }
    } finally {
      closeSync(handle);
    }
  } catch {
    // What is not there, or no library, has another problem.
  }
  return undefined;
}

/** Most bytes of a table that are read: those of true libraries have some hundreds. */
const MOST = 1 << 16;

/** Names of the libraries that a 64-bit ELF file asks for. */
function* neededBy(handle: number): Generator<string> {
  const take = (at: number, bytes: number): Buffer => {
    const buffer = Buffer.alloc(Math.min(bytes, MOST));
    return buffer.subarray(0, readSync(handle, buffer, 0, buffer.byteLength, at));
  };
  const head = take(0, 64);
  if (head.readUInt32BE(0) !== 0x7f454c46 || head[4] !== 2 || head[5] !== 1) return;
  const number = (from: Buffer, at: number): number => Number(from.readBigUInt64LE(at));
  const [bytes, count] = [head.readUInt16LE(54), head.readUInt16LE(56)];
  const table = take(number(head, 32), bytes * count);
  const segments = Array.from({ length: Math.floor(table.byteLength / bytes) }, (_, i) => table.subarray(i * bytes, (i + 1) * bytes));
  const dynamic = segments.find((segment) => segment.readUInt32LE(0) === 2);
  if (dynamic === undefined) return;
  const entries = take(number(dynamic, 8), number(dynamic, 32));
  const names: number[] = [];
  let strings = -1;
  for (let at = 0; at + 16 <= entries.byteLength; at += 16) {
    const tag = number(entries, at);
    if (tag === 1) names.push(number(entries, at + 8));
    if (tag === 5) strings = number(entries, at + 8);
  }
  // Where the names lie is an address in memory; the segment that is loaded there tells where in the file.
  const loaded = segments.find(
    (segment) => segment.readUInt32LE(0) === 1 && strings >= number(segment, 16) && strings < number(segment, 16) + number(segment, 32),
  );
  if (loaded === undefined) return;
  const from = strings - number(loaded, 16) + number(loaded, 8);
  for (const name of names) {
    const text = take(from + name, 256).toString('latin1');
    yield text.slice(0, Math.max(0, text.indexOf('\0')));
  }
}

/** Platform and architecture in Node's words, such as `linux-arm64`; undefined for what is no library, or cannot be read. */
export function builtFor(file: string): string | undefined {
  const head = Buffer.alloc(HEAD);
  let length: number;
  try {
    const handle = openSync(file, 'r');
    try {
      length = readSync(handle, head, 0, HEAD, 0);
    } finally {
      closeSync(handle);
    }
  } catch {
    return undefined;
  }
  if (length >= 20 && head.readUInt32BE(0) === 0x7f454c46) return named('linux', ELF, head.readUInt16LE(18));
  if (length >= 8 && head.readUInt32LE(0) === 0xfeedfacf) return named('darwin', MACH, head.readUInt32LE(4));
  if (length >= 64 && head.readUInt16BE(0) === 0x4d5a) {
    const at = head.readUInt32LE(60);
    if (at + 6 <= length && head.readUInt32BE(at) === 0x50450000) return named('win32', PE, head.readUInt16LE(at + 4));
  }
  return undefined;
}

function named(platform: string, machines: Readonly<Record<number, string>>, machine: number): string {
  return `${platform}-${machines[machine] ?? `machine ${machine}`}`;
}
