// `lowbit chat`: a conversation on a terminal, or one answer per line of stdin.

import { writeFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { isLowbitError, type JsonObject, LowbitError } from '@lowbit/core';
import {
  type ChatMessage,
  decodeImage,
  type GenerateOptions,
  type GenerateResult,
  type LanguageModel,
  type PromptCache,
} from '@lowbit/models';
import type { JsonSchema } from '@lowbit/models/json-schema';
import type { Context } from '../context.ts';
import { Interrupted } from '../errors.ts';
import { readBytes, readJsonFile, readTextFile } from '../files.ts';
import { loadModel } from '../load-model.ts';
import type { BackendUse } from '../running-on.ts';
import { type BackendFlags, checkBackendFlags, loadingOf, openBackend } from './backend.ts';
import { keepingTo, noteCutOff, schemaOf } from './json-schema.ts';
import { type SamplingOptions, samplingOf, statistics, stream } from './sampling.ts';

export interface ChatOptions extends SamplingOptions, BackendFlags {
  readonly system?: string;
  /** Name of a template, or a file. */
  readonly template?: string;
  /** A JSON file. */
  readonly tools?: string;
}

/** How conversations become prompts, and what answers keep to. */
type Rendering = Pick<GenerateOptions, 'chat' | 'tools' | 'logitsProcessors'>;

/** Throws ERR_NOT_FOUND for what is neither a template of the model nor a file, ERR_BAD_ARGUMENT for tools that are no list of objects. */
async function renderingOf({ template, tools }: ChatOptions, names: readonly string[]): Promise<Rendering> {
  const rendering: { -readonly [K in keyof Rendering]: Rendering[K] } = {};
  if (template !== undefined) rendering.chat = { template: names.includes(template) ? template : await templateFile(template, names) };
  if (tools !== undefined) {
    const list = await readJsonFile(tools, '--tools');
    if (!Array.isArray(list) || !list.every((tool) => typeof tool === 'object' && tool !== null && !Array.isArray(tool))) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `--tools: ${tools} is no list of objects`, {
        hint: 'Write [{ "type": "function", "function": { "name": ..., "description": ..., "parameters": ... } }].',
      });
    }
    rendering.tools = list as JsonObject[];
  }
  return rendering;
}

async function templateFile(file: string, names: readonly string[]): Promise<string> {
  try {
    return await readTextFile(file, '--template');
  } catch (error) {
    if (!isLowbitError(error) || error.code !== 'ERR_NOT_FOUND') throw error;
    throw new LowbitError('ERR_NOT_FOUND', `--template: ${file} is neither a template of the model nor a file`, {
      hint: names.length > 0 ? `Its templates: ${names.join(', ')}.` : 'The model has no templates of its own.',
      cause: error,
    });
  }
}

/** Runs the command. */
export async function chatCommand(path: string, options: ChatOptions, context: Context): Promise<void> {
  const { signal, progress } = context;
  checkBackendFlags(options);
  const schema = await schemaOf(options.jsonSchema);
  await using place = await openBackend(options, context);
  const model = await loadModel(path, {
    ...loadingOf(options),
    ...place.plugins,
    runtime: place.runtime,
    signal,
    onProgress: progress.report,
    onNote: context.note,
  });
  try {
    progress.clear();
    const names = model.tokenizer.chatTemplates;
    const rendering = await renderingOf(options, names);
    if (names.length === 0 && rendering.chat === undefined) {
      throw new LowbitError('ERR_TOKENIZER', `${path} has no chat template`, {
        hint: `It is likely a base model, which continues text: lowbit generate ${path} -p "Once upon a time"`,
      });
    }
    await converse(model, { ...options, schema, rendering: { ...rendering, ...keepingTo(schema, model) } }, place.used(), context);
  } finally {
    await model[Symbol.asyncDispose]();
  }
}

/** What may be typed beside messages. */
const commandsOf = ({ images }: Pick<LanguageModel, 'images'>): string =>
  `/reset starts over, ${images ? '/image FILE shows an image with the next message, ' : ''}/save FILE writes the conversation, /exit leaves.`;

/** A conversation, and the images that its parts stand for. */
interface Conversation {
  readonly messages: readonly ChatMessage[];
  readonly images: readonly Uint8Array[];
}

/** An image that waits for a message. */
interface Shown {
  readonly path: string;
  readonly bytes: Uint8Array;
}

/** Templates of models that look at images take contents as lists of parts; others take texts. */
function messageOf(model: LanguageModel, role: string, text: string, shown: readonly Shown[] = []): ChatMessage {
  if (!model.images) return { role, content: text };
  return { role, content: [...shown.map(({ path }) => ({ type: 'image', path })), { type: 'text', text }] };
}

async function converse(
  model: LanguageModel,
  options: ChatOptions & { readonly rendering: Rendering; readonly schema: JsonSchema | undefined },
  backend: BackendUse,
  context: Context,
): Promise<void> {
  const { stdin, stdout } = process;
  const interactive = stdin.isTTY === true && stdout.isTTY === true && !context.json;
  const system = options.system === undefined ? [] : [messageOf(model, 'system', options.system)];
  const opening: Conversation = { messages: system, images: [] };
  const commands = commandsOf(model);
  let talk = opening;
  let shown: readonly Shown[] = [];
  await using promptCache = cacheOf(model);
  const lines = createInterface({ input: stdin, ...(interactive ? { output: stdout } : {}), terminal: interactive, prompt: '> ' });
  const interrupts = takeInterrupts(interactive, context, () => lines.close());
  lines.on('SIGINT', interrupts.press);
  if (interactive) context.note(`${commands} Ctrl-C stops an answer.`);
  try {
    if (interactive) lines.prompt();
    for await (const line of lines) {
      interrupts.typed();
      const said = line.trim();
      if (said === '/exit') break;
      if (said === '/reset') [talk, shown] = [opening, []];
      else if (/^\/save(\s|$)/.test(said)) await save(talk.messages, said.slice('/save'.length).trim(), context);
      else if (model.images && /^\/image(\s|$)/.test(said)) {
        shown = [...shown, ...(await imageAt(said.slice('/image'.length).trim(), { interactive, context }))];
      } else if (said.startsWith('/')) context.note(`There is no ${said.split(/\s/)[0]} here. ${commands}`);
      else if (said !== '') {
        const messages = [...talk.messages, messageOf(model, 'user', said, shown)];
        const asked: Conversation = { messages, images: [...talk.images, ...shown.map(({ bytes }) => bytes)] };
        const answer = await interrupts
          .answering((signal) => stream(model, { ...asked, promptCache, ...options.rendering, ...samplingOf(options), signal }, context))
          .catch((error: unknown) => tooLong(error, { interactive, context, commands }));
        if (answer) {
          talk = { ...asked, messages: [...messages, messageOf(model, 'assistant', answer.text)] };
          shown = [];
          noteCutOff(options.schema, answer, context);
          await show(answer, backend, context, interactive);
        }
      }
      if (interactive) lines.prompt();
    }
    context.signal.throwIfAborted();
    if (interrupts.leaving()) {
      context.note('');
      throw new Interrupted('SIGINT');
    }
  } finally {
    interrupts.release();
    lines.close();
    stdin.pause();
  }
}

/** A conversation that has outgrown the model goes on only where somebody can start over; elsewhere it ends, and says how long it may be. */
function tooLong(
  error: unknown,
  { interactive, context, commands }: { readonly interactive: boolean; readonly context: Context; readonly commands: string },
): undefined {
  if (!isLowbitError(error) || error.code !== 'ERR_LIMIT' || error.details.contextLength === undefined) throw error;
  const message = `the conversation is longer than the ${error.details.contextLength} tokens that the model takes`;
  if (!interactive) throw new LowbitError('ERR_LIMIT', message, { hint: 'Send /reset in between.', details: error.details, cause: error });
  context.note(`This turn is forgotten: ${message}. ${commands}`);
  return undefined;
}

/** The image of a file; what cannot be read is said where somebody can name another one, and ends the conversation elsewhere. */
async function imageAt(
  path: string,
  { interactive, context }: { readonly interactive: boolean; readonly context: Context },
): Promise<readonly Shown[]> {
  if (path === '') {
    context.note('/image needs the name of a file: /image cat.jpg');
    return [];
  }
  try {
    const bytes = await readBytes(path, '/image');
    await decodeImage(bytes, { signal: context.signal });
    context.note(`${path} goes with the next message.`);
    return [{ path, bytes }];
  } catch (error) {
    if (!interactive || !isLowbitError(error)) throw error;
    context.note(`Not taken: ${error.message}. ${error.hint ?? ''}`);
    return [];
  }
}

/** The turns before are not read again, where the model's positions allow that. */
function cacheOf(model: LanguageModel): PromptCache | undefined {
  try {
    return model.promptCache();
  } catch (error) {
    if (isLowbitError(error) && error.code === 'ERR_UNSUPPORTED_ARCH') return undefined;
    throw error;
  }
}

/** Writes the conversation as JSON that chat APIs take. What cannot be written is said, and the conversation goes on. */
async function save(messages: readonly ChatMessage[], path: string, context: Context): Promise<void> {
  if (path === '') return context.note('/save needs the name of a file: /save talk.json');
  try {
    await writeFile(path, `${JSON.stringify({ messages }, null, 2)}\n`, { flag: 'wx' });
    context.note(`Saved ${messages.length} messages to ${path}.`);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const why =
      code === 'EEXIST'
        ? 'it exists already'
        : code === 'ENOENT'
          ? 'there is no such folder'
          : code === 'EACCES'
            ? 'no permission'
            : message;
    context.note(`Not saved to ${path}: ${why}. Choose another name.`);
  }
}

async function show(answer: GenerateResult, backend: BackendUse, context: Context, interactive: boolean): Promise<void> {
  const { text, ids, finishReason, usage, timings, seed } = answer;
  // One line per answer: a conversation has no end that a single JSON value could wait for.
  if (context.json) await context.print(`${JSON.stringify({ text, ids, finishReason, usage, timings, seed, backend })}\n`);
  else if (interactive) context.note(context.dim(statistics(answer, backend)));
}

interface ChatInterrupts {
  /** One Ctrl-C. */
  readonly press: () => void;
  /** A line came: what was pressed before no longer counts. */
  readonly typed: () => void;
  readonly leaving: () => boolean;
  /** Runs one answer; undefined if it was stopped. */
  answering<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T | undefined>;
  release(): void;
}

/** On a terminal the first Ctrl-C stops the answer and the second leaves; elsewhere Ctrl-C ends the command as usual. */
function takeInterrupts(interactive: boolean, context: Context, leave: () => void): ChatInterrupts {
  let presses = 0;
  let current: AbortController | undefined;
  const press = (): void => {
    presses++;
    current?.abort(new Interrupted('SIGINT'));
    if (presses > 1) leave();
    else if (!current) context.note('\nCtrl-C again, or /exit, leaves.');
  };
  const outer = (): void => {
    current?.abort(context.signal.reason);
    leave();
  };
  context.signal.addEventListener('abort', outer);
  const release = interactive
    ? context.onInterrupt(() => {
        press();
        return true;
      })
    : () => {};
  return {
    press,
    typed: () => {
      presses = 0;
    },
    leaving: () => presses > 1,
    async answering(run) {
      const controller = new AbortController();
      current = controller;
      try {
        context.signal.throwIfAborted();
        return await run(controller.signal);
      } catch (error) {
        if (!controller.signal.aborted || context.signal.aborted) throw error;
        context.note(context.dim('\n(stopped; this turn is forgotten)'));
        return undefined;
      } finally {
        current = undefined;
      }
    },
    release() {
      context.signal.removeEventListener('abort', outer);
      release();
    },
  };
}
