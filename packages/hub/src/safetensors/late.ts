// Late tensors of a sink: bytes whose number is known only when they are written. They are kept in memory and in the journal until `close`, lie behind
// all other tensors of their file, and only then get their place: the header, which was reserved at its largest, is written once more with the true
// lengths, and the file is cut. The journal says before that this may have begun, so that a run interrupted there can go back to the reserved state.

import { byteLength, LowbitError, quote, type TensorSpec } from '@lowbit/core';
import { fromBase64, sha256Bytes, toBase64 } from '../digest.ts';
import { checkLateSpec, checkLateWrite } from '../plan/ranges.ts';
import type { FilePlan } from './build.ts';
import type { Journal, JournalRecord } from './journal.ts';
import type { Output, OutputFile } from './output.ts';
import { type SafetensorsPlan, type ShardOptions, settlePlan } from './shards.ts';

export interface LateTensors {
  /** Takes the bytes of one tensor. Throws ERR_BAD_ARGUMENT if they do not start at 0 or are more than were reserved. */
  write(name: string, at: number, data: Uint8Array): void;
  /** Takes over what an earlier run has committed. False if it does not fit the reserved tensors. */
  restore(records: readonly JournalRecord[]): boolean;
  /** Tensors written since the last call, for the journal; undefined if there are none. */
  fresh(): Readonly<Record<string, string>> | undefined;
  /** Every length by name. Throws ERR_BAD_ARGUMENT, naming it, if one was not written. */
  lengths(): ReadonlyMap<string, number>;
  bytes(name: string): Uint8Array;
}

/** `reserved`: name -> largest spec. Throws ERR_BAD_ARGUMENT for a tensor that cannot be late. */
export function createLateTensors(reserved: ReadonlyMap<string, TensorSpec>): LateTensors {
  const values = new Map<string, Uint8Array>();
  let unsaved = new Set<string>();
  for (const [name, spec] of reserved) checkLateSpec(name, spec);
  return {
    write(name, at, data) {
      checkLateWrite(name, reserved.get(name)!, at, data.byteLength);
      values.set(name, data.slice());
      unsaved.add(name);
    },
    restore(records) {
      for (const { late = {} } of records) {
        for (const [name, text] of Object.entries(late)) {
          const spec = reserved.get(name);
          const data = fromBase64(text);
          if (spec === undefined || data === undefined || data.byteLength > byteLength(spec)) return false;
          values.set(name, data);
        }
      }
      return true;
    },
    fresh() {
      if (unsaved.size === 0) return undefined;
      const some = Object.fromEntries([...unsaved].map((name) => [name, toBase64(values.get(name)!)]));
      unsaved = new Set();
      return some;
    },
    lengths() {
      const missing = [...reserved.keys()].find((name) => !values.has(name));
      if (missing === undefined) return new Map([...values].map(([name, { byteLength: bytes }]) => [name, bytes]));
      throw new LowbitError('ERR_BAD_ARGUMENT', `${quote(missing)} was not written`, {
        hint: 'Every reserved tensor must be written before close.',
        details: { tensor: missing },
      });
    },
    bytes: (name) => values.get(name)!,
  };
}

/** Tells plans apart: names, headers and sizes of all files. */
async function planDigest(plan: SafetensorsPlan): Promise<string> {
  const pieces = plan.files.flatMap(({ name, layout }) => [new TextEncoder().encode(JSON.stringify([name, layout.size])), layout.header]);
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.byteLength;
  }
  return sha256Bytes(all);
}

/** The late tensors of one output, and what it was reserved by. */
export interface LateWork {
  readonly plan: SafetensorsPlan;
  readonly metadata: Readonly<Record<string, string>>;
  readonly names: ReadonlySet<string>;
  readonly tensors: LateTensors;
}

/**
 * Takes over late bytes of an earlier run (`records`), and undoes what its `close` may have begun in the folder `partial`, whose files `openFile` opens. `work` is undefined for a run
 * without late tensors. Throws ERR_JOURNAL_MISMATCH if that run had others.
 */
export async function restoreLate(
  work: LateWork | undefined,
  records: readonly JournalRecord[],
  { partial, openFile }: Pick<Output, 'partial' | 'openFile'>,
): Promise<void> {
  const mismatch = (problem: string) =>
    new LowbitError('ERR_JOURNAL_MISMATCH', `cannot resume: ${partial} ${problem}`, {
      hint: 'Repeat the run with the same source, settings and shard size, or delete the unfinished folder and start again.',
      details: { path: partial },
    });
  if (work === undefined) {
    if (records.some(({ late, settling }) => late !== undefined || settling !== undefined)) throw mismatch('holds late tensors');
    return;
  }
  if (!work.tensors.restore(records)) throw mismatch('holds other late tensors than this run plans');
  const settling = records.findLast((record) => record.settling !== undefined)?.settling;
  if (settling === undefined) return;
  if (settling !== (await planDigest(work.plan))) throw mismatch('holds other tensors than this run plans');
  for (const { name, layout } of work.plan.files) await unsettleFile(await openFile(name), layout);
}

/**
 * Gives late tensors their place in the `files` of the plan, in its order, now that all lengths are known. Resolves to the final plan, whose index is
 * for the caller to write.
 */
export async function settleLate(
  { plan, metadata, names, tensors }: LateWork,
  files: readonly OutputFile[],
  journal: Journal,
  options: ShardOptions,
): Promise<SafetensorsPlan> {
  const final = settlePlan(plan, tensors.lengths(), metadata, { ...options, late: names });
  await journal.append({ units: [], wrote: {}, late: tensors.fresh(), settling: await planDigest(plan) });
  for (const [i, { layout }] of final.files.entries()) await settleFile(files[i]!, layout, tensors);
  return final;
}

/** Brings a file of the reserved layout into its final one: late bytes, header, length. What other tensors hold stays. */
async function settleFile(file: OutputFile, final: FilePlan, late: LateTensors): Promise<void> {
  for (const [name, { start, end }] of final.tensors) {
    if (start >= final.lateStart && end > start) await file.write(late.bytes(name), start);
  }
  await file.write(final.header, 0);
  await file.truncate(final.size);
}

/** Brings a file back to its reserved layout, however far an interrupted `settleFile` came, and closes it. */
async function unsettleFile(file: OutputFile, reserved: FilePlan): Promise<void> {
  try {
    await file.truncate(reserved.size);
    await file.write(reserved.header, 0);
  } finally {
    await file.close();
  }
}
