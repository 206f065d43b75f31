// @ts-check
// One file of the repository as the text of a page.
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { root } from '../pages.mjs';
import { outsideCode, routeOf } from './links.mjs';

/** @type {(text: string, heading: string) => string} a section of a text as a text of its own */
function sectionOf(text, heading) {
  const at = text.indexOf(`\n## ${heading}\n`);
  if (at < 0) throw new Error(`there is no section ${heading}`);
  const end = text.indexOf('\n## ', at + 1);
  return text.slice(at + 1, end < 0 ? undefined : end).replace(/^##/, '#');
}

/**
 * @param {import('../pages.mjs').Page} page
 * @param {(path: string) => string} other route of a file that is no page
 * @returns {string} Markdown; links lead to pages from the root of the site
 */
export function pageText({ source, section, text: title }, other) {
  let text = readFileSync(join(root, source), 'utf8').replaceAll('\r\n', '\n');
  if (section !== undefined) text = sectionOf(text, section).replace(/^# .*$/m, `# ${title}`);
  // `<!-- include: FILE#Section -->`: a section of another file, in the site alone.
  text = text.replace(/^<!-- include: ([^#\n]+)#(.+) -->$/gm, (_, file, heading) => {
    const part = sectionOf(readFileSync(join(root, file), 'utf8'), heading).replace(/^# .*\n+/, '');
    return linked(part, file, other).trim();
  });
  return linked(text, source, other);
}

/** @type {(text: string, source: string, other: (path: string) => string) => string} */
function linked(text, source, other) {
  return outsideCode(text, (prose) =>
    prose.replace(/<!--[\s\S]*?-->\n?/g, '').replace(/\]\((?!\/)([^)\s]+)\)/g, (whole, target) => {
      const route = routeOf(target, source, other);
      return route === undefined ? whole : `](${route})`;
    }),
  );
}

/** @type {Readonly<Record<string, string>>} */
const LANGUAGES = { mjs: 'js', cjs: 'js', cuh: 'cpp', cu: 'cpp', h: 'cpp', def: 'text', yml: 'yaml', txt: 'text' };

/** @type {(path: string, names?: readonly string[]) => string} the page of a file of the repository that a text names, or of a folder */
export function sourceText(path, names) {
  const head = `---\nsearch: false\noutline: false\n---\n\n# ${basename(path)}\n\n\`${path}\`, as it is in the repository.\n\n`;
  if (names) return `${head}${names.map((name) => `- \`${name}\``).join('\n')}\n`;
  if (!existsSync(join(root, path))) throw new Error(`there is no ${path}`);
  const text = readFileSync(join(root, path), 'utf8');
  if (text.length > 200_000 || text.includes('\0')) throw new Error(`${path} is no text that a page can have`);
  const ending = /\.(\w+)$/.exec(path)?.[1] ?? 'text';
  const fence = '`'.repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(([ticks]) => ticks.length + 1)));
  return `${head}${fence}${LANGUAGES[ending] ?? ending}\n${text.trimEnd()}\n${fence}\n`;
}
