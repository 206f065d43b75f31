import { isLowbitError, type LowbitError } from '@lowbit/core';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { goldenJson } from '../../../../fixtures/golden.ts';
import { PICKLE_LIMITS } from './limits.ts';
import { OP, opName, REFUSED } from './opcodes.ts';
import { ascii, body, call, le, named, type Picklable, pickle, program, storage, tensor } from './testing.ts';
import { unpickle } from './unpickle.ts';

const { protocols } = goldenJson<{ readonly protocols: Readonly<Record<string, string>> }>('pickle/protocols.json');

function refusal(bytes: Uint8Array, limits = PICKLE_LIMITS): LowbitError {
  try {
    unpickle(bytes, 'evil.pt', limits);
  } catch (error) {
    if (isLowbitError(error, 'ERR_BAD_PICKLE')) return error;
    throw error;
  }
  throw new Error('it was expected to be refused');
}

describe('data', () => {
  test.each(['2', '3', '4', '5'])('of protocol %s, from CPython', (protocol) => {
    const content = unpickle(Buffer.from(protocols[protocol]!, 'base64'), 'a.pt');
    const view = { kind: 'tensor', storage: { kind: 'storage', key: '0', dtype: 'f32', count: 6 }, dtype: 'f32', offset: 0 };
    expect(content).toEqual(
      new Map<string, unknown>([
        ['a.weight', { ...view, shape: [2, 3], strides: [3, 1] }],
        ['b.weight', { ...view, shape: [3, 2], strides: [1, 3] }],
        [
          'more',
          new Map<string, unknown>([
            ['dtype', { kind: 'dtype', dtype: 'f16' }],
            ['shape', [2, 3]],
            ['f', 1.58],
            ['big', 2 ** 40],
            ['huge', 2n ** 60n],
            ['neg', -3],
            ['list', [1, null, true]],
            ['text', 'naïve'],
            ['one', [1]],
            ['empty', [[]]],
            ['long', 'x'.repeat(300)],
          ]),
        ],
      ]),
    );
  });

  test.each(['0', '1'])('of protocol %s is refused', (protocol) => {
    expect(refusal(Buffer.from(protocols[protocol]!, 'base64')).message).toMatch(/protocol 0 or 1/);
  });

  test('devices are strings, untyped storages take the dtype of their tensor, parameters are tensors', () => {
    const untyped = { raw: [...body(['storage', named('torch.storage.UntypedStorage'), '7', 'cpu', 8]), OP.BINPERSID] };
    const args = [untyped, 1, [3], [1], false, call('collections.OrderedDict', []), named('torch.uint16')];
    const v3 = call('torch._utils._rebuild_tensor_v3', args);
    const state = new Map<Picklable, Picklable>([['attribute', 1]]);
    expect(unpickle(pickle([call('torch.device', ['cuda', 1]), call('torch.device', ['cpu'])]), 'a')).toEqual(['cuda:1', 'cpu']);
    const hooks = call('collections.OrderedDict', []);
    expect(unpickle(pickle(call('torch._utils._rebuild_parameter_with_state', [v3, true, hooks, state])), 'a')).toEqual({
      kind: 'tensor',
      storage: { kind: 'storage', key: '7', dtype: undefined, count: 8 },
      dtype: 'u16',
      shape: [3],
      strides: [1],
      offset: 1,
    });
  });

  test('keys mean nothing', () => {
    const content = unpickle(pickle(new Map<Picklable, Picklable>([['__proto__', new Map([['polluted', true]])]])), 'a');
    expect((content as Map<string, unknown>).get('__proto__')).toEqual(new Map([['polluted', true]]));
    expect(({} as { polluted?: boolean }).polluted).toBeUndefined();
  });
});

describe('what is never executed', () => {
  test.each([...REFUSED])('opcode 0x%s', (code, name) => {
    // With something on the stack and bytes to read, so that only the opcode itself can be the reason.
    const error = refusal(program(OP.MARK, OP.NONE, OP.MARK, OP.NONE, code, ...ascii('os\nsystem\n1\n'), OP.STOP));
    expect(error.message).toBe(`evil.pt: ${name}: this opcode is not executed (byte 6 of the pickle)`);
    expect(error.details).toMatchObject({ opcode: name, offset: 6, file: 'evil.pt' });
    expect(error.hint).toMatch(/safetensors/);
  });

  test('every other byte is executed or no opcode', () => {
    const known = new Set<number>(Object.values(OP));
    for (let code = 0; code < 256; code++) {
      if (known.has(code) || REFUSED.has(code)) continue;
      expect(refusal(program(code, OP.STOP)).message).toBe(`evil.pt: ${opName(code)}: no such opcode (byte 2 of the pickle)`);
    }
    expect(refusal(program(OP.PROTO, 2, OP.NONE, OP.STOP)).message).toMatch(/PROTO: no such opcode/);
  });

  test.each([
    'os.system',
    'posix.system',
    'nt.system',
    'builtins.eval',
    'builtins.exec',
    'builtins.getattr',
    'builtins.__import__',
    '__builtin__.eval',
    'subprocess.Popen',
    'torch.load',
    'torch.hub.load',
    'torch.jit.load',
    'torch._utils._rebuild_tensor',
    'torch._utils.__builtins__',
    'torch.nn.modules.linear.Linear',
    'torch.FloatStorage.from_file',
    'torch.ComplexFloatStorage',
    'numpy.core.multiarray._reconstruct',
    'collections.OrderedDict.update',
    'copyreg._reconstructor',
    'runpy._run_code',
    'webbrowser.open',
    'torch.__proto__',
    'torch.constructor',
    '.',
  ])('global %s', (full) => {
    const dot = full.lastIndexOf('.');
    const [module, name] = [full.slice(0, dot), full.slice(dot + 1)];
    for (const bytes of [
      program(...named(full).raw, ...body(['id']), OP.REDUCE, OP.STOP),
      program(...body(module), ...body(name), OP.STACK_GLOBAL, ...body(['id']), OP.REDUCE, OP.STOP),
    ]) {
      const error = refusal(bytes);
      expect(error.message).toContain(`names ${JSON.stringify(full)}, which is not on the list`);
      expect(error.details).toMatchObject({ global: full, file: 'evil.pt' });
      expect(error.hint).toMatch(/runs nothing/);
    }
  });

  const hooks = call('collections.OrderedDict', []);
  const f32 = storage('f32', '0', 6);
  const rebuild = (...args: Picklable[]) => call('torch._utils._rebuild_tensor_v2', args);
  test.each<[string, Picklable, RegExp]>([
    ['calling a string', { raw: [...body('os.system'), ...body(['id']), OP.REDUCE] }, /calls something that is no name/],
    ['calling a storage class', call('torch.FloatStorage', [8]), /calls torch\.FloatStorage/],
    ['calling a dtype', call('torch.float16', []), /calls something that is no name/],
    ['calling the result of a call', { raw: [...hooks.raw, OP.EMPTY_TUPLE, OP.REDUCE] }, /calls something/],
    ['arguments that are no tuple', { raw: [...named('torch.Size').raw, OP.NONE, OP.REDUCE] }, /no tuple/],
    ['a class as data', named('collections.OrderedDict'), /holds collections\.OrderedDict itself/],
    ['a class in the data', [1, new Map([['x', named('torch.FloatStorage')]])], /holds torch\.FloatStorage itself/],
    ['a class as a key', new Map([[named('torch.Size'), 1]]), /dictionary key/],
    ['a list as a key', { raw: [OP.EMPTY_DICT, OP.EMPTY_LIST, OP.NONE, OP.SETITEM] }, /dictionary key/],
    [
      'state of a tensor',
      { raw: [...tensor({ dtype: 'f32', key: '0', count: 1, shape: [1] }).raw, OP.EMPTY_DICT, OP.BUILD] },
      /BUILD: sets the/,
    ],
    ['state that is a pair', { raw: [OP.EMPTY_DICT, ...body([null, new Map()]), OP.BUILD] }, /BUILD: sets the state/],
    ['state of a class', { raw: [...named('torch.Size').raw, OP.EMPTY_DICT, OP.BUILD] }, /BUILD: sets the state/],
    ['backward hooks', rebuild(f32, 0, [6], [1], false, new Map([[0, 'x']])), /hooks/],
    ['hooks that are a class', rebuild(f32, 0, [6], [1], false, named('torch.Size')), /hooks/],
    ['a tensor over no storage', rebuild('0', 0, [6], [1], false, hooks), /no storage/],
    ['a tensor over a class', rebuild(named('torch.FloatStorage'), 0, [6], [1], false, hooks), /no storage/],
    ['negative extents', rebuild(f32, 0, [-6], [1], false, hooks), /bad shape/],
    ['negative strides', rebuild(f32, 5, [6], [-1], false, hooks), /bad shape/],
    ['a negative offset', rebuild(f32, -1, [6], [1], false, hooks), /bad offset/],
    ['an offset of 1.5', rebuild(f32, 1.5, [6], [1], false, hooks), /bad offset/],
    ['fewer strides than extents', rebuild(f32, 0, [6], [], false, hooks), /1 extents and 0 strides/],
    ['65 extents', rebuild(f32, 0, Array(65).fill(1), Array(65).fill(1), false, hooks), /bad shape/],
    ['too few arguments', rebuild(f32, 0, [6]), /six or seven/],
    ['a parameter of nothing', call('torch._utils._rebuild_parameter', [1, false, hooks]), /no tensor/],
    ['a device of a device', call('torch.device', [['cpu']]), /a name/],
    ['a size of strings', call('torch.Size', [['a']]), /bad shape/],
    ['an ordered dictionary of pairs', call('collections.OrderedDict', [[['a', 1]]]), /no arguments/],
    ['a persistent id that is a string', { raw: [...body('storage'), OP.BINPERSID] }, /no storage/],
    ['a persistent id of something else', { raw: [...body(['module', 'a', 'b', 'c', 1]), OP.BINPERSID] }, /no storage/],
    ['a storage of a function', { raw: [...body(['storage', named('torch.Size'), '0', 'cpu', 1]), OP.BINPERSID] }, /unknown type/],
    ['a storage that is a path', storage('f32', '../../etc/passwd', 1), /bad key/],
    ['a storage of -1', storage('f32', '0', -1), /bad size/],
    ['a storage of NaN', storage('f32', '0', Number.NaN), /bad size/],
    [
      'an untyped storage without a dtype',
      rebuild({ raw: [...body(['storage', named('torch.UntypedStorage'), '0', 'cpu', 8]), OP.BINPERSID] }, 0, [1], [1], false, hooks),
      /no type/,
    ],
  ])('%s', (_, value, message) => {
    const error = refusal(pickle(value));
    expect(error.message).toMatch(message);
    expect(error.message).toMatch(/^evil\.pt: \w+: .*\(byte \d+ of the pickle\)$/);
  });
});

describe('broken programs', () => {
  const huge = [0xff, 0xff, 0xff, 0xff];
  test.each<[string, Uint8Array, RegExp]>([
    ['nothing', new Uint8Array(0), /needs 1 bytes, 0 are left/],
    ['PROTO alone', Uint8Array.of(0x80), /needs 1 bytes/],
    ['protocol 6', Uint8Array.of(0x80, 6, OP.NONE, OP.STOP), /protocol 6/],
    ['no STOP', program(OP.NONE), /end: needs 1 bytes/],
    ['an empty stack', program(OP.STOP), /0 values and 0 marks/],
    ['two values', program(OP.NONE, OP.NONE, OP.STOP), /2 values/],
    ['a mark left', program(OP.NONE, OP.MARK, OP.STOP), /1 marks/],
    ['bytes after STOP', program(OP.NONE, OP.STOP, OP.STOP), /1 bytes follow/],
    ['popping nothing', program(OP.TUPLE1, OP.STOP), /nothing on the stack/],
    ['reaching below a mark', program(OP.NONE, OP.MARK, OP.TUPLE1, OP.STOP), /nothing on the stack/],
    ['no mark', program(OP.NONE, OP.TUPLE, OP.STOP), /no mark/],
    ['appending to a tuple', program(OP.EMPTY_TUPLE, OP.NONE, OP.APPEND, OP.STOP), /no list/],
    ['setting an item of a list', program(OP.EMPTY_LIST, OP.NONE, OP.NONE, OP.SETITEM, OP.STOP), /no dictionary/],
    ['a key without a value', program(OP.EMPTY_DICT, OP.MARK, OP.NONE, OP.SETITEMS, OP.STOP), /without a value/],
    ['a memo entry that is not there', program(OP.BINGET, 3, OP.STOP), /no memo entry 3/],
    ['memo of nothing', program(OP.BINPUT, 0, OP.STOP), /nothing on the stack/],
    ['a string of 4 GB', program(OP.BINUNICODE, ...huge, OP.STOP), /a string of 4294967295 bytes, more than/],
    ['a string of 16 EB', program(OP.BINUNICODE8, ...huge, ...huge, OP.STOP), /claims 18446744073709551615 bytes/],
    ['a frame of 16 EB', program(OP.FRAME, ...huge, ...huge, OP.STOP), /claims 18446744073709551615 bytes/],
    ['a frame longer than the rest', program(OP.FRAME, ...le(3, 8), OP.NONE, OP.STOP), /frame is longer/],
    ['an integer of 4 GB', program(OP.LONG4, ...huge, OP.STOP), /an integer of 4294967295 bytes/],
    ['an integer of 255 bytes', program(OP.LONG1, 255, ...Array(255).fill(1), OP.STOP), /an integer of 255 bytes/],
    ['a string cut off', program(OP.BINUNICODE, ...le(9, 4), 65, OP.STOP), /needs 9 bytes, 2 are left/],
    ['a string that is not UTF-8', program(OP.SHORT_BINUNICODE, 1, 0xff, OP.STOP), /UTF-8/],
    ['a global without an end', program(OP.GLOBAL, ...ascii('a'.repeat(5000))), /without an end/],
    ['a global of numbers', program(OP.NONE, OP.NONE, OP.STACK_GLOBAL, OP.STOP), /no string/],
  ])('%s', (_, bytes, message) => {
    expect(refusal(bytes).message).toMatch(message);
  });
});

describe('bombs', () => {
  test('nesting', () => {
    const deep = (n: number) => program(...Array(n).fill(OP.EMPTY_LIST), ...Array(n - 1).fill(OP.APPEND), OP.STOP);
    expect(unpickle(deep(64), 'a')).toHaveLength(1);
    expect(refusal(deep(65)).message).toMatch(/nested deeper than 64/);
    expect(refusal(deep(50_000)).message).toMatch(/nested deeper than 64/);
    expect(refusal(program(OP.NONE, ...Array(50_000).fill(OP.TUPLE1), OP.STOP)).message).toMatch(/nested deeper/);
    expect(refusal(program(...Array(50_000).fill(OP.MARK), OP.STOP)).message).toMatch(/50000 marks/);
  });

  test('a list that holds itself', () => {
    expect(refusal(program(OP.EMPTY_LIST, OP.BINPUT, 0, OP.BINGET, 0, OP.APPEND, OP.STOP)).message).toMatch(/holds itself/);
    const dict = [OP.EMPTY_DICT, OP.BINPUT, 0, OP.NONE, OP.BINGET, 0, OP.TUPLE1, OP.SETITEM, OP.STOP];
    expect(refusal(program(...dict)).message).toMatch(/holds itself/);
  });

  test('a billion laughs take as many objects as they have names', () => {
    const laughs = [...body('lol'), OP.BINPUT, 0, OP.EMPTY_DICT, OP.BINPUT, 99];
    // Each level is ten times the level before, kept under a key of one dictionary, and in the memo.
    for (let level = 1; level <= 40; level++) {
      const tenfold = [
        OP.MARK,
        ...Array(10)
          .fill([OP.BINGET, level - 1])
          .flat(),
        OP.TUPLE,
        OP.BINPUT,
        level,
      ];
      laughs.push(...body(level), ...tenfold, OP.SETITEM);
    }
    const content = unpickle(program(...laughs, OP.TUPLE2, OP.STOP), 'a', { ...PICKLE_LIMITS, objects: 50 });
    expect(content).toHaveLength(2);
    expect((content as [string, Map<number, unknown[]>])[1].get(40)).toHaveLength(10);
  });

  test.each<[string, number[], Partial<typeof PICKLE_LIMITS>, RegExp]>([
    ['values', [OP.EMPTY_LIST, OP.MARK, ...Array(100).fill(OP.NONE), OP.APPENDS], { values: 99 }, /more than 99 values/],
    ['marks', Array(100).fill(OP.MARK), { values: 99 }, /more than 99 values/],
    ['objects', [OP.EMPTY_LIST, OP.MARK, ...Array(100).fill(OP.EMPTY_DICT), OP.APPENDS], { objects: 99 }, /more than 99 objects/],
    ['tuples', [OP.EMPTY_LIST, OP.MARK, ...Array(100).fill(OP.EMPTY_TUPLE), OP.APPENDS], { objects: 99 }, /more than 99 objects/],
    [
      'memo entries',
      [OP.NONE, ...Array.from({ length: 100 }, (_, i) => [OP.LONG_BINPUT, ...le(i * 40_000_000, 4)]).flat()],
      { memo: 99 },
      /99 memo/,
    ],
    ['a string', body('0123456789'), { string: 9 }, /a string of 10 bytes, more than 9/],
  ])('%s over the limit', (_, code, limits, message) => {
    const bytes = program(...code, OP.STOP);
    expect(refusal(bytes, { ...PICKLE_LIMITS, ...limits }).message).toMatch(message);
  });

  test('sixty-four megabytes of empty dictionaries stop at the limit of objects', () => {
    const bytes = new Uint8Array(64 * 1024 * 1024).fill(OP.EMPTY_DICT);
    bytes.set([OP.PROTO, 2]);
    const before = process.memoryUsage().rss;
    expect(refusal(bytes).message).toMatch(/more than 2000000 objects/);
    expect(process.memoryUsage().rss - before).toBeLessThan(1.5e9);
  });

  test('a memo index of four billion allocates nothing', () => {
    expect(unpickle(program(OP.NONE, OP.LONG_BINPUT, 0xff, 0xff, 0xff, 0xff, OP.STOP), 'a')).toBe(null);
  });
});

describe('fuzzing', () => {
  /** Data, or one of our own errors. */
  function survives(bytes: Uint8Array): void {
    try {
      unpickle(bytes, 'fuzz.pt', { ...PICKLE_LIMITS, values: 100_000 });
    } catch (error) {
      if (!isLowbitError(error, 'ERR_BAD_PICKLE')) throw error;
    }
  }
  const real = ['2', '4'].map((protocol) => new Uint8Array(Buffer.from(protocols[protocol]!, 'base64')));
  const opcode = fc.constantFrom(...Object.values(OP), ...REFUSED.keys());

  test('any bytes after PROTO', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(opcode, fc.nat(255)), { maxLength: 200 }), (code) => survives(program(...code, OP.STOP))),
      { numRuns: 3000 },
    );
  });

  test('a real pickle with bytes changed, removed and repeated', () => {
    const change = fc.record({ at: fc.nat(2000), length: fc.nat(8), bytes: fc.array(fc.oneof(opcode, fc.nat(255)), { maxLength: 8 }) });
    fc.assert(
      fc.property(fc.constantFrom(...real), fc.array(change, { minLength: 1, maxLength: 4 }), (bytes, changes) => {
        let all = [...bytes];
        for (const { at, length, bytes: put } of changes) {
          const from = at % all.length;
          all = [...all.slice(0, from), ...put, ...all.slice(from + length)];
        }
        survives(Uint8Array.from(all));
      }),
      { numRuns: 3000 },
    );
  });
});
