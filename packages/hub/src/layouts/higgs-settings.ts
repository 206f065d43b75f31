// What the `higgs` layout takes from a `quantization_config`, and from a quantizer's config record. The blocks of strangers may say anything.

import { type Json, type JsonObject, type LinearSettings, LowbitError, type PlannedLinear, quote } from '@lowbit/core';
import { DEFAULT_HADAMARD, type HiggsFacts, isHiggsBlock } from '@lowbit/layouts';
import { tileOf } from './higgs-templates.ts';
import { type SkipList, skipList } from './skip-list.ts';

/** What a config block says of its modules. */
export interface HiggsBlock {
  facts(path: string): HiggsFacts;
  /** What the block says of the module's tensors, with transformers' names. */
  stated(path: string): JsonObject;
  /** The TuneMetaData of a module; undefined if there is none. */
  metadata(path: string): JsonObject | undefined;
}

/** Throws ERR_BAD_CHECKPOINT, naming the field, for a block that is none or has unusable values. `facts` and `metadata` throw it for those of a module. */
export function higgsBlock({ quantization_config: block }: JsonObject): HiggsBlock {
  if (!isRecord(block)) {
    throw new LowbitError('ERR_BAD_CHECKPOINT', 'config.json has no quantization_config, but the layers are stored as those of HIGGS', {
      hint: 'hadamard_size is said nowhere else. Take the config.json that belongs to these weights.',
    });
  }
  const tuned = recordOf(block.tune_metadata, 'tune_metadata');
  const own = recordOf(recordOf(block.lowbit, 'lowbit').modules, 'lowbit.modules');
  const hadamard = hadamardOf(block, 'hadamard_size') ?? DEFAULT_HADAMARD;
  given(block, 'bits', 'bits', isBits, '2, 3 or 4');
  const p = dimensionOf(block, 'p');
  const metadata = (path: string): JsonObject | undefined =>
    Object.hasOwn(tuned, path) ? recordOf(tuned[path], `tune_metadata of ${quote(path)}`) : undefined;
  const ownOf = (path: string): JsonObject => (Object.hasOwn(own, path) ? recordOf(own[path], `lowbit.modules ${quote(path)}`) : {});
  return {
    metadata,
    stated(path) {
      const settings = ownOf(path);
      const stated = ['bits', 'p', 'group_size'].map((key) => [key, settings[key] ?? block[key] ?? null] as const);
      return Object.fromEntries(stated.filter(([, value]) => value !== null));
    },
    facts(path) {
      const tune = metadata(path);
      const field = (name: string) => `${name} of ${quote(path)}`;
      const settings = ownOf(path);
      return {
        hadamard: hadamardOf(settings, field('hadamard_size')) ?? hadamard,
        p: dimensionOf(settings, field('p')) ?? p,
        inFeatures: given(settings, 'in_features', field('in_features'), isExtent, 'a whole number from 1'),
        tile: tune && ((bits) => tunedTile(path, tune, bits)),
      };
    },
  };
}

/** Throws ERR_TENSOR_MISMATCH for metadata of other bits than the tensors have, ERR_BAD_CHECKPOINT for a kernel that is none. */
function tunedTile(path: string, tune: JsonObject, bits: number): 32 | 64 {
  const said = given(tune, 'num_bits', `num_bits of ${quote(path)}`, isBits, '2, 3 or 4');
  if (said !== undefined && said !== bits) {
    throw new LowbitError('ERR_TENSOR_MISMATCH', `tune_metadata of ${quote(path)} says num_bits ${said}, its tensors ${bits}`, {
      hint: 'config.json and the weights belong to different models.',
      details: { path, field: 'num_bits', expected: said, actual: bits },
    });
  }
  return tileOf(bits, tune.template_id ?? null, () => bad(`template_id of ${quote(path)}`, tune.template_id));
}

/** What the layout writes that formats do not say. */
export interface HiggsWriteSettings {
  /** Modules to keep, as the user named them; null for the defaults of transformers. */
  readonly skipModules: readonly string[] | null | undefined;
  /** Multiprocessors of the GPU that files are made for. */
  readonly sms: number;
  /** FLUTE's kernel, if it was chosen. */
  readonly template: number | undefined;
}

/** Throws ERR_BAD_ARGUMENT, naming the field. */
export function higgsSettings({ method, config }: LinearSettings): HiggsWriteSettings {
  const wrong = (name: string, wanted: string) =>
    new LowbitError('ERR_BAD_ARGUMENT', `the higgs layout cannot use ${name} = ${JSON.stringify(config[name])} of the quantizer's config`, {
      hint: `It must be ${wanted}.`,
      details: { method, field: name, value: config[name] },
    });
  const { modules_to_not_convert: skip, num_sms: sms = 1, template_id: template } = config;
  if (skip !== undefined && skip !== null && !isNames(skip)) throw wrong('modules_to_not_convert', 'a list of module names, or null');
  if (!isExtent(sms)) throw wrong('num_sms', 'a whole number from 1');
  if (template !== undefined && typeof template !== 'number') throw wrong('template_id', 'a whole number');
  return { skipModules: skip, sms, template };
}

/** `modules_to_not_convert`: a list that means the same to both generations of transformers. */
export function higgsSkips(linears: readonly PlannedLinear[], { skipModules }: HiggsWriteSettings): SkipList {
  return skipList(linears, { wanted: skipModules, readers: ['ends', 'transformers 5'], field: 'modules_to_not_convert' });
}

function isRecord(value: Json | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function recordOf(value: Json | undefined, field: string): JsonObject {
  if (value === undefined || value === null) return {};
  if (isRecord(value)) return value;
  throw bad(field, value, 'an object');
}

function hadamardOf(block: JsonObject, field: string): number | undefined {
  return given(
    block,
    'hadamard_size',
    field,
    (value): value is number => typeof value === 'number' && isHiggsBlock(value),
    'a power of two',
  );
}

function dimensionOf(block: JsonObject, field: string): number | undefined {
  return given(block, 'p', field, (value): value is number => value === 1 || value === 2, '1 or 2');
}

function given<T extends Json>(
  block: JsonObject,
  key: string,
  field: string,
  valid: (value: Json) => value is T,
  wanted: string,
): T | undefined {
  const value = Object.hasOwn(block, key) ? block[key] : undefined;
  if (value === undefined || value === null) return undefined;
  if (valid(value)) return value;
  throw bad(field, value, wanted);
}

function bad(field: string, value: Json | undefined, wanted = 'one of FLUTE'): LowbitError {
  const shown = (JSON.stringify(value) ?? 'nothing').slice(0, 80);
  return new LowbitError('ERR_BAD_CHECKPOINT', `config.json says ${field} ${shown}`, {
    hint: `It must be ${wanted}. Fetch config.json again.`,
    details: { field, value },
  });
}

function isBits(value: Json): value is number {
  return value === 2 || value === 3 || value === 4;
}

function isExtent(value: Json): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}

function isNames(value: Json): value is readonly string[] {
  return Array.isArray(value) && value.every((name) => typeof name === 'string' && name !== '');
}
