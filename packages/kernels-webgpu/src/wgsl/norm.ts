// Normalisation of rows or of equal parts of rows, with what may follow it: a residual. A workgroup a part of a row.

import { type FieldType, type Kernel, kernel, reductions } from './kernel.ts';

const SIZE = 64;

export interface NormOptions {
  readonly kind: 'rms' | 'layer';
  /** How wide the constants are: of a part, or of the whole row. */
  readonly weight?: 'part' | 'row' | undefined;
  readonly bias?: 'part' | 'row' | undefined;
  /** out = residual_factor * residual + factor * norm. */
  readonly add?: boolean;
}

export function normKernel({ kind, weight, bias, add = false }: NormOptions): Kernel {
  const fields: Record<string, FieldType> = { x: 'u32', out: 'u32', width: 'u32', groups: 'u32', eps: 'f32' };
  Object.assign(fields, { weight: 'u32', offset: 'f32', bias: 'u32' });
  if (add) Object.assign(fields, { residual: 'u32', residual_factor: 'f32', factor: 'f32' });
  const place = (which: 'part' | 'row'): string => (which === 'row' ? 'first + i' : 'i');
  const mean =
    kind === 'layer'
      ? `var sum = 0.0;
  for (var i = lid; i < part; i += ${SIZE}u) { sum += arena[start + i]; }
  let mean = sum_of_all(sum, lid) / f32(part);`
      : 'let mean = 0.0;';
  return kernel({
    name: `norm ${kind}${weight ? ` weight ${weight}` : ''}${bias ? ` bias ${bias}` : ''}${add ? ' add' : ''}`,
    fields,
    size: SIZE,
    declarations: (variant) => reductions(SIZE, variant),
    body: `
  let part = P.width / P.groups;
  let first = wx * part;
  let here = wid.y * P.width + first;
  let start = at(P.x) + here;
  ${mean}
  var squares = 0.0;
  for (var i = lid; i < part; i += ${SIZE}u) { let d = arena[start + i] - mean; squares += d * d; }
  let factor = 1.0 / sqrt(sum_of_all(squares, lid) / f32(part) + P.eps);
  for (var i = lid; i < part; i += ${SIZE}u) {
    var y = (arena[start + i] - mean) * factor;
    ${weight ? `y *= constants[P.weight + ${place(weight)}] + P.offset;` : ''}
    ${bias ? `y += constants[P.bias + ${place(bias)}];` : ''}
    arena[at(P.out) + here + i] = ${add ? 'P.residual_factor * arena[at(P.residual) + here + i] + P.factor * y' : 'y'};
  }`,
  });
}
