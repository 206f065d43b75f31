// What quantizing will do, before it is done: sizes, bits, memory.

import { html } from '../dom.ts';
import type { Plan } from '../protocol.ts';
import { bytesText } from '../text.ts';

const VERDICTS = {
  fits: ['Fits in memory', 'good'],
  tight: ['Tight in memory', 'fair'],
  no: ['Does not fit in memory', 'bad'],
  unknown: ['How much memory there is, is not known', 'fair'],
} as const;

export function showPlan(place: HTMLElement, plan: Plan, open: boolean): void {
  const { before, after, bitsPerWeight, quantized, linears, memory, loadsIn } = plan;
  const [verdict, tone] = VERDICTS[memory.verdict];
  const saved = 1 - after / before;
  place.replaceChildren(
    html(
      'div',
      { class: 'headline' },
      html(
        'p',
        { class: 'sizes' },
        html('span', {}, bytesText(before)),
        html('span', { class: 'arrow', 'aria-label': 'becomes' }, '→'),
        html('strong', {}, bytesText(after)),
      ),
      html('p', { class: `pill ${tone}` }, verdict),
    ),
    html('meter', {
      class: 'shrink',
      min: 0,
      max: before,
      value: after,
      'aria-label': `${Math.round(100 * (after / before))} % of the original size`,
    }),
    html(
      'p',
      { class: 'plan-text' },
      `${quantized} of ${linears} linear layers at ${bitsPerWeight.toFixed(2)} bits per weight, scales included; `,
      saved > 0 ? `${Math.round(100 * saved)} % smaller. ` : 'not smaller. ',
      `Running it takes ${bytesText(memory.total)} (weights ${bytesText(memory.weights)}, ${memory.contextLength} tokens of context ${bytesText(memory.kvCache)}) `,
      memory.measured
        ? `of about ${bytesText(memory.available)} that a tab may use here.`
        : `of the ${bytesText(memory.available)} that even a phone's tab gets; this browser does not tell more.`,
    ),
    html(
      'details',
      { open },
      html('summary', {}, 'All modules'),
      html('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Modules' }, table(plan)),
      readers(loadsIn),
    ),
  );
}

function table({ rows, restBytes }: Plan): HTMLTableElement {
  const row = (name: string, cells: readonly string[]) =>
    html('tr', {}, html('th', { scope: 'row' }, name), ...cells.map((cell) => html('td', {}, cell)));
  const bits = (bytes: number, weights: number) => ((8 * bytes) / weights).toFixed(2);
  return html(
    'table',
    {},
    html('caption', { class: 'visually-hidden' }, 'Linear layers by module, and what becomes of them'),
    html('thead', {}, html('tr', {}, ...['Module', 'Layers', 'Before', 'After', 'Bits'].map((text) => html('th', { scope: 'col' }, text)))),
    html(
      'tbody',
      {},
      ...rows.map(({ tag, linears, weights, kept, before, after }) =>
        row(tag, [String(linears), bytesText(before), kept ? 'kept' : bytesText(after), kept ? '–' : bits(after, weights)]),
      ),
      row('embeddings, norms', ['', bytesText(restBytes), 'kept', '–']),
    ),
  );
}

function readers(loadsIn: readonly string[]): HTMLElement | undefined {
  if (loadsIn.length === 0) return undefined;
  return html('ul', { class: 'hint plain' }, ...loadsIn.map((sentence) => html('li', {}, sentence)));
}
