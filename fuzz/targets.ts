// What reads files of strangers, each with whole files to damage. A reader may take damaged input or refuse it with a LowbitError; everything else is a find.

import { readdirSync, readFileSync } from 'node:fs';
import { adapterFor, type Json, type JsonObject } from '@lowbit/core';
import { filesFolder, ggufFolder, openCheckpoint, unpickle } from '@lowbit/hub/browser';
import { decodeImage, defaultAdapters, loadTokenizer, type TokenBytes } from '@lowbit/models';
import { type JsonSchema, jsonSchema } from '@lowbit/models/json-schema';
import type fc from 'fast-check';
import * as golden from '../fixtures/golden.ts';
import { goldenModels } from '../packages/models/src/testing/golden-models.ts';
import { damaged, damagedJson, type Edit, edits, type JsonEdit, jsonEdits } from './mutate.ts';

export interface Target {
  readonly name: string;
  /** Reads whole files, so it waits until they are wanted. */
  readonly load: () => Damage;
}

/** Damage as fast-check makes it to one of several originals, what comes of it, and what reads that. */
export interface Damage {
  readonly originals: number;
  readonly edits: fc.Arbitrary<readonly unknown[]>;
  readonly input: (original: number, edits: readonly unknown[]) => Uint8Array;
  readonly read: (input: Uint8Array, original: number) => unknown;
}

const text = new TextEncoder();

/** Each original is a file, and damage is done to its bytes. */
function overBytes(name: string, originals: () => readonly Uint8Array[], read: (bytes: Uint8Array) => unknown): Target {
  return {
    name,
    load() {
      const files = originals();
      return {
        originals: files.length,
        edits,
        input: (original, list) => damaged(files[original]!, list as readonly Edit[]),
        read,
      };
    },
  };
}

/** Each original is a JSON tree, whose values are replaced, so that the text stays well-formed. `use` is what reads it along with the tree. */
function overJson<T>(
  name: string,
  originals: () => readonly (readonly [tree: Json, use: T])[],
  read: (json: string, use: T) => unknown,
): Target {
  return {
    name,
    load() {
      const files = originals();
      return {
        originals: files.length,
        edits: jsonEdits,
        input: (original, list) => text.encode(JSON.stringify(damagedJson(files[original]![0], list as readonly JsonEdit[]))),
        read: (input, original) => read(new TextDecoder().decode(input), files[original]![1]),
      };
    },
  };
}

const folder = (files: Readonly<Record<string, Uint8Array>>): ReturnType<typeof filesFolder> =>
  filesFolder(
    Object.entries(files).map(([path, bytes]) => ({ path: `model/${path}`, file: new File([bytes as Uint8Array<ArrayBuffer>], path) })),
  );

const CONFIG = text.encode('{"model_type":"llama","architectures":["LlamaForCausalLM"]}');

/** Opens a folder and reads every tensor of it. */
async function readAll(files: Readonly<Record<string, Uint8Array>>): Promise<void> {
  await using checkpoint = await openCheckpoint(folder({ 'config.json': CONFIG, ...files }));
  for (const name of checkpoint.source.entries.keys()) await checkpoint.source.read(name);
}

function smallSafetensors(): Uint8Array {
  const header = text.encode(
    JSON.stringify({
      __metadata__: { format: 'pt' },
      a: { dtype: 'F32', shape: [2, 3], data_offsets: [0, 24] },
      b: { dtype: 'U8', shape: [5], data_offsets: [24, 29] },
      c: { dtype: 'BF16', shape: [], data_offsets: [29, 31] },
    }),
  );
  const bytes = new Uint8Array(8 + header.length + 31);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
  bytes.set(header, 8);
  return bytes;
}

/** One state dict in protocols 2 to 5: those before are refused. */
function pickles(): readonly Uint8Array[] {
  const { protocols } = golden.goldenJson<{ protocols: Record<string, string> }>('pickle/protocols.json');
  return Object.entries(protocols).flatMap(([protocol, base64]) => (Number(protocol) < 2 ? [] : [Buffer.from(base64, 'base64')]));
}

const images = (): readonly Uint8Array[] =>
  readdirSync(golden.goldenPath('images/files')).map((name) => readFileSync(golden.goldenPath(`images/files/${name}`)));

/** The files with the weights of a golden model. */
function weightFiles(model: string): Readonly<Record<string, Uint8Array>> {
  const names = readdirSync(golden.goldenPath(`models/${model}`)).filter((name) => /^model.*\.safetensors(?:\.index\.json)?$/.test(name));
  return Object.fromEntries(names.map((name) => [name, readFileSync(golden.goldenPath(`models/${model}/${name}`))]));
}

const TOKENIZERS = ['tokenizer-llama3', 'tokenizer-unigram', 'tokenizer-gemma', 'tokenizer-mistral'];
const tokenizerFile = (name: string, file: string): Uint8Array => readFileSync(golden.goldenPath(`models/${name}/${file}`));
const tokenizerTree = (name: string, file: string): Json => golden.goldenJson<Json>(`models/${name}/${file}`);

/** Loads a tokenizer, and uses all of it on a short text. */
async function useTokenizer(files: Readonly<Record<string, Uint8Array>>): Promise<void> {
  const tokenizer = await loadTokenizer({ label: 'files', file: async (name: string) => files[name] } as Parameters<
    typeof loadTokenizer
  >[0]);
  tokenizer.decode(tokenizer.encode('Hello, wörld 🙂'));
  if (tokenizer.chatTemplates.length > 0) tokenizer.applyChatTemplate([{ role: 'user', content: 'Hello' }]);
}

const SCHEMAS: readonly Json[] = [
  { type: 'object', properties: { name: { type: 'string', maxLength: 5 }, age: { type: 'integer', minimum: 0 } }, required: ['name'] },
  { $defs: { node: { type: 'array', items: { $ref: '#/$defs/node' }, maxItems: 2 } }, $ref: '#/$defs/node' },
  { anyOf: [{ enum: ['a', 'b', 1, null] }, { type: 'number', multipleOf: 3, exclusiveMaximum: 100 }, { const: { a: [1] } }] },
  { type: 'array', prefixItems: [{ type: 'boolean' }, { type: 'string', minLength: 2 }], items: false, minItems: 1 },
];

export const targets: readonly Target[] = [
  overBytes(
    'gguf',
    () => [readFileSync(golden.goldenPath('gguf/tiny.gguf'))],
    async (bytes) => {
      await using checkpoint = await openCheckpoint(await ggufFolder(folder({ 'm.gguf': bytes }), 'm.gguf'));
      for (const name of checkpoint.source.entries.keys()) await checkpoint.source.read(name);
    },
  ),
  overBytes(
    'safetensors',
    () => [smallSafetensors()],
    (bytes) => readAll({ 'model.safetensors': bytes }),
  ),
  overBytes(
    'safetensors-index',
    () => [text.encode('{"metadata":{"total_size":31},"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"one.safetensors"}}')],
    (bytes) => readAll({ 'model.safetensors.index.json': bytes, 'one.safetensors': smallSafetensors() }),
  ),
  overBytes('pickle', pickles, (bytes) => unpickle(bytes, 'data.pkl')),
  overBytes(
    'torch-file',
    () => [readFileSync(golden.goldenPath('hqq/old-0.1.8/layers.pt'))],
    (bytes) => readAll({ 'pytorch_model.bin': bytes }),
  ),
  overBytes('image', images, (bytes) => decodeImage(bytes, { decoder: 'own' })),
  overJson(
    'config',
    () => goldenModels(golden).folders.map((name) => [golden.goldenJson<Json>(`models/${name}/config.json`), weightFiles(name)] as const),
    async (json, weights) => {
      await using checkpoint = await openCheckpoint(folder({ ...weights, 'config.json': text.encode(json) }));
      const { config, source } = checkpoint;
      const adapter = adapterFor(config, defaultAdapters);
      adapter.linears(config, source.entries);
      await adapter.describe(config, { entries: source.entries, read: (name) => source.read(name) });
    },
  ),
  overJson(
    'tokenizer',
    () => TOKENIZERS.map((name) => [tokenizerTree(name, 'tokenizer.json'), name] as const),
    (json, name) =>
      useTokenizer({ 'tokenizer.json': text.encode(json), 'tokenizer_config.json': tokenizerFile(name, 'tokenizer_config.json') }),
  ),
  overJson(
    'tokenizer-config',
    () => TOKENIZERS.map((name) => [tokenizerTree(name, 'tokenizer_config.json'), name] as const),
    (json, name) => useTokenizer({ 'tokenizer.json': tokenizerFile(name, 'tokenizer.json'), 'tokenizer_config.json': text.encode(json) }),
  ),
  overBytes(
    'chat-template',
    () =>
      TOKENIZERS.flatMap((name) => {
        const { chat_template: template } = tokenizerTree(name, 'tokenizer_config.json') as JsonObject;
        return typeof template === 'string' ? [text.encode(template)] : [];
      }),
    (bytes) =>
      useTokenizer({
        'tokenizer.json': tokenizerFile('tokenizer-llama3', 'tokenizer.json'),
        'chat_template.jinja': bytes,
      }),
  ),
  overJson(
    'json-schema',
    () => SCHEMAS.map((schema) => [schema, undefined] as const),
    (json) => {
      const bytes: TokenBytes = Array.from({ length: 128 }, (_, i) => (i === 0 ? undefined : Uint8Array.of(i)));
      const processor = jsonSchema({ tokenizer: { tokenBytes: () => bytes }, endIds: [0] }, JSON.parse(json) as JsonSchema);
      processor(new Float64Array(128), { tokens: [], prompt: 0 });
    },
  ),
];
