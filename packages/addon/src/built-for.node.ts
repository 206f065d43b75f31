// What machine a native library is for, from its header: the system's own words for the wrong one ("cannot open shared object file") send people elsewhere.

import { closeSync, openSync, readSync } from 'node:fs';

const ELF: Readonly<Record<number, string>> = { 3: 'ia32', 40: 'arm', 62: 'x64', 183: 'arm64', 243: 'riscv64' };
const MACH: Readonly<Record<number, string>> = { 16777223: 'x64', 16777228: 'arm64' };
const PE: Readonly<Record<number, string>> = { 332: 'ia32', 34404: 'x64', 43620: 'arm64' };

/** Bytes that are looked at: a Windows header begins within them. */
const HEAD = 4096;

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
