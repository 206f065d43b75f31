// `lowbit push`: a model folder to the Hub, after a look at what will be there.

import { join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { LowbitError } from '@lowbit/core';
import {
  type PushOptions as HubPush,
  hubClient,
  hubSettings,
  listModel,
  openCheckpoint,
  parseRepoName,
  planPush,
  pushModel,
  snapshotOf,
} from '@lowbit/hub';
import type { CommonOptions, Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { readJsonFile, statIfThere } from '../files.ts';
import { findPlugins, type PluginParts } from '../method-plugin.ts';
import { cardQuality, QUALITY_FILE, type Quality, readQuality } from '../quality.ts';
import { pairs, plain, table } from '../table.ts';
import { bytesText, countText } from '../units.ts';

export interface PushFlags extends CommonOptions {
  readonly private?: boolean;
  readonly yes?: boolean;
  readonly dryRun?: boolean;
  readonly baseModel?: string;
  readonly license?: string;
  readonly message?: string;
  readonly quality?: string;
  readonly plugin?: readonly string[];
}

/** What `lowbit push --json` prints. */
export interface PushReport {
  readonly dryRun: boolean;
  readonly to: string;
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  readonly card: string;
  /** Null for a dry run. */
  readonly url: string | null;
  readonly commit: string | null;
}

/** Runs the command. */
export async function pushCommand(folder: string, to: string, flags: PushFlags, context: Context): Promise<void> {
  const { signal, progress, json } = context;
  const { dryRun = false, yes = false } = flags;
  const plugins = await findPlugins(flags.plugin);
  const options: HubPush = {
    to,
    private: flags.private,
    card: await cardFacts(folder, flags, plugins, signal),
    ...plugins,
    message: flags.message,
    signal,
  };
  const plan = await planPush(folder, options);
  const { card, files } = plan;
  if (dryRun) {
    if (json) return context.emit({ dryRun, to, files, card, url: null, commit: null } satisfies PushReport);
    return context.print(`${previewText(plan, flags, context)}Nothing was sent (--dry-run).\n`);
  }
  if (!yes) {
    mayAsk('push', context);
    context.note(treeText(plan, flags, context));
    await ask(`Push ${bytesText(totalOf(files))} to ${plain(to)}?`, context.signal);
  }
  const pushed = await pushModel(folder, { ...options, onProgress: progress.report });
  progress.clear();
  if (json) return context.emit({ dryRun, to, files, card, url: pushed.url, commit: pushed.commit } satisfies PushReport);
  return context.print(
    `Pushed ${context.bold(plain(folder))}\n\n${pairs([
      ['to', pushed.url],
      ['commit', pushed.commit],
      ['files', String(files.length)],
    ])}\n`,
  );
}

type Files = PushReport['files'];

function totalOf(files: Files): number {
  return files.reduce((sum, { bytes }) => sum + bytes, 0);
}

/** What will be there. */
function treeText(
  { to, files }: { readonly to: string; readonly files: Files },
  flags: Pick<PushFlags, 'private'>,
  { bold }: Context,
): string {
  return `${bold(plain(to))}${flags.private ? ' (private)' : ''}\n${table(
    [{ title: 'file' }, { title: 'bytes', align: 'right' }],
    [...files.map(({ name, bytes }) => [plain(name), countText(bytes)]), ['total', countText(totalOf(files))]],
  )}\n`;
}

/** The same, with the text of the card. */
export function previewText(
  plan: { readonly to: string; readonly files: Files; readonly card: string },
  flags: Pick<PushFlags, 'private'>,
  context: Context,
): string {
  return `${treeText(plan, flags, context)}\n${context.bold('README.md')}\n${plan.card.split('\n').map(plain).join('\n')}\n`;
}

/** Throws a UsageError where nobody could answer. */
export function mayAsk(what: string, { json }: Context): void {
  if (process.stdin.isTTY === true && process.stderr.isTTY === true && !json) return;
  throw new UsageError(
    `${what} asks first, and there is no terminal to ask on`,
    'Pass --yes to push without a question, or --dry-run to see what would be sent.',
  );
}

/** Throws ERR_ABORTED unless the answer is yes. */
export async function ask(question: string, signal: AbortSignal): Promise<void> {
  const lines = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const answer = await lines.question(`${question} [y/N] `, { signal });
    if (!/^y(?:es)?$/i.test(answer.trim())) throw new LowbitError('ERR_ABORTED', 'nothing was sent');
  } finally {
    lines.close();
  }
}

/** What the card says: of the base model what the Hub knows, of the quantization what the folder says, and what was measured. */
async function cardFacts(folder: string, flags: PushFlags, plugins: PluginParts, signal: AbortSignal): Promise<HubPush['card']> {
  const { layout, recipe, cached } = await ofFolder(folder, plugins, signal);
  const base = flags.baseModel ?? (cached === undefined ? undefined : `${cached.name}@${cached.commit}`);
  const measured = await measuredQuality(folder, flags.quality);
  return { ...(await baseFacts(base, flags.license, signal)), layout, recipe, ...(measured ? cardQuality(measured) : {}) };
}

/** Of the file that is named, or of the one in the folder. */
async function measuredQuality(folder: string, named: string | undefined): Promise<Quality | undefined> {
  if (named !== undefined) return readQuality(await readJsonFile(named, '--quality'), named);
  const beside = join(folder, QUALITY_FILE);
  const there = await statIfThere(beside, QUALITY_FILE);
  return there === undefined ? undefined : readQuality(await readJsonFile(beside, QUALITY_FILE), beside);
}

/** What the Hub says of the model that was quantized, `org/name` or `org/name@revision`. */
export async function baseFacts(
  base: string | undefined,
  license: string | undefined,
  signal: AbortSignal,
): Promise<Pick<NonNullable<HubPush['card']>, 'baseModel' | 'baseCommit' | 'license' | 'pipelineTag'>> {
  const given = license === undefined ? {} : { license };
  if (base === undefined) return given;
  const repo = parseRepoName(base);
  const settings = await hubSettings();
  if (settings.offline) return { baseModel: repo.name, ...given };
  const said = await listModel(hubClient(settings), repo, { signal });
  return {
    baseModel: repo.name,
    baseCommit: said.commit,
    ...(said.license ? { license: said.license } : {}),
    ...(said.pipelineTag ? { pipelineTag: said.pipelineTag } : {}),
    ...given,
  };
}

/** JSON in an item of a list, a field a line: fields of thousands of layers stay on one. */
function blockText(block: unknown): string {
  const fields = Object.entries(block as object).map(([name, value]) => `  ${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  return ['```json', '{', ...fields.map((field, i) => (i < fields.length - 1 ? `${field},` : field)), '}', '```']
    .map((line) => `  ${line}`)
    .join('\n');
}

/** How a folder was made, as far as it tells. */
export async function ofFolder(folder: string, plugins: Partial<PluginParts>, signal: AbortSignal) {
  await using checkpoint = await openCheckpoint(folder, { signal, ...plugins });
  const layout = checkpoint.layout ?? 'safetensors';
  const block = checkpoint.config.quantization_config;
  const recipe = [
    `${checkpoint.quantized.size} linear layers in the layout \`${layout}\``,
    ...(block === undefined ? [] : [`\`quantization_config\` of config.json:\n\n${blockText(block)}`]),
  ];
  return { layout, recipe, cached: await snapshotOf(folder) };
}
