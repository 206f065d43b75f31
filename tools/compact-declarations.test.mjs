// @ts-check
import { join, resolve } from 'node:path';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { compactDeclarations, unwrapped } from './compact-declarations.mjs';

const folder = resolve('/dist');

/** @type {(files: Readonly<Record<string, string>>, entries: readonly string[]) => Record<string, string>} */
function compact(files, entries) {
  const result = compactDeclarations(at(files), join(folder, 'index.d.ts'), new Set(entries.map((name) => join(folder, name))));
  return Object.fromEntries([...result].map(([path, text]) => [path.slice(folder.length + 1), text]));
}

/** @type {(files: Readonly<Record<string, string>>) => Map<string, string>} */
const at = (files) => new Map(Object.entries(files).map(([name, text]) => [join(folder, name), text]));

/**
 * What a user of an entry sees: every exported name with its type and documentation.
 * @param {Readonly<Record<string, string>>} files
 * @param {string} entry
 */
function seen(files, entry) {
  const texts = at(files);
  /** @type {ts.CompilerOptions} */
  const options = {
    noLib: true,
    target: ts.ScriptTarget.ES2022,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    module: ts.ModuleKind.ESNext,
  };
  const host = ts.createCompilerHost(options);
  host.fileExists = (path) => texts.has(resolve(path));
  host.directoryExists = () => true;
  host.readFile = (path) => texts.get(resolve(path));
  host.getSourceFile = (path, target) => {
    const text = texts.get(resolve(path));
    return text === undefined ? undefined : ts.createSourceFile(path, text, target);
  };
  const program = ts.createProgram([join(folder, entry)], options, host);
  expect(program.getSemanticDiagnostics().map(({ messageText }) => messageText)).toEqual([]);
  const checker = program.getTypeChecker();
  const module = checker.getSymbolAtLocation(/** @type {ts.Node} */ (program.getSourceFile(join(folder, entry))));
  if (!module) throw new Error(`${entry} is no module`);
  return checker.getExportsOfModule(module).map((symbol) => {
    const target = symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol;
    const isValue = (target.flags & ts.SymbolFlags.Value) !== 0;
    const type = isValue ? checker.getTypeOfSymbol(target) : checker.getDeclaredTypeOfSymbol(target);
    const members = type.getProperties().map((member) => {
      const text = checker.typeToString(checker.getTypeOfSymbol(member));
      return `${member.name}: ${text} // ${ts.displayPartsToString(member.getDocumentationComment(checker))}`;
    });
    const doc = ts.displayPartsToString(target.getDocumentationComment(checker));
    return { name: symbol.name, isValue, type: checker.typeToString(type), members, doc };
  });
}

const built = {
  'shared-x1.d.ts': `/** A shape. */
interface Shape {
    /** How wide. */
    readonly width: number;
}
declare const LIMIT = 3;
interface Inner {
    a: Shape;
}
declare class Thing {
    #private;
    /**
     * Makes one.
     *     four spaces stay
     */
    static make(): Thing;
}
export { type Shape as S, LIMIT as L, Thing as T, type Inner as a };
`,
  'index.d.ts': `import { S as Shape, a as Inner } from './shared-x1.js';
export { L as LIMIT, T as Thing } from './shared-x1.js';

/** Overloaded. */
declare function area(shape: Shape): number;
declare function area(shape: Inner, times: number): number;
interface Hidden {
    x: 1;
}
declare class Value {
    readonly hidden: Hidden;
}
declare const one: 1, two: 2;
type Lines = \`a
    b\`;

export { Shape, type Lines, type Value, area, area as surface, one, two };
`,
  'deep/other.d.ts': `import { S as Size } from '../shared-x1.js';
/** Doubles. */
declare function twice(shape: Size): Size;

export { twice };
`,
};
const entries = ['index.d.ts', 'deep/other.d.ts'];

describe('compactDeclarations', () => {
  const after = compact(built, entries);

  it.each(entries)('shows users of %s the same names, types and documentation', (entry) => {
    const before = seen(built, entry);
    expect(before.length).toBeGreaterThan(0);
    expect(new Map(seen(after, entry).map((one) => [one.name, one]))).toEqual(new Map(before.map((one) => [one.name, one])));
  });

  it('exports in place, and others import what is shared from the main entry', () => {
    expect(after['deep/other.d.ts']).toBe(`import { Shape as Size } from '../index.js';
/** Doubles. */
export declare function twice(shape: Size): Size;

export {};
`);
    expect(after['index.d.ts']?.match(/^export declare function area/gm)?.length).toBe(2);
    expect(after['index.d.ts']).toContain('export { type Value, area as surface, one, two };');
  });

  it('leaves no file between entries', () => {
    expect(Object.keys(after).sort()).toEqual(['deep/other.d.ts', 'index.d.ts']);
  });

  it('keeps hidden what was not exported', () => {
    expect(seen(after, 'index.d.ts').map(({ name }) => name)).not.toContain('Hidden');
    expect(seen(after, 'index.d.ts').map(({ name }) => name)).not.toContain('Inner');
  });

  it('indents with tabs, but for the text of comments and template literals', () => {
    expect(after['index.d.ts']).toContain('\n\t/**\n\t * Makes one.\n\t *     four spaces stay\n\t */\n\tstatic make(): Thing;');
    expect(after['index.d.ts']).toContain('`a\n    b`');
  });

  it('does nothing the second time', () => {
    expect(compact(after, entries)).toEqual(after);
  });

  const plain = 'interface A {\n}\nexport { type A as a };\n';
  const passedOn = "export { a as Shared } from './c.js';\n";
  const other = "import { a as A } from './c.js';\nexport declare const x: A;\nexport {};\n";

  it('merges a shared file that main passes on', () => {
    const files = { 'c.d.ts': plain, 'index.d.ts': passedOn, 'other.d.ts': other };
    expect(compact(files, ['index.d.ts', 'other.d.ts'])).toEqual({
      'index.d.ts': 'interface A {\n}\n\n\nexport { A as Shared };\n',
      'other.d.ts': "import { Shared as A } from './index.js';\nexport declare const x: A;\nexport {};\n",
    });
  });

  it('takes over names that are exported under others', () => {
    const files = {
      'c.d.ts': 'declare const A: 1;\ndeclare const B: 2;\nexport { A as B, B as A };\n',
      'index.d.ts': "export { A as two, B as one } from './c.js';\n",
    };
    expect(seen(compact(files, ['index.d.ts']), 'index.d.ts').map(({ name, type }) => name + type)).toEqual(['two2', 'one1']);
  });

  it.each([
    ['another entry needs what main does not export', plain, "import { a as A } from './c.js';\n\nexport {};\n"],
    ['main has another of that name', plain, `${passedOn}interface A {\n}\nexport {};\n`],
    ['main imports that name from elsewhere', plain, `import { A } from 'x';\n${passedOn}export declare const y: A;\nexport {};\n`],
    ['main imports it under another name', plain, `import { a as B } from './c.js';\n${passedOn}export declare const y: B;\nexport {};\n`],
    ['everything is passed on at once', plain, `export * from './c.js';\n${passedOn}`],
    ['it imports from elsewhere', `import { B } from 'x';\ninterface A {\n\tb: B;\n}\nexport { type A as a };\n`, passedOn],
    ['a class is shared as a type', plain.replace('interface', 'declare class'), passedOn],
  ])('keeps the shared file where %s', (_reason, shared, main) => {
    const files = {
      'c.d.ts': shared,
      'index.d.ts': main,
      'other.d.ts': other,
    };
    expect(compact(files, ['index.d.ts', 'other.d.ts'])).toEqual(files);
  });
});

describe('comments', () => {
  it('have a line for each paragraph', () => {
    const text =
      '/**\n * One\n * two.\n *\n * Three\n * four.\n *\n * @example\n * a\n * b\n */\nconst x: 1;\n\t/**\n\t * In\n\t * one.\n\t */\n';
    expect(unwrapped(text)).toBe('/**\n * One two.\n *\n * Three four.\n *\n * @example\n * a\n * b\n */\nconst x: 1;\n\t/** In one. */\n');
  });

  it('with lists, tables or indented lines stay as they are', () => {
    for (const part of ['- item', '| a | b |', '  w = q s', '1. first', '`code`']) {
      const text = `/**\n * Words\n * of it:\n * ${part}\n */\n`;
      expect(unwrapped(text)).toBe(text);
    }
  });
});
