// Rows filled up with zeros and multiplied by the normalised Hadamard matrix in runs. A workgroup a run of a row.

import { type Kernel, kernel } from './kernel.ts';

const SIZE = 64;

/** x [rows, features] to out [rows, kept]: the first `kept` of what comes out. */
export function hadamardKernel(run: number): Kernel {
  return kernel({
    name: `hadamard ${run}`,
    fields: { x: 'u32', out: 'u32', features: 'u32', kept: 'u32', factor: 'f32' },
    size: SIZE,
    declarations: `var<workgroup> run: array<f32, ${run}>;`,
    body: `
  for (var i = lid; i < ${run}u; i += ${SIZE}u) {
    let k = wx * ${run}u + i;
    run[i] = select(0.0, arena[at(P.x) + wid.y * P.features + min(k, P.features - 1u)], k < P.features);
  }
  for (var half = 1u; half < ${run}u; half = half << 1u) {
    workgroupBarrier();
    for (var i = lid; i < ${run / 2}u; i += ${SIZE}u) {
      let a = (i / half) * half * 2u + i % half;
      let x = run[a];
      let y = run[a + half];
      run[a] = x + y;
      run[a + half] = x - y;
    }
  }
  workgroupBarrier();
  for (var i = lid; i < ${run}u; i += ${SIZE}u) {
    let k = wx * ${run}u + i;
    if (k < P.kept) { arena[at(P.out) + wid.y * P.kept + k] = run[i] * P.factor; }
  }`,
  });
}
