// Progress on stderr: a bar where a person watches, plain lines at steps of 10 % in logs, nothing where it was asked to be quiet.

import type { ProgressEvent } from '@lowbit/core';
import { bytesText, countText, durationText } from './units.ts';

/** What progress is written to; process.stderr is one. */
export interface ProgressStream {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

export interface ProgressOptions {
  readonly stream: ProgressStream;
  /** --json or --quiet: nothing at all. */
  readonly silent?: boolean;
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Milliseconds, monotonic. */
  readonly now?: () => number;
}

export interface Progress {
  /** Pass as `onProgress`. */
  readonly report: (event: ProgressEvent) => void;
  /** Removes the bar; call before other output and at the end. */
  readonly clear: () => void;
}

export type ProgressMode = 'bar' | 'lines' | 'none';

const OFF = new Set(['', '0', 'false', 'no', 'off']);
const on = (value: string | undefined): boolean => value !== undefined && !OFF.has(value.toLowerCase());

/** A bar on a terminal, lines elsewhere and under CI, none when silent or HF_HUB_DISABLE_PROGRESS_BARS is set. */
export function progressMode({ stream, silent = false, env = process.env }: ProgressOptions): ProgressMode {
  if (silent || on(env.HF_HUB_DISABLE_PROGRESS_BARS)) return 'none';
  return stream.isTTY && !on(env.CI) && env.TERM !== 'dumb' ? 'bar' : 'lines';
}

const LABELS: Readonly<Record<string, string>> = {
  read: 'Reading',
  download: 'Downloading',
  push: 'Pushing',
  merge: 'Merging',
  importance: 'Weighing channels',
  quantize: 'Quantizing',
  convert: 'Converting',
  write: 'Writing',
  load: 'Loading',
  evaluate: 'Evaluating',
  prefill: 'Reading the prompt',
  generate: 'Generating',
  bench: 'Timing',
};

/** Milliseconds between redraws. */
const REDRAW = 80;
/** In a log, these are worth lines only when they take long; milliseconds. */
const SLOW = 1000;
const BRIEF = new Set(['load', 'prefill']);
/** Work reported within the first moment was done by an earlier run (resume) or cost nothing: it must not count for the speed. */
const WARM_UP = 50;

interface Phase {
  readonly name: string;
  started: number;
  startedAt: number;
  /** Tenth of the way last printed as a line. */
  step: number;
}

/** A progress display. One phase follows the other; a new `phase` starts a new bar. */
export function createProgress(options: ProgressOptions): Progress {
  const { stream, env = process.env, now = () => performance.now() } = options;
  const mode = progressMode(options);
  if (mode === 'none') return { report: () => {}, clear: () => {} };
  const color = stream.isTTY === true && !env.NO_COLOR;
  let phase: Phase | undefined;
  let drawn = Number.NEGATIVE_INFINITY;
  let visible = false;

  const clear = (): void => {
    if (visible) stream.write('\r\x1b[2K');
    visible = false;
  };
  const report = (event: ProgressEvent): void => {
    const time = now();
    if (phase?.name !== event.phase) {
      clear();
      phase = { name: event.phase, started: time, startedAt: 0, step: 0 };
      drawn = Number.NEGATIVE_INFINITY;
    }
    if (time - phase.started < WARM_UP) phase.startedAt = event.done;
    const facts = describe(event, phase, time);
    if (mode === 'lines') {
      const step = Math.floor((10 * event.done) / Math.max(1, event.total));
      if (step <= phase.step || (BRIEF.has(event.phase) && time - phase.started < SLOW)) return;
      phase.step = step;
      stream.write(`${label(event)}: ${10 * step} % (${facts.join(', ')})\n`);
      return;
    }
    if (event.done < event.total && time - drawn < REDRAW) return;
    drawn = time;
    stream.write(`\r\x1b[2K${bar(event, facts, stream.columns || 80, color)}`);
    visible = true;
    if (event.done >= event.total) clear();
  };
  return { report, clear };
}

function label(event: ProgressEvent): string {
  return LABELS[event.phase] ?? event.phase;
}

function amount(value: number, unit: ProgressEvent['unit']): string {
  return unit === 'bytes' ? bytesText(value) : `${countText(value)} ${unit}`;
}

/** What is done, how fast, and how long it will take, as far as known. */
function describe(event: ProgressEvent, phase: Phase, time: number): string[] {
  const facts = [`${event.unit === 'bytes' ? bytesText(event.done) : countText(event.done)} of ${amount(event.total, event.unit)}`];
  const elapsed = time - phase.started;
  const speed = elapsed >= WARM_UP ? (event.done - phase.startedAt) / elapsed : 0;
  if (speed <= 0) return facts;
  facts.push(`${amount(speed * 1000, event.unit)}/s`);
  if (event.done < event.total) facts.push(`${durationText((event.total - event.done) / speed)} left`);
  return facts;
}

function bar(event: ProgressEvent, facts: readonly string[], columns: number, color: boolean): string {
  const part = Math.min(1, event.done / Math.max(1, event.total));
  const cells = 20;
  const full = Math.floor(part * cells);
  const filled = '#'.repeat(full);
  const painted = `[${color ? `\x1b[36m${filled}\x1b[39m` : filled}${'-'.repeat(cells - full)}]`;
  const head = `${label(event)} `;
  const tail = ` ${String(Math.floor(part * 100)).padStart(3)} %  ${facts.join('  ')}${event.item === undefined ? '' : `  ${event.item}`}`;
  // A line that wraps cannot be erased by \r, so it is cut to the width of the terminal.
  const room = columns - 1 - head.length - cells - 2;
  return room < 6 ? `${Math.floor(part * 100)} %` : `${head}${painted}${tail.slice(0, room)}`;
}
