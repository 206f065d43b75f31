// Operations on each number by itself, and those that move rows. What they mean: packages/core/src/spec/program.ts.
// An invocation for each number of [rows, width]: 64 columns a workgroup, a row along y.

import { type ACTIVATED, activation } from './floats.ts';
import { type FieldType, type Kernel, kernel, STEP } from './kernel.ts';

export const COLUMNS = 64;

function each(name: string, fields: Readonly<Record<string, FieldType>>, value: string, declarations = ''): Kernel {
  return kernel({
    name,
    fields: { out: 'u32', width: 'u32', ...fields },
    size: COLUMNS,
    declarations,
    body: `
  let column = wx * ${COLUMNS}u + lid;
  if (column >= P.width) { return; }
  let row = wid.y;
  let i = row * P.width + column;
  ${value}`,
  });
}

const section = (index: string): string => `step[${STEP.sections}u + ${index}]`;

export const ROWS = {
  activate: (kind: keyof typeof ACTIVATED) =>
    each(`activate ${kind}`, { x: 'u32' }, 'arena[at(P.out) + i] = activated(arena[at(P.x) + i]);', activation(kind)),
  gate: (kind: keyof typeof ACTIVATED, { broadcast }: { readonly broadcast: boolean }) =>
    each(
      `gate ${kind}${broadcast ? ' broadcast' : ''}`,
      { gate: 'u32', x: 'u32' },
      `arena[at(P.out) + i] = activated(arena[at(P.gate) + ${broadcast ? 'row' : 'i'}]) * arena[at(P.x) + i];`,
      activation(kind),
    ),
  add: () =>
    each('add', { a: 'u32', b: 'u32', factor: 'f32' }, 'arena[at(P.out) + i] = arena[at(P.a) + i] + P.factor * arena[at(P.b) + i];'),
  scale: () => each('scale', { x: 'u32', factor: 'f32' }, 'arena[at(P.out) + i] = arena[at(P.x) + i] * P.factor;'),
  softcap: () => each('softcap', { x: 'u32', cap: 'f32' }, 'arena[at(P.out) + i] = P.cap * tanh_of(arena[at(P.x) + i] / P.cap);'),
  slice: () =>
    each(
      'slice',
      { x: 'u32', x_width: 'u32', groups: 'u32', offset: 'u32' },
      `let part = P.width / P.groups;
  arena[at(P.out) + i] = arena[at(P.x) + row * P.x_width + column / part * (P.x_width / P.groups) + P.offset + column % part];`,
    ),
  select: () =>
    each('select', { x: 'u32' }, `arena[at(P.out) + i] = arena[at(P.x) + step[step[${STEP.source}u] + row] * P.width + column];`),
  input: () => each('input', { named: 'u32' }, `arena[at(P.out) + i] = bitcast<f32>(step[${section('P.named')} + i]);`),
  inject: () =>
    each(
      'inject',
      { x: 'u32', named: 'u32' },
      `let start = step[${section('P.named')} + row];
  var value = arena[at(P.x) + i];
  if (start != 0xffffffffu) { value = bitcast<f32>(step[${section('P.named + 1u')} + start * P.width + column]); }
  arena[at(P.out) + i] = value;`,
    ),
  positionEmbed: () =>
    each(
      'position embed',
      { x: 'u32', table: 'u32', offset: 'u32' },
      `let position = step[step[${STEP.positions}u + (P.out >> 29u)] + row] + P.offset;
  arena[at(P.out) + i] = arena[at(P.x) + i] + constants[P.table + position * P.width + column];`,
    ),
  combine: () =>
    each(
      'combine',
      { x: 'u32', weights: 'u32', top_k: 'u32' },
      `var sum = 0.0;
  for (var j = 0u; j < P.top_k; j++) {
    sum += arena[at(P.weights) + row * P.top_k + j] * arena[at(P.x) + (row * P.top_k + j) * P.width + column];
  }
  arena[at(P.out) + i] = sum;`,
    ),
} as const;
