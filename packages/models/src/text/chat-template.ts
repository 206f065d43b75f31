// Chat templates: which one a checkpoint has, and rendering it as transformers does. Templates are untrusted programs; they run in the jinja
// interpreter, which reaches nothing but the values handed in, and under a budget.

import { isLowbitError, type Json, type JsonObject, LowbitError } from '@lowbit/core';
import { type BoundedTemplate, boundedTemplate, TEMPLATE_LIMITS } from './bounded-template.ts';

/** One turn of a conversation. Templates may look at further keys, such as tool_calls. */
export interface ChatMessage {
  readonly role: string;
  readonly content: Json;
  readonly [key: string]: Json;
}

export interface ChatTemplateOptions {
  /** Function descriptions in the JSON form of the OpenAI API. */
  readonly tools?: readonly JsonObject[] | undefined;
  /** End with the header of an assistant turn. Default false, as in transformers. */
  readonly addGenerationPrompt?: boolean;
  /** A template of the checkpoint by name (`tool_use`, ...), or the source of another one. */
  readonly template?: string;
  /** More variables for the template (`enable_thinking`, `documents`, ...). */
  readonly variables?: Readonly<Record<string, Json>>;
}

/** The templates of a checkpoint by name; the usual one is `default`. */
export type ChatTemplates = ReadonlyMap<string, string>;

/**
 * Collects templates: the file chat_template.jinja, else `chat_template` of tokenizer_config.json, a string or a list of { name, template }.
 * Throws ERR_TOKENIZER for another value.
 */
export function chatTemplates(file: string | undefined, config: JsonObject): ChatTemplates {
  const templates = new Map<string, string>();
  const value = config.chat_template;
  if (typeof value === 'string') templates.set('default', value);
  else if (Array.isArray(value)) {
    for (const entry of value as readonly Json[]) {
      const { name, template } = (entry ?? {}) as { readonly name?: Json; readonly template?: Json };
      if (typeof name !== 'string' || typeof template !== 'string') throw malformed('an entry without name and template');
      templates.set(name, template);
    }
  } else if (value !== undefined && value !== null) throw malformed('neither a string nor a list');
  if (file !== undefined) templates.set('default', file);
  for (const [name, { length }] of templates) {
    if (length > TEMPLATE_LIMITS.source)
      throw new LowbitError('ERR_LIMIT', `chat template ${name} has ${length} characters, more than ${TEMPLATE_LIMITS.source}`);
  }
  return templates;
}

function malformed(what: string): LowbitError {
  return new LowbitError('ERR_TOKENIZER', `tokenizer_config.json: chat_template is ${what}`, { details: { key: 'chat_template' } });
}

function choose(templates: ChatTemplates, options: ChatTemplateOptions): string {
  if (options.template !== undefined) return templates.get(options.template) ?? options.template;
  const found = (options.tools?.length ? templates.get('tool_use') : undefined) ?? templates.get('default');
  if (found !== undefined) return found;
  const names = [...templates.keys()];
  throw new LowbitError(
    'ERR_TOKENIZER',
    names.length > 0 ? 'this checkpoint has no default chat template' : 'this checkpoint has no chat template',
    {
      hint:
        names.length > 0
          ? `Choose one of its templates with \`template\`: ${names.join(', ')}.`
          : 'It is likely a base model: pass `prompt` instead of `messages`, or a template of your own.',
      details: { templates: names },
    },
  );
}

/** Renders conversations; parsed templates are kept, since parsing a long one takes milliseconds. */
export type ChatRenderer = (messages: readonly ChatMessage[], options?: ChatTemplateOptions) => string;

/** Templates of the caller's own that are kept parsed. */
const MAX_PARSED = 8;

/**
 * A renderer over a checkpoint's templates. `specialTokens` (bos_token, eos_token, ...) become variables. It throws ERR_TOKENIZER where there is no
 * template, where it is malformed, and with the template's own message where it raises (`details.raised`); ERR_LIMIT
 * where the template takes more than `TEMPLATE_LIMITS`.
 */
export function chatRenderer(templates: ChatTemplates, specialTokens: Readonly<Record<string, string>>): ChatRenderer {
  const parsed = new Map<string, BoundedTemplate>();
  const parse = (source: string): BoundedTemplate => {
    const known = parsed.get(source);
    if (known) return known;
    const template = boundedTemplate(source);
    if (parsed.size >= MAX_PARSED) parsed.clear();
    parsed.set(source, template);
    return template;
  };
  return (messages, options = {}) => {
    const source = choose(templates, options);
    try {
      return parse(source)({
        ...specialTokens,
        documents: null,
        ...options.variables,
        messages,
        tools: options.tools ?? null,
        add_generation_prompt: options.addGenerationPrompt ?? false,
      });
    } catch (cause) {
      if (isLowbitError(cause)) throw cause;
      const { message } = cause as Error;
      throw new LowbitError('ERR_TOKENIZER', message, {
        hint: 'The chat template of this checkpoint refused the conversation; see the message.',
        details: { raised: message },
        cause,
      });
    }
  };
}
