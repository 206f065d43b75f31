// What the reports of commands that write model folders share.

import type { ModelPlan } from './quantize-model.ts';
import { plain, table } from './table.ts';
import { bitsText, bytesText, countText } from './units.ts';

/** Bytes of all files. */
export function total(plan: ModelPlan): number {
  return plan.files.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** What a weight takes: one that is quantized, and on average over everything that is stored. */
export function bitsFact({ bitsPerWeight, bitsPerParameter, quantizedWeights }: ModelPlan['summary']): string {
  if (quantizedWeights === 0) return `${bitsText(bitsPerParameter)} over everything`;
  return `${bitsText(bitsPerWeight)} over ${countText(quantizedWeights)} quantized weights, scales included; ${bitsText(bitsPerParameter)} over everything`;
}

/** Bytes of the weights before and after. */
export function ratio({ before, after }: ModelPlan['weightBytes']): string {
  const times = before / after;
  return `${bytesText(before)} -> ${bytesText(after)} (${times >= 1 ? `${times.toFixed(2)} times smaller` : `${(1 / times).toFixed(2)} times larger`})`;
}

/** Every file with its size. */
export function filesTable(plan: ModelPlan): string {
  return table(
    [{ title: 'file' }, { title: plan.sizes === 'exact' ? 'bytes' : 'bytes, at most', align: 'right' }],
    [...plan.files.map(({ name, bytes }) => [plain(name), countText(bytes)]), ['total', countText(total(plan))]],
  );
}

/** Who loads the result; empty if there is nothing to say. */
export function loads({ loadsIn }: Pick<ModelPlan, 'loadsIn'>, bold: (text: string) => string): string {
  return loadsIn.length > 0 ? `${bold('Loads in:')}\n${loadsIn.map((sentence) => `  - ${sentence}`).join('\n')}` : '';
}

/** An argument as a shell takes it. */
export function quoted(text: string): string {
  return /^[\w./@%+:,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
