// @ts-check
// Proves the shape of the repository: packages form a star around @lowbit/core (and few foundations), and core's contracts stand alone.
//
// Usage: node tools/check-layers.mjs [ROOT]. Prints `file:line: problem. Remedy` per violation and exits 1 when there is one.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import ts from 'typescript';

/** @typedef {{ rule: string, file: string, line: number, message: string }} Violation */
/** @typedef {{ name?: string } & Partial<Record<DependencyField, Record<string, string>>>} Manifest */
/** @typedef {'dependencies' | 'peerDependencies' | 'optionalDependencies' | 'devDependencies'} DependencyField */
/** @typedef {{ specifier: string, line: number }} Import */

const core = '@lowbit/core';
/** The conformance kit: a library like the others, that the tests of all packages, core's too, may import. */
const kit = '@lowbit/testing';
/** What packages of one kind share, beside core: a library may depend on them, they on core alone. */
const foundations = new Set(['@lowbit/addon']);
/** Not published: compiled into the libraries that import them, which name them in devDependencies. They depend on core alone, too. */
export const compiledIn = new Set(['@lowbit/layouts', '@lowbit/program']);
const maxLines = 700;
/** Directories under packages/ that put the libraries together, and may therefore use all of them. */
const assemblies = new Set(['cli']);
/** Directories of ordinary code outside of packages/. */
const otherRoots = ['tools', 'scripts', 'e2e', 'examples', 'bench', 'fuzz', 'website'];
const skipped = new Set(['node_modules', 'dist', 'coverage', 'fixtures', 'data', '.turbo']);
/** @type {readonly DependencyField[]} */
const runtimeFields = ['dependencies', 'peerDependencies', 'optionalDependencies'];
const builtins = new Set(builtinModules);

/** @param {string} specifier */
const isOurs = (specifier) => /^(?:@lowbit\/|lowbit(?:\/|$))/.test(specifier);
/** @param {string} specifier */
const isBuiltin = (specifier) => specifier.startsWith('node:') || builtins.has(specifier);
/** @param {string} file */
const isTest = (file) => /\.test\.[cm]?[jt]sx?$/.test(file);
/** @param {string} specifier */
const packageName = (specifier) =>
  specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');

/**
 * @param {string} dir
 * @returns {string[]} source files below it
 */
function sources(dir) {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    if (skipped.has(entry.name)) return [];
    const path = join(dir, entry.name);
    if (entry.isDirectory()) return sources(path);
    return /\.[cm]?[jt]sx?$/.test(entry.name) ? [path] : [];
  });
}

/**
 * Every module a file names: static, type-only, re-exported, dynamic, `import('x').T` and require.
 * @param {string} file
 * @param {string} text
 * @returns {Import[]}
 */
export function importsOf(file, text) {
  const tree = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, false);
  /** @type {Import[]} */
  const found = [];
  /** @param {ts.Node | undefined} node */
  const add = (node) => {
    if (node && ts.isStringLiteralLike(node)) {
      found.push({ specifier: node.text, line: tree.getLineAndCharacterOfPosition(node.getStart(tree)).line + 1 });
    }
  };
  /** @param {ts.Node} node */
  const visit = (node) => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) add(node.moduleSpecifier);
    else if (ts.isExternalModuleReference(node)) add(node.expression);
    else if (ts.isImportTypeNode(node)) add(ts.isLiteralTypeNode(node.argument) ? node.argument.literal : undefined);
    else if (ts.isCallExpression(node)) {
      const { expression } = node;
      const loads = expression.kind === ts.SyntaxKind.ImportKeyword || (ts.isIdentifier(expression) && expression.text === 'require');
      if (loads) add(node.arguments[0]);
    }
    ts.forEachChild(node, visit);
  };
  visit(tree);
  return found;
}

/** Parameters that are the datum itself, not a switch: a condition that is asserted, a value that is stored. */
const dataNames = new Set(['condition', 'value', 'fallback']);

/**
 * Switches that exported functions take by their place: a call `f(x, true)` does not say what is true. Functions within a file are left to the eye: their
 * calls are beside them.
 * @param {string} file
 * @param {string} text
 * @returns {{ name: string, parameter: string, line: number }[]}
 */
export function positionalSwitches(file, text) {
  const tree = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  /** @type {(node: ts.TypeNode | undefined) => boolean} */
  const isBoolean = (node) =>
    node !== undefined && (node.kind === ts.SyntaxKind.BooleanKeyword || (ts.isUnionTypeNode(node) && node.types.some(isBoolean)));
  /** @type {(parameter: ts.ParameterDeclaration) => boolean} */
  const isSwitch = ({ name, type, initializer }) =>
    ts.isIdentifier(name) &&
    !dataNames.has(name.text) &&
    (isBoolean(type) || initializer?.kind === ts.SyntaxKind.TrueKeyword || initializer?.kind === ts.SyntaxKind.FalseKeyword);
  /** @type {(node: ts.HasModifiers) => boolean} */
  const isExported = (node) => node.modifiers?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword) === true;
  /** @type {{ name: string, parameter: string, line: number }[]} */
  const found = [];
  /** @type {(name: string, parameters: readonly ts.ParameterDeclaration[]) => void} */
  const look = (name, parameters) => {
    for (const parameter of parameters.filter(isSwitch)) {
      const line = tree.getLineAndCharacterOfPosition(parameter.getStart(tree)).line + 1;
      found.push({ name, parameter: parameter.name.getText(tree), line });
    }
  };
  for (const statement of tree.statements) {
    if (ts.isFunctionDeclaration(statement) && isExported(statement)) look(statement.name?.text ?? 'default', statement.parameters);
    if (ts.isVariableStatement(statement) && isExported(statement)) {
      for (const { name, initializer } of statement.declarationList.declarations) {
        if (initializer && (ts.isArrowFunction(initializer) || ts.isFunctionExpression(initializer)))
          look(name.getText(tree), initializer.parameters);
      }
    }
    if (ts.isClassDeclaration(statement) && isExported(statement)) {
      for (const member of statement.members) {
        const hidden = ts.canHaveModifiers(member) && member.modifiers?.some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword);
        if (!ts.isMethodDeclaration(member) || hidden || ts.isPrivateIdentifier(member.name)) continue;
        look(`${statement.name?.text}.${member.name.getText(tree)}`, member.parameters);
      }
    }
  }
  return found;
}

/**
 * @param {string} root of the repository
 * @returns {Violation[]}
 */
export function checkLayers(root) {
  /** @type {Violation[]} */
  const violations = [];
  /** @type {(rule: string, file: string, line: number, message: string) => void} */
  const report = (rule, file, line, message) => {
    violations.push({ rule, file: relative(root, file).split(sep).join('/'), line, message });
  };

  /** @type {(file: string, text: string) => void} */
  const checkLength = (file, text) => {
    const lines = text.split('\n').length - (text.endsWith('\n') ? 1 : 0);
    if (lines > maxLines) report('length', file, lines, `${lines} lines, more than ${maxLines}. Split it: one idea per file`);
  };

  const packages = join(root, 'packages');
  for (const dir of existsSync(packages) ? readdirSync(packages) : []) {
    const home = join(packages, dir);
    const manifestFile = join(home, 'package.json');
    if (!existsSync(manifestFile)) continue;
    const manifestText = readFileSync(manifestFile, 'utf8');
    /** @type {Manifest} */
    const manifest = JSON.parse(manifestText);
    const pkg = { dir, home, src: join(home, 'src'), manifest, library: !assemblies.has(dir) };
    checkManifest(pkg, manifestFile, manifestText, report);
    for (const file of sources(pkg.src)) {
      const text = readFileSync(file, 'utf8');
      checkLength(file, text);
      for (const item of importsOf(file, text)) checkImport(pkg, file, item, report);
      if (isTest(file)) continue;
      for (const { name, parameter, line } of positionalSwitches(file, text)) {
        report('switch', file, line, `${name} takes the boolean ${parameter} by its place. Take it in an options object, by its name`);
      }
    }
  }
  for (const file of otherRoots.flatMap((name) => sources(join(root, name)))) checkLength(file, readFileSync(file, 'utf8'));
  return violations;
}

/** @typedef {{ dir: string, home: string, src: string, manifest: Manifest, library: boolean }} Package */
/** @typedef {(rule: string, file: string, line: number, message: string) => void} Report */

/** @type {(pkg: Package, file: string, text: string, report: Report) => void} */
function checkManifest(pkg, file, text, report) {
  if (!pkg.library) return;
  const rows = text.split('\n');
  for (const field of [...runtimeFields, /** @type {const} */ ('devDependencies')]) {
    const start = rows.findIndex((row) => row.includes(`"${field}"`));
    for (const name of Object.keys(pkg.manifest[field] ?? {})) {
      const line = rows.findIndex((row, index) => index >= start && row.includes(`"${name}"`)) + 1;
      if (pkg.manifest.name === core && (isOurs(name) || field !== 'devDependencies')) {
        report('core-dependency', file, line, `core depends on ${name}. Core has no dependencies: remove it, or move the code out of core`);
      } else if (compiledIn.has(name) && field !== 'devDependencies') {
        report('compiled-in', file, line, `${name} is not published. Move it to devDependencies: the build compiles it in`);
      } else if (isOurs(name) && !isBelow(pkg.manifest.name, name)) {
        const remedy = `Put the shared part into ${core}, or combine the two in the cli`;
        report(
          'star',
          file,
          line,
          `${pkg.manifest.name} depends on ${name}; a library may depend on ${core} and foundations alone. ${remedy}`,
        );
      }
    }
  }
}

/** @type {(name: string | undefined, other: string) => boolean} whether a library may depend on another */
function isBelow(name, other) {
  const low = (/** @type {string} */ one) => foundations.has(one) || compiledIn.has(one);
  return other === core || (low(other) && name !== undefined && !low(name));
}

/** @type {(manifest: Manifest, name: string) => boolean} whether what a package imports is there where it is installed */
function declares(manifest, name) {
  const fields = compiledIn.has(name) ? /** @type {const} */ (['devDependencies']) : runtimeFields;
  return fields.some((field) => manifest[field]?.[name] !== undefined);
}

/** @type {(pkg: Package, file: string, item: Import, report: Report) => void} */
function checkImport(pkg, file, { specifier, line }, report) {
  const self = pkg.manifest.name ?? pkg.dir;
  const inSpec = self === core && file.startsWith(join(pkg.src, 'spec') + sep);

  if (specifier.startsWith('.')) {
    const target = resolve(dirname(file), specifier);
    if (!target.startsWith(pkg.home + sep)) {
      const fixture = isTest(file) && target.startsWith(join(dirname(dirname(pkg.home)), 'fixtures') + sep);
      if (!fixture)
        report('outside', file, line, `imports '${specifier}' from outside of its package. Import the other package by its name`);
    } else if (/^index(?:\.[cm]?[jt]s)?$/.test(relative(pkg.src, target)) || target === pkg.src) {
      report('barrel', file, line, "imports its own package's barrel. Import the module that defines the name");
    } else if (inSpec && !target.startsWith(join(pkg.src, 'spec') + sep)) {
      report(
        'spec',
        file,
        line,
        `spec imports '${specifier}'. src/spec imports only src/spec: move the type into spec, or this code out of it`,
      );
    }
    return;
  }

  if (isBuiltin(specifier)) {
    if (pkg.library && !isTest(file) && !/\.node\.[cm]?ts$/.test(file)) {
      report('node', file, line, `imports '${specifier}'. Only *.node.ts, tests and the cli use Node: move this part to a *.node.ts file`);
    }
    return;
  }

  const name = packageName(specifier);
  if (name === self) {
    report('barrel', file, line, `imports its own package by name ('${specifier}'). Import the module that defines the name`);
  } else if ((name === kit || compiledIn.has(name)) && isTest(file)) {
    // Resolved to its source from the root, never declared: the kit depends on core, and a cycle would leave the build without an order.
  } else if (isOurs(specifier) && self === core) {
    report('core-import', file, line, `core imports '${specifier}'. Core knows none of our packages: move the shared part into core`);
  } else if (isOurs(specifier) && pkg.library && !isBelow(self, name)) {
    const remedy = `Put the shared part into ${core}, or combine the two in the cli`;
    report('star', file, line, `imports '${specifier}'; a library may import ${core} and foundations alone. ${remedy}`);
  } else if (inSpec && !isTest(file)) {
    report('spec', file, line, `spec imports '${specifier}'. src/spec imports only src/spec`);
  } else if (!isTest(file) && !declares(pkg.manifest, name)) {
    const remedy = self === core ? 'Core has no dependencies: take it as an argument' : 'Declare it in package.json';
    report('undeclared', file, line, `imports '${specifier}', which package.json does not declare. ${remedy}`);
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(resolve(process.argv[1])).href) {
  const root = resolve(process.argv[2] ?? fileURLToPath(new URL('..', import.meta.url)));
  const violations = checkLayers(root);
  for (const { rule, file, line, message } of violations) console.error(`${file}:${line}: ${message} [${rule}]`);
  if (violations.length > 0) {
    console.error(`layers: ${violations.length} violation${violations.length === 1 ? '' : 's'}`);
    process.exitCode = 1;
  } else console.log('layers: ok');
}
