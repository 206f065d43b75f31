// @ts-check
// Links between files of the repository, as links between pages of the site. A file that is no page, such as a source that a text names, becomes one.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { folders, pages, root } from '../pages.mjs';

/** @type {(source: string, hash: string) => string | undefined} */
function pageOf(source, hash) {
  const of = pages.filter((page) => page.source === source);
  const whole = of.find(({ section }) => section === undefined);
  const part = of.find(({ section }) => section !== undefined && `#${section.toLowerCase()}` === hash);
  if (part) return part.route;
  return whole ? `${whole.route}${hash}` : undefined;
}

/**
 * @param {string} target as written
 * @param {string} from file of the repository
 * @param {(path: string) => string} other route of a file or folder that is no page
 * @returns {string | undefined} an address in the site, from its root; undefined for what is not a file of the repository
 */
export function routeOf(target, from, other) {
  if (/^[a-z][a-z+.-]*:/i.test(target) || target.startsWith('#')) return undefined;
  const [path = '', fragment] = target.split('#');
  const hash = fragment === undefined ? '' : `#${fragment}`;
  const file = normalize(join(dirname(from), path))
    .replaceAll('\\', '/')
    .replace(/\/$/, '');
  if (relative(root, join(root, file)).startsWith('..')) throw new Error(`${from}: ${target} leads out of the repository`);
  if (!existsSync(join(root, file))) throw new Error(`${from}: there is no ${file} (link to ${target})`);
  if (file === 'docs/decisions') return '/decisions/';
  if (file === 'docs/api') return '/api/';
  const folder = folders.get(file);
  if (folder !== undefined) return `/${folder}${hash}`;
  const page = pageOf(file, hash);
  if (page !== undefined) return `/${page}`;
  if (file === 'README.md') return `/compatibility${hash}`;
  return `/${other(file)}`;
}

/** @type {(path: string) => string[]} what a folder of the repository holds; folders end in a slash */
export function listFolder(path) {
  return readdirSync(join(root, path), { withFileTypes: true })
    .filter(({ name }) => !['node_modules', 'dist', '.turbo'].includes(name))
    .map((entry) => `${entry.name}${entry.isDirectory() ? '/' : ''}`)
    .sort();
}

/** @type {(path: string) => boolean} */
export const isFolder = (path) => statSync(join(root, path)).isDirectory();

/**
 * Applies `change` to a Markdown text in which code is put aside, so that a link whose words have code in them is seen whole.
 * @param {string} text
 * @param {(prose: string) => string} change
 */
export function outsideCode(text, change) {
  /** @type {string[]} */
  const code = [];
  /** @type {(found: string) => string} */
  const aside = (found) => `\ue000${code.push(found) - 1}\ue001`;
  const prose = text
    .replace(/^( {0,3})(`{3,})[^\n]*\n[\s\S]*?^ {0,3}\2[ \t]*$/gm, aside)
    .replace(/(?<!`)(`+)(?!`)[^\ue000]*?(?<!`)\1(?!`)/g, aside);
  return change(prose).replace(/\ue000(\d+)\ue001/g, (_, i) => code[i] ?? '');
}
