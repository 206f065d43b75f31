// `lowbit inspect`: what is in a model folder. Reads config.json and headers, never weights.

import { basename, relative } from 'node:path';
import {
  byteLength,
  type Checkpoint,
  elementCount,
  fitInputs,
  isLowbitError,
  type Json,
  type JsonObject,
  type LinearSite,
  linearTag,
  type ModelAdapter,
  modelTypeOf,
  type StoredLinear,
  siteTensor,
  type TensorSpec,
} from '@lowbit/core';
import type { FolderCheckpoint, RemoteCheckpoint } from '@lowbit/hub';
import { contextLengthOf, defaultAdapters, timm } from '@lowbit/models';
import type { CommonOptions, Context } from '../context.ts';
import { findPlugins } from '../method-plugin.ts';
import { openModel, placeOf } from '../open.ts';
import { pairs, plain, table } from '../table.ts';
import { type TaggedLinear, type TagRow, tagRows, tagTable } from '../tags.ts';
import { bitsText, bytesText, countText, shortCount } from '../units.ts';

export interface InspectOptions extends CommonOptions {
  readonly tensors?: boolean;
  readonly allowNonFinite?: boolean;
  readonly plugin?: readonly string[];
}

/** What `lowbit inspect --json` prints. */
export interface InspectReport {
  readonly path: string;
  readonly architecture: { readonly modelType: string | null; readonly name: string | null; readonly supported: boolean };
  /** Numbers of config.json that say how large the model is, under their own names. */
  readonly config: Readonly<Record<string, Json>>;
  /** Of models that look at images: the linears of tower and projector, and how many of them are in floating point. Else null. */
  readonly images: { readonly linears: number; readonly inFloat: number } | null;
  /** Weights of the model, each counted once however it is stored. */
  readonly parameters: number;
  /** Bits of all tensors for each of them: scales, tables, padding and what is not quantized included. */
  readonly bitsPerParameter: number;
  readonly tensors: { readonly count: number; readonly bytes: number };
  /** Why loading would refuse it: tensors that are missing, of another shape or of another model. Null: nothing is wrong, or nothing here knows the model. */
  readonly problem: string | null;
  readonly dtypes: readonly { readonly dtype: string; readonly tensors: number; readonly bytes: number }[];
  readonly quantization: {
    readonly layout: string | null;
    readonly linears: number;
    readonly weights: number;
    readonly bitsPerWeight: number | null;
    readonly tags: readonly TagRow[];
    /** What was noticed while reading them. */
    readonly notes: readonly string[];
  };
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  readonly tensorList?: readonly {
    readonly name: string;
    readonly dtype: string;
    readonly shape: readonly number[];
    readonly bytes: number;
  }[];
}

const SIZE_KEYS = [
  'vocab_size',
  'hidden_size',
  'intermediate_size',
  'num_hidden_layers',
  'num_attention_heads',
  'num_key_value_heads',
  'head_dim',
  'max_position_embeddings',
  'tie_word_embeddings',
];

/** Runs the command. */
export async function inspectCommand(dir: string, options: InspectOptions, context: Context): Promise<void> {
  const checkpoint = await openModel(dir, {
    signal: context.signal,
    allowNonFinite: options.allowNonFinite,
    ...(await findPlugins(options.plugin)),
  });
  try {
    const report = await inspect(checkpoint, { listTensors: options.tensors === true });
    await (context.json ? context.emit(report) : context.print(`${render(report, context.bold)}\n`));
  } finally {
    await checkpoint[Symbol.asyncDispose]();
  }
}

/** Collects the facts of an open model folder. */
export async function inspect(
  checkpoint: FolderCheckpoint | RemoteCheckpoint,
  { listTensors = false }: { readonly listTensors?: boolean } = {},
): Promise<InspectReport> {
  const { config, source } = checkpoint;
  const type = modelTypeOf(config);
  const modelType = typeof type === 'string' ? type : null;
  const name = Array.isArray(config.architectures) && typeof config.architectures[0] === 'string' ? config.architectures[0] : null;
  const adapter = defaultAdapters.find((candidate) => modelType !== null && candidate.modelTypes.includes(modelType));
  const sites = sitesOf(checkpoint, adapter);
  const quantized = fitted(checkpoint, sites);
  const rows = tagRows(linearsOf(checkpoint, sites));
  const packed = rows.filter((row) => row.quantized);
  const weights = packed.reduce((sum, row) => sum + row.weights, 0);
  const bytes = packed.reduce((sum, row) => sum + row.bytes, 0);
  const tensors = [...source.entries].map(([tensor, spec]) => ({
    name: tensor,
    dtype: spec.dtype,
    shape: spec.shape,
    bytes: byteLength(spec),
  }));
  const parameters = countParameters(checkpoint, quantized);
  const tensorBytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
  return {
    path: placeOf(checkpoint),
    architecture: { modelType, name, supported: adapter !== undefined },
    config: sizesOf(config),
    images: imagesOf(checkpoint, adapter, sites),
    parameters,
    bitsPerParameter: parameters > 0 ? (8 * tensorBytes) / parameters : 0,
    tensors: { count: tensors.length, bytes: tensorBytes },
    problem: adapter === undefined ? null : await problemOf(checkpoint),
    dtypes: dtypeCounts(source.entries.values()),
    quantization: {
      layout: checkpoint.layout ?? null,
      linears: quantized.size,
      weights,
      bitsPerWeight: weights > 0 ? (8 * bytes) / weights : null,
      tags: rows,
      notes: checkpoint.notes,
    },
    files: await filesOf(checkpoint),
    ...(listTensors ? { tensorList: tensors } : {}),
  };
}

/** What loading would say, from headers alone. */
async function problemOf(checkpoint: Checkpoint): Promise<string | null> {
  try {
    await contextLengthOf(checkpoint);
    return null;
  } catch (error) {
    if (isLowbitError(error)) return error.message;
    throw error;
  }
}

/** Numbers of config.json that say how large the model is, or its language model. */
function sizesOf(config: JsonObject): Readonly<Record<string, Json>> {
  const { text_config: inner } = config;
  const text = typeof inner === 'object' && inner !== null && !Array.isArray(inner) ? (inner as JsonObject) : {};
  const all = { ...text, ...config };
  return Object.fromEntries(SIZE_KEYS.filter((key) => key in all).map((key) => [key, all[key]!]));
}

/** Linears of what looks at images, by their names: a tower and what projects its rows. */
const IMAGE_PARTS = /(?:^|\.)(?:vision_tower|vision_model|visual_projection|multi_modal_projector)\./;

function imagesOf(checkpoint: Checkpoint, adapter: ModelAdapter | undefined, sites: readonly Site[]): InspectReport['images'] {
  const own = sites.filter(({ path }) => adapter === timm || IMAGE_PARTS.test(`${path}.`));
  if (own.length === 0) return null;
  const quantized = own.filter(({ path }) => (checkpoint.quantized.get(path)?.format.kind ?? 'dense') !== 'dense');
  return { linears: own.length, inFloat: own.length - quantized.length };
}

function imagesText(images: InspectReport['images']): [string, string][] {
  if (!images) return [];
  const { linears, inFloat } = images;
  const how = inFloat === linears ? 'in floating point' : inFloat === 0 ? 'quantized' : `${inFloat} of them in floating point`;
  return [['images', `tower and projector: ${linears} linears, ${how}`]];
}

type Site = Pick<LinearSite, 'path' | 'tag' | 'shape' | 'stacked'>;

/** All linears where an adapter knows them, else the quantized ones. */
function sitesOf({ source, quantized, config }: Checkpoint, adapter: ModelAdapter | undefined): readonly Site[] {
  // Adapters look for `<path>.weight`, which a quantized linear does not have in the file.
  const entries = new Map(source.entries);
  for (const [path, { shape }] of quantized) entries.set(`${path}.weight`, { dtype: 'f32', shape });
  return adapter?.linears(config, entries) ?? [...quantized].map(([path, { shape }]) => ({ path, tag: linearTag(path), shape }));
}

/** Quantized linears with the in_features of the model, where files only know rows that were filled up. */
function fitted({ quantized }: Checkpoint, sites: readonly Site[]): Checkpoint['quantized'] {
  const shapes = new Map(sites.map(({ path, shape }) => [path, shape]));
  return new Map([...quantized].map(([path, stored]) => [path, fitInputs(stored, shapes.get(path) ?? stored.shape)]));
}

function linearsOf({ source, quantized }: Checkpoint, sites: readonly Site[]): TaggedLinear[] {
  return sites.flatMap((site): TaggedLinear[] => {
    const { path, tag, shape } = site;
    const dtype = source.entries.get(siteTensor(site).name)?.dtype;
    const format = quantized.get(path)?.format ?? (dtype ? ({ kind: 'dense', dtype } as const) : undefined);
    return format ? [{ tag, shape, format }] : [];
  });
}

function countParameters({ source }: Checkpoint, quantized: Checkpoint['quantized']): number {
  let count = 0;
  for (const [name, spec] of source.entries) {
    // What belongs to a quantized linear is counted by its logical shape; its bias is a parameter of its own.
    const owner = quantizedOwner(name, quantized);
    const part = owner !== undefined && owner.bias !== name;
    if (!part) count += elementCount(spec.shape);
  }
  for (const { shape } of quantized.values()) count += elementCount(shape);
  return count;
}

/** The quantized linear that a tensor is part of, at any depth: `<path>.scale`, `<path>.meta_scale.zero`, or `<path>` itself. */
function quantizedOwner(name: string, quantized: Checkpoint['quantized']): StoredLinear | undefined {
  for (let end = name.length; end > 0; end = name.lastIndexOf('.', end - 1)) {
    const owner = quantized.get(name.slice(0, end));
    if (owner) return owner;
  }
  return undefined;
}

function dtypeCounts(specs: Iterable<TensorSpec>): InspectReport['dtypes'] {
  const counts = new Map<string, { dtype: string; tensors: number; bytes: number }>();
  for (const spec of specs) {
    const count = counts.get(spec.dtype) ?? { dtype: spec.dtype, tensors: 0, bytes: 0 };
    counts.set(spec.dtype, count);
    count.tensors++;
    count.bytes += byteLength(spec);
  }
  return [...counts.values()].sort((a, b) => b.bytes - a.bytes);
}

async function filesOf(checkpoint: FolderCheckpoint | RemoteCheckpoint): Promise<InspectReport['files']> {
  const config = await checkpoint.file('config.json');
  const weights = checkpoint.source.files.map(({ path, size }) => ({
    name: 'folder' in checkpoint ? relative(checkpoint.folder, path) : basename(path),
    bytes: size,
  }));
  const others = [...checkpoint.fileBytes].map(([name, bytes]) => ({ name, bytes }));
  return [...weights, { name: 'config.json', bytes: config?.byteLength ?? 0 }, ...others];
}

function render(report: InspectReport, bold: (text: string) => string): string {
  const { architecture, quantization, tensors } = report;
  const sections = [
    pairs([
      ['model', report.path],
      [
        'architecture',
        `${architecture.name ?? 'unknown'} (model_type ${architecture.modelType ?? 'missing'}${architecture.supported ? '' : ', not supported by lowbit'})`,
      ],
      [
        'parameters',
        `${countText(report.parameters)} (${shortCount(report.parameters)}), ${bitsText(report.bitsPerParameter)} bits each, everything counted`,
      ],
      [
        'tensors',
        `${tensors.count}, ${bytesText(tensors.bytes)}: ${report.dtypes.map(({ dtype, tensors: n, bytes }) => `${n} ${dtype} (${bytesText(bytes)})`).join(', ')}`,
      ],
      ['quantization', quantizationText(quantization)],
      ...imagesText(report.images),
      ...quantization.notes.map((note): [string, string] => ['note', plain(note)]),
      ...(report.problem === null ? [] : [['problem', plain(report.problem)] as [string, string]]),
      [
        'config',
        Object.entries(report.config)
          .map(([key, value]) => `${key} ${JSON.stringify(value)}`)
          .join(', '),
      ],
    ]),
  ];
  if (quantization.tags.length > 0) sections.push(`${bold('Linears')}\n${tagTable(quantization.tags)}`);
  sections.push(`${bold('Files')}\n${sizes(report.files)}`);
  if (report.tensorList) sections.push(`${bold('Tensors')}\n${tensorTable(report.tensorList)}`);
  return sections.join('\n\n');
}

function quantizationText({ layout, linears, weights, bitsPerWeight }: InspectReport['quantization']): string {
  if (layout === null) return 'none';
  return `${layout}, ${linears} linears, ${countText(weights)} weights${bitsPerWeight === null ? '' : ` at ${bitsText(bitsPerWeight)} bits each`}`;
}

function sizes(files: InspectReport['files']): string {
  return table(
    [{ title: 'file' }, { title: 'bytes', align: 'right' }],
    files.map(({ name, bytes }) => [plain(name), countText(bytes)]),
  );
}

function tensorTable(tensors: NonNullable<InspectReport['tensorList']>): string {
  return table(
    [{ title: 'tensor' }, { title: 'dtype' }, { title: 'shape' }, { title: 'bytes', align: 'right' }],
    tensors.map(({ name, dtype, shape, bytes }) => [name, dtype, `[${shape.join(', ')}]`, countText(bytes)]),
  );
}
