// @ts-check
// What a built site must keep: every link and anchor leads somewhere, and a browser is told to fetch nothing from another host.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';

/** @type {(text: string) => string} */
const plain = (text) => text.replaceAll('&amp;', '&').replaceAll('&quot;', '"').replaceAll('&#39;', "'");

/**
 * @param {string} dir of the built site
 * @returns {{ readonly problems: string[], readonly count: number }}
 */
export function checkSite(dir) {
  const files = readdirSync(dir, { recursive: true, encoding: 'utf8' }).map((name) => name.replaceAll('\\', '/'));
  const html = new Map(files.filter((name) => name.endsWith('.html')).map((name) => [name, readFileSync(join(dir, name), 'utf8')]));
  const ids = new Map(
    [...html].map(([name, text]) => [name, new Set([...text.matchAll(/\sid="([^"]*)"/g)].map(([, id = '']) => plain(id)))]),
  );
  /** @type {string[]} */
  const problems = [];
  for (const [name, text] of html) {
    // Of a theme that is not itself any more.
    const shown = /\{\{[^{}]*\}\}/.exec(text.replace(/<(script|style|pre|code)\b[\s\S]*?<\/\1>/g, ''));
    if (shown) problems.push(`${name}: shows a template, ${shown[0]}`);
    if (name === '404.html') continue;
    for (const [, target = ''] of text.matchAll(/<a\b[^>]*?\shref="([^"]*)"/g)) {
      const problem = linkProblem(plain(target), name, ids, dir);
      if (problem) problems.push(`${name}: ${problem}`);
    }
    for (const [tag] of text.matchAll(/<(?:script|link|img|source|iframe|video|audio|object|embed)\b[^>]*>/g)) {
      if (/\s(?:src|href|data)="(?:https?:)?\/\//.test(tag)) problems.push(`${name}: fetches from another host: ${tag}`);
    }
  }
  for (const name of files.filter((file) => file.endsWith('.css'))) {
    const found = /(?:url\(\s*["']?|@import\s+["'])(?:https?:)?\/\/[^)"']*/.exec(readFileSync(join(dir, name), 'utf8'));
    if (found) problems.push(`${name}: fetches from another host: ${found[0]}`);
  }
  return { problems: [...new Set(problems)], count: html.size };
}

/** @type {(target: string, from: string, ids: ReadonlyMap<string, ReadonlySet<string>>, dir: string) => string | undefined} */
function linkProblem(target, from, ids, dir) {
  if (/^[a-z][a-z+.-]*:/i.test(target)) return undefined;
  const [path = '', hash = ''] = target.split('#');
  const absolute = path === '' ? from : path.startsWith('/') ? path.slice(1) : posix.join(dirname(from), path);
  const file = absolute === '' || absolute.endsWith('/') ? `${absolute}index.html` : absolute;
  const page = ids.get(decodeURI(file));
  if (page === undefined) return existsSync(join(dir, decodeURI(file))) ? undefined : `a link to ${target}, which is not there`;
  return hash === '' || page.has(decodeURIComponent(hash)) ? undefined : `a link to ${target}, and ${file} has no such anchor`;
}
