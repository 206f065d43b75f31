// Writing one linear in the `higgs` layout: the tensors that `save_pretrained` writes for a HiggsLinear, or those of the portable form; bias apart.

import type { Format, HostTensor, LayoutTensor, Matrix, TensorSpec } from '@lowbit/core';
import { codecFor, LowbitError, toFloat32, writeFloat32 } from '@lowbit/core';
import { type HiggsFormat, higgsPacking, isHiggs } from './higgs-format.ts';
import { levelTable, pairTable } from './higgs-tables.ts';
import { ownerOf, tensorName } from './names.ts';

/** A HIGGS `quantization_config`. */
export interface HiggsRecord {
  /** Module path in the checkpoint; empty in the linear's own state dict. */
  readonly path: string;
  readonly shape: Matrix;
  readonly format: Format;
}

/** The tensors of one linear, bias apart. Throws ERR_UNSUPPORTED_FORMAT for what the layout cannot hold. */
export function encodeHiggsLinear({ path, format, shape }: HiggsRecord): readonly LayoutTensor[] {
  if (!isHiggs(format)) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${ownerOf(path)}: the higgs layout cannot hold this format`, {
      hint: 'It holds grids of 2, 3 and 4 bits in 1 or 2 dimensions with scales in f16 or bf16.',
      details: { path, format },
    });
  }
  const specs = codecFor(format).parts(format, shape);
  const codes = (name: string): LayoutTensor => ({ name: tensorName(path, name), spec: specs.codes!, content: { part: 'codes' } });
  const rows = shape[0];
  const scales: LayoutTensor = {
    name: tensorName(path, 'scales'),
    spec: { dtype: format.scale, shape: [rows, specs.scale!.shape[0]! / rows] },
    content: { part: 'scale' },
  };
  return higgsPacking(format) === 'portable'
    ? [codes('codes'), gridTensor(path, format), scales]
    : [scales, ...kernelTables(path, format), codes('weight')];
}

function gridTensor(path: string, { bits, dim, scale }: HiggsFormat): LayoutTensor {
  return made(path, 'grid', { dtype: scale, shape: [2 ** (bits * dim), dim] }, (table) => writeFloat32(scale, table));
}

/** The second is labelled f16 whatever the dtype, as transformers does. */
function kernelTables(path: string, { bits, dim, scale }: HiggsFormat): readonly LayoutTensor[] {
  const levels = 2 ** bits;
  return [
    made(path, 'tables', { dtype: scale, shape: [levels] }, (table) => levelTable(table, bits, dim, scale)),
    made(path, 'tables2', { dtype: 'f16', shape: [levels, levels, 2] }, (table) => pairTable(table, bits, dim, scale)),
  ];
}

/** A tensor made of the table. */
function made(path: string, name: string, spec: TensorSpec, bytes: (table: Float32Array) => Uint8Array): LayoutTensor {
  const make = (parts: Readonly<Record<string, HostTensor>>): Uint8Array => bytes(toFloat32(parts.table!));
  return { name: tensorName(path, name), spec, content: { late: ['table'], exact: true, make } };
}
