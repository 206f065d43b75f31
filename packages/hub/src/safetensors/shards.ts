// Which files a model is written to, and how large each will be, before any of it exists.

import { byteLength, LowbitError, quote, type TensorSpec } from '@lowbit/core';
import { fromJson, writeJson } from '@lowbit/layouts';
import { type FilePlan, planFile } from './build.ts';

/** 5 GB, as the Python libraries have it (decimal). */
export const DEFAULT_SHARD_SIZE = 5_000_000_000;
/** What transformers puts into every file; other readers of PyTorch weights insist on it. */
export const PT_METADATA: Readonly<Record<string, string>> = { format: 'pt' };
const SINGLE_FILE = 'model.safetensors';
export const INDEX_FILE = 'model.safetensors.index.json';

/** How tensors are split into files. */
export interface ShardOptions {
  /** Most bytes of tensors per file; default 5 GB. A larger tensor gets a file of its own. */
  readonly shardSize?: number | undefined;
  /** Names of the tensors of each file, in place of a split by size. Empty ones are counted in the names of the files, but not written. */
  readonly shards?: readonly (readonly string[])[] | undefined;
  /** Written as `metadata.total_parameters` of the index, as transformers does; left out by default. */
  readonly totalParameters?: number | undefined;
}

/** Of `planFiles`. */
export interface PlanFilesOptions extends ShardOptions {
  /** Tensors whose specs have the most bytes they can take: sizes are then those of the largest files there can be. */
  readonly late?: ReadonlySet<string> | undefined;
}

/** A file that will be written. */
export interface PlannedFile {
  readonly name: string;
  readonly bytes: number;
}

/** Every safetensors file that will be written. */
export interface SafetensorsPlan {
  readonly files: readonly { readonly name: string; readonly layout: FilePlan }[];
  /** Text of the index where there are several files. */
  readonly index: Uint8Array | undefined;
}

/**
 * Splits tensors, in their order, as huggingface_hub does: a file is closed when the next tensor would take it over `shardSize` bytes (headers not
 * counted); a tensor that is over it alone gets its own file, and the file open at that time goes on after it. Throws ERR_BAD_ARGUMENT.
 */
export function planShards(
  tensors: Iterable<readonly [name: string, bytes: number]>,
  shardSize: number = DEFAULT_SHARD_SIZE,
): readonly (readonly string[])[] {
  if (!Number.isSafeInteger(shardSize) || shardSize < 1) {
    throw new LowbitError('ERR_BAD_ARGUMENT', `shardSize must be a whole number of bytes, got ${shardSize}`, { details: { shardSize } });
  }
  const shards: string[][] = [];
  let open: string[] = [];
  let size = 0;
  for (const [name, bytes] of tensors) {
    if (bytes > shardSize) {
      shards.push([name]);
      continue;
    }
    if (size + bytes > shardSize) {
      shards.push(open);
      open = [];
      size = 0;
    }
    open.push(name);
    size += bytes;
  }
  if (open.length > 0 || shards.length === 0) shards.push(open);
  return shards;
}

/**
 * Lays out all files. `metadata` goes into each of them. Throws ERR_BAD_ARGUMENT and ERR_LIMIT as `planFile`, and ERR_BAD_ARGUMENT for `shards`
 * that are not a division of the tensors, or come with a `shardSize`.
 */
export function planSafetensors(
  tensors: ReadonlyMap<string, TensorSpec>,
  metadata: Readonly<Record<string, string>>,
  options: PlanFilesOptions = {},
): SafetensorsPlan {
  const shards = options.shards
    ? checkShards(options.shards, tensors, options.shardSize)
    : planShards(
        [...tensors].map(([name, spec]) => [name, byteLength(spec)] as const),
        options.shardSize,
      );
  const files = shards.flatMap((names, i) => {
    if (names.length === 0 && shards.length > 1) return [];
    const layout = planFile(
      names.map((name) => [name, tensors.get(name)!] as const),
      metadata,
      options,
    );
    return [{ name: shards.length === 1 ? SINGLE_FILE : shardName(i, shards.length), layout }];
  });
  return { files, index: indexOf(files, options) };
}

/** The plan with the true lengths of late tensors. Files keep their tensors, their names and the size of their headers. */
export function settlePlan(
  plan: SafetensorsPlan,
  lengths: ReadonlyMap<string, number>,
  metadata: Readonly<Record<string, string>>,
  options: PlanFilesOptions,
): SafetensorsPlan {
  const files = plan.files.map(({ name: file, layout }) => {
    const tensors = [...layout.tensors].map(([name, { dtype, shape }]): [string, TensorSpec] => {
      const length = lengths.get(name);
      return [name, { dtype, shape: length === undefined ? shape : [length] }];
    });
    return { name: file, layout: planFile(tensors, metadata, { late: options.late, headerBytes: layout.header.byteLength }) };
  });
  return { files, index: indexOf(files, options) };
}

function indexOf(files: SafetensorsPlan['files'], options: ShardOptions): Uint8Array | undefined {
  if (files.every(({ name }) => name === SINGLE_FILE)) return undefined;
  const weightMap: Record<string, string> = Object.create(null);
  let total = 0;
  for (const { name: file, layout } of files) {
    for (const [name, { start, end }] of layout.tensors) {
      weightMap[name] = file;
      total += end - start;
    }
  }
  const sums = { total_size: total, ...(options.totalParameters === undefined ? {} : { total_parameters: options.totalParameters }) };
  const text = `${writeJson(fromJson({ metadata: sums, weight_map: weightMap }))}\n`;
  return new TextEncoder().encode(text);
}

function checkShards(
  shards: readonly (readonly string[])[],
  tensors: ReadonlyMap<string, TensorSpec>,
  shardSize: number | undefined,
): readonly (readonly string[])[] {
  const fail = (problem: string, tensor?: string) => new LowbitError('ERR_BAD_ARGUMENT', problem, { details: { tensor } });
  if (shardSize !== undefined) throw fail('shards and shardSize cannot be given together');
  if (shards.length === 0) throw fail('shards must have one file at least');
  const seen = new Set<string>();
  for (const name of shards.flat()) {
    if (!tensors.has(name)) throw fail(`shards have a tensor ${quote(name)} that is not to be written`, name);
    if (seen.has(name)) throw fail(`shards have the tensor ${quote(name)} twice`, name);
    seen.add(name);
  }
  for (const name of tensors.keys()) if (!seen.has(name)) throw fail(`shards leave out the tensor ${quote(name)}`, name);
  return shards;
}

/**
 * Every file of the output folder with its size, exact unless there are late tensors: safetensors with their headers, the index, and what the caller adds (`files`: config.json,
 * tokenizer and others that are copied). For dry runs; the sink writes files of just these sizes, or with late tensors smaller ones.
 */
export function planFiles(
  tensors: ReadonlyMap<string, TensorSpec>,
  options: PlanFilesOptions & {
    /** Default `PT_METADATA`. */
    readonly metadata?: Readonly<Record<string, string>>;
    /** Name -> bytes. */
    readonly files?: Iterable<readonly [name: string, bytes: number]>;
  } = {},
): readonly PlannedFile[] {
  const plan = planSafetensors(tensors, options.metadata ?? PT_METADATA, options);
  const planned = plan.files.map(({ name, layout }) => ({ name, bytes: layout.size }));
  if (plan.index !== undefined) planned.push({ name: INDEX_FILE, bytes: plan.index.byteLength });
  for (const [name, bytes] of options.files ?? []) {
    if (planned.some((file) => file.name === name)) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `two output files would be called ${quote(name)}`, { details: { file: name } });
    }
    planned.push({ name, bytes });
  }
  return planned;
}

function shardName(index: number, count: number): string {
  const digits = (value: number) => String(value).padStart(5, '0');
  return `model-${digits(index + 1)}-of-${digits(count)}.safetensors`;
}
