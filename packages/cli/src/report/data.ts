// What a report shows, as plain data: what `lowbit report --json` prints, and what the renderer takes.

import type { CompareReport } from '../commands/compare.ts';

/** A quantized model that was measured: a row of bench/quality.mjs. */
export interface FrontierPoint {
  readonly name: string;
  readonly bitsPerWeight: number;
  /** Nats per token. */
  readonly kl: number;
  readonly klStderr: number;
}

/** What both models write after a prompt, always taking the likeliest token. */
export interface Sample {
  readonly prompt: string;
  readonly original: string;
  readonly quantized: string;
}

/** All that `lowbit report` shows: what `reportHtml` takes, and `--json` prints. */
export interface QualityReport {
  readonly kind: 'lowbit report';
  readonly version: 1;
  /** Names of the folders. */
  readonly model: string;
  readonly reference: string;
  /** Name of the text, and when it was measured as an ISO date. */
  readonly text: string;
  readonly date: string;
  readonly comparison: CompareReport;
  /** By path: what a relative squared error of 1 would cost. */
  readonly sensitivities: readonly { readonly path: string; readonly sensitivity: number }[];
  readonly frontier: readonly FrontierPoint[];
  /** Text of the recipe; null where none was given. */
  readonly recipe: string | null;
  readonly samples: readonly Sample[];
}
