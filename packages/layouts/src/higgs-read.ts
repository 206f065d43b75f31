// Reading the `higgs` layout. The tensors are normative: bits follow from the rows of the packed words, groups from the scales, p from the table. What they
// do not say is in config.json: the Hadamard block, the tile of the packing (transformers: by `template_id`), and in_features of rows that were filled up.

import type { Matrix, StoredLinear, TensorSource, TensorSpec } from '@lowbit/core';
import { codecFor, isLowbitError, LowbitError, quote } from '@lowbit/core';
import { modulePath } from './bnb-format.ts';
import { fail, type HiggsDType, type HiggsPacking, higgsFormat, isGroup } from './higgs-format.ts';
import { type HiggsTable, readGrid, readPairTable } from './higgs-tables.ts';
import { specText, tensorName } from './names.ts';

/** Layers whose tables are read at the same time. */
const CONCURRENT = 16;

/** What the tensors of a linear do not say. */
export interface HiggsFacts {
  /** Inputs that were rotated together: a power of two from 8 to 32768. */
  readonly hadamard: number;
  /** Tile of FLUTE's packing, perhaps by the bits that the tensors have; default 32. */
  readonly tile?: 32 | 64 | ((bits: number) => 32 | 64) | undefined;
  /** Weights of a code, for tables that are no grid of transformers. */
  readonly p?: number | undefined;
  /** Default: K, all that is stored. */
  readonly inFeatures?: number | undefined;
}

/** Of reading one linear. */
export interface ReadHiggsOptions {
  readonly facts: (path: string) => HiggsFacts;
  readonly signal?: AbortSignal | undefined;
}

/** True if the tensors are those of quantized layers. */
export function hasHiggs(entries: ReadonlyMap<string, TensorSpec>): boolean {
  for (const name of entries.keys()) if (isHiggsModule(entries, name)) return true;
  return false;
}

/** Every quantized linear by module path. Reads the tables alone. Throws as `readHiggsLinear`. */
export async function readHiggsLinears(
  source: TensorSource,
  { facts, signal }: ReadHiggsOptions,
): Promise<ReadonlyMap<string, StoredLinear>> {
  const paths = [...source.entries.keys()].filter((name) => isHiggsModule(source.entries, name)).map(modulePath);
  const linears = new Map<string, StoredLinear>();
  for (let i = 0; i < paths.length; i += CONCURRENT) {
    signal?.throwIfAborted();
    const some = paths.slice(i, i + CONCURRENT);
    const read = await Promise.all(some.map((path) => readHiggsLinear(source, path, facts(path))));
    for (const [j, path] of some.entries()) linears.set(path, read[j]!);
  }
  return linears;
}

/** One tensor of each quantized module. A damaged module still counts: it is better refused than taken for another kind. */
function isHiggsModule(entries: ReadonlyMap<string, TensorSpec>, name: string): boolean {
  const beside = (other: string): boolean => entries.has(tensorName(modulePath(name), other));
  if (isNamed(name, 'tables2')) return true;
  if (isNamed(name, 'grid')) return beside('codes');
  return isNamed(name, 'weight') && entries.get(name)!.dtype === 'i16' && !beside('tables2');
}

function isNamed(name: string, last: string): boolean {
  return name === last || name.endsWith(`.${last}`);
}

/**
 * One linear of a checkpoint by its module path, of a state dict by the empty path.
 * @throws ERR_TENSOR_MISMATCH (a missing tensor, or one that does not fit the others), ERR_BAD_CHECKPOINT (facts that do not fit the tensors), ERR_NON_FINITE (a
 * table), ERR_UNSUPPORTED_FORMAT; all name the tensor
 */
export async function readHiggsLinear(source: TensorSource, path: string, facts: HiggsFacts): Promise<StoredLinear> {
  const portable = source.entries.has(tensorName(path, 'codes'));
  const codes = tensorName(path, portable ? 'codes' : 'weight');
  const scales = tensorName(path, 'scales');
  const [rows, width] = matrix(source, codes, [portable ? 'u8' : 'i16']);
  const [out, groups] = matrix(source, scales, ['f16', 'bf16']);
  const dtype = source.entries.get(scales)!.dtype as HiggsDType;
  if (portable && source.entries.get(tensorName(path, 'weight'))?.dtype === 'i16') fail(codes, 'is there beside the words of FLUTE');

  const found = portable ? await portableTable(source, path, dtype) : await kernelTable(source, path, (16 * rows) / out, dtype, facts.p);
  const { bits } = found;
  if (portable && rows !== out) fail(codes, `has ${rows} rows, ${quote(scales)} has ${out}`);
  const columns = portable ? (8 * width) / bits : width;
  if (!Number.isInteger(columns) || columns % facts.hadamard !== 0) {
    throw contradiction(codes, `has rows of ${columns} weights, no multiple of hadamard_size ${facts.hadamard}`);
  }
  const group = columns / groups;
  if (!isGroup(group, facts.hadamard)) {
    fail(scales, `has ${groups} scales a row of ${columns} weights: groups of ${group} do not divide hadamard_size ${facts.hadamard}`);
  }
  const { inFeatures = columns } = facts;
  if (Math.ceil(inFeatures / facts.hadamard) * facts.hadamard !== columns) {
    throw contradiction(codes, `has rows of ${columns} weights, config.json says in_features ${inFeatures}`);
  }
  const packing: HiggsPacking = portable ? 'portable' : ((typeof facts.tile === 'function' ? facts.tile(bits) : facts.tile) ?? 32);
  const format = higgsFormat({ bits, p: found.p, group, hadamard: facts.hadamard, dtype, packing });
  const shape: Matrix = [out, inFeatures];
  checkPacking(codes, () => codecFor(format).parts(format, shape));
  const bias = biasOf(source, path, out);
  return {
    format,
    shape,
    parts: { codes, scale: scales },
    constants: { table: found.table },
    ...(bias === undefined ? {} : { bias }),
    ...(found.note === undefined ? {} : { note: found.note }),
  };
}

interface FoundTable extends HiggsTable {
  readonly bits: number;
}

/** `tables2` beside FLUTE's words; it is small once its shape is right. */
async function kernelTable(
  source: TensorSource,
  path: string,
  bits: number,
  dtype: HiggsDType,
  p: number | undefined,
): Promise<FoundTable> {
  const weight = tensorName(path, 'weight');
  if (![2, 3, 4].includes(bits)) {
    fail(
      weight,
      `is ${specText(source.entries.get(weight)!)}: with ${quote(tensorName(path, 'scales'))} that is ${bits} bits a weight, not 2, 3 or 4`,
    );
  }
  const name = tensorName(path, 'tables2');
  const spec = source.entries.get(name) ?? fail(name, 'is missing');
  const levels = 2 ** bits;
  const fits = spec.shape.length === 3 && spec.shape[0] === levels && spec.shape[1] === levels && spec.shape[2] === 2;
  // Its label is f16 whatever the dtype, or bf16 once transformers has saved it again.
  if (!fits || (spec.dtype !== 'f16' && spec.dtype !== 'bf16')) {
    fail(name, `is ${specText(spec)}, expected f16 [${levels}, ${levels}, 2] for ${bits} bits`);
  }
  return { bits, ...readPairTable(name, (await source.read(name)).data, bits, dtype, p) };
}

async function portableTable(source: TensorSource, path: string, dtype: HiggsDType): Promise<FoundTable> {
  const name = tensorName(path, 'grid');
  const [n, p] = matrix(source, name, [dtype]);
  const bits = Math.log2(n) / p;
  if ((p !== 1 && p !== 2) || ![2, 3, 4].includes(bits)) {
    fail(name, `is ${specText(source.entries.get(name)!)}, expected [2^(bits p), p] with 2, 3 or 4 bits and p 1 or 2`);
  }
  return { bits, ...readGrid(name, (await source.read(name)).data, bits, p, dtype) };
}

function matrix(source: TensorSource, name: string, dtypes: readonly string[]): Matrix {
  const spec = source.entries.get(name) ?? fail(name, 'is missing, the layer is incomplete');
  const [rows, columns] = spec.shape;
  if (dtypes.includes(spec.dtype) && spec.shape.length === 2 && rows! > 0 && columns! > 0) return [rows!, columns!];
  fail(name, `is ${specText(spec)}, expected a matrix of ${dtypes.join(' or ')}`);
}

function biasOf(source: TensorSource, path: string, out: number): string | undefined {
  const name = tensorName(path, 'bias');
  const spec = source.entries.get(name);
  if (spec === undefined) return undefined;
  if (spec.shape.length !== 1 || spec.shape[0] !== out) fail(name, `is ${specText(spec)}, expected ${out} numbers`);
  return name;
}

/** Names the tensor in what a packing says of its shape. */
function checkPacking(tensor: string, check: () => unknown): void {
  try {
    check();
  } catch (error) {
    if (!isLowbitError(error)) throw error;
    throw new LowbitError(error.code, `${quote(tensor)}: ${error.message}`, {
      hint: 'config.json and the weights belong to different models, or its template_id is not that of the file.',
      details: { ...error.details, tensor },
      cause: error,
    });
  }
}

function contradiction(tensor: string, problem: string): LowbitError {
  return new LowbitError('ERR_BAD_CHECKPOINT', `${quote(tensor)} ${problem}`, {
    hint: 'config.json and the weights belong to different models.',
    details: { tensor },
  });
}
