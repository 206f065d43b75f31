// The bytes of a pickle, read from front to back: opcodes and what follows them. No length is believed before it is compared with what is left.

import { MAX_GLOBAL } from './limits.ts';
import type { Refusals } from './refusals.ts';

export interface Operands {
  /** Offset of the next byte. */
  position(): number;
  /** Bytes that are left. */
  left(): number;
  u8(): number;
  u16(): number;
  u32(): number;
  i32(): number;
  f64(): number;
  /** A length, at most that of the pickle. */
  u64(): number;
  /** A two's complement integer of up to 8 bytes. */
  long(length: number): number | bigint;
  string(length: number): string;
  /** Text up to a line feed. */
  line(): string;
}

export function createOperands(bytes: Uint8Array, { fail }: Refusals, maxString: number): Operands {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let pos = 0;

  function take(length: number): number {
    if (length > bytes.byteLength - pos) throw fail(`needs ${length} bytes, ${bytes.byteLength - pos} are left`);
    pos += length;
    return pos - length;
  }
  function u64(): number {
    const value = view.getBigUint64(take(8), true);
    if (value > BigInt(bytes.byteLength)) throw fail(`claims ${value} bytes, the pickle has ${bytes.byteLength}`);
    return Number(value);
  }
  function long(length: number): number | bigint {
    if (length > 8) throw fail(`an integer of ${length} bytes, more than 8`);
    const from = take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[from + i]!);
    value = BigInt.asIntN(8 * length, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  function string(length: number): string {
    if (length > maxString) throw fail(`a string of ${length} bytes, more than ${maxString}`);
    const from = take(length);
    try {
      return text.decode(bytes.subarray(from, from + length));
    } catch {
      throw fail('a string that is not UTF-8');
    }
  }
  function line(): string {
    const end = bytes.subarray(pos, pos + MAX_GLOBAL + 1).indexOf(0x0a);
    if (end < 0) throw fail(`a name without an end, or longer than ${MAX_GLOBAL} bytes`);
    const name = string(end);
    pos++;
    return name;
  }

  return {
    position: () => pos,
    left: () => bytes.byteLength - pos,
    u8: () => bytes[take(1)]!,
    u16: () => view.getUint16(take(2), true),
    u32: () => view.getUint32(take(4), true),
    i32: () => view.getInt32(take(4), true),
    f64: () => view.getFloat64(take(8), false),
    u64,
    long,
    string,
    line,
  };
}
