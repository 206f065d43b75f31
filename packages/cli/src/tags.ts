// Linears grouped as people think of them: by tag and format, in model order.

import { byteLength, codecFor, elementCount, type Format, type FormatCodec, formatLabel, type Matrix } from '@lowbit/core';
import { type Column, table } from './table.ts';
import { bitsText, bytesText, countText } from './units.ts';

/** One row of a per-tag table. */
export interface TagRow {
  readonly tag: string;
  readonly linears: number;
  /** In words: `4-bit g64`, or the dtype of linears that are not quantized. */
  readonly format: string;
  readonly quantized: boolean;
  readonly weights: number;
  readonly bitsPerWeight: number;
  readonly bytes: number;
}

export interface TaggedLinear {
  readonly tag: string;
  readonly shape: Matrix;
  readonly format: Format;
  /** What it takes in a file; default the bytes of all parts in memory. */
  readonly bytes?: number | undefined;
}

/** Adds up linears of one tag and format. */
export function tagRows(linears: Iterable<TaggedLinear>, codecs?: readonly FormatCodec[]): TagRow[] {
  const rows = new Map<string, { -readonly [K in keyof TagRow]: TagRow[K] }>();
  for (const { tag, shape, format, bytes } of linears) {
    const text = formatLabel(format);
    const key = `${tag} ${text}`;
    const row = rows.get(key) ?? {
      tag,
      linears: 0,
      format: text,
      quantized: format.kind !== 'dense',
      weights: 0,
      bitsPerWeight: 0,
      bytes: 0,
    };
    rows.set(key, row);
    row.linears++;
    row.weights += elementCount(shape);
    row.bytes += bytes ?? formatBytes(format, shape, codecs);
    row.bitsPerWeight = (8 * row.bytes) / row.weights;
  }
  return [...rows.values()];
}

/** Bytes of all parts of a weight in a format. */
function formatBytes(format: Format, shape: Matrix, codecs?: readonly FormatCodec[]): number {
  const specs = Object.values(codecFor(format, codecs).parts(format, shape));
  return specs.reduce((sum, spec) => sum + byteLength(spec), 0);
}

const COLUMNS: readonly Column[] = [
  { title: 'tag' },
  { title: 'count', align: 'right' },
  { title: 'format' },
  { title: 'weights', align: 'right' },
  { title: 'bits/weight', align: 'right' },
  { title: 'size', align: 'right' },
];

/** The table of them. */
export function tagTable(rows: readonly TagRow[]): string {
  return table(
    COLUMNS,
    rows.map((row) => [
      row.tag,
      String(row.linears),
      row.format,
      countText(row.weights),
      bitsText(row.bitsPerWeight),
      bytesText(row.bytes),
    ]),
  );
}
