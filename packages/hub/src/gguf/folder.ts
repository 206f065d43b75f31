// A GGUF file as a model folder: config.json, tokenizer and weights as Hugging Face's own files would be, made of what the file says.

import { type JsonObject, LowbitError } from '@lowbit/core';
import { fromJson, writeJson } from '@lowbit/layouts';
import type { OpenFile, RandomFile } from '../file.ts';
import { type FileFormat, openFileSource } from '../file-source.ts';
import { insideParts, type ModelFolder, tooLarge } from '../folder.ts';
import { isLicence } from '../model-files.ts';
import type { SourceFile } from '../reading.ts';
import { architectureOf } from './architectures.ts';
import { badGguf } from './bad.ts';
import { ggufConfig, ggufGeneration } from './config.ts';
import type { GgufHeader } from './header.ts';
import { ggufMetadata } from './metadata.ts';
import { type MappedTensor, mapTensors } from './names.ts';
import type { RopeFactors } from './rope.ts';
import { readGgufHeader, readMapped } from './source.ts';
import { ggufTokenizer } from './tokenizer.ts';

/** A file that is opened as a whole model. */
export interface GgufFolder extends ModelFolder {
  readonly header: GgufHeader;
}

/** Whether a name is one of such a file. */
export function isGguf(name: string): boolean {
  return /\.gguf$/i.test(name);
}

/**
 * The model of a GGUF file of a folder, as a folder of Hugging Face's files. Tensors have their names there; packed ones are given out as f32. Of the folder's other
 * files licences are taken, where `licences` says that they belong to the model.
 * @throws ERR_NOT_FOUND, ERR_BAD_CHECKPOINT, ERR_LIMIT, ERR_UNSUPPORTED_ARCH, ERR_UNSUPPORTED_FORMAT (old versions, types that are not read, parts of a split model)
 *
 * @example
 * await using checkpoint = await openCheckpoint(await ggufFolder(filesFolder(input.files), 'model.gguf')); // in a browser
 */
export async function ggufFolder(
  folder: ModelFolder,
  name: string,
  { licences = false, signal }: { readonly licences?: boolean; readonly signal?: AbortSignal | undefined } = {},
): Promise<GgufFolder> {
  const path = await folder.resolve(name, folder.path);
  if (path === undefined) throw await noGguf(folder, name);
  const open: OpenFile = (signal) => folder.open(path, signal);
  const { header, factors } = await readFront(open, signal);
  const meta = ggufMetadata(header.metadata, name);
  refuseParts(meta.whole('.split.count') ?? 1, name);
  const architecture = architectureOf(meta);
  const mapped = mapTensors(header, architecture, name);
  const files = new Map<string, () => string>([
    ['config.json', () => pretty(ggufConfig(header, meta, architecture, factors))],
    ['generation_config.json', () => pretty(ggufGeneration(meta))],
  ]);
  let unread: unknown;
  try {
    const tokenizer = ggufTokenizer(meta);
    if (tokenizer) {
      // In one line: a vocabulary in many takes twice the bytes.
      files.set('tokenizer.json', () => JSON.stringify(tokenizer.tokenizer));
      files.set('tokenizer_config.json', () => pretty(tokenizer.config));
    }
  } catch (error) {
    if (!(error instanceof LowbitError)) throw error;
    unread = error; // weights can be read without it
  }
  const made = new Map<string, Uint8Array>();
  const bytesOf = (file: string): Uint8Array | undefined => {
    const make = files.get(file);
    if (make !== undefined && !made.has(file)) made.set(file, new TextEncoder().encode(make()));
    return made.get(file);
  };
  const label = `${folder.path}/${name}`;
  const carried = licences ? (await folder.names()).filter(isLicence) : [];

  return {
    path: label,
    header,
    notes: [
      ...packedNote(header),
      ...(unread === undefined ? [] : [`${(unread as LowbitError).message}: texts cannot be encoded, and a copy has no tokenizer.`]),
    ],
    async resolve(file, from) {
      insideParts(label, file, from);
      return undefined;
    },
    async read(file, maxBytes) {
      if (carried.includes(file)) return folder.read(file, maxBytes);
      if (unread !== undefined && file === 'tokenizer.json') throw unread;
      const bytes = bytesOf(file);
      if (bytes !== undefined && bytes.byteLength > maxBytes) throw tooLarge(`${label}/${file}`, bytes.byteLength, maxBytes);
      return bytes?.slice();
    },
    names: async () => [...files.keys(), ...carried],
    bytes: async (file) => (carried.includes(file) ? folder.bytes(file) : bytesOf(file)?.byteLength),
    open: (file, signal) => folder.open(file, signal),
    weights: (signal) => openFileSource([open], { label, signal }, format(header, mapped)),
    ...(folder[Symbol.asyncDispose] && { [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]!() }),
  };
}

/** The ERR_NOT_FOUND for a file that a folder does not have. */
export async function noGguf(folder: ModelFolder, name: string): Promise<LowbitError> {
  const others = (await folder.names()).filter(isGguf).slice(0, 5);
  return new LowbitError('ERR_NOT_FOUND', `${folder.path} has no ${name}`, {
    hint: others.length > 0 ? `It has ${others.join(', ')}.` : 'It has no GGUF files at its top.',
    details: { folder: folder.path, file: name },
  });
}

function pretty(json: JsonObject): string {
  return `${writeJson(fromJson(json))}\n`;
}

async function readFront(open: OpenFile, signal: AbortSignal | undefined): Promise<{ header: GgufHeader; factors: RopeFactors }> {
  const file = await open(signal);
  try {
    const header = await readGgufHeader(file, signal);
    const numbers = (name: string) => ropeNumbers(file, header, name, signal);
    return {
      header,
      factors: {
        freqs: await numbers('rope_freqs.weight'),
        long: await numbers('rope_factors_long.weight'),
        short: await numbers('rope_factors_short.weight'),
      },
    };
  } finally {
    await file.close();
  }
}

const MAX_FACTORS = 4096;

async function ropeNumbers(file: RandomFile, { tensors }: GgufHeader, name: string, signal: AbortSignal | undefined) {
  const tensor = tensors.get(name);
  if (tensor === undefined) return undefined;
  const [count = 0, ...more] = tensor.shape;
  if (tensor.type.name !== 'F32' || more.length > 0 || count > MAX_FACTORS) throw badGguf(file.name, `${name} is not a short list of F32`);
  const bytes = await readMapped(file, { dtype: 'f32', shape: [count], from: tensor, offset: 0 }, 0, count, signal);
  return Array.from(new Float32Array(bytes.slice().buffer));
}

function refuseParts(parts: number, name: string): void {
  if (parts <= 1) return;
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${name} is one of ${parts} parts of a model`, {
    hint: 'Put them together with `llama-gguf-split --merge` of llama.cpp.',
    details: { file: name, parts },
  });
}

function format(header: GgufHeader, mapped: ReadonlyMap<string, MappedTensor>): FileFormat<SourceFile> {
  return {
    async open(file) {
      const last = [...header.tensors.values()].reduce((most, { end }) => Math.max(most, end), header.dataStart);
      if (file.size < last) throw badGguf(file.name, 'the file became shorter while it was read');
      return {
        file: { path: file.path, size: file.size },
        tensors: mapped,
        read: (name, from, to, signal) => readMapped(file, mapped.get(name)!, from, to, signal),
      };
    },
    twice: (file, tensor) => badGguf(file, `the tensor ${tensor} is there twice`),
  };
}

/** A remark on weights that are quantized in the file. */
function packedNote({ tensors }: GgufHeader): readonly string[] {
  const packed = new Set([...tensors.values()].flatMap(({ type }) => (type.decode ? [type.name] : [])));
  if (packed.size === 0) return [];
  return [
    `Weights of the file are quantized already (${[...packed].sort().join(', ')}): they are read as the numbers that they stand for, and quantizing them again adds the errors of both.`,
  ];
}
