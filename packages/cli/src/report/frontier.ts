// Loss against size: every model that was measured is a point, those that no other beats in both are joined.

import type { FrontierPoint } from './data.ts';
import { at, htmlTable, safe } from './html.ts';

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [720, 360, 64, 24, 16, 44];

/** Points that no other beats in bits and KL, the smallest first. */
export function frontierOf(points: readonly FrontierPoint[]): readonly FrontierPoint[] {
  const sorted = [...points].sort((a, b) => a.bitsPerWeight - b.bitsPerWeight || a.kl - b.kl);
  let least = Number.POSITIVE_INFINITY;
  return sorted.filter(({ kl }) => {
    if (kl >= least) return false;
    least = kl;
    return true;
  });
}

/** The plot and its numbers. `own` is the model that the report is about. */
export function frontierPlot(others: readonly FrontierPoint[], own: FrontierPoint): string {
  const points = [...others, own].filter(({ kl, bitsPerWeight }) => kl > 0 && bitsPerWeight > 0);
  if (points.length === 0) return '<p>Nothing was lost that could be measured.</p>';
  const bits = points.map(({ bitsPerWeight }) => bitsPerWeight);
  const decades = points.map(({ kl }) => Math.log10(kl));
  const [x0, x1] = [Math.floor(Math.min(...bits)), Math.max(Math.floor(Math.min(...bits)) + 1, Math.ceil(Math.max(...bits)))];
  const [y0, y1] = [Math.floor(Math.min(...decades)), Math.max(Math.floor(Math.min(...decades)) + 1, Math.ceil(Math.max(...decades)))];
  const x = (value: number): number => LEFT + ((value - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const y = (kl: number): number => HEIGHT - BOTTOM - ((Math.log10(kl) - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const lines: string[] = [];
  for (let value = x0; value <= x1; value++) {
    lines.push(`<line class="grid" x1="${at(x(value))}" y1="${TOP}" x2="${at(x(value))}" y2="${HEIGHT - BOTTOM}"/>`);
    lines.push(`<text x="${at(x(value))}" y="${HEIGHT - BOTTOM + 16}" text-anchor="middle">${value}</text>`);
  }
  for (let decade = y0; decade <= y1; decade++) {
    const height = at(y(10 ** decade));
    lines.push(`<line class="grid" x1="${LEFT}" y1="${height}" x2="${WIDTH - RIGHT}" y2="${height}"/>`);
    lines.push(
      `<text x="${LEFT - 8}" y="${height}" text-anchor="end" dominant-baseline="middle">${Number((10 ** decade).toPrecision(1))}</text>`,
    );
  }
  const best = frontierOf(points);
  lines.push(`<polyline class="hull" points="${best.map((point) => `${at(x(point.bitsPerWeight))},${at(y(point.kl))}`).join(' ')}"/>`);
  for (const point of points) {
    const isOwn = point === own;
    const [cx, cy] = [at(x(point.bitsPerWeight)), at(y(point.kl))];
    const told = `${safe(point.name)}: KL ${point.kl.toPrecision(3)} at ${point.bitsPerWeight.toFixed(2)} bits`;
    lines.push(`<circle class="${isOwn ? 'own' : 'point'}" cx="${cx}" cy="${cy}" r="${isOwn ? 7 : 4}"><title>${told}</title></circle>`);
  }
  const rows = [...points].sort((a, b) => a.bitsPerWeight - b.bitsPerWeight || a.kl - b.kl);
  return `<div class="scroll"><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="KL divergence against bits per weight">${lines.join('')}
<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 6}" text-anchor="middle">bits per weight, scales included</text>
<text transform="translate(14 ${HEIGHT / 2}) rotate(-90)" text-anchor="middle">KL, nats per token</text></svg></div>
<p class="soft">The large point is this model, on the text above; the others are as their file has them, on the text that it was made with. None of those on the dashed line is beaten in both.</p>
<details><summary>Numbers of the ${points.length === 1 ? 'point' : `${points.length} points`}</summary>${htmlTable(
    ['model', 'bits per weight', 'KL, nats per token'],
    rows.map((point) => [
      `${point === own ? '<strong>' : ''}${safe(point.name)}${point === own ? '</strong>' : ''}`,
      point.bitsPerWeight.toFixed(2),
      `${point.kl.toPrecision(3)} ± ${point.klStderr.toPrecision(2)}`,
    ]),
  )}</details>`;
}
