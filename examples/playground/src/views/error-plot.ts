// The error of every quantized layer, as dots over the depth of the model, with a line through the means. All of it is in a table, too.

import { html, svg } from '../dom.ts';
import type { LayerError } from '../protocol.ts';
import { percentText } from '../text.ts';

const HEIGHT = 220;
const LEFT = 46;
const RIGHT = 12;
const TOP = 14;
const BOTTOM = 34;

const isAttention = (tag: string): boolean => /attn|attention/.test(tag);

export function errorPlot(linears: readonly LayerError[]): HTMLElement {
  const layers = [...new Set(linears.map(({ layer }) => layer))].sort((a, b) => a - b);
  const means = layers.map((layer) => {
    const own = linears.filter((linear) => linear.layer === layer);
    return { layer, error: own.reduce((sum, { error }) => sum + error, 0) / own.length };
  });
  const sorted = [...linears].sort((a, b) => b.error - a.error);
  const [worst, best] = [sorted[0]!, sorted.at(-1)!];
  const WIDTH = matchMedia('(max-width: 520px)').matches ? 330 : 560; // text keeps its size
  const { low, top, step } = scale(best.error, worst.error);
  const x = (layer: number): number =>
    layers.length === 1
      ? (LEFT + WIDTH - RIGHT) / 2
      : LEFT + 22 + ((WIDTH - RIGHT - LEFT - 44) * layers.indexOf(layer)) / (layers.length - 1);
  const y = (error: number): number => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * ((error - low) / (top - low));

  const grid = Array.from({ length: Math.round((top - low) / step) + 1 }, (_, i) => low + i * step).flatMap((value) => [
    svg('line', { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: value === low ? 'axis' : 'grid' }),
    svg('text', { x: LEFT - 8, y: y(value) + 4, class: 'tick', 'text-anchor': 'end' }, `${+(100 * value).toFixed(2)} %`),
  ]);
  const every = Math.ceil(layers.length / 16);
  const ticks = layers
    .filter((_, i) => i % every === 0)
    .map((layer) => svg('text', { x: x(layer), y: HEIGHT - BOTTOM + 16, class: 'tick', 'text-anchor': 'middle' }, String(layer)));
  const line = svg('polyline', {
    class: 'mean',
    points: means.map(({ layer, error }) => `${x(layer).toFixed(1)},${y(error).toFixed(1)}`).join(' '),
  });
  const tags = [...new Set(linears.map(({ tag }) => tag))];
  /** Dots of one layer stand side by side, in the order of its modules. */
  const spread = Math.min(4, (WIDTH - LEFT - RIGHT) / (1.6 * layers.length * tags.length));
  const dots = linears.map(({ path, layer, tag, error }) => {
    const at = x(layer) + spread * (tags.indexOf(tag) - (tags.length - 1) / 2);
    const title = svg('title', {}, `${path}: ${percentText(error)}`);
    return isAttention(tag)
      ? svg('circle', { cx: at, cy: y(error), r: 4.5, class: 'dot attention' }, title)
      : svg('rect', { x: at - 4, y: y(error) - 4, width: 8, height: 8, rx: 1, class: 'dot mlp' }, title);
  });
  const label = `Relative error of ${linears.length} layers, by depth: from ${percentText(best.error)} (${best.path}) to ${percentText(worst.error)} (${worst.path}).`;
  const axis = svg('text', { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 2, class: 'tick', 'text-anchor': 'middle' }, 'layer');
  return html(
    'figure',
    { class: 'plot' },
    html('figcaption', {}, html('span', {}, 'Error of each layer, relative to its weights'), legend()),
    svg('svg', { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': label }, ...grid, ...ticks, axis, line, ...dots),
    html(
      'details',
      {},
      html('summary', {}, 'As a table'),
      html('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Errors of layers' }, table(sorted)),
    ),
  );
}

/** Round numbers below and above all errors, and steps between them. Dots are places, not lengths: the axis need not begin at zero. */
function scale(smallest: number, largest: number): { readonly low: number; readonly top: number; readonly step: number } {
  const rough = Math.max(largest - smallest, largest / 50, 1e-9) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const low = step * Math.floor(smallest / step);
  return { low, step, top: Math.max(low + step, step * Math.ceil(largest / step)) };
}

function legend(): HTMLElement {
  const mark = (shape: SVGElement) => svg('svg', { viewBox: '0 0 12 12', class: 'key', 'aria-hidden': 'true' }, shape);
  return html(
    'span',
    { class: 'legend' },
    html('span', { class: 'legend-item' }, mark(svg('circle', { cx: 6, cy: 6, r: 4.5, class: 'dot attention' })), 'attention'),
    html('span', { class: 'legend-item' }, mark(svg('rect', { x: 2, y: 2, width: 8, height: 8, rx: 1, class: 'dot mlp' })), 'MLP'),
    html('span', { class: 'legend-item' }, mark(svg('line', { x1: 0, x2: 12, y1: 6, y2: 6, class: 'mean' })), 'mean'),
  );
}

function table(linears: readonly LayerError[]): HTMLTableElement {
  return html(
    'table',
    {},
    html('caption', { class: 'visually-hidden' }, 'Relative error of each layer, largest first'),
    html('thead', {}, html('tr', {}, html('th', { scope: 'col' }, 'Layer'), html('th', { scope: 'col' }, 'Error'))),
    html(
      'tbody',
      {},
      ...linears.map(({ path, error }) => html('tr', {}, html('th', { scope: 'row' }, path), html('td', {}, percentText(error)))),
    ),
  );
}
