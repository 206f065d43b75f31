// A small job for the tests of interruption: sink.test.ts runs it in a process of its own, kills that, and then finishes the job itself.

import type { TensorSpec } from '@lowbit/core';
import { PT_METADATA } from './shards.ts';
import { createSafetensorsSink } from './sink.node.ts';
import type { SafetensorsSink } from './sink.ts';

export const JOB = { fingerprint: 'job 1', shardSize: 3_000_000, units: 40, elements: 100_003 };

/** Tensors of the job: one and a late one per unit, and one that all units share a slice of. */
export function jobTensors(): ReadonlyMap<string, TensorSpec> {
  const tensors = new Map<string, TensorSpec>([['shared', { dtype: 'u8', shape: [JOB.units, 1000] }]]);
  for (let i = 0; i < JOB.units; i++) {
    tensors.set(`unit.${i}`, { dtype: i % 2 ? 'f16' : 'u8', shape: [JOB.elements] });
    tensors.set(`late.${i}`, { dtype: 'u8', shape: [100] });
  }
  return tensors;
}

export const jobLate: ReadonlySet<string> = new Set([...jobTensors().keys()].filter((name) => name.startsWith('late.')));

/** Content of a tensor's bytes [from, to). */
export function jobBytes(name: string, from: number, to: number): Uint8Array {
  const seed = [...name].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) | 0, 7);
  return Uint8Array.from({ length: to - from }, (_, i) => Math.imul(seed ^ (from + i), 2654435761) >>> 24);
}

/** Does one unit: pieces in a mixed-up order, then the commit. */
export async function doUnit(sink: SafetensorsSink, i: number): Promise<void> {
  const width = i % 2 ? 2 : 1;
  const piece = 9999;
  const starts = Array.from({ length: Math.ceil(JOB.elements / piece) }, (_, j) => ((j * 7) % Math.ceil(JOB.elements / piece)) * piece);
  for (const at of starts) {
    const end = Math.min(JOB.elements, at + piece);
    await sink.write(`unit.${i}`, at, jobBytes(`unit.${i}`, at * width, end * width));
  }
  await sink.write('shared', i * 1000, jobBytes('shared', i * 1000, (i + 1) * 1000));
  await sink.write(`late.${i}`, 0, jobBytes(`late.${i}`, 0, i + 5));
  await sink.commit(`unit.${i}`, { i });
}

/** Starts or resumes the job with four units at a time; `log` hears of every commit. */
export async function runJob(folder: string, log: (line: string) => void): Promise<void> {
  const sink = await createSafetensorsSink(folder, {
    fingerprint: JOB.fingerprint,
    shardSize: JOB.shardSize,
    resume: true,
    keepPartial: true,
  });
  await sink.reserve(jobTensors(), PT_METADATA, jobLate);
  const waiting = Array.from({ length: JOB.units }, (_, i) => i).filter((i) => !sink.done.has(`unit.${i}`));
  const lane = async () => {
    for (let i = waiting.shift(); i !== undefined; i = waiting.shift()) {
      await doUnit(sink, i);
      log(`committed unit.${i}\n`);
    }
  };
  await Promise.all([lane(), lane(), lane(), lane()]);
  await sink.writeFile('config.json', new TextEncoder().encode('{}\n'));
  await sink.close();
}

const target = process.env.LOWBIT_SINK_JOB;
if (target !== undefined) await runJob(target, (line) => process.stdout.write(line));
