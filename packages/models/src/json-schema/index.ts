// JSON that satisfies a schema, and nothing else: the entry `@lowbit/models/json-schema`. Who does not import it does not load it.

import { LowbitError } from '@lowbit/core';
import type { LogitsProcessor } from '../sampling/process.ts';
import type { Tokenizer } from '../text/tokenizer.ts';
import { beginning, complete, type Frame, Machine } from './machine.ts';
import { type JsonSchema, readSchema } from './read-schema.ts';
import { Masks, Vocabulary } from './vocabulary.ts';

export type { JsonSchema } from './read-schema.ts';

/** What is asked of a model: a `LanguageModel` is one. */
export interface JsonSchemaModel {
  readonly tokenizer: Pick<Tokenizer, 'tokenBytes'>;
  /** Tokens that end a text. */
  readonly endIds: readonly number[];
}

const vocabularies = new WeakMap<object, Vocabulary>();

function vocabularyOf(tokenizer: JsonSchemaModel['tokenizer']): Vocabulary {
  const vocabulary = vocabularies.get(tokenizer) ?? new Vocabulary(tokenizer.tokenBytes());
  vocabularies.set(tokenizer, vocabulary);
  return vocabulary;
}

interface Written {
  /** Tokens that were read, the prompt included. */
  length: number;
  readonly prompt: number;
  frames: readonly Frame[];
  ended: boolean;
}

/**
 * A logits processor that lets only tokens through with which the text stays the beginning of a JSON value that satisfies the schema, and the end only where it is
 * one: a text that ends by itself (`finishReason` 'stop') parses and is valid. `maxTokens` may cut it off. It serves any number of texts, at once or one after another.
 *
 * Understood are type, enum, const, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength, maxLength, minimum, maximum,
 * exclusiveMinimum, exclusiveMaximum, multipleOf (whole), anyOf, oneOf (of schemas that exclude each other), and references within the schema, recursive ones
 * too. Properties are written in the order in which they are listed (names that are whole numbers, which JavaScript puts first, are taken only where all are:
 * they rise), others only where additionalProperties asks for them or none are listed; numbers without exponents, multiples up to 2^53; at most 64 brackets are open at once.
 *
 * Throws ERR_BAD_ARGUMENT for anything else (`details.at` says where), for a schema that no value satisfies and a model without a token that ends a text,
 * ERR_LIMIT for too large a schema, ERR_TOKENIZER for vocabularies whose tokens are not told by their bytes.
 *
 * @example
 * const schema = { type: 'object', properties: { name: { type: 'string' }, age: { type: 'integer', minimum: 0 } }, required: ['name', 'age'] };
 * const { text } = await model.generate({ prompt, logitsProcessors: [jsonSchema(model, schema)] });
 */
export function jsonSchema(model: JsonSchemaModel, schema: JsonSchema): LogitsProcessor {
  if (typeof model !== 'object' || model === null || !Array.isArray(model.endIds) || typeof model.tokenizer?.tokenBytes !== 'function') {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'jsonSchema needs a model and a schema', {
      hint: 'Pass what loadModel gives: jsonSchema(model, { type: ... }).',
    });
  }
  const { endIds } = model;
  if (endIds.length === 0) {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'the model names no token that ends a text, so none could end the JSON', {
      hint: 'Name one as eos_token_id in generation_config.json.',
    });
  }
  const vocabulary = vocabularyOf(model.tokenizer);
  const start = beginning(readSchema(schema, vocabulary));
  const machine = new Machine(vocabulary.ascii);
  const masks = new Masks(vocabulary, machine);
  const texts = new WeakMap<readonly number[], Written>();

  const take = (text: Written, id: number): void => {
    if (endIds.includes(id)) text.ended = true;
    else {
      let frames = text.frames;
      for (const byte of vocabulary.bytes(id) ?? []) frames = machine.step(frames, byte);
      if (!vocabulary.bytes(id) || frames.length === 0) {
        throw new LowbitError('ERR_BAD_ARGUMENT', `token ${id} was generated, with which the text does not satisfy the JSON schema`, {
          hint: 'No processor after jsonSchema may allow what it ruled out.',
          details: { token: id },
        });
      }
      text.frames = frames;
    }
    text.length++;
  };

  return (scores, { tokens, prompt }) => {
    let text = texts.get(tokens);
    // A list that became shorter, or has another prompt, is another text.
    if (!text || text.length > tokens.length || text.prompt !== prompt) {
      text = { length: prompt, prompt, frames: start, ended: false };
      texts.set(tokens, text);
    }
    while (text.length < tokens.length) take(text, tokens[text.length]!);
    const ends = text.ended || complete(text.frames);
    const kept = ends ? endIds.map((id) => [id, scores[id]] as const) : [];
    if (text.ended) scores.fill(Number.NEGATIVE_INFINITY);
    else {
      const mask = masks.of(text.frames);
      for (let id = 0; id < scores.length; id++) {
        if (id >= vocabulary.size || (mask[id >>> 5]! & (1 << (id & 31))) === 0) scores[id] = Number.NEGATIVE_INFINITY;
      }
      for (const id of endIds) scores[id] = Number.NEGATIVE_INFINITY;
    }
    for (const [id, score] of kept) if (score !== undefined) scores[id] = score;
  };
}
