// `lowbit doctor`: what this machine has for lowbit, and what to do about what it lacks.

import { statfs } from 'node:fs/promises';
import { totalmem } from 'node:os';
import { dirname } from 'node:path';
import { createRuntime, type Explanation, isLowbitError } from '@lowbit/core';
import { hubClient, hubSettings, listHubCache, tokenOwner } from '@lowbit/hub';
import { findBackends, NATIVE_REMEDY } from '../backends.ts';
import type { Context } from '../context.ts';
import { pairs, plain } from '../table.ts';
import { bytesText } from '../units.ts';
import { version } from '../version.ts';

/** Something that was looked at. */
export interface Finding {
  readonly name: string;
  readonly state: 'good' | 'missing' | 'wrong';
  readonly facts: string;
  /** What to do; null where nothing is needed. */
  readonly remedy: string | null;
}

/** What `lowbit doctor --json` prints. */
export interface DoctorReport {
  readonly lowbit: string;
  readonly node: string;
  readonly platform: string;
  readonly findings: readonly Finding[];
}

/** Runs the command. It fails for nothing that it finds: to find things is its work. */
export async function doctorCommand(context: Context): Promise<void> {
  const findings = [
    await backend('cpu', `${NATIVE_REMEDY} \`--backend cpu\` says where it was looked for.`),
    await backend('reference', null),
    memory(),
    ...(await hub(context.signal)),
    await packed(),
  ];
  const report: DoctorReport = { lowbit: version(), node: process.version, platform: `${process.platform}-${process.arch}`, findings };
  if (context.json) return context.emit(report);
  const head = pairs([['lowbit', `${report.lowbit}, Node ${report.node}, ${report.platform}`]]);
  const rows = findings.map(({ name, state, facts }) => [name, state === 'good' ? facts : `${state}: ${facts}`] as const);
  const todo = findings.flatMap(({ name, remedy }) => (remedy === null ? [] : [`  - ${name}: ${plain(remedy)}`]));
  const end = todo.length === 0 ? 'Nothing needs to be done.' : `${context.bold('What can be done')}\n${todo.join('\n')}`;
  return context.print(`${head}\n${pairs(rows)}\n\n${end}\n`);
}

async function backend(choice: string, remedy: string | null): Promise<Finding> {
  const name = `backend ${choice}`;
  try {
    await using runtime = await createRuntime({ backends: await findBackends(choice, { onProblem: () => {} }) });
    const { device } = await runtime.backend();
    return { name, state: 'good', facts: device.label, remedy: null };
  } catch (error) {
    return { name, state: 'missing', facts: whyClosed(error), remedy };
  }
}

/** What the backend says itself: a runtime's first line tells only that it has none. */
function whyClosed(error: unknown): string {
  const reports = isLowbitError(error) ? (error.details.explanation as Explanation | undefined) : undefined;
  const detail = reports?.[0]?.detail;
  return detail === undefined ? firstLine(error) : detail.split('\n')[0]!.replace(/:$/, '');
}

function memory(): Finding {
  return {
    name: 'memory',
    state: 'good',
    facts: `${bytesText(process.availableMemory())} of ${bytesText(totalmem())} available`,
    remedy: null,
  };
}

async function hub(signal: AbortSignal): Promise<Finding[]> {
  try {
    const settings = await hubSettings();
    const { endpoint, token, tokenFrom, cacheDir, offline } = settings;
    const repos = await listHubCache(cacheDir);
    const bytes = repos.reduce((sum, repo) => sum + repo.bytes, 0);
    const unfinished = repos.reduce((sum, repo) => sum + repo.unfinished, 0);
    const free = await freeBytes(cacheDir);
    const cache: Finding = {
      name: 'models',
      state: 'good',
      facts: `${repos.length} in ${cacheDir}, ${bytesText(bytes)}${unfinished > 0 ? ` (${bytesText(unfinished)} of unfinished downloads)` : ''}${free === undefined ? '' : `, ${bytesText(free)} free`}`,
      remedy:
        free !== undefined && free < 5e9
          ? 'Little room is left on that disk: `lowbit cache rm NAME`, or HF_HUB_CACHE on another one.'
          : null,
    };
    const found = token === undefined ? 'no token' : `token of ${tokenFrom}`;
    if (offline) return [{ name: 'hub', state: 'good', facts: `${endpoint}, offline (HF_HUB_OFFLINE), ${found}`, remedy: null }, cache];
    return [await reach(endpoint, found, settings, signal), cache];
  } catch (error) {
    return [{ name: 'hub', state: 'wrong', facts: firstLine(error), remedy: hintOf(error) }];
  }
}

async function reach(
  endpoint: string,
  found: string,
  settings: Awaited<ReturnType<typeof hubSettings>>,
  signal: AbortSignal,
): Promise<Finding> {
  try {
    const client = hubClient(settings, { attempts: 1 });
    if (settings.token !== undefined) {
      const { name } = await tokenOwner(client, { signal });
      return { name: 'hub', state: 'good', facts: `${endpoint}, ${found}, of ${name}`, remedy: null };
    }
    // Without a token the answer is a refusal, but an answer.
    await tokenOwner(client, { signal }).catch((error: unknown) => {
      if (!isLowbitError(error, 'ERR_ACCESS_DENIED')) throw error;
    });
    return {
      name: 'hub',
      state: 'good',
      facts: `${endpoint}, ${found}`,
      remedy: 'For gated and private models, and to push, set HF_TOKEN (`lowbit login` says more).',
    };
  } catch (error) {
    signal.throwIfAborted();
    return { name: 'hub', state: 'wrong', facts: `${firstLine(error)} (${found})`, remedy: hintOf(error) };
  }
}

async function packed(): Promise<Finding> {
  try {
    const { listCache } = await import('@lowbit/kernels-cpu');
    const { dir, bytes, maxBytes } = await listCache();
    return {
      name: 'packed weights',
      state: 'good',
      facts: `${bytesText(bytes)} of at most ${bytesText(maxBytes)} in ${dir}`,
      remedy: null,
    };
  } catch (error) {
    return { name: 'packed weights', state: 'missing', facts: firstLine(error), remedy: hintOf(error) };
  }
}

/** Of the disk that a folder is on, or will be. */
async function freeBytes(folder: string): Promise<number | undefined> {
  for (let path = folder; ; path = dirname(path)) {
    const space = await statfs(path).catch(() => undefined);
    if (space !== undefined) return space.blocks === 0 ? undefined : space.bavail * space.bsize;
    if (dirname(path) === path) return undefined;
  }
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0]!;
}

function hintOf(error: unknown): string | null {
  return isLowbitError(error) ? (error.hint ?? null) : null;
}
