// Chat templates under a budget. A template comes with a checkpoint, so a stranger wrote the program: it must end soon, in bounded memory. The
// interpreter evaluates every node through one public method; counting there bounds loops, macros and texts alike, however they are nested.

import { Environment, Interpreter, parse, Template, tokenize } from '@huggingface/jinja';
import { LowbitError } from '@lowbit/core';

type Evaluate = Interpreter['evaluate'];
type Value = ReturnType<Evaluate>;
/** A node of the parsed template; the package does not export its classes. */
interface Node {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** Bounds of one rendering. */
export const TEMPLATE_LIMITS = {
  /** Characters of the template itself. */
  source: 1 << 20,
  /** White space in a row in it: the lexer takes quadratic time over that. */
  space: 1000,
  /** Numbers of one `range`. */
  range: 100_000,
  /** Characters of the output, and of every text on the way. */
  text: 1 << 21,
  /** Units of work: about one per evaluated node and per element of a list that is read, 20 per turn of a loop. */
  work: 1e7,
  /** Lists and mappings in each other, where all of a value is visited. */
  depth: 256,
  /** Evaluations in each other: expressions, blocks, and calls of macros. */
  calls: 1000,
} as const;

const TURN = 20;
const COST: Readonly<Record<string, number>> = { MemberExpression: 8, CallExpression: 8, For: 8, FilterExpression: 4 };
/** Filters that visit all of a value, and for how many visits they pay. */
const VISITING: Readonly<Record<string, number>> = { tojson: 1, string: 1, join: 1, unique: 1, sort: 5, dictsort: 5, items: 1 };
/** Most of a number or text among the arguments of these filters, which multiply what they work on. */
const MAX_ARGUMENT: Readonly<Record<string, number>> = { indent: 64, tojson: 64, map: 1000, sort: 1000 };
/** Characters that cost one unit: those only passed on, and those that are worked on one by one. */
const PASSED = 32;
const WORKED = 4;

function limit(what: string, details: Readonly<Record<string, unknown>>): LowbitError {
  return new LowbitError('ERR_LIMIT', `the chat template ${what}`, {
    hint: 'Shorten the conversation, or pass a template of your own with `template`: this one comes with the checkpoint, and it may be hostile.',
    details,
  });
}

class Meter {
  #left: number = TEMPLATE_LIMITS.work;

  spend(units: number): void {
    this.#left -= units;
    if (!(this.#left >= 0)) throw limit(`did not end within ${TEMPLATE_LIMITS.work} steps`, { limit: TEMPLATE_LIMITS.work });
  }

  /** Pays for visiting all of a value, a shared part as often as it is found; returns the units. */
  visit(value: Value, perUnit: number, depth = 1): number {
    if (depth > TEMPLATE_LIMITS.depth) {
      throw limit(`nests lists and mappings more than ${TEMPLATE_LIMITS.depth} deep`, { limit: TEMPLATE_LIMITS.depth });
    }
    const inner: unknown = value.value;
    // What is deep inside is copied once per level.
    let units = depth * (1 + (typeof inner === 'string' ? inner.length / perUnit : 0));
    this.spend(units);
    if (Array.isArray(inner)) for (const item of inner as Value[]) units += this.visit(item, perUnit, depth + 1);
    else if (inner instanceof Map) {
      for (const [key, item] of inner as Map<string, Value>) {
        this.spend(key.length / perUnit);
        units += key.length / perUnit + this.visit(item, perUnit, depth + 1);
      }
    }
    return units;
  }
}

/** Length of a text, of a list, of a mapping; 0 of anything else. */
function sizeOf({ value }: { readonly value: unknown }): number {
  if (typeof value === 'string' || Array.isArray(value)) return value.length;
  return value instanceof Map ? value.size : 0;
}

function checkText(length: number): void {
  if (length > TEMPLATE_LIMITS.text) {
    throw limit(`makes a text of more than ${TEMPLATE_LIMITS.text} characters`, { limit: TEMPLATE_LIMITS.text });
  }
}

/** An evaluation that has begun, as its parts see it. */
interface Frame {
  readonly node: Node;
  /** Of a member expression: what the member is of. */
  object?: Value;
  readonly depth: number;
  /** Length of the first text of an expression. */
  first: number;
  /** Characters that its statements have printed. */
  printed: number;
}

/** What is known of a parsed template. */
interface Survey {
  readonly nodes: number;
  /** Nodes in the place of a statement: their values are printed. */
  readonly statements: ReadonlySet<unknown>;
}

function survey(program: object): Survey {
  const statements = new Set<unknown>();
  const stack: unknown[] = [program];
  let nodes = 0;
  for (let item = stack.pop(); item !== undefined; item = stack.pop()) {
    if (typeof item !== 'object' || item === null) continue;
    nodes++;
    if (Array.isArray(item)) for (const part of item) stack.push(part);
    else if (item instanceof Map) for (const pair of item) stack.push(pair);
    else {
      for (const [key, part] of Object.entries(item)) {
        stack.push(part);
        if (Array.isArray(part) && (key === 'body' || key === 'alternate' || key === 'defaultBlock'))
          for (const s of part) statements.add(s);
      }
    }
  }
  return { nodes, statements };
}

class BoundedInterpreter extends Interpreter {
  readonly #meter: Meter;
  readonly #survey: Survey;
  /** The value that a method was taken from, and the name it has there; empty where it was computed. */
  readonly #owners = new WeakMap<object, { readonly owner: Value; readonly name: string }>();
  #frame: Frame | undefined;

  constructor(environment: Environment, meter: Meter, known: Survey) {
    super(environment);
    this.#meter = meter;
    this.#survey = known;
  }

  override evaluate(...[statement, environment]: Parameters<Evaluate>): Value {
    if (statement === undefined) return super.evaluate(statement, environment);
    const node = statement as unknown as Node;
    // The interpreter searches the body of a macro or call block wherever it is defined.
    this.#meter.spend(node.type === 'Macro' || node.type === 'CallStatement' ? this.#survey.nodes : (COST[node.type] ?? 1));
    const parent = this.#frame;
    const depth = (parent?.depth ?? 0) + 1;
    // Before V8's own bound, which the interpreter takes for a missing variable where it meets it in a lookup.
    if (depth > TEMPLATE_LIMITS.calls)
      throw limit(`calls itself or nests more than ${TEMPLATE_LIMITS.calls} deep`, { limit: TEMPLATE_LIMITS.calls });
    const frame: Frame = { node, depth, first: 0, printed: 0 };
    this.#frame = frame;
    let value: Value;
    try {
      value = super.evaluate(statement, environment);
    } finally {
      this.#frame = parent;
    }
    return this.#charge(value ?? super.evaluate(undefined, environment), frame, parent);
  }

  #charge(value: Value, { node, object, printed }: Frame, parent: Frame | undefined): Value {
    const size = sizeOf(value);
    const isText = typeof value.value === 'string';
    if (isText) checkText(size);
    this.#meter.spend(isText ? size / PASSED : node.type === 'CallExpression' ? 8 * size : size);
    if (node.type === 'FilterStatement') this.#meter.spend(printed / WORKED);
    if (value.type === 'FunctionValue' && object && !this.#owners.has(value)) {
      this.#owners.set(value, { owner: object, name: node.computed ? '' : String((node.property as Node).value) });
    }
    if (!parent) return value;

    const { type } = parent.node;
    if (this.#survey.statements.has(node)) this.#print(value, parent);
    else if (type === 'MemberExpression') this.#member(value, node, parent);
    else if (type === 'For') this.#meter.spend(TURN * (isText ? 0 : size));
    else if (type === 'BinaryExpression') this.#operand(value, parent);
    else if (type === 'FilterExpression' && node === parent.node.operand) this.#filtered(value, parent);
    else if (type === 'FilterExpression' || type === 'FilterStatement') this.#argument(value, parent);
    else if (type === 'CallExpression' && node === parent.node.callee) return this.#method(value);
    else if (type === 'CallStatement' && node === (parent.node.call as Node).callee) return this.#method(value);
    return value;
  }

  #print(value: Value, parent: Frame): void {
    if (typeof value.value === 'string') parent.printed += value.value.length;
    else if (sizeOf(value) > 0) parent.printed += this.#meter.visit(value, PASSED);
    checkText(parent.printed);
  }

  #member(value: Value, node: Node, parent: Frame): void {
    if (node !== parent.node.object) return;
    parent.object = value;
    const { type } = parent.node.property as Node;
    if (type === 'SliceExpression') this.#meter.spend(sizeOf(value));
  }

  #operand(value: Value, parent: Frame): void {
    const operator = (parent.node.operator as { readonly value: string }).value;
    if (operator === 'and' || operator === 'or') return;
    this.#meter.visit(value, PASSED); // a list becomes a text, or is searched
    if (operator.endsWith('in')) this.#search(value, parent);
  }

  /** Searching a text takes up to the product of the lengths over some hundreds. */
  #search(value: Value, frame: Frame): void {
    const length = typeof value.value === 'string' ? value.value.length : 0;
    this.#meter.spend((frame.first * length) / 2 ** 15);
    frame.first = Math.max(frame.first, length);
  }

  #filtered(value: Value, parent: Frame): void {
    const { name, args } = filterOf(parent.node);
    const size = sizeOf(value);
    if (typeof value.value === 'string') this.#meter.spend(size / WORKED);
    else if (name === 'selectattr' || name === 'rejectattr') {
      const words = args.map(({ value: word }) => String(word));
      if (words.includes('lower') || words.includes('upper')) this.#meter.visit(value, WORKED);
      this.#meter.spend(size * (1 + words.join('').length / PASSED));
    } else this.#visitOften(value, VISITING[name] ?? 0);
    this.#search(value, parent);
  }

  #visitOften(value: Value, times: number): void {
    for (let i = 0; i < times; i++) this.#meter.visit(value, WORKED);
  }

  #argument(value: Value, parent: Frame): void {
    const { name } = filterOf(parent.node);
    const inner: unknown = value.value;
    this.#search(value, parent);
    const most = MAX_ARGUMENT[name];
    if (most === undefined) return;
    const values = Array.isArray(inner) ? (inner as Value[]) : inner instanceof Map ? [...(inner.values() as Iterable<Value>)] : [value];
    for (const one of values) {
      const amount = typeof one.value === 'number' ? one.value : sizeOf(one);
      if (amount > most) throw limit(`passes ${amount} to the filter ${name}, at most ${most} are allowed`, { filter: name, limit: most });
    }
  }

  /** A method that pays for its text and arguments whenever it is called; macros and globals as they are. */
  #method(value: Value): Value {
    const known = this.#owners.get(value);
    if (!known || value.type !== 'FunctionValue') return value;
    const { owner, name } = known;
    const call = value.value as (args: Value[], scope: Environment) => Value;
    const metered = (args: Value[], scope: Environment): Value => {
      const frame: Frame = { node: { type: 'call' }, depth: 0, first: 0, printed: 0 };
      if (typeof owner.value === 'string') this.#meter.spend(sizeOf(owner) / WORKED);
      else if (name === '' || name === 'dictsort') this.#visitOften(owner, VISITING.dictsort!);
      this.#search(owner, frame);
      for (const arg of args) {
        this.#meter.visit(arg, WORKED);
        this.#search(arg, frame);
      }
      return call(args, scope);
    };
    return { type: value.type, value: metered } as unknown as Value;
  }
}

function filterOf({ filter }: Node): { readonly name: string; readonly args: readonly Node[] } {
  const { type, value, callee, args } = filter as Node;
  return type === 'CallExpression' ? { name: String((callee as Node).value), args: args as Node[] } : { name: String(value), args: [] };
}

/** `range` of Python. Its length is known before anything is made. */
function range(start: unknown, stop?: unknown, step: unknown = 1): number[] {
  const [from, to, by] = (stop === undefined || stop === null ? [0, start, step] : [start, stop, step]).map((value) => {
    if (typeof value === 'number' || typeof value === 'boolean') return Number(value);
    throw new Error('range() takes numbers');
  }) as [number, number, number];
  if (by === 0) throw new Error('range() step must not be zero');
  const length = Math.ceil((to - from) / by);
  if (!(length > 0)) return [];
  if (length > TEMPLATE_LIMITS.range) {
    throw limit(`asks for a range of ${length} numbers, at most ${TEMPLATE_LIMITS.range} are allowed`, { limit: TEMPLATE_LIMITS.range });
  }
  return Array.from({ length }, (_, i) => from + i * by);
}

function globals(environment: Environment, meter: Meter): void {
  const clock = new Template('{{ strftime_now(format) }}');
  const values: Readonly<Record<string, unknown>> = {
    true: true,
    false: false,
    none: null,
    True: true,
    False: false,
    None: null,
    range,
    raise_exception(message: unknown) {
      throw new Error(typeof message === 'object' ? 'the chat template refused the conversation' : String(message));
    },
    strftime_now(format: unknown) {
      meter.spend(5000); // formatters of dates are slow to make
      if (typeof format !== 'string' || format.length > 256) throw new Error('strftime_now() takes a format of at most 256 characters');
      return clock.render({ format });
    },
  };
  for (const [name, value] of Object.entries(values)) environment.set(name, value);
}

function checkSource(source: string): void {
  if (source.length > TEMPLATE_LIMITS.source) {
    throw limit(`has ${source.length} characters, at most ${TEMPLATE_LIMITS.source} are allowed`, { limit: TEMPLATE_LIMITS.source });
  }
  let run = 0;
  for (const char of source) {
    run = /\s/.test(char) ? run + 1 : 0;
    if (run > TEMPLATE_LIMITS.space) {
      throw limit(`has more than ${TEMPLATE_LIMITS.space} characters of white space in a row`, { limit: TEMPLATE_LIMITS.space });
    }
  }
}

/** V8's own limits, reached before ours by a template that nests or calls itself too deeply. */
function ownLimit<T>(body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (error instanceof RangeError && /call stack|string length/i.test(error.message)) throw limit(`failed: ${error.message}`, {});
    throw error;
  }
}

/** A parsed template as a function of its variables. */
export type BoundedTemplate = (variables: Readonly<Record<string, unknown>>) => string;

/** Parses a template. Throws ERR_LIMIT here and in rendering where it passes `TEMPLATE_LIMITS`, and what the interpreter throws. */
export function boundedTemplate(source: string): BoundedTemplate {
  checkSource(source);
  const program = ownLimit(() => parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true })));
  const known = survey(program);
  return (variables) => {
    const meter = new Meter();
    const environment = new Environment();
    globals(environment, meter);
    for (const [name, value] of Object.entries(variables)) environment.set(name, value);
    const interpreter = new BoundedInterpreter(environment, meter, known);
    return ownLimit(() => String(interpreter.run(program).value));
  };
}
