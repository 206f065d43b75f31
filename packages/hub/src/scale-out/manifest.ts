// What a finished shard says of itself, `shard.json`. It may come from another machine, so it is checked like any other file.

import { DTYPE_BYTES, type DType, LowbitError, type TensorSpec } from '@lowbit/core';
import { sha256 } from '../digest.ts';
import type { LinearReport } from '../plan/pipeline.ts';
import type { Shard } from './divide.ts';
import { checkShard } from './divide.ts';
import type { Job } from './identity.ts';

export const MANIFEST_FILE = 'shard.json';
/** 100 bytes for each of a few million tensors. */
export const MAX_MANIFEST_BYTES = 1 << 28;
const VERSION = 1;

/** The whole model, as merging needs it: the first shard carries it. */
export interface ModelTable {
  /** In the order of the plan. Of late tensors the most bytes they can have. */
  readonly tensors: readonly (readonly [name: string, dtype: DType, shape: readonly number[], late: 0 | 1])[];
  /** Which of them each file has; an empty one is counted in the names of files. */
  readonly files: readonly (readonly number[])[];
  /** For the header of each file. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Other files, config.json among them, which lie in the first shard. */
  readonly others: readonly string[];
  /** Paths of the quantized linears, in the order of reports. */
  readonly linears: readonly string[];
  /** Which programs load the result, as sentences. */
  readonly loadsIn: readonly string[];
}

export interface ShardManifest {
  readonly shard: Shard;
  readonly job: Job;
  /** Digest of the table, as the shard itself planned it. */
  readonly table: string;
  /** Of the first shard alone. */
  readonly model?: ModelTable | undefined;
  /** Safetensors files of the shard, with their tensors. */
  readonly files: readonly (readonly [file: string, tensors: readonly string[]])[];
  /** Tensors copied. */
  readonly copied: number;
  readonly linears: readonly Omit<LinearReport, 'resumed'>[];
}

/** Sum of squared errors over sum of squared weights. */
export function weightErrorOf(linears: ShardManifest['linears']): number {
  const squaredWeight = linears.reduce((sum, report) => sum + report.squaredWeight, 0);
  const squaredError = linears.reduce((sum, report) => sum + report.squaredError, 0);
  return squaredWeight > 0 ? squaredError / squaredWeight : 0;
}

export function tableDigest(table: ModelTable): Promise<string> {
  const { tensors, files, metadata, others, linears, loadsIn } = table;
  return sha256(JSON.stringify([tensors, files, metadata, others, linears, loadsIn]));
}

export function writeManifest(manifest: ShardManifest): Uint8Array {
  return new TextEncoder().encode(`${JSON.stringify({ lowbitShard: VERSION, ...manifest })}\n`);
}

/** Throws ERR_BAD_CHECKPOINT, naming the file `path`, for what is no manifest. */
export function parseManifest(data: Uint8Array, path: string): ShardManifest {
  const bad = (problem: string) =>
    new LowbitError('ERR_BAD_CHECKPOINT', `${path} ${problem}`, {
      hint: 'Run this shard again with --overwrite (overwrite: true), or copy it again.',
      details: { path },
    });
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(data));
  } catch {
    throw bad('is damaged: it is no JSON');
  }
  if (!isRecord(value) || typeof value.lowbitShard !== 'number') throw bad('is not of a shard');
  if (value.lowbitShard !== VERSION) throw bad(`was written by another version of lowbit (${value.lowbitShard}, this is ${VERSION})`);
  const { shard, job, table, model, files, copied, linears } = value;
  try {
    checkShard(shard);
  } catch {
    throw bad('names no shard');
  }
  if (!isRecord(job) || typeof job.settings !== 'string' || typeof job.source !== 'string' || typeof job.version !== 'string')
    throw bad('names no job');
  const filesFit = isArrayOf(
    files,
    (file) => isArrayOf(file, () => true) && file.length === 2 && isPlainName(file[0]) && isArrayOf(file[1], isText),
  );
  if (typeof table !== 'string' || typeof copied !== 'number' || !filesFit || !isArrayOf(linears, isReport)) throw bad('is damaged');
  if (model !== undefined && !isTable(model)) throw bad('has a damaged table of tensors');
  return { shard, job, table, model, files, copied, linears } as unknown as ShardManifest;
}

/** The tensors of a table by name, and the late ones. */
export function tableTensors({ tensors }: ModelTable): {
  readonly specs: ReadonlyMap<string, TensorSpec>;
  readonly late: ReadonlySet<string>;
} {
  const specs = new Map(tensors.map(([name, dtype, shape]): [string, TensorSpec] => [name, { dtype, shape }]));
  return { specs, late: new Set(tensors.flatMap(([name, , , late]) => (late === 1 ? [name] : []))) };
}

function isTable(value: unknown): value is ModelTable {
  if (!isRecord(value)) return false;
  const { tensors, files, metadata, others, linears, loadsIn } = value;
  if (!isArrayOf(tensors, isRow) || new Set(tensors.map((row) => (row as unknown[])[0])).size !== tensors.length) return false;
  const isPlace = (index: unknown): boolean => Number.isInteger(index) && (index as number) >= 0 && (index as number) < tensors.length;
  if (!isArrayOf(files, (file) => isArrayOf(file, isPlace))) return false;
  const texts = isRecord(metadata) && Object.values(metadata).every(isText);
  return texts && isArrayOf(others, isPlainName) && isArrayOf(linears, isText) && isArrayOf(loadsIn, isText);
}

function isRow(row: unknown): boolean {
  if (!Array.isArray(row) || row.length !== 4) return false;
  const [name, dtype, shape, late] = row as unknown[];
  const isSize = (size: unknown): boolean => Number.isSafeInteger(size) && (size as number) >= 0;
  return (
    isText(name) && isText(dtype) && Object.hasOwn(DTYPE_BYTES, dtype as string) && isArrayOf(shape, isSize) && (late === 0 || late === 1)
  );
}

function isReport(value: unknown): boolean {
  return (
    isRecord(value) &&
    isText(value.path) &&
    ['squaredError', 'squaredWeight', 'maxAbs', 'ms'].every((key) => typeof value[key] === 'number')
  );
}

function isArrayOf(value: unknown, is: (item: unknown) => boolean): value is readonly unknown[] {
  return Array.isArray(value) && value.every(is);
}

function isText(value: unknown): boolean {
  return typeof value === 'string';
}

function isPlainName(value: unknown): boolean {
  return typeof value === 'string' && /^[^/\\\0]+$/.test(value) && value !== '.' && value !== '..';
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
