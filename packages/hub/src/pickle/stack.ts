// Stack and memo of the pickle machine, within the bounds of its limits.

import type { StackValue } from './globals.ts';
import type { PickleLimits } from './limits.ts';
import type { Refusals } from './refusals.ts';

export interface Stack {
  push(value: StackValue): void;
  /** Pushes what takes memory of its own. */
  pushObject(value: StackValue): void;
  /** The topmost value; what lies under the last mark cannot be reached. */
  pop(): StackValue;
  peek(): StackValue;
  /** Begins a group of values; it counts as one. */
  mark(): void;
  /** Takes the values since the last mark, and the mark. */
  popMark(): StackValue[];
  /** The only value, at the end. */
  result(): StackValue;
}

export function createStack({ fail, over }: Refusals, limits: PickleLimits): Stack {
  const stack: StackValue[] = [];
  const marks: number[] = [];
  let values = 0;
  let objects = 0;

  function count(): void {
    if (++values > limits.values) throw over('values', limits.values);
  }
  function push(value: StackValue): void {
    count();
    stack.push(value);
  }
  function checkReach(): void {
    if (stack.length <= (marks.at(-1) ?? 0)) throw fail('nothing on the stack');
  }

  return {
    push,
    pushObject(value) {
      if (++objects > limits.objects) throw over('objects', limits.objects);
      push(value);
    },
    pop() {
      checkReach();
      return stack.pop()!;
    },
    peek() {
      checkReach();
      return stack.at(-1)!;
    },
    mark() {
      count();
      marks.push(stack.length);
    },
    popMark() {
      const mark = marks.pop();
      if (mark === undefined) throw fail('no mark on the stack');
      return stack.splice(mark);
    },
    result() {
      if (marks.length === 0 && stack.length === 1) return stack[0]!;
      throw fail(`${stack.length} values and ${marks.length} marks are left, expected one value`);
    },
  };
}

/** Values that later opcodes name by number. */
export interface Memo {
  put(index: number, value: StackValue): void;
  /** Under the next number. */
  add(value: StackValue): void;
  get(index: number): StackValue;
}

export function createMemo({ fail, over }: Refusals, limits: PickleLimits): Memo {
  const memo = new Map<number, StackValue>();

  function put(index: number, value: StackValue): void {
    memo.set(index, value);
    if (memo.size > limits.memo) throw over('memo entries', limits.memo);
  }

  return {
    put,
    add: (value) => put(memo.size, value),
    get(index) {
      const value = memo.get(index);
      if (value === undefined) throw fail(`no memo entry ${index}`);
      return value;
    },
  };
}
