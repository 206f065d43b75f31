// Where in the model errors sit: a heat map of layers and kinds of linears, and a histogram.

import type { ComparedLinear } from '../commands/compare.ts';
import { at, safe } from './html.ts';

/** Shades of the heat map, as classes of the style sheet. */
const SHADES = 7;

interface Cell {
  readonly layer: number;
  readonly kind: string;
  /** Mean over the linears of a cell: experts of a layer share one. */
  readonly value: number;
  readonly count: number;
}

/** Linears by number of the layer and kind; what is in no numbered layer has layer -1. */
export function cellsOf(linears: readonly { readonly path: string; readonly value: number }[]): readonly Cell[] {
  const sums = new Map<string, { layer: number; kind: string; sum: number; count: number }>();
  for (const { path, value } of linears) {
    const [, before = '', number, after = path] = /^(.*?)\.(\d+)\.(.*)$/.exec(path) ?? [];
    const layer = number === undefined ? -1 : Number(number);
    // Of an encoder and a decoder the kinds differ by what is in front.
    const stack = /encoder|decoder|vision/.exec(before)?.[0];
    const kind = `${stack === undefined ? '' : `${stack} `}${after.replace(/\.\d+(?=\.|$)/g, '.*')}`;
    const key = `${layer} ${kind}`;
    const own = sums.get(key) ?? { layer, kind, sum: 0, count: 0 };
    sums.set(key, own);
    own.sum += value;
    own.count++;
  }
  return [...sums.values()].map(({ layer, kind, sum, count }) => ({ layer, kind, value: sum / count, count }));
}

/** A square for every layer and kind, darker where the value is larger, by its logarithm. */
export function heatMap(linears: readonly { readonly path: string; readonly value: number }[], what: string): string {
  const cells = cellsOf(linears).filter(({ value }) => value > 0 && Number.isFinite(value));
  if (cells.length === 0) return `<p>No linear has any ${safe(what)}.</p>`;
  const kinds = [...new Set(cells.map(({ kind }) => kind))];
  const layers = [...new Set(cells.map(({ layer }) => layer))].sort((a, b) => a - b);
  const logs = cells.map(({ value }) => Math.log10(value));
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const [cell, left, top] = [18, 150, 28];
  const width = left + layers.length * cell + 12;
  const height = top + kinds.length * cell + 8;
  const squares = cells.map(({ layer, kind, value, count }, i) => {
    const shade = high === low ? SHADES - 1 : Math.min(SHADES - 1, Math.floor((SHADES * (logs[i]! - low)) / (high - low)));
    const place = `${layer < 0 ? '' : `layer ${layer}, `}${safe(kind)}${count > 1 ? `, mean of ${count}` : ''}`;
    return `<rect class="s${shade}" x="${left + layers.indexOf(layer) * cell}" y="${top + kinds.indexOf(kind) * cell}" width="${cell - 1}" height="${cell - 1}"><title>${place}: ${value.toPrecision(3)}</title></rect>`;
  });
  const rows = kinds.map((kind, i) => `<text x="${left - 6}" y="${top + i * cell + 13}" text-anchor="end">${safe(short(kind))}</text>`);
  const step = layers.length > 16 ? 5 : 1;
  const columns = layers.flatMap((layer, i) =>
    layer < 0 || layer % step !== 0 ? [] : [`<text x="${left + i * cell + cell / 2}" y="${top - 8}" text-anchor="middle">${layer}</text>`],
  );
  const legend = `<p class="legend">${Array.from({ length: SHADES }, (_, i) => `<span class="chip b${i}"></span>`).join('')} ${(10 ** low).toPrecision(2)} to ${(10 ** high).toPrecision(2)}, by powers</p>`;
  return `<div class="scroll"><svg class="fixed" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${safe(what)} by layer">${[...squares, ...rows, ...columns].join('')}</svg></div>${legend}`;
}

const short = (kind: string): string => (kind.length > 22 ? `…${kind.slice(-21)}` : kind);

/** How many linears have a signal-to-noise ratio of so many decibels. */
export function histogram(linears: readonly Pick<ComparedLinear, 'snrDb'>[]): string {
  const values = linears.map(({ snrDb }) => snrDb).filter(Number.isFinite);
  if (values.length === 0) return '<p>No linear is stored in another way than in the original.</p>';
  const [low, high] = [Math.floor(Math.min(...values)), Math.max(Math.floor(Math.min(...values)) + 1, Math.ceil(Math.max(...values)))];
  const bins = Math.min(24, Math.max(8, 4 * (high - low)));
  const counts = new Array<number>(bins).fill(0);
  for (const value of values) counts[Math.min(bins - 1, Math.floor((bins * (value - low)) / (high - low)))]!++;
  const most = Math.max(...counts);
  const [width, height, left, bottom] = [720, 220, 40, 36];
  const bar = (width - left - 16) / bins;
  const tall = height - bottom - 12;
  const edge = (i: number): string => (low + (i * (high - low)) / bins).toFixed(1);
  const bars = counts.map((count, i) => {
    const size = (count / most) * tall;
    return `<rect class="bar" x="${at(left + i * bar)}" y="${at(height - bottom - size)}" width="${at(Math.max(1, bar - 1))}" height="${at(size)}"><title>${edge(i)} to ${edge(i + 1)} dB: ${count}</title></rect>`;
  });
  const marks = [0, 0.25, 0.5, 0.75, 1].map(
    (share) =>
      `<text x="${at(left + share * (width - left - 16))}" y="${height - bottom + 16}" text-anchor="middle">${(low + share * (high - low)).toFixed(1)}</text>`,
  );
  return `<div class="scroll"><svg viewBox="0 0 ${width} ${height}" role="img" aria-label="Histogram of signal-to-noise ratios">${[...bars, ...marks].join('')}
<text x="${left - 8}" y="20" text-anchor="end">${most}</text><text x="${width / 2}" y="${height - 4}" text-anchor="middle">SNR of weights, dB (more is better)</text></svg></div>`;
}
