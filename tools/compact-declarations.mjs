// @ts-check
// Makes built declarations shorter and easier to read, without touching a type or a comment: names are exported where they are declared instead of in a
// list at the end, shared files give them under their own names, and a level of indentation is a tab.
//
// Usage: node tools/compact-declarations.mjs (in the folder of a built package, as the last step of its build).
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import ts from 'typescript';

/** @typedef {{ readonly from: number, readonly to: number, readonly text: string }} Edit */
/** @typedef {ReadonlyMap<string, string>} Names exported name -> name of the declaration */

/** @type {(path: string, text: string) => ts.SourceFile} */
const parse = (path, text) => ts.createSourceFile(path, text, ts.ScriptTarget.Latest, true);

/**
 * @param {ReadonlyMap<string, string>} files text by absolute path, all `.d.ts` of a package
 * @param {ReadonlySet<string>} entries those that users import: their exported names stay
 * @returns {Map<string, string>}
 */
export function compactDeclarations(files, entries) {
  const trees = new Map([...files].map(([path, text]) => [path, parse(path, text)]));
  /** @type {Map<string, Names>} */
  const renamed = new Map([...trees].map(([path, tree]) => [path, entries.has(path) ? new Map() : ownNames(tree)]));
  /** @type {Map<string, string>} */
  const result = new Map();
  for (const [path, tree] of trees) {
    const edits = [...tree.statements.flatMap((statement) => compactStatement(tree, statement, renamed)), ...tabs(tree)];
    const text = apply(tree.text, edits);
    const problems = /** @type {{ parseDiagnostics?: readonly unknown[] }} */ (/** @type {unknown} */ (parse(path, text))).parseDiagnostics;
    if (problems?.length) throw new Error(`${path} would no longer parse: the tool does not know some syntax in it`);
    result.set(path, text);
  }
  return result;
}

/**
 * The lists `export { A as B }` of a file that only other files of the package import, as far as A is free to be the exported name.
 * @param {ts.SourceFile} tree
 * @returns {Names}
 */
function ownNames(tree) {
  const specifiers = tree.statements.flatMap((statement) => (isList(statement) && !statement.moduleSpecifier ? exportsOf(statement) : []));
  const taken = new Set(specifiers.map(({ name }) => name.text));
  return new Map(
    specifiers.flatMap(({ name, propertyName }) => (propertyName && !taken.has(propertyName.text) ? [[name.text, propertyName.text]] : [])),
  );
}

/** @type {(node: ts.Statement) => node is ts.ExportDeclaration & { exportClause: ts.NamedExports }} */
const isList = (node) => ts.isExportDeclaration(node) && node.exportClause !== undefined && ts.isNamedExports(node.exportClause);
/** @type {(node: ts.ExportDeclaration & { exportClause: ts.NamedExports }) => readonly ts.ExportSpecifier[]} */
const exportsOf = (node) => node.exportClause.elements;

/**
 * @param {ts.SourceFile} tree
 * @param {ts.Statement} statement
 * @param {ReadonlyMap<string, Names>} renamed
 * @returns {Edit[]}
 */
function compactStatement(tree, statement, renamed) {
  /** @type {(specifier: ts.Expression) => Names | undefined} */
  const namesOf = (specifier) =>
    ts.isStringLiteral(specifier) ? renamed.get(join(dirname(tree.fileName), specifier.text.replace(/\.js$/, '.d.ts'))) : undefined;
  if (ts.isImportDeclaration(statement)) {
    const bindings = statement.importClause?.namedBindings;
    const names = namesOf(statement.moduleSpecifier);
    if (!names || !bindings || !ts.isNamedImports(bindings)) return [];
    return bindings.elements.flatMap((one) => withSource(one, names.get((one.propertyName ?? one.name).text)));
  }
  if (!isList(statement)) return [];
  if (statement.moduleSpecifier) {
    const names = namesOf(statement.moduleSpecifier);
    return exportsOf(statement).flatMap((one) => withSource(one, names?.get((one.propertyName ?? one.name).text)));
  }
  /** @type {Edit[]} */
  const inPlace = [];
  /** @type {string[]} */
  const left = [];
  for (const one of exportsOf(statement)) {
    const local = (one.propertyName ?? one.name).text;
    const exported = renamed.get(tree.fileName)?.get(one.name.text) ?? one.name.text;
    const typeOnly = one.isTypeOnly || statement.isTypeOnly;
    const places = exported === local ? declarations(tree, local, typeOnly) : undefined;
    if (places) inPlace.push(...places.map((at) => ({ from: at, to: at, text: 'export ' })));
    else left.push(`${typeOnly ? 'type ' : ''}${local}${exported === local ? '' : ` as ${exported}`}`);
  }
  // Without any list, all declarations of a .d.ts file count as exported: an empty one stays.
  const list = left.length > 0 ? `export { ${left.join(', ')} };` : 'export {};';
  return [...inPlace, { from: statement.getStart(tree), to: statement.end, text: list }];
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
  const found = tree.statements.filter((statement) => {
    if (ts.isVariableStatement(statement)) return statement.declarationList.declarations.some((one) => one.name.getText(tree) === name);
    const declared = /** @type {{ name?: ts.Node }} */ (/** @type {unknown} */ (statement)).name;
    return declared !== undefined && ts.isIdentifier(declared) && declared.text === name;
  });
  const fits = found.every((statement) => {
    if (ts.isInterfaceDeclaration(statement) || ts.isTypeAliasDeclaration(statement)) return true;
    if (typeOnly) return false;
    if (ts.isVariableStatement(statement)) return statement.declarationList.declarations.length === 1;
    return ts.isFunctionDeclaration(statement) || ts.isClassDeclaration(statement);
  });
  return found.length > 0 && fits ? found.map((statement) => statement.getStart(tree)) : undefined;
}

/**
 * The specifier `E as X` of a file that now exports E as `source`.
 * @param {ts.ImportSpecifier | ts.ExportSpecifier} one
 * @param {string | undefined} source
 * @returns {Edit[]}
 */
function withSource(one, source) {
  if (source === undefined) return [];
  const text = `${one.isTypeOnly ? 'type ' : ''}${source === one.name.text ? source : `${source} as ${one.name.text}`}`;
  return [{ from: one.getStart(), to: one.end, text }];
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
  for (const [path, text] of compactDeclarations(files, new Set(entries))) writeFileSync(path, text);
}
