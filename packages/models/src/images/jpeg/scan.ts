// The coefficients of one scan: of all frequencies at once, or of some of them, or of one more bit of those (progressive). ITU-T T.81, annexes F and G.

import type { Rest } from '../rest.ts';
import { bad } from './bad.ts';
import { type Component, type Frame, type Scan, ZIGZAG } from './frame.ts';
import { BitReader, type HuffmanTable } from './huffman.ts';

type ReadBlock = (component: Component, at: number, dc: HuffmanTable, ac: HuffmanTable) => void;

/** Reads a scan into the coefficients of its components; returns where it ends. */
export async function readScan(bytes: Uint8Array, frame: Frame, scan: Scan, rest: Rest): Promise<number> {
  const reader = new BitReader(bytes, scan.at);
  const state = { run: 0 };
  const read = blockReader(reader, frame, scan, state);
  const needed = { dc: scan.from === 0 && scan.high === 0, ac: scan.to > 0 };
  const tables = scan.components.map(({ component, dc, ac }) => {
    if ((needed.dc && !dc) || (needed.ac && !ac)) throw bad('has a scan without its tables');
    return { component, dc: dc as HuffmanTable, ac: ac as HuffmanTable };
  });
  let left = scan.restart;
  const begin = (): void => {
    for (const { component } of tables) component.predicted = 0;
    state.run = 0;
  };
  const unit = (body: () => void): void => {
    if (scan.restart > 0 && left-- === 0) {
      reader.restart();
      begin();
      left = scan.restart - 1;
    }
    body();
  };
  begin();
  if (tables.length === 1) {
    const { component, dc, ac } = tables[0]!;
    const [across, down] = [Math.ceil(component.width / 8), Math.ceil(component.height / 8)];
    for (let y = 0; y < down; y++) {
      await rest();
      for (let x = 0; x < across; x++) unit(() => read(component, 64 * (y * component.blocksAcross + x), dc, ac));
    }
    return reader.at;
  }
  const [across, down] = [Math.ceil(frame.width / (8 * frame.hMax)), Math.ceil(frame.height / (8 * frame.vMax))];
  for (let row = 0; row < down; row++) {
    await rest();
    for (let column = 0; column < across; column++) {
      unit(() => {
        for (const { component, dc, ac } of tables) {
          const { h, v, blocksAcross } = component;
          for (let y = 0; y < v; y++) {
            for (let x = 0; x < h; x++) read(component, 64 * ((row * v + y) * blocksAcross + column * h + x), dc, ac);
          }
        }
      });
    }
  }
  return reader.at;
}

function blockReader(reader: BitReader, { progressive }: Frame, { from, to, high, low }: Scan, state: { run: number }): ReadBlock {
  const first = (component: Component, at: number, dc: HuffmanTable): void => {
    const size = reader.code(dc);
    if (size > 15) throw bad('has a coefficient that is too large');
    component.predicted += reader.signed(size);
    component.coefficients[at] = component.predicted * (1 << low);
  };
  if (!progressive) {
    return (component, at, dc, ac) => {
      first(component, at, dc);
      for (let k = 1; k < 64; k++) {
        const code = reader.code(ac);
        const size = code & 15;
        if (size === 0 && code !== 0xf0) break;
        k += code >> 4;
        if (size === 0) continue;
        if (k > 63) throw bad('has too many coefficients in a block');
        component.coefficients[at + ZIGZAG[k]!] = reader.signed(size);
      }
    };
  }
  if (from === 0) {
    if (high === 0) return first;
    return ({ coefficients }, at) => {
      if (reader.bits(1)) coefficients[at]! |= 1 << low;
    };
  }
  return high === 0
    ? ({ coefficients }, at, _, ac) => firstBits(reader, ac, coefficients, at, { from, to, low, state })
    : ({ coefficients }, at, _, ac) => oneMoreBit(reader, ac, coefficients, at, { from, to, low, state });
}

interface Band {
  readonly from: number;
  readonly to: number;
  readonly low: number;
  /** Blocks to come that have nothing more in this scan. */
  readonly state: { run: number };
}

function firstBits(reader: BitReader, ac: HuffmanTable, out: Int16Array, at: number, { from, to, low, state }: Band): void {
  if (state.run > 0) {
    state.run--;
    return;
  }
  for (let k = from; k <= to; k++) {
    const code = reader.code(ac);
    const zeros = code >> 4;
    const size = code & 15;
    if (size === 0 && zeros < 15) {
      state.run = (1 << zeros) + reader.bits(zeros) - 1;
      return;
    }
    k += zeros;
    if (size === 0) continue;
    if (k > 63) throw bad('has too many coefficients in a block');
    out[at + ZIGZAG[k]!] = reader.signed(size) * (1 << low);
  }
}

function oneMoreBit(reader: BitReader, ac: HuffmanTable, out: Int16Array, at: number, { from, to, low, state }: Band): void {
  const bit = 1 << low;
  const refine = (place: number): void => {
    if (!reader.bits(1) || (out[place]! & bit) !== 0) return;
    out[place]! += out[place]! >= 0 ? bit : -bit;
  };
  let k = from;
  if (state.run === 0) {
    for (; k <= to; k++) {
      const code = reader.code(ac);
      let zeros = code >> 4;
      let value = code & 15;
      if (value === 0 && zeros < 15) {
        state.run = (1 << zeros) + reader.bits(zeros);
        break;
      }
      if (value !== 0) value = reader.bits(1) ? bit : -bit;
      for (; k <= to; k++) {
        const place = at + ZIGZAG[k]!;
        if (out[place] !== 0) refine(place);
        else if (zeros-- === 0) break;
      }
      if (value !== 0 && k <= to) out[at + ZIGZAG[k]!] = value;
    }
  }
  if (state.run === 0) return;
  for (; k <= to; k++) if (out[at + ZIGZAG[k]!] !== 0) refine(at + ZIGZAG[k]!);
  state.run--;
}
