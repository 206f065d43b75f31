// `lowbit pull`: a model of the Hub into the cache that Python shares.

import { downloadModel } from '@lowbit/hub';
import type { CommonOptions, Context } from '../context.ts';
import { quoted } from '../plan-text.ts';
import { pairs } from '../table.ts';
import { bytesText } from '../units.ts';

export interface PullOptions extends CommonOptions {
  readonly allow?: readonly string[];
  readonly ignore?: readonly string[];
}

/** What `lowbit pull --json` prints. */
export interface PullReport {
  /** `org/name`. */
  readonly name: string;
  /** Folder in the cache. */
  readonly folder: string;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly cached: boolean }[];
  readonly bytes: number;
  /** Bytes that had to be fetched now. */
  readonly received: number;
}

/** Runs the command. */
export async function pullCommand(model: string, { allow, ignore }: PullOptions, context: Context): Promise<void> {
  const { signal, progress } = context;
  const { name, folder, files, received } = await downloadModel(model, { allow, ignore, signal, onProgress: progress.report });
  progress.clear();
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const report: PullReport = { name, folder, files, bytes, received };
  if (context.json) return context.emit(report);
  const facts = pairs([
    ['model', name],
    ['folder', folder],
    ...(files.length === 0
      ? [['files', 'not checked: HF_HUB_OFFLINE is set'] as const]
      : [['files', `${files.length}, ${bytesText(bytes)}`] as const]),
    ['fetched', received === 0 ? 'nothing: all of it was in the cache' : bytesText(received)],
  ]);
  return context.print(`${facts}\n\n${context.bold('Next:')} lowbit generate ${quoted(model)} -p "Once upon a time"\n`);
}
