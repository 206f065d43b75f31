// out = x W^T for many rows of x: tiles of 32 rows of weights and 32 of x in workgroup memory, 16 results an invocation.
//
// With f16, what it holds exactly of a tile of weights lies there in half the bytes: weights that are f16, or codes, whose scales and zeros come in when a
// chunk is summed. x is as large as it likes, so it and all sums stay f32.

import { type FieldType, type Kernel, kernel } from './kernel.ts';
import { exactInHalves, halvesCode, kindName, tableCode, type WeightKind, weightCode, weightFields } from './weight.ts';

export const TILE = 32;
const SIZE = 64;

export function gemmKernel(weight: WeightKind, { end }: { readonly end: 'store' | 'add' }): Kernel {
  const fields: Record<string, FieldType> = { x: 'u32', inp: 'u32', chunks: 'u32', ...weightFields(0) };
  Object.assign(fields, { out0: 'u32', out0_width: 'u32', out0_at: 'u32' });
  if (end === 'add') Object.assign(fields, { residual: 'u32', residual_factor: 'f32', factor: 'f32' });
  const load = weight.tail ? 'select(0.0, arena[start + min(k, P.inp - 1u)], k < P.inp)' : 'arena[start + k]';
  const four = [0, 1, 2, 3];
  const write =
    end === 'store' ? 'arena[to] = value;' : 'arena[to] = P.residual_factor * arena[at(P.residual) + to - at(P.out0)] + P.factor * value;';
  return kernel({
    name: `gemm ${end}: ${kindName(weight)}`,
    fields,
    weights: 1,
    size: SIZE,
    declarations: (variant) => {
      const halves = variant.f16 && exactInHalves(weight);
      return `${weightCode(0, weight, variant)}${halves ? halvesCode(0, weight) : ''}
var<workgroup> wt: array<vec4<${halves ? 'f16' : 'f32'}>, ${TILE * 8}>;
var<workgroup> xt: array<vec4<f32>, ${TILE * 8}>;${
        halves && weight.kind === 'grouped'
          ? `
var<workgroup> grids: array<vec2<f32>, ${TILE}>;
var<workgroup> x_sums: array<f32, ${TILE}>;`
          : ''
      }
fn x_number(start: u32, k: u32) -> f32 { return ${load}; }`;
    },
    body: (variant) => {
      const halves = variant.f16 && exactInHalves(weight);
      const grids = halves && weight.kind === 'grouped';
      const into = grids ? 'chunk' : 'sums';
      return `
  let base = 0u;
  let count = rows_of(P.x);
  ${tableCode(0, weight, { size: SIZE })}
  var sums: array<vec4<f32>, 4>;
  let tx = lid % 8u;
  let ty = lid / 8u;
  for (var c = 0u; c < P.chunks; c++) {
    workgroupBarrier();
    // Half of the invocations bring a row of weights each, the others a row of x.
    let mine = lid % ${TILE}u;
    if (lid < ${TILE}u) {
      let row = min(wx * ${TILE}u + mine, P.w0_out - 1u);
      var w = ${halves ? 'halves' : 'chunk'}_0(base, row, c);
      for (var j = 0u; j < 8u; j++) { wt[mine * 8u + j] = w[j]; }
      ${grids ? 'grids[mine] = grid_0(base, row, c);' : ''}
    } else {
      let start = at(P.x) + min(wid.y * ${TILE}u + mine, count - 1u) * P.inp;
      ${grids ? 'var total = vec4<f32>();' : ''}
      for (var j = 0u; j < 8u; j++) {
        let k = c * 32u + j * 4u;
        xt[mine * 8u + j] = vec4<f32>(x_number(start, k), x_number(start, k + 1u), x_number(start, k + 2u), x_number(start, k + 3u));
        ${grids ? 'total += xt[mine * 8u + j];' : ''}
      }
      ${grids ? 'x_sums[mine] = total.x + total.y + total.z + total.w;' : ''}
    }
    workgroupBarrier();
    ${grids ? 'var chunk = array<vec4<f32>, 4>();' : ''}
    for (var j = 0u; j < 8u; j++) {
      ${four.map((n) => `let a${n} = ${halves ? `vec4<f32>(wt[(tx * 4u + ${n}u) * 8u + j])` : `wt[(tx * 4u + ${n}u) * 8u + j]`};`).join(' ')}
      for (var n = 0u; n < 4u; n++) {
        let b = xt[(ty * 4u + n) * 8u + j];
        ${into}[n] += vec4<f32>(${four.map((m) => `dot(a${m}, b)`).join(', ')});
      }
    }
    ${
      grids
        ? `${four.map((m) => `let g${m} = grids[tx * 4u + ${m}u];`).join(' ')}
    let scales = vec4<f32>(${four.map((m) => `g${m}.x`).join(', ')});
    let zeros = vec4<f32>(${four.map((m) => `g${m}.y`).join(', ')});
    for (var n = 0u; n < 4u; n++) { sums[n] += (chunk[n] - zeros * x_sums[ty * 4u + n]) * scales; }`
        : ''
    }
  }
  for (var n = 0u; n < 4u; n++) {
    let r = wid.y * ${TILE}u + ty * 4u + n;
    for (var m = 0u; m < 4u; m++) {
      let row = wx * ${TILE}u + tx * 4u + m;
      if (r < count && row < P.w0_out) {
        let value = sums[n][m] + bias_0(base, row);
        let to = at(P.out0) + r * P.out0_width + P.out0_at + row;
        ${write}
      }
    }
  }`;
    },
  });
}
