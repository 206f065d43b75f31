// `lowbit quantize --push`: what is checked before hours of work, and the push that ends them.

import { rm } from 'node:fs/promises';
import { LowbitError } from '@lowbit/core';
import { hubClient, hubSettings, modelCard, type Pushed, parseRepoName, pushModel, snapshotOf, tokenOwner } from '@lowbit/hub';
import type { Context } from '../context.ts';
import { asUsage, UsageError } from '../errors.ts';
import { checkPushFlags, type QuantizePushFlags } from '../flags/quantize/push.ts';
import type { PluginParts } from '../method-plugin.ts';
import type { MethodChoice } from '../parse.ts';
import { quoted } from '../plan-text.ts';
import type { ModelPlan, QuantizeModelReport } from '../quantize-model.ts';
import { plain } from '../table.ts';
import { bytesText } from '../units.ts';
import type { ChosenMethod } from './method-flags.ts';
import { ask, baseFacts, mayAsk, ofFolder, previewText } from './push.ts';

export type { QuantizePushFlags };

/** What `--json` says of a push. */
export type PushedReport = Pick<Pushed, 'to' | 'files' | 'card' | 'url' | 'commit'>;

export interface QuantizePush {
  /** Where the model is made: what `--out` names, or a folder that is removed when it has arrived. */
  readonly out: string;
  /** What would be there, for `--dry-run`. */
  preview(plan: ModelPlan): Promise<{ readonly json: Pick<PushedReport, 'to' | 'files' | 'card'>; readonly text: string }>;
  /** Throws what `pushModel` throws, saying where the finished model is. */
  finish(report: QuantizeModelReport): Promise<PushedReport>;
}

/**
 * Undefined without `--push`. Else what must not fail after the work: a name, an answer, a token that may write.
 * @throws UsageError, ERR_BAD_ARGUMENT (name), ERR_OFFLINE_MISS, ERR_ACCESS_DENIED, ERR_NETWORK, ERR_ABORTED (the answer was no)
 */
export async function preparePush(
  flags: QuantizePushFlags & { readonly dryRun?: boolean; readonly method?: MethodChoice },
  { layouts = [], codecs = [] }: ChosenMethod['parts'],
  context: Context,
): Promise<QuantizePush | undefined> {
  const { push: to, out, dryRun = false, yes = false, license } = flags;
  checkPushFlags(flags);
  if (to === undefined) return undefined;
  const { name, revision } = asUsage(() => parseRepoName(to));
  if (revision !== 'main') throw new UsageError(`models are pushed to main, not to ${revision}`, `Pass --push ${name}.`);
  if (!dryRun) {
    if (!yes) mayAsk('--push', context);
    await checkToken(context.signal);
    if (!yes) await ask(`Quantize, and push the result to ${plain(name)}${flags.private ? ' (private)' : ''}?`, context.signal);
  }
  const folder = out ?? name.split('/')[1]!;
  const plugins: PluginParts = { layouts, codecs };
  return {
    out: folder,
    async preview(plan) {
      const facts = await baseFacts(flags.baseModel ?? (await baseOf(plan.source)), license, context.signal);
      const recipe = plan.tags.map(({ tag, linears, format }) => `${linears} x \`${tag}\`: ${format}`);
      const card = modelCard(name.split('/')[1]!, { layout: plan.layout ?? 'safetensors', loadsIn: plan.loadsIn, recipe, ...facts });
      const readme = { name: 'README.md', bytes: new TextEncoder().encode(card).byteLength };
      const files = [readme, ...plan.files.map(({ name, bytes }) => ({ name, bytes }))];
      return { json: { to: name, files, card }, text: previewText({ to: name, files, card }, flags, context) };
    },
    async finish(report) {
      const { signal, progress } = context;
      try {
        const facts = await baseFacts(flags.baseModel ?? (await baseOf(report.source)), license, signal);
        const { layout, recipe } = await ofFolder(report.out, plugins, signal);
        const card = { ...facts, layout, recipe: [...recipe, ...lossOf(report)], loadsIn: report.loadsIn };
        const pushed = await pushModel(report.out, {
          to: name,
          private: flags.private,
          card,
          ...plugins,
          signal,
          onProgress: progress.report,
        });
        if (out === undefined) await rm(report.out, { recursive: true });
        return { to: pushed.to, files: pushed.files, card: pushed.card, url: pushed.url, commit: pushed.commit };
      } catch (error) {
        const plugin = typeof flags.method === 'object' ? ` --plugin ${plain(quoted(flags.method.module))}` : '';
        const where = `The quantized model is whole, in ${plain(report.out)}. Push it with: lowbit push ${plain(quoted(report.out))} ${name}${plugin}`;
        if (!(error instanceof LowbitError)) {
          context.note(where);
          throw error;
        }
        const { code, message, hint, details } = error;
        throw new LowbitError(code, message, { hint: hint === undefined ? where : `${hint} ${where}`, details, cause: error });
      }
    },
  };
}

/** A line of the report for people. */
export function pushedText({ url, commit, files }: PushedReport, kept: string | undefined, { bold }: Context): string {
  const bytes = files.reduce((sum, each) => sum + each.bytes, 0);
  return `Pushed ${bytesText(bytes)} to ${bold(url)} (commit ${commit})${kept === undefined ? ', nothing of it is kept here' : ''}`;
}

async function checkToken(signal: AbortSignal): Promise<void> {
  const settings = await hubSettings();
  if (settings.offline) throw new LowbitError('ERR_OFFLINE_MISS', 'HF_HUB_OFFLINE allows no connection', { hint: 'Unset it to push.' });
  const where = `${settings.endpoint}/settings/tokens`;
  if (settings.token === undefined) {
    throw new LowbitError('ERR_ACCESS_DENIED', 'pushing needs a token, and none was found', {
      hint: `Make one that may write on ${where}, and set HF_TOKEN or write it to ${settings.tokenFrom}.`,
    });
  }
  const { role, name } = await tokenOwner(hubClient(settings), { signal });
  if (role !== 'read') return;
  throw new LowbitError('ERR_ACCESS_DENIED', `the token of ${settings.tokenFrom} (of ${plain(name)}) may read, not write`, {
    hint: `Make one that may write on ${where}.`,
  });
}

/** The model of the Hub that a report's source is. */
async function baseOf(source: string): Promise<string | undefined> {
  const [remote] = /^[^/\\:]+\/[^/\\@]+@[0-9a-f]{40}/.exec(source) ?? [];
  if (remote !== undefined) return remote;
  const cached = await snapshotOf(source.replace(/[\\/][^\\/]+\.gguf$/i, ''));
  return cached === undefined ? undefined : `${cached.name}@${cached.commit}`;
}

function lossOf({ weightError, summary }: QuantizeModelReport): string[] {
  return summary.quantizedLinears === 0 ? [] : [`squared error of the weights: ${weightError.toPrecision(3)} of their squares`];
}
