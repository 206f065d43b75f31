// @ts-check
// Makes built declarations shorter and easier to read, without touching a type or the words of a comment: what the main entry shares with others is declared in it
// and not in a file between them, names are exported where they are declared instead of in a list at the end, a level of indentation is a tab, and a paragraph of a
// comment is a line.
//
// Usage: node tools/compact-declarations.mjs (in the folder of a built package, as the last step of its build).
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { pathToFileURL } from 'node:url';
import ts from 'typescript';

/** @typedef {{ readonly from: number, readonly to: number, readonly text: string }} Edit */

/** @type {(path: string, text: string) => ts.SourceFile} */
const parse = (path, text) => ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);

/**
 * @param {ReadonlyMap<string, string>} files text by absolute path, all `.d.ts` of a package
 * @param {string} main path of the entry that shared declarations go into, as far as they can
 * @param {ReadonlySet<string>} entries paths of all that users import
 * @returns {Map<string, string>} the files that are left
 */
export function compactDeclarations(files, main, entries) {
  let all = new Map(files);
  for (const path of files.keys()) if (!entries.has(path)) all = merge(all, main, path) ?? all;
  return new Map([...all].map(([path, text]) => [path, checked(path, unwrapped(exportInPlace(parse(path, text))))]));
}

/** @type {(path: string, text: string) => string} */
function checked(path, text) {
  const { parseDiagnostics } = /** @type {{ parseDiagnostics?: readonly unknown[] }} */ (/** @type {unknown} */ (parse(path, text)));
  if (parseDiagnostics?.length) throw new Error(`${path} would no longer parse: the tool does not know some syntax in it`);
  return text;
}

/** @type {(node: ts.Statement) => readonly (ts.ExportSpecifier | ts.ImportSpecifier)[] | undefined} the names that a statement imports or exports */
function specifiers(node) {
  const list = ts.isExportDeclaration(node)
    ? node.exportClause
    : ts.isImportDeclaration(node)
      ? node.importClause?.namedBindings
      : undefined;
  return list && (ts.isNamedExports(list) || ts.isNamedImports(list)) ? list.elements : undefined;
}

/** @type {(node: ts.ImportSpecifier | ts.ExportSpecifier) => string} the name on the side of the declaration */
const source = ({ propertyName, name }) => (propertyName ?? name).text;
/** @type {(from: string, to: string) => string} `from`, or `from as to` */
const as = (from, to) => (from === to ? from : `${from} as ${to}`);

/** @type {(tree: ts.SourceFile, shared: string) => ts.Statement[]} statements of a file that name the shared one */
const referring = (tree, shared) =>
  tree.statements.filter((statement) => {
    if (!ts.isImportDeclaration(statement) && !ts.isExportDeclaration(statement)) return false;
    const module = statement.moduleSpecifier;
    return module && ts.isStringLiteral(module) && join(dirname(tree.fileName), module.text.replace(/\.js$/, '.d.ts')) === shared;
  });

/**
 * The files with the declarations of `shared` in `main`, and the others importing from there. Undefined if that would change what `main` exports: another
 * file needs what it does not export, a name would mean two things, a class is shared as a type alone, or there is syntax that the tool does not know.
 * @param {Map<string, string>} files
 * @param {string} main
 * @param {string} shared
 * @returns {Map<string, string> | undefined}
 */
function merge(files, main, shared) {
  const trees = new Map([...files].map(([path, text]) => [path, parse(path, text)]));
  const from = /** @type {ts.SourceFile} */ (trees.get(shared));
  const into = /** @type {ts.SourceFile} */ (trees.get(main));
  const [list, ...more] = from.statements.filter((node) => ts.isExportDeclaration(node) || ts.isImportDeclaration(node));
  if (!list || more.length > 0 || !ts.isExportDeclaration(list) || list.moduleSpecifier) return undefined;
  const given = specifiers(list) ?? [];
  if (given.some((one) => one.isTypeOnly && !declarations(from, source(one), true))) return undefined;
  /** What the shared file exports: name there -> name of the declaration. */
  const exported = new Map(given.map((one) => [one.name.text, source(one)]));

  const references = new Map([...trees].map(([path, tree]) => [path, referring(tree, shared)]));
  if ([...references.values()].flat().some((statement) => specifiers(statement)?.every((one) => exported.has(source(one))) !== true))
    return undefined;
  const old = references.get(main) ?? [];
  const own = new Set(into.statements.flatMap((node) => (old.includes(node) ? [] : [...declaredNames(node), ...importedNames(node)])));
  if (from.statements.flatMap(declaredNames).some((name) => own.has(name))) return undefined;
  /** @type {(one: ts.ImportSpecifier | ts.ExportSpecifier) => string} */
  const declared = (one) => /** @type {string} */ (exported.get(source(one)));
  const mine = old.flatMap((statement) => specifiers(statement) ?? []);
  if (mine.some((one) => ts.isImportSpecifier(one) && one.name.text !== declared(one))) return undefined;

  const body = apply(from.text, [{ from: list.getStart(from), to: list.end, text: '' }]).trim();
  const rest = apply(
    into.text,
    old.map((node) => ({ from: node.getStart(into), to: node.end, text: '' })),
  ).trim();
  const passedOn = mine.filter((one) => ts.isExportSpecifier(one)).map((one) => as(declared(one), one.name.text));
  const joined = parse(main, `${body}\n\n${rest}\nexport { ${passedOn.join(', ')} };\n`);
  /** What main now exports: name of the declaration -> name for users. */
  const open = new Map(
    joined.statements.flatMap((node) =>
      ts.isExportDeclaration(node) && !node.moduleSpecifier ? (specifiers(node) ?? []).map((one) => [source(one), one.name.text]) : [],
    ),
  );
  const result = new Map([...files, [main, joined.text]]);
  result.delete(shared);
  for (const [path, statements] of references) {
    if (path === main) continue;
    /** @type {Edit[]} */
    const edits = [];
    for (const statement of /** @type {(ts.ImportDeclaration | ts.ExportDeclaration)[]} */ (statements)) {
      for (const one of specifiers(statement) ?? []) {
        const name = open.get(declared(one));
        if (name === undefined) return undefined;
        edits.push({ from: one.getStart(), to: one.end, text: `${one.isTypeOnly ? 'type ' : ''}${as(name, one.name.text)}` });
      }
      const module = /** @type {ts.Expression} */ (statement.moduleSpecifier);
      edits.push({ from: module.getStart(), to: module.end, text: `'${specifierOf(path, main)}'` });
    }
    if (edits.length > 0) result.set(path, apply(files.get(path) ?? '', edits));
  }
  return result;
}

/** @type {(path: string, target: string) => string} */
function specifierOf(path, target) {
  const to = relative(dirname(path), target)
    .replace(/\.d\.ts$/, '.js')
    .split(sep)
    .join('/');
  return to.startsWith('.') ? to : `./${to}`;
}

/** @type {(statement: ts.Statement) => string[]} */
const importedNames = (statement) => (ts.isImportDeclaration(statement) ? (specifiers(statement) ?? []).map((one) => one.name.text) : []);

/** @type {(statement: ts.Statement) => string[]} */
function declaredNames(statement) {
  if (ts.isVariableStatement(statement)) return statement.declarationList.declarations.map((one) => one.name.getText());
  const { name } = /** @type {{ name?: ts.Node }} */ (/** @type {unknown} */ (statement));
  return name && ts.isIdentifier(name) ? [name.text] : [];
}

/**
 * @param {ts.SourceFile} tree
 * @returns {string} its text with tabs, and names exported where they are declared
 */
function exportInPlace(tree) {
  /** @type {Edit[]} */
  const edits = tabs(tree);
  /** @type {string[]} */
  const left = [];
  const lists = tree.statements.filter((node) => ts.isExportDeclaration(node)).filter((node) => !node.moduleSpecifier && specifiers(node));
  /** @type {Set<number>} */
  const done = new Set();
  for (const list of lists) {
    for (const one of specifiers(list) ?? []) {
      const typeOnly = one.isTypeOnly || list.isTypeOnly;
      const places = source(one) === one.name.text ? declarations(tree, one.name.text, typeOnly) : undefined;
      if (!places) left.push(`${typeOnly ? 'type ' : ''}${as(source(one), one.name.text)}`);
      for (const at of places ?? []) if (!done.has(at) && done.add(at)) edits.push({ from: at, to: at, text: 'export ' });
    }
  }
  // Without any list, all declarations of a .d.ts file count as exported: an empty one stays.
  const text = left.length > 0 ? `export { ${left.join(', ')} };` : 'export {};';
  for (const [i, list] of lists.entries()) {
    edits.push(i === lists.length - 1 ? { from: list.getStart(tree), to: list.end, text } : { from: list.pos, to: list.end, text: '' });
  }
  return apply(tree.text, edits);
}

/**
 * Where `export` goes to export a name in place: each of its declarations. Undefined if it has none here, shares one with other names, or is a value of
 * which only the type is exported.
 * @param {ts.SourceFile} tree
 * @param {string} name
 * @param {boolean} typeOnly
 * @returns {number[] | undefined}
 */
function declarations(tree, name, typeOnly) {
  const found = tree.statements.filter((statement) => declaredNames(statement).includes(name));
  const fits = found.every((statement) => {
    if (ts.isInterfaceDeclaration(statement) || ts.isTypeAliasDeclaration(statement)) return true;
    if (typeOnly) return false;
    if (ts.isVariableStatement(statement)) return statement.declarationList.declarations.length === 1;
    return ts.isFunctionDeclaration(statement) || ts.isClassDeclaration(statement);
  });
  return found.length > 0 && fits ? found.map((statement) => statement.getStart(tree)) : undefined;
}

/**
 * A tab for every four spaces that start a line, unless the line starts inside of a template literal.
 * @param {ts.SourceFile} tree
 * @returns {Edit[]}
 */
function tabs(tree) {
  /** @type {[number, number][]} */
  const literals = [];
  /** @type {(node: ts.Node) => void} */
  const visit = (node) => {
    if (ts.isTemplateLiteralTypeNode(node) || ts.isNoSubstitutionTemplateLiteral(node)) literals.push([node.getStart(tree), node.end]);
    else ts.forEachChild(node, visit);
  };
  visit(tree);
  return [...tree.text.matchAll(/^(?: {4})+/gm)]
    .filter(({ index }) => !literals.some(([from, to]) => index > from && index < to))
    .map(({ 0: spaces, index }) => ({ from: index, to: index + spaces.length, text: '\t'.repeat(spaces.length / 4) }));
}

/**
 * Comments whose words were wrapped, a line for each paragraph. Lists, tables, indented lines and what follows a tag stay as they are.
 * @param {string} text
 */
export function unwrapped(text) {
  return text.replace(/^([ \t]*)\/\*\*\n((?:[ \t]*\*(?!\/).*\n)+)[ \t]*\*\//gm, (whole, indent, body) => {
    const lines = body
      .trimEnd()
      .split('\n')
      .map((/** @type {string} */ line) => line.replace(/^[ \t]*\* ?/, ''));
    const tag = lines.findIndex((/** @type {string} */ line) => line.startsWith('@'));
    const [words, rest] = tag < 0 ? [lines, []] : [lines.slice(0, tag), lines.slice(tag)];
    if (words.some((/** @type {string} */ line) => /^(?:\s|[-*|#>`]|\d+\.)/.test(line))) return whole;
    const paragraphs = words
      .join('\n')
      .trim()
      .split(/\n{2,}/)
      .map((/** @type {string} */ part) => part.replaceAll('\n', ' '));
    const joined = [
      ...paragraphs.flatMap((/** @type {string} */ part, /** @type {number} */ i) => (i > 0 ? ['', part] : [part])),
      ...(rest.length > 0 ? ['', ...rest] : []),
    ];
    if (joined.length === 1) return `${indent}/** ${joined[0]} */`;
    return `${indent}/**\n${joined.map((line) => `${indent} *${line && ' '}${line}\n`).join('')}${indent} */`;
  });
}

/** @type {(text: string, edits: readonly Edit[]) => string} */
function apply(text, edits) {
  let result = '';
  let at = 0;
  for (const { from, to, text: replacement } of [...edits].sort((a, b) => a.from - b.from)) {
    if (from < at) throw new Error(`two edits overlap at ${from}`);
    result += text.slice(at, from) + replacement;
    at = to;
  }
  return result + text.slice(at);
}

if (process.argv[1] && import.meta.url === pathToFileURL(resolve(process.argv[1])).href) {
  /** @type {{ exports: Record<string, { types?: string } | string> }} */
  const { exports } = JSON.parse(readFileSync('package.json', 'utf8'));
  const entries = Object.values(exports).flatMap((target) => (typeof target === 'object' && target.types ? [resolve(target.types)] : []));
  const paths = readdirSync('dist', { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.d.ts'));
  const files = new Map(paths.map((name) => [resolve('dist', name), readFileSync(join('dist', name), 'utf8')]));
  const [main] = entries;
  if (main === undefined) throw new Error('package.json exports no types');
  const compact = compactDeclarations(files, main, new Set(entries));
  for (const path of files.keys()) if (!compact.has(path)) rmSync(path);
  for (const [path, text] of compact) writeFileSync(path, text);
}
