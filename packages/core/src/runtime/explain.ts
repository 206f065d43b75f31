// Which backend can run what, as a table: for people who ask, and for the error when nothing fits.

import type { Backend, LinearRequest, Support } from '../spec/backend.ts';
import type { Affine, Codebook, Dense, Format, Int8 } from '../spec/format.ts';
import type { OpName, Program } from '../spec/program.ts';

/** What one backend says to one linear. */
export interface LinearAnswer {
  readonly request: LinearRequest;
  /** The backend's own answer. */
  readonly support: Support;
  /** Whether the runtime takes it: supported, and expanded to floats only if that is allowed. */
  readonly usable: boolean;
}

/** What one backend says to a set of linears and a program. */
export interface BackendReport {
  readonly backend: string;
  readonly available: boolean;
  /** What the probe found, or why the backend cannot be used. */
  readonly detail: string;
  readonly hint?: string | undefined;
  /** One entry per request, in order; empty if not available. */
  readonly linears: readonly LinearAnswer[];
  /** Operations of the program it does not run. */
  readonly missingOps: readonly OpName[];
}

/** One report per backend, in the order given to `createRuntime`. */
export type Explanation = readonly BackendReport[];

/** Operations of a program that a backend does not run. */
export function missingOps(backend: Pick<Backend, 'ops'>, program: Program | undefined): readonly OpName[] {
  return [...new Set(program?.ops.map(({ op }) => op))].filter((op) => !backend.ops.has(op));
}

/** What a backend says to a request, and whether that will do. */
export function answerOf(
  backend: Pick<Backend, 'supports'>,
  request: LinearRequest,
  { allowDequant }: { readonly allowDequant: boolean },
): LinearAnswer {
  const support = backend.supports(request);
  return { request, support, usable: support.level !== 'none' && (support.level !== 'dequant' || allowDequant) };
}

/** Whether a report has nothing against it. */
export function fits(report: BackendReport): boolean {
  return report.available && report.missingOps.length === 0 && report.linears.every(({ usable }) => usable);
}

/** A format in a few words, for tables: `4-bit g64`, `8-bit g64 axis 0`, `8-bit per row`, `nf4 g64 nested`, `int8 outliers from 6`, `higgs-4-2 g256 h512 t32`, `bf16`. */
export function formatLabel(format: Format): string {
  switch (format.kind) {
    case 'dense':
      return (format as Dense).dtype;
    case 'affine': {
      const { levels, group, axis, scale } = format as Affine;
      const bits = Number(Math.log2(levels).toFixed(2));
      const groups = group === null ? (axis === 1 ? 'per row' : 'per column') : `g${group}${axis === 1 ? '' : ' axis 0'}`;
      return `${bits}-bit ${groups}${typeof scale === 'string' ? '' : ' nested'}`;
    }
    case 'codebook': {
      const { table, group, scale, rotate, packing } = format as Codebook;
      // How rotated codes are packed decides on who reads them: FLUTE's tiles, or rows.
      const rotated = rotate ? ` h${rotate.block} ${/_(t\d+)$/.exec(packing)?.[1] ?? 'portable'}` : '';
      return `${table} g${group}${typeof scale === 'string' ? '' : ' nested'}${rotated}`;
    }
    case 'int8': {
      const { threshold } = format as Int8;
      return threshold > 0 ? `int8 outliers from ${threshold}` : 'int8';
    }
    default:
      return format.kind;
  }
}

/** Why the runtime does not take what the backend answered; undefined if it does. */
export function refusal({ support, usable }: LinearAnswer): string | undefined {
  if (usable) return undefined;
  return support.level === 'none' ? support.reason : 'only by expanding the weight to floats, which is not allowed (allowDequant)';
}

function answerText(answer: LinearAnswer): string {
  const { support } = answer;
  if (support.level === 'none' || !answer.usable) return `none: ${refusal(answer)}`;
  return `${support.level}, ${(support.bytes / 2 ** 20).toFixed(1)} MiB`;
}

/** The table as text: a line per backend, under it a line per kind of linear. */
export function formatExplanation(explanation: Explanation): string {
  const lines: string[] = [];
  for (const report of explanation) {
    lines.push(`${report.backend}: ${report.available ? '' : 'not available: '}${report.detail}${report.hint ? ` (${report.hint})` : ''}`);
    if (report.missingOps.length > 0) lines.push(`  does not run: ${report.missingOps.join(', ')}`);
    const seen = new Map<string, number>();
    for (const answer of report.linears) {
      const { request } = answer;
      const line = `${formatLabel(request.format)} [${request.shape.join(', ')}] ${request.use}: ${answerText(answer)}`;
      seen.set(line, (seen.get(line) ?? 0) + 1);
    }
    for (const [line, count] of seen) lines.push(`  ${count > 1 ? `${count} x ` : ''}${line}`);
  }
  return lines.join('\n');
}
