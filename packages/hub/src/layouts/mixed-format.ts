// Formats as JSON of strangers: only fields of known kinds pass, and only values of their types. What they mean together, codecs check.

import { type Affine, type Codebook, DTYPE_BYTES, type DType, type Format, type Json, type JsonObject } from '@lowbit/core';

/** Scales of scales of scales: no method nests deeper. */
const MAX_DEPTH = 3;

/** A built-in format that is not dense; undefined for what is none. */
export function readFormat(value: Json): Format | undefined {
  if (!isRecord(value)) return undefined;
  if (value.kind === 'int8') return typeof value.threshold === 'number' ? { kind: 'int8', threshold: value.threshold } : undefined;
  return readNested(value, 0);
}

function readNested(value: Json | undefined, depth: number): Affine | Codebook | undefined {
  if (!isRecord(value) || depth > MAX_DEPTH) return undefined;
  if (value.kind === 'affine') return readAffine(value, depth);
  return value.kind === 'codebook' ? readCodebook(value, depth) : undefined;
}

function readAffine({ levels, group, axis, scale, zero, packing }: JsonObject, depth: number): Affine | undefined {
  const scales = readStored(scale, depth);
  const zeros = zero === 'none' ? zero : readStored(zero, depth);
  if (!isCount(levels) || !(group === null || isCount(group)) || (axis !== 0 && axis !== 1) || typeof packing !== 'string')
    return undefined;
  if (scales === undefined || zeros === undefined || (typeof zeros === 'object' && zeros.kind !== 'affine')) return undefined;
  return { kind: 'affine', levels, group, axis, scale: scales, zero: zeros, packing };
}

function readCodebook({ bits, dim, group, table, scale, offset, packing, rotate }: JsonObject, depth: number): Codebook | undefined {
  const scales = readStored(scale, depth);
  const isRotation = rotate === undefined || (isRecord(rotate) && rotate.kind === 'hadamard' && isCount(rotate.block));
  if (!isCount(bits) || (dim !== 1 && dim !== 2) || !isCount(group) || typeof table !== 'string' || typeof packing !== 'string')
    return undefined;
  if (scales === undefined || !isRotation || !(offset === undefined || typeof offset === 'boolean')) return undefined;
  return {
    ...({ kind: 'codebook', bits, dim, group, table, scale: scales, packing } as const),
    ...(offset === undefined ? {} : { offset }),
    ...(rotate === undefined ? {} : { rotate: { kind: 'hadamard', block: (rotate as JsonObject).block as number } }),
  };
}

function readStored(value: Json | undefined, depth: number): DType | Affine | Codebook | undefined {
  if (typeof value === 'string') return Object.hasOwn(DTYPE_BYTES, value) ? (value as DType) : undefined;
  return readNested(value, depth + 1);
}

function isCount(value: Json | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0;
}

function isRecord(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
