// What each opcode does, one entry an opcode. This table is all that a pickle can make happen.

import { BadArguments, Global, isKey, lookUp, type StackValue, storageOf, takesState } from './globals.ts';
import { MAX_GLOBAL } from './limits.ts';
import { OP } from './opcodes.ts';
import type { Operands } from './operands.ts';
import type { Refusals } from './refusals.ts';
import type { Memo, Stack } from './stack.ts';
import { isDict, isList, type PickleKey } from './values.ts';

type MutableList = StackValue[];
type MutableDict = Map<PickleKey, StackValue>;

/** What opcodes work on. */
export interface Machine {
  readonly operands: Operands;
  readonly stack: Stack;
  readonly memo: Memo;
  /** Lists that APPEND may change: tuples are arrays, too, and must stay as they are. */
  readonly lists: WeakSet<object>;
  readonly refusals: Refusals;
}

type Action = (machine: Machine) => void;

/** Opcodes with an action: all but the first and the last, which are the loop's. */
type Acting = Exclude<keyof typeof OP, 'PROTO' | 'STOP'>;

const VALUES = {
  NONE: ({ stack }) => stack.push(null),
  NEWTRUE: ({ stack }) => stack.push(true),
  NEWFALSE: ({ stack }) => stack.push(false),
  BININT: ({ stack, operands }) => stack.push(operands.i32()),
  BININT1: ({ stack, operands }) => stack.push(operands.u8()),
  BININT2: ({ stack, operands }) => stack.push(operands.u16()),
  LONG1: ({ stack, operands }) => stack.push(operands.long(operands.u8())),
  LONG4: ({ stack, operands }) => stack.push(operands.long(operands.u32())),
  BINFLOAT: ({ stack, operands }) => stack.push(operands.f64()),
  SHORT_BINUNICODE: ({ stack, operands }) => stack.push(operands.string(operands.u8())),
  BINUNICODE: ({ stack, operands }) => stack.push(operands.string(operands.u32())),
  BINUNICODE8: ({ stack, operands }) => stack.push(operands.string(operands.u64())),
} satisfies Partial<Record<Acting, Action>>;

const CONTAINERS = {
  MARK: ({ stack }) => stack.mark(),
  EMPTY_LIST({ stack, lists }) {
    const list: MutableList = [];
    lists.add(list);
    stack.pushObject(list);
  },
  APPEND: (machine) => append(machine, [machine.stack.pop()]),
  APPENDS: (machine) => append(machine, machine.stack.popMark()),
  EMPTY_DICT: ({ stack }) => stack.pushObject(new Map<PickleKey, StackValue>()),
  SETITEM(machine) {
    const value = machine.stack.pop();
    setItems(machine, [machine.stack.pop(), value]);
  },
  SETITEMS: (machine) => setItems(machine, machine.stack.popMark()),
  EMPTY_TUPLE: (machine) => tuple(machine, 0),
  TUPLE1: (machine) => tuple(machine, 1),
  TUPLE2: (machine) => tuple(machine, 2),
  TUPLE3: (machine) => tuple(machine, 3),
  TUPLE: ({ stack }) => stack.pushObject(stack.popMark()),
} satisfies Partial<Record<Acting, Action>>;

const MEMO = {
  BINPUT: ({ memo, operands, stack }) => memo.put(operands.u8(), stack.peek()),
  LONG_BINPUT: ({ memo, operands, stack }) => memo.put(operands.u32(), stack.peek()),
  MEMOIZE: ({ memo, stack }) => memo.add(stack.peek()),
  BINGET: ({ memo, operands, stack }) => stack.push(memo.get(operands.u8())),
  LONG_BINGET: ({ memo, operands, stack }) => stack.push(memo.get(operands.u32())),
} satisfies Partial<Record<Acting, Action>>;

const CALLS = {
  GLOBAL(machine) {
    const module = machine.operands.line();
    pushGlobal(machine, module, machine.operands.line());
  },
  STACK_GLOBAL(machine) {
    const name = machine.stack.pop();
    const module = machine.stack.pop();
    if (typeof module !== 'string' || typeof name !== 'string') throw machine.refusals.fail('a name that is no string');
    pushGlobal(machine, module, name);
  },
  BINPERSID(machine) {
    const id = machine.stack.pop();
    pushMade(machine, 'storage', () => storageOf(id));
  },
  REDUCE(machine) {
    const { stack, refusals } = machine;
    const args = stack.pop();
    const callable = stack.pop();
    if (!(callable instanceof Global) || callable.make === undefined) {
      throw refusals.notData(`calls ${callable instanceof Global ? callable.name : 'something that is no name'}`);
    }
    if (!isList(args)) throw refusals.fail('arguments that are no tuple');
    const { make } = callable;
    pushMade(machine, callable.name, () => make(args));
  },
  BUILD({ stack, refusals }) {
    const state = stack.pop();
    // Attributes of a state dict (`_metadata`): nothing in them is needed, and nothing is set.
    if (!takesState(stack.peek(), state)) throw refusals.notData('sets the state of an object');
  },
} satisfies Partial<Record<Acting, Action>>;

const FRAMING = {
  FRAME({ operands, refusals }) {
    if (operands.u64() > operands.left()) throw refusals.fail('the frame is longer than the pickle');
  },
} satisfies Partial<Record<Acting, Action>>;

const ACTIONS: Readonly<Record<Acting, Action>> = { ...VALUES, ...CONTAINERS, ...MEMO, ...CALLS, ...FRAMING };

/** Actions by opcode; undefined for a byte that is not executed. */
export const ACTION_OF: readonly (Action | undefined)[] = Array.from({ length: 256 }, (_, code) => {
  const name = (Object.keys(ACTIONS) as Acting[]).find((known) => OP[known] === code);
  return name && ACTIONS[name];
});

function append({ stack, lists, refusals }: Machine, items: readonly StackValue[]): void {
  const list = stack.peek();
  if (!isList(list) || !lists.has(list)) throw refusals.fail('appends to something that is no list');
  for (const item of items) (list as MutableList).push(item);
}

function setItems({ stack, refusals }: Machine, items: readonly StackValue[]): void {
  const dict = stack.peek();
  if (!isDict(dict)) throw refusals.fail('sets items of something that is no dictionary');
  if (items.length % 2 !== 0) throw refusals.fail('a key without a value');
  for (let i = 0; i < items.length; i += 2) {
    const key = items[i]!;
    if (!isKey(key)) throw refusals.notData('a dictionary key that is no string, number, boolean or None');
    (dict as MutableDict).set(key, items[i + 1]!);
  }
}

function tuple({ stack }: Machine, length: number): void {
  const items: StackValue[] = [];
  for (let i = 0; i < length; i++) items.unshift(stack.pop());
  stack.pushObject(items);
}

function pushGlobal({ stack, refusals }: Machine, module: string, name: string): void {
  const found = lookUp(module, name);
  if (found === undefined) {
    const full = `${module}.${name}`.slice(0, MAX_GLOBAL);
    throw refusals.notData(`names ${JSON.stringify(full)}, which is not on the list of what may be in a checkpoint`, { global: full });
  }
  stack.push(found);
}

/** Pushes what a function of the allow-list makes. */
function pushMade({ stack, refusals }: Machine, what: string, make: () => StackValue): void {
  let value: StackValue;
  try {
    value = make();
  } catch (error) {
    if (error instanceof BadArguments) throw refusals.notData(`${what}: ${error.message}`, { global: what });
    throw error;
  }
  stack.pushObject(value);
}
