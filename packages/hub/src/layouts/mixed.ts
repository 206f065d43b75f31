// The layout `mixed`: weights of several methods in one model, which no other program knows. config.json says `quant_method: "lowbit"`, so that others
// refuse the folder instead of taking a part of it for the whole. Parts are stored under their own names, their formats in config.json.

import {
  type CheckpointLayout,
  codecFor,
  type JsonObject,
  LowbitError,
  type Matrix,
  type PlannedLinear,
  quote,
  type StoredLinear,
  type TensorSource,
} from '@lowbit/core';
import { acceptsNestedHqq } from '@lowbit/layouts';
import { acceptsBitsAndBytes } from './bitsandbytes-write.ts';
import { higgsLayout } from './higgs.ts';
import { LOWBIT, splitExperts } from './loads.ts';
import { readFormat } from './mixed-format.ts';

const MIXED = 'mixed';

/** Reads weights of every built-in format, and writes what hqq, bitsandbytes and HIGGS make, one beside the other. */
export const mixedLayout: CheckpointLayout = {
  spec: 1,
  name: MIXED,
  detect: ({ quantization_config: block }) => isRecord(block) && block.quant_method === 'lowbit' && block.layout === MIXED,
  read: async (config, source) => readMixed(config, source),
  accepts: (use, format) => acceptsNestedHqq(use, format) || acceptsBitsAndBytes(use, format) || higgsLayout.accepts(use, format),
  tensors({ site, format }) {
    if (site.transposed) {
      throw new LowbitError(
        'ERR_UNSUPPORTED_FORMAT',
        `${quote(site.path)} is a Conv1D module (stored as [in, out]), which the layout ${MIXED} does not store`,
        {
          hint: 'Use one method of bitsandbytes (nf4, fp4, int8) for all linears.',
          details: { path: site.path },
        },
      );
    }
    return Object.entries(codecFor(format).parts(format, site.shape)).map(([part, spec]) => ({
      name: tensorOf(site.path, part),
      spec,
      content: { part },
    }));
  },
  config: mixedConfig,
  // transformers refuses files of a format that it does not know.
  metadata: { format: 'lowbit' },
  loadsIn: (linears) => [
    LOWBIT,
    ...splitExperts(linears),
    'Nothing else: several methods in one model have no published form. Python programs refuse the folder, whose quant_method they do not know.',
  ],
};

/** Formats once each, and which of them a linear has: [format, out, in]. */
function mixedConfig(linears: readonly PlannedLinear[]): JsonObject {
  const formats = new Map<string, number>();
  const entries = linears.flatMap(({ site, format }): [string, JsonObject[string]][] => {
    if (format === undefined) return [];
    const text = JSON.stringify(format);
    const index = formats.get(text) ?? formats.size;
    formats.set(text, index);
    return [[site.path, [index, ...site.shape]]];
  });
  return {
    quant_method: 'lowbit',
    layout: MIXED,
    version: 1,
    formats: [...formats.keys()].map((text) => JSON.parse(text) as JsonObject),
    linears: Object.fromEntries(entries),
  };
}

const tensorOf = (path: string, part: string): string => `${path}.${part}`;

function readMixed({ quantization_config: block }: JsonObject, source: TensorSource): ReadonlyMap<string, StoredLinear> {
  const { version, formats, linears } = block as JsonObject;
  if (version !== 1) {
    throw new LowbitError(
      'ERR_UNSUPPORTED_FORMAT',
      `${source.label}: quantization_config has version ${quote(String(version))} of the layout ${MIXED}`,
      {
        hint: 'A later lowbit wrote it: update.',
        details: { version },
      },
    );
  }
  if (!Array.isArray(formats) || !isRecord(linears)) throw damaged(source, 'has no formats or no linears');
  const known = formats.map(
    (format: JsonObject[string], i) => readFormat(format) ?? fail(damaged(source, `holds a format ${i} that lowbit does not know`)),
  );
  return new Map(
    Object.entries(linears).map(([path, value]): [string, StoredLinear] => {
      const [index, ...shape] = Array.isArray(value) ? value : [];
      const format = typeof index === 'number' ? known[index] : undefined;
      if (format === undefined || shape.length !== 2 || !shape.every(isExtent))
        throw damaged(source, `says ${String(JSON.stringify(value)).slice(0, 60)} of ${quote(path)}`);
      const specs = codecFor(format).parts(format, shape as unknown as Matrix);
      const parts = Object.fromEntries(Object.keys(specs).map((part) => [part, tensorOf(path, part)]));
      const bias = `${path}.bias`;
      return [path, { format, shape: shape as unknown as Matrix, parts, ...(source.entries.has(bias) ? { bias } : {}) }];
    }),
  );
}

function damaged({ label }: TensorSource, problem: string): LowbitError {
  return new LowbitError('ERR_BAD_CHECKPOINT', `${label}: quantization_config of config.json ${problem}`, {
    hint: 'Fetch config.json again, or quantize the model again.',
  });
}

function fail(error: LowbitError): never {
  throw error;
}

function isExtent(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) > 0;
}

function isRecord(value: JsonObject[string] | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
