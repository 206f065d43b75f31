// `--json-schema FILE` of generate and chat: what is written is JSON that satisfies the schema.

import { isLowbitError, LowbitError } from '@lowbit/core';
import type { GenerateOptions, GenerateResult, LanguageModel } from '@lowbit/models';
import { type JsonSchema, jsonSchema } from '@lowbit/models/json-schema';
import type { Context } from '../context.ts';
import { readJsonFile } from '../files.ts';

/** The schema in a file; nothing without the flag. Throws ERR_NOT_FOUND, ERR_IO, ERR_LIMIT, ERR_BAD_ARGUMENT. */
export async function schemaOf(file: string | undefined): Promise<JsonSchema | undefined> {
  // Whether it is a schema is found when it is read.
  return file === undefined ? undefined : ((await readJsonFile(file, '--json-schema')) as JsonSchema);
}

/** The options of a generation that keeps to the schema. Throws what `jsonSchema` throws, naming the flag. */
export function keepingTo(schema: JsonSchema | undefined, model: LanguageModel): Pick<GenerateOptions, 'logitsProcessors'> {
  if (schema === undefined) return {};
  try {
    return { logitsProcessors: [jsonSchema(model, schema)] };
  } catch (error) {
    if (!isLowbitError(error)) throw error;
    throw new LowbitError(error.code, `--json-schema: ${error.message}`, { hint: error.hint, details: error.details, cause: error });
  }
}

/** Says that an answer is no whole JSON. */
export function noteCutOff(schema: JsonSchema | undefined, { finishReason }: GenerateResult, context: Context): void {
  if (schema === undefined || finishReason === 'stop') return;
  context.note(
    finishReason === 'length' ? 'The JSON is cut off: give more --max-tokens.' : "The JSON is cut off at the end of the model's context.",
  );
}
