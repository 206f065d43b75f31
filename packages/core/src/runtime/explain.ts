// Which backend can run what, as a table: for people who ask, and for the error when nothing fits.

import type { Backend, LinearRequest, Support } from '../spec/backend.ts';
import type { Format } from '../spec/format.ts';
import type { OpName, Program } from '../spec/program.ts';

/** What one backend says to a set of linears and a program. */
export interface BackendReport {
  readonly backend: string;
  readonly available: boolean;
  /** What the probe found, or why the backend cannot be used. */
  readonly detail: string;
  readonly hint?: string | undefined;
  /** One entry per request, in order; empty if not available. */
  readonly linears: readonly { readonly request: LinearRequest; readonly support: Support }[];
  /** Operations of the program it does not run. */
  readonly missingOps: readonly OpName[];
}

/** One report per backend, in the order given to `createRuntime`. */
export type Explanation = readonly BackendReport[];

/** Operations of a program that a backend does not run. */
export function missingOps(backend: Pick<Backend, 'ops'>, program: Program | undefined): readonly OpName[] {
  return [...new Set(program?.ops.map(({ op }) => op))].filter((op) => !backend.ops.has(op));
}

/** What a backend says to a request; expanding to floats counts as no support unless the request allows it. */
export function supportOf(backend: Backend, request: LinearRequest): Support {
  const support = backend.supports(request);
  if (support.level !== 'dequant' || request.allowDequant) return support;
  return { level: 'none', reason: 'only by expanding the weight to floats, which is not allowed (allowDequant)' };
}

/** Whether a report has nothing against it. */
export function fits(report: BackendReport): boolean {
  return report.available && report.missingOps.length === 0 && report.linears.every(({ support }) => support.level !== 'none');
}

/** A format in a few words: `affine 16 levels, group 64, axis 1`. */
export function formatLabel(format: Format): string {
  switch (format.kind) {
    case 'dense':
      return (format as Format & { kind: 'dense' }).dtype;
    case 'affine': {
      const { levels, group, axis } = format as Format & { kind: 'affine' };
      return `affine ${levels} levels, group ${group ?? 'whole'}, axis ${axis}`;
    }
    case 'codebook': {
      const { table, group, bits, dim } = format as Format & { kind: 'codebook' };
      return `codebook ${table} (${bits} bits${dim === 2 ? ' x 2' : ''}), group ${group}`;
    }
    default:
      return format.kind;
  }
}

function supportText(support: Support): string {
  return support.level === 'none' ? `none: ${support.reason}` : `${support.level}, ${(support.bytes / 2 ** 20).toFixed(1)} MiB`;
}

/** The table as text: a line per backend, under it a line per kind of linear. */
export function formatExplanation(explanation: Explanation): string {
  const lines: string[] = [];
  for (const report of explanation) {
    lines.push(`${report.backend}: ${report.available ? '' : 'not available: '}${report.detail}${report.hint ? ` (${report.hint})` : ''}`);
    if (report.missingOps.length > 0) lines.push(`  does not run: ${report.missingOps.join(', ')}`);
    const seen = new Map<string, number>();
    for (const { request, support } of report.linears) {
      const line = `${formatLabel(request.format)} [${request.shape.join(', ')}] ${request.use}: ${supportText(support)}`;
      seen.set(line, (seen.get(line) ?? 0) + 1);
    }
    for (const [line, count] of seen) lines.push(`  ${count > 1 ? `${count} x ` : ''}${line}`);
  }
  return lines.join('\n');
}
