// What the reports of commands that write model folders share.

import type { ModelPlan } from './quantize-model.ts';
import { plain, table } from './table.ts';
import { bytesText, countText } from './units.ts';

/** Bytes of all files. */
export function total(plan: ModelPlan): number {
  return plan.files.reduce((sum, { bytes }) => sum + bytes, 0);
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
export function loads({ loadsIn }: ModelPlan, bold: (text: string) => string): string {
  return loadsIn.length > 0 ? `${bold('Loads in:')}\n${loadsIn.map((sentence) => `  - ${sentence}`).join('\n')}` : '';
}

/** An argument as a shell takes it. */
export function quoted(text: string): string {
  return /^[\w./@%+:,-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
