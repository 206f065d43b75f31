// `lowbit merge-shards`, and what `lowbit quantize --shard` says of its share.

import { type MergeReport, mergeShards } from '@lowbit/hub';
import type { CommonOptions, Context } from '../context.ts';
import { loads, quoted } from '../plan-text.ts';
import type { QuantizeModelShardReport } from '../quantize-model.ts';
import { pairs, plain } from '../table.ts';
import { bytesText, countText, durationText } from '../units.ts';

export interface MergeShardsFlags extends CommonOptions {
  readonly keepShards?: boolean;
  readonly overwrite?: boolean;
}

/** Runs the command. */
export async function mergeShardsCommand(out: string, from: readonly string[], flags: MergeShardsFlags, context: Context): Promise<void> {
  const { signal, progress } = context;
  const report = await mergeShards(out, {
    from: from.length > 0 ? from : undefined,
    keepShards: flags.keepShards,
    overwrite: flags.overwrite,
    signal,
    onProgress: progress.report,
  });
  progress.clear();
  const bytes = report.files.reduce((sum, file) => sum + file.bytes, 0);
  await (context.json ? context.emit({ ...report, totalBytes: bytes }) : context.print(`${renderMerge(report, bytes, out, context)}\n`));
}

function renderMerge(
  { shards, linears, weightError, loadsIn, ms, ...report }: MergeReport,
  bytes: number,
  out: string,
  { bold }: Context,
): string {
  const facts: [string, string][] = [
    ['shards', countText(shards)],
    ['linears', `${linears.length} quantized`],
    ['size', bytesText(bytes)],
  ];
  if (linears.length > 0) facts.push(['weight error', `${weightError.toPrecision(3)} of the squared weights`]);
  facts.push(['time', durationText(ms)]);
  return [`Wrote ${bold(plain(report.out))}`, pairs(facts), loads({ loadsIn }, bold), `${bold('Next:')} lowbit inspect ${quoted(out)}`]
    .filter(Boolean)
    .join('\n\n');
}

/** Tells of a finished share. */
export async function emitShard(report: QuantizeModelShardReport, out: string, context: Context): Promise<void> {
  if (context.json) {
    await context.emit(report);
    return;
  }
  const { shard, folder, linears, sourceBytes, bytes, finished, resumed, ms } = report;
  const facts: [string, string][] = [
    ['share', `${shard.index} of ${shard.count}`],
    ['linears', `${linears.length} quantized`],
    ['weights', `${bytesText(sourceBytes)} -> ${bytesText(bytes)}`],
    [
      'time',
      finished
        ? 'none: it was finished before'
        : `${durationText(ms)}${resumed > 0 ? `; ${resumed} units were done by an earlier run` : ''}`,
    ],
  ];
  const next = `${context.bold('Next:')} lowbit merge-shards ${quoted(out)}, when all ${shard.count} are done`;
  await context.print(`${[`Wrote ${context.bold(plain(folder))}`, pairs(facts), next].join('\n\n')}\n`);
}
