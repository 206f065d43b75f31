// What comes with a program beside its tensors: numbers that never change, and where a step brings its named rows and rotations.

import { type OpOf, type Program, type TensorId, toFloat32 } from '@lowbit/core';
import { type NamedRows, type Rotation, type StepShape, sectionsOf } from './step-block.ts';

export class ProgramData {
  readonly #program: Program;
  readonly #named: NamedRows[] = [];
  readonly #rotations: Rotation[] = [];
  readonly #constants: Float32Array[] = [];
  #numbers = 0;
  readonly #places = new Map<string, number>();

  constructor(program: Program) {
    this.#program = program;
    // Sections of rotations come after those of all named rows.
    for (const op of program.ops) {
      if (op.op !== 'input' && op.op !== 'inject') continue;
      const { rows, width } = program.tensors[op.out]!;
      this.#named.push({ op: op.op, name: op.name, rows, width });
    }
  }

  /** Where numbers are among the constants; `key` tells them from others. */
  floats(key: string, values: () => Float32Array): number {
    let place = this.#places.get(key);
    if (place === undefined) {
      const made = values();
      place = this.#numbers;
      this.#constants.push(made);
      this.#numbers += made.length;
      this.#places.set(key, place);
    }
    return place;
  }

  constant(id: number): number {
    return this.floats(`constant ${id}`, () => toFloat32(this.#program.constants[id]!));
  }

  /** Section of named rows, by the place of their operation. */
  section(op: OpOf<'input' | 'inject'>): number {
    const before = this.#named.findIndex(({ op: kind, name }) => kind === op.op && name === op.name);
    return sectionsOf(this.#named.slice(0, before));
  }

  /** Section of the angles of rows of a tensor. */
  angles(rope: number, id: TensorId): number {
    const { rows } = this.#program.tensors[id]!;
    const settings = this.#program.ropes[rope]!;
    const domain = rows as Rotation['rows'];
    let index = this.#rotations.findIndex((other) => other.rope === settings && other.rows === domain);
    if (index < 0) index = this.#rotations.push({ rope: settings, rows: domain }) - 1;
    return sectionsOf(this.#named) + index;
  }

  finish(): { readonly constants: Float32Array; readonly shape: StepShape } {
    const constants = new Float32Array(Math.max(4, this.#numbers));
    let at = 0;
    for (const values of this.#constants) {
      constants.set(values, at);
      at += values.length;
    }
    return { constants, shape: { named: this.#named, rotations: this.#rotations } };
  }
}
