// A few launches by themselves: one buffer with what comes in, one with what goes out, both of whole words.

import type { Machine } from '../device.ts';
import type { GpuBuffer } from '../gpu.ts';
import { stepGroup } from '../linear.ts';
import { shareNumbers, WHICH_BYTES } from '../plan.ts';
import { type Kernel, MOST_ALONG_X } from '../wgsl/kernel.ts';
import { GROUPS } from '../wgsl/quantize.ts';

export interface Task {
  readonly kernel: Kernel;
  /** Of `P`, all that the kernel has; `count` is how many invocations there are. */
  readonly values: Readonly<Record<string, number>>;
  /** Default: one for each 64 of `count`. */
  readonly workgroups?: number;
}

/** Words at which inputs and outputs begin. */
export interface Places {
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly scratch: readonly number[];
}

/** Bytes of what goes out, and of what tasks leave for one another. */
export interface Room {
  readonly outputs: readonly number[];
  readonly scratch?: readonly number[];
}

const BLOCK = 256;
const words = (bytes: number): number => Math.ceil(bytes / 8) * 2;

function placed(bytes: readonly number[]): { readonly at: readonly number[]; readonly words: number } {
  let end = 0;
  const at = bytes.map((count) => {
    const from = end;
    end += words(count);
    return from;
  });
  return { at, words: end };
}

/**
 * Runs tasks one after another. Gives the outputs, and everything else back. Rejects with ERR_LIMIT where there is no memory, with
 * ERR_DEVICE where the device is lost.
 */
export async function runTasks(
  machine: Machine,
  inputs: readonly Uint8Array[],
  { outputs, scratch = [] }: Room,
  build: (places: Places) => readonly Task[],
): Promise<readonly Uint8Array<ArrayBuffer>[]> {
  const from = placed(inputs.map(({ byteLength }) => byteLength));
  const to = placed(outputs);
  const all = placed([...outputs, ...scratch]);
  const tasks = build({ inputs: from.at, outputs: to.at, scratch: all.at.slice(outputs.length) });
  const taken: GpuBuffer[] = [];
  try {
    return await machine.run(async () => {
      await machine.warm(tasks.map(({ kernel }) => kernel));
      const { made: staging, settled } = machine.claim('a routine', () => {
        const take = (buffer: GpuBuffer): GpuBuffer => {
          taken.push(buffer);
          return buffer;
        };
        const [step, kv] = [from.words, all.words].map((count) => take(machine.storage(4 * count, 'numbers of a routine'))) as [
          GpuBuffer,
          GpuBuffer,
        ];
        const back = take(machine.staging(4 * to.words));
        const numbers = take(shareNumbers(machine, 1));
        const params = take(machine.uniform(BLOCK * tasks.length, 'parameters of launches'));
        const [arena, constants] = [take(machine.storage(16, 'nothing')), take(machine.storage(16, 'nothing'))];
        for (const [i, data] of inputs.entries()) machine.write(step, 4 * from.at[i]!, bytesOf(data));
        const block = new Uint32Array((BLOCK / 4) * tasks.length);
        for (const [i, { kernel, values }] of tasks.entries()) {
          for (const [n, [field]] of kernel.fields.entries()) {
            const value = values[field];
            if (value === undefined) throw new Error(`${kernel.name}: ${field} is missing`);
            block[(i * BLOCK) / 4 + n] = value;
          }
        }
        machine.write(params, 0, new Uint8Array(block.buffer));
        const cache = machine.device.createBindGroup({
          layout: machine.groupLayout('cache'),
          entries: [
            { binding: 0, resource: { buffer: numbers, offset: 0, size: WHICH_BYTES } },
            { binding: 1, resource: { buffer: kv } },
          ],
        });
        const encoder = machine.device.createCommandEncoder();
        const pass = encoder.beginComputePass();
        pass.setBindGroup(0, stepGroup(machine, arena, step, constants));
        pass.setBindGroup(2, cache, [0]);
        for (const [i, { kernel, values, workgroups = Math.ceil(values.count! / GROUPS) }] of tasks.entries()) {
          const size = Math.ceil((4 * kernel.fields.length) / 16) * 16;
          const group = machine.device.createBindGroup({
            layout: machine.groupLayout('launch', 0),
            entries: [{ binding: 0, resource: { buffer: params, offset: BLOCK * i, size } }],
          });
          pass.setPipeline(machine.pipeline(kernel));
          pass.setBindGroup(1, group);
          pass.dispatchWorkgroups(Math.min(workgroups, MOST_ALONG_X), 1, Math.ceil(workgroups / MOST_ALONG_X));
          machine.counts.dispatches++;
        }
        pass.end();
        encoder.copyBufferToBuffer(kv, 0, back, 0, 4 * to.words);
        machine.submit([encoder.finish()]);
        return back;
      });
      await settled;
      const data = await machine.take(staging, 4 * to.words);
      return outputs.map((bytes, i) => data.slice(4 * to.at[i]!, 4 * to.at[i]! + bytes));
    });
  } finally {
    for (const buffer of taken) machine.release(buffer);
  }
}

/** Of any view, plain bytes. */
function bytesOf(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
