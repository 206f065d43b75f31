// `lowbit push`: a model folder to the Hub, after a look at what will be there.

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
import { pairs, plain, table } from '../table.ts';
import { bytesText, countText } from '../units.ts';

export interface PushFlags extends CommonOptions {
  readonly private?: boolean;
  readonly yes?: boolean;
  readonly dryRun?: boolean;
  readonly baseModel?: string;
  readonly license?: string;
  readonly message?: string;
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
  const options: HubPush = {
    to,
    private: flags.private,
    card: await cardFacts(folder, flags, signal),
    message: flags.message,
    signal,
  };
  const { card, files } = await planPush(folder, options);
  const tree = `${context.bold(plain(to))}${flags.private ? ' (private)' : ''}\n${table(
    [{ title: 'file' }, { title: 'bytes', align: 'right' }],
    [...files.map(({ name, bytes }) => [name, countText(bytes)]), ['total', countText(files.reduce((sum, { bytes }) => sum + bytes, 0))]],
  )}\n`;
  if (dryRun) {
    if (json) return context.emit({ dryRun, to, files, card, url: null, commit: null } satisfies PushReport);
    return context.print(
      `${tree}\n${context.bold('README.md')}\n${card.split('\n').map(plain).join('\n')}\nNothing was sent (--dry-run).\n`,
    );
  }
  if (!yes)
    await ask(
      tree,
      files.reduce((sum, { bytes }) => sum + bytes, 0),
      to,
      context,
    );
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

async function ask(tree: string, bytes: number, to: string, { signal, json, note }: Context): Promise<void> {
  const { stdin, stderr } = process;
  if (stdin.isTTY !== true || stderr.isTTY !== true || json) {
    throw new UsageError(
      'push asks first, and there is no terminal to ask on',
      'Pass --yes to push without a question, or --dry-run to see what would be sent.',
    );
  }
  note(tree);
  const lines = createInterface({ input: stdin, output: stderr });
  try {
    const answer = await lines.question(`Push ${bytesText(bytes)} to ${plain(to)}? [y/N] `, { signal });
    if (!/^y(?:es)?$/i.test(answer.trim())) throw new LowbitError('ERR_ABORTED', 'nothing was sent');
  } finally {
    lines.close();
  }
}

/** What the card says: of the base model what the Hub knows, of the quantization what the folder says. */
async function cardFacts(folder: string, flags: PushFlags, signal: AbortSignal): Promise<HubPush['card']> {
  const { layout, recipe, cached } = await ofFolder(folder, signal);
  const base = flags.baseModel ?? (cached === undefined ? undefined : `${cached.name}@${cached.commit}`);
  const facts = { layout, recipe, ...(flags.license === undefined ? {} : { license: flags.license }) };
  if (base === undefined) return facts;
  const repo = parseRepoName(base);
  const settings = await hubSettings();
  if (settings.offline) return { ...facts, baseModel: repo.name };
  const { commit, license, pipelineTag } = await listModel(hubClient(settings), repo, { signal });
  return { baseModel: repo.name, baseCommit: commit, ...(license ? { license } : {}), ...(pipelineTag ? { pipelineTag } : {}), ...facts };
}

async function ofFolder(folder: string, signal: AbortSignal) {
  await using checkpoint = await openCheckpoint(folder, { signal });
  const layout = checkpoint.layout ?? 'safetensors';
  const block = checkpoint.config.quantization_config;
  const recipe = [
    `${checkpoint.quantized.size} linear layers in the layout \`${layout}\``,
    ...(block === undefined ? [] : [`\`quantization_config\` of config.json: \`${JSON.stringify(block)}\``]),
  ];
  return { layout, recipe, cached: await snapshotOf(folder) };
}
