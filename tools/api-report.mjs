// @ts-check
// The public interface of each published package as one reviewed file: what its declarations say, without comments, in the order of names. A change of it is a
// change that users can see.
//
// Usage: node tools/api-report.mjs [--write]. Needs the build. Without --write it prints what differs from docs/api and exits 1 where something does.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import ts from 'typescript';

const root = fileURLToPath(new URL('..', import.meta.url));
const reports = join(root, 'docs', 'api');

/** @typedef {{ readonly name: string, readonly text: string }} Report */

/** @type {(statement: ts.Statement) => string} the first name that a statement declares; what declares none comes last */
function nameOf(statement) {
  if (ts.isVariableStatement(statement)) return statement.declarationList.declarations[0]?.name.getText() ?? '';
  const { name } = /** @type {{ name?: ts.Node }} */ (/** @type {unknown} */ (statement));
  return name?.getText() ?? '\uffff';
}

/**
 * Declarations without comments, sorted by name.
 * @param {string} text of a `.d.ts`
 * @returns {string}
 */
export function bareDeclarations(text) {
  const file = ts.createSourceFile('index.d.ts', text, ts.ScriptTarget.Latest, true);
  const printer = ts.createPrinter({ removeComments: true, newLine: ts.NewLineKind.LineFeed });
  return file.statements
    .map((statement, index) => ({ name: nameOf(statement), index, text: printer.printNode(ts.EmitHint.Unspecified, statement, file) }))
    .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.index - b.index))
    .map((statement) => statement.text)
    .join('\n');
}

/** @type {(folder: string) => Report | undefined} of a package, if it is published */
function reportOf(folder) {
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  if (manifest.private) return undefined;
  const sections = Object.entries(manifest.exports).flatMap(([path, target]) => {
    const types = typeof target === 'string' ? undefined : target.types;
    if (types === undefined) return [];
    const text = readFileSync(join(folder, types), 'utf8');
    return [`## ${manifest.name}${path.slice(1)}\n\n\`\`\`ts\n${bareDeclarations(text)}\n\`\`\`\n`];
  });
  const head = `# ${manifest.name}\n\nWritten by \`node tools/api-report.mjs --write\`; CI compares it with the build.\n`;
  return { name: `${manifest.name.replace('@lowbit/', '')}.md`, text: [head, ...sections].join('\n') };
}

/** @returns {Report[]} of all packages. Throws where one is not built. */
export function apiReports() {
  return readdirSync(join(root, 'packages'))
    .map((name) => join(root, 'packages', name))
    .filter((folder) => existsSync(join(folder, 'package.json')))
    .flatMap((folder) => reportOf(folder) ?? []);
}

/** @returns {string[]} what differs between the build and docs/api */
export function apiDifferences() {
  const wanted = new Map(apiReports().map(({ name, text }) => [name, text]));
  const found = existsSync(reports) ? readdirSync(reports) : [];
  const changed = [...wanted].filter(([name, text]) => !found.includes(name) || readFileSync(join(reports, name), 'utf8') !== text);
  return [...changed.map(([name]) => name), ...found.filter((name) => !wanted.has(name))].sort();
}

function write() {
  rmSync(reports, { recursive: true, force: true });
  mkdirSync(reports, { recursive: true });
  for (const { name, text } of apiReports()) writeFileSync(join(reports, name), text);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  if (process.argv.includes('--write')) write();
  const differences = apiDifferences();
  for (const name of differences)
    console.error(`docs/api/${name} is not what the build declares. Look at the change, then node tools/api-report.mjs --write`);
  process.exitCode = differences.length > 0 ? 1 : 0;
}
