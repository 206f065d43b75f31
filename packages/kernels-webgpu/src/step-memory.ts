// Buffers of an executable's steps: activations, what a step brings, and what comes back. They are kept from step to step, and grow.

import type { OutputRequest } from '@lowbit/core';
import type { Machine } from './device.ts';
import type { GpuBuffer, GpuOpaque } from './gpu.ts';
import { LargestChooser, type LargestRequest } from './largest.ts';
import { stepGroup } from './linear.ts';

/** How an output comes back. */
export interface Read {
  readonly request: OutputRequest;
  readonly rows: number;
  /** Of the staging buffer. */
  readonly at: number;
  readonly bytes: number;
  readonly chosen: LargestRequest | undefined;
}

/** Room that a step needs, taken but not in use yet. */
export interface Room {
  /** Rejects with ERR_LIMIT where there is no memory. */
  readonly settled: Promise<void>;
  /** Takes it into use, in place of what there was. */
  readonly take: () => void;
  /** Gives it back and throws `error`: what there was stays, but for choices. */
  readonly giveBack: (error: unknown) => never;
}

export class StepMemory {
  arena: GpuBuffer | undefined;
  step: GpuBuffer | undefined;
  staging: GpuBuffer | undefined;
  /** What all launches of a step bind. */
  group: GpuOpaque | undefined;
  readonly #machine: Machine;
  readonly #constants: GpuBuffer;
  readonly #numbers: GpuBuffer;
  readonly #choosers = new Map<string, LargestChooser>();

  /** `numbers`: see `shareNumbers`. */
  constructor(machine: Machine, constants: GpuBuffer, numbers: GpuBuffer) {
    this.#machine = machine;
    this.#constants = constants;
    this.#numbers = numbers;
  }

  /** Without those of choices. */
  get bytes(): number {
    return [this.arena, this.step, this.staging].reduce((sum, buffer) => sum + (buffer?.size ?? 0), 0);
  }

  /** Of the output of this name. */
  chooser(name: string): LargestChooser {
    let chooser = this.#choosers.get(name);
    if (!chooser) {
      chooser = new LargestChooser(this.#machine, this.#numbers);
      this.#choosers.set(name, chooser);
    }
    return chooser;
  }

  /** Memory for a step of so many bytes; undefined where it is there. Throws ERR_LIMIT as `giveBack` does. */
  make(bytes: Readonly<Record<'arena' | 'step' | 'staging', number>>, reads: readonly Read[]): Room | undefined {
    const machine = this.#machine;
    const small = (name: 'arena' | 'step' | 'staging'): boolean => (this[name]?.size ?? -1) < bytes[name];
    const need = { arena: small('arena'), step: small('step'), staging: small('staging') };
    const choosers = reads.flatMap(({ request, bytes: some, chosen }) => {
      if (some === 0 || !chosen) return [];
      const chooser = this.chooser(request.name);
      return chooser.fits(chosen) ? [] : [{ chooser, chosen }];
    });
    if (!need.arena && !need.step && !need.staging && choosers.length === 0) return undefined;
    const made: Partial<Record<'arena' | 'step' | 'staging', GpuBuffer>> = {};
    const giveBack = (error: unknown): never => {
      for (const buffer of Object.values(made)) machine.release(buffer);
      for (const { chooser } of choosers) chooser.dispose();
      throw error;
    };
    const take = (): void => {
      for (const [name, buffer] of Object.entries(made) as ['arena' | 'step' | 'staging', GpuBuffer][]) {
        machine.release(this[name]);
        this[name] = buffer;
      }
      if (need.arena || need.step) this.group = stepGroup(machine, this.arena!, this.step!, this.#constants);
    };
    try {
      const { settled } = machine.claim('activations of a step', () => {
        if (need.arena) made.arena = machine.storage(bytes.arena, 'activations of a step');
        if (need.step) made.step = machine.storage(Math.ceil(bytes.step / 1024) * 1024, 'a step');
        if (need.staging) made.staging = machine.staging(bytes.staging);
        for (const { chooser, chosen } of choosers) chooser.make(chosen);
      });
      return { settled, take, giveBack };
    } catch (error) {
      return giveBack(error);
    }
  }

  dispose(): void {
    for (const chooser of this.#choosers.values()) chooser.dispose();
    for (const buffer of [this.arena, this.step, this.staging]) this.#machine.release(buffer);
  }
}
