// A pickle machine that can only make data. Python's own executes whatever a file names; this one knows a few opcodes and a list of names, calls
// nothing but the functions of globals.ts, and stops at stated bounds. It is a loop over bytes: no recursion, however deep the data is nested.

import { BadArguments, Global, isKey, lookUp, type StackValue, storageOf, takesState } from './globals.ts';
import { OP, opName, REFUSED } from './opcodes.ts';
import { badPickle, CONVERT_HINT, isDict, isList, type PickleKey, type PickleValue } from './values.ts';

/** Bounds of a pickle; beyond one it is refused. */
export interface PickleLimits {
  /** Values pushed in all: bounds time, and the stack with it. */
  readonly values: number;
  /** Lists, tuples, dictionaries, tensors: bounds memory. */
  readonly objects: number;
  readonly memo: number;
  /** Bytes of one string. */
  readonly string: number;
  /** Nesting of the result. */
  readonly depth: number;
}

/** A hundred thousand tensors in one file take about 2.5 million values, 800 thousand objects and a million memo entries. */
export const PICKLE_LIMITS: PickleLimits = { values: 8_000_000, objects: 2_000_000, memo: 2_000_000, string: 1 << 20, depth: 64 };

/** Longest module or name of a global. */
const MAX_GLOBAL = 256;

type MutableList = StackValue[];
type MutableDict = Map<PickleKey, StackValue>;

/**
 * Data of a pickle of protocol 2 to 5. Throws ERR_BAD_PICKLE, naming `file`, the opcode or global, and its offset, for anything that is not data and
 * for what goes over `limits`, which no checkpoint comes near.
 */
export function unpickle(bytes: Uint8Array, file: string, limits: PickleLimits = PICKLE_LIMITS): PickleValue {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  const stack: StackValue[] = [];
  const marks: number[] = [];
  const memo = new Map<number, StackValue>();
  /** Lists that APPEND may change: tuples are arrays, too, and must stay as they are. */
  const lists = new WeakSet<object>();
  let pos = 0;
  /** Offset and name of the opcode at work. */
  let at = 0;
  let op = '';
  let values = 0;
  let objects = 0;

  const fail = (problem: string, hint?: string, details?: Readonly<Record<string, unknown>>) =>
    badPickle(file, `${op}: ${problem}`, { at, ...(hint === undefined ? {} : { hint }), details: { opcode: op, ...details } });
  const over = (what: string, limit: number) => fail(`more than ${limit} ${what}`, 'No checkpoint needs so many; do not trust this file.');

  function take(length: number): number {
    if (length > bytes.byteLength - pos) throw fail(`needs ${length} bytes, ${bytes.byteLength - pos} are left`);
    pos += length;
    return pos - length;
  }
  function u64(): number {
    const value = view.getBigUint64(take(8), true);
    if (value > BigInt(bytes.byteLength)) throw fail(`claims ${value} bytes, the pickle has ${bytes.byteLength}`);
    return Number(value);
  }
  function push(value: StackValue): void {
    if (++values > limits.values) throw over('values', limits.values);
    stack.push(value);
  }
  function pushObject(value: StackValue): void {
    if (++objects > limits.objects) throw over('objects', limits.objects);
    push(value);
  }
  /** The topmost value; what lies under the last mark cannot be reached. */
  function pop(): StackValue {
    if (stack.length <= (marks.at(-1) ?? 0)) throw fail('nothing on the stack');
    return stack.pop()!;
  }
  function peek(): StackValue {
    if (stack.length <= (marks.at(-1) ?? 0)) throw fail('nothing on the stack');
    return stack.at(-1)!;
  }
  function popMark(): StackValue[] {
    const mark = marks.pop();
    if (mark === undefined) throw fail('no mark on the stack');
    return stack.splice(mark);
  }
  function string(length: number): string {
    if (length > limits.string) throw fail(`a string of ${length} bytes, more than ${limits.string}`);
    const from = take(length);
    try {
      return text.decode(bytes.subarray(from, from + length));
    } catch {
      throw fail('a string that is not UTF-8');
    }
  }
  function line(): string {
    const end = bytes.subarray(pos, pos + MAX_GLOBAL + 1).indexOf(0x0a);
    if (end < 0) throw fail(`a name without an end, or longer than ${MAX_GLOBAL} bytes`);
    const name = string(end);
    pos++;
    return name;
  }
  function long(length: number): number | bigint {
    if (length > 8) throw fail(`an integer of ${length} bytes, more than 8`);
    const from = take(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[from + i]!);
    value = BigInt.asIntN(8 * length, value);
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  function global(module: string, name: string): StackValue {
    const found = lookUp(module, name);
    if (found !== undefined) return found;
    const full = `${module}.${name}`.slice(0, MAX_GLOBAL);
    throw fail(`names ${JSON.stringify(full)}, which is not on the list of what may be in a checkpoint`, CONVERT_HINT, { global: full });
  }
  function put(index: number): void {
    memo.set(index, peek());
    if (memo.size > limits.memo) throw over('memo entries', limits.memo);
  }
  function get(index: number): void {
    const value = memo.get(index);
    if (value === undefined) throw fail(`no memo entry ${index}`);
    push(value);
  }
  /** Runs a function of the allow-list. */
  function made(what: string, make: () => StackValue): StackValue {
    try {
      return make();
    } catch (error) {
      if (error instanceof BadArguments) throw fail(`${what}: ${error.message}`, CONVERT_HINT, { global: what });
      throw error;
    }
  }
  function append(items: readonly StackValue[]): void {
    const list = peek();
    if (!isList(list) || !lists.has(list)) throw fail('appends to something that is no list');
    for (const item of items) (list as MutableList).push(item);
  }
  function setItems(items: readonly StackValue[]): void {
    const dict = peek();
    if (!isDict(dict)) throw fail('sets items of something that is no dictionary');
    if (items.length % 2 !== 0) throw fail('a key without a value');
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i]!;
      if (!isKey(key)) throw fail('a dictionary key that is no string, number, boolean or None', CONVERT_HINT);
      (dict as MutableDict).set(key, items[i + 1]!);
    }
  }
  function tuple(length: number): void {
    const items: StackValue[] = [];
    for (let i = 0; i < length; i++) items.unshift(pop());
    pushObject(items);
  }

  /** One opcode; false after STOP. */
  function step(code: number): boolean {
    switch (code) {
      case OP.MARK:
        if (++values > limits.values) throw over('values', limits.values);
        marks.push(stack.length);
        return true;
      case OP.STOP:
        return false;
      case OP.FRAME:
        if (u64() > bytes.byteLength - pos) throw fail('the frame is longer than the pickle');
        return true;
      case OP.NONE:
        push(null);
        return true;
      case OP.NEWTRUE:
      case OP.NEWFALSE:
        push(code === OP.NEWTRUE);
        return true;
      case OP.BININT:
        push(view.getInt32(take(4), true));
        return true;
      case OP.BININT1:
        push(bytes[take(1)]!);
        return true;
      case OP.BININT2:
        push(view.getUint16(take(2), true));
        return true;
      case OP.LONG1:
        push(long(bytes[take(1)]!));
        return true;
      case OP.LONG4:
        push(long(view.getUint32(take(4), true)));
        return true;
      case OP.BINFLOAT:
        push(view.getFloat64(take(8), false));
        return true;
      case OP.SHORT_BINUNICODE:
        push(string(bytes[take(1)]!));
        return true;
      case OP.BINUNICODE:
        push(string(view.getUint32(take(4), true)));
        return true;
      case OP.BINUNICODE8:
        push(string(u64()));
        return true;
      case OP.EMPTY_LIST: {
        const list: MutableList = [];
        lists.add(list);
        pushObject(list);
        return true;
      }
      case OP.APPEND:
        append([pop()]);
        return true;
      case OP.APPENDS:
        append(popMark());
        return true;
      case OP.EMPTY_DICT:
        pushObject(new Map<PickleKey, StackValue>());
        return true;
      case OP.SETITEM: {
        const value = pop();
        setItems([pop(), value]);
        return true;
      }
      case OP.SETITEMS:
        setItems(popMark());
        return true;
      case OP.EMPTY_TUPLE:
        tuple(0);
        return true;
      case OP.TUPLE1:
      case OP.TUPLE2:
      case OP.TUPLE3:
        tuple(code - OP.TUPLE1 + 1);
        return true;
      case OP.TUPLE:
        pushObject(popMark());
        return true;
      case OP.BINPUT:
        put(bytes[take(1)]!);
        return true;
      case OP.LONG_BINPUT:
        put(view.getUint32(take(4), true));
        return true;
      case OP.MEMOIZE:
        put(memo.size);
        return true;
      case OP.BINGET:
        get(bytes[take(1)]!);
        return true;
      case OP.LONG_BINGET:
        get(view.getUint32(take(4), true));
        return true;
      case OP.GLOBAL: {
        const module = line();
        push(global(module, line()));
        return true;
      }
      case OP.STACK_GLOBAL: {
        const name = pop();
        const module = pop();
        if (typeof module !== 'string' || typeof name !== 'string') throw fail('a name that is no string');
        push(global(module, name));
        return true;
      }
      case OP.BINPERSID: {
        const id = pop();
        pushObject(made('storage', () => storageOf(id)));
        return true;
      }
      case OP.REDUCE: {
        const args = pop();
        const callable = pop();
        if (!(callable instanceof Global) || callable.make === undefined) {
          throw fail(`calls ${callable instanceof Global ? callable.name : 'something that is no name'}`, CONVERT_HINT);
        }
        if (!isList(args)) throw fail('arguments that are no tuple');
        const { make } = callable;
        pushObject(made(callable.name, () => make(args)));
        return true;
      }
      case OP.BUILD: {
        const state = pop();
        // Attributes of a state dict (`_metadata`): nothing in them is needed, and nothing is set.
        if (!takesState(peek(), state)) throw fail('sets the state of an object', CONVERT_HINT);
        return true;
      }
      default:
        throw fail(REFUSED.has(code) ? 'this opcode is not executed' : 'no such opcode', REFUSED.has(code) ? CONVERT_HINT : undefined);
    }
  }

  op = 'PROTO';
  if (bytes[take(1)] !== OP.PROTO) throw fail('the pickle does not begin with it, so it is of protocol 0 or 1, or no pickle', CONVERT_HINT);
  const protocol = bytes[take(1)]!;
  if (protocol < 2 || protocol > 5) throw fail(`protocol ${protocol}, expected 2 to 5`);
  for (let running = true; running; ) {
    at = pos;
    op = 'end';
    const code = bytes[take(1)]!;
    op = opName(code);
    running = step(code);
  }
  if (marks.length > 0 || stack.length !== 1) throw fail(`${stack.length} values and ${marks.length} marks are left, expected one value`);
  if (pos !== bytes.byteLength) throw fail(`${bytes.byteLength - pos} bytes follow`);
  return checkData(stack[0]!, limits.depth, fail);
}

/** Throws for names among the data (a class as a value), cycles, and nesting deeper than `depth`. Each object is looked at once. */
function checkData(root: StackValue, depth: number, fail: (problem: string, hint?: string) => Error): PickleValue {
  const VISITING = -1;
  const heights = new Map<object, number>();
  function height(value: StackValue, level: number): number {
    if (value instanceof Global) throw fail(`the data holds ${value.name} itself`, CONVERT_HINT);
    if (!isList(value) && !isDict(value)) return 0;
    const known = heights.get(value);
    if (known === VISITING) throw fail('a list or dictionary holds itself');
    if (level + (known ?? 1) > depth) throw fail(`nested deeper than ${depth}`);
    if (known !== undefined) return known;
    heights.set(value, VISITING);
    let highest = 0;
    for (const item of value.values()) highest = Math.max(highest, height(item, level + 1));
    heights.set(value, highest + 1);
    return highest + 1;
  }
  height(root, 0);
  return root as PickleValue;
}
