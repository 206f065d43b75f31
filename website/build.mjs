// @ts-check
// Makes the site: node website/build.mjs [--out DIR] [--serve]. Pages are staged in website/.site, built by VitePress, and checked: a link or anchor that leads
// nowhere, or anything that would be fetched from another host, fails the build.
import { cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { build, serve } from 'vitepress';
import { checkSite } from './check.mjs';
import { pages, publishedPages, sections } from './pages.mjs';
import { writeApi } from './stage/api.mjs';
import { errorsText } from './stage/errors.mjs';
import { isFolder, listFolder } from './stage/links.mjs';
import { fullText, indexText } from './stage/llms.mjs';
import { pageText, sourceText } from './stage/text.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const { values } = parseArgs({
  options: { out: { type: 'string', default: join(here, 'dist') }, serve: { type: 'boolean', default: false } },
});
const outDir = resolve(values.out);
const staged = join(here, '.site');

/** @type {(route: string, text: string) => void} */
function put(route, text) {
  const file = join(staged, route);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
}

rmSync(staged, { recursive: true, force: true });
/** Files that are no pages and that a page names. @type {Map<string, string>} */
const others = new Map();
/** @type {(path: string) => string} */
const other = (path) => {
  const route = `source/${path.replaceAll('.', '-')}`; // VitePress takes an ending for a file's
  others.set(path, route);
  return route;
};

/** @type {Map<string, string>} */
const texts = new Map();
for (const page of pages) texts.set(page.route, page.route === 'errors' ? errorsText(pageText(page, other)) : pageText(page, other));
for (const [route, text] of texts) {
  put(`${route}.md`, text);
  // For those who read no HTML.
  put(
    `public/${route}.md`,
    text.replace(/\]\(\/([^)#]+)(#[^)]*)?\)/g, (link, to, hash = '') => (texts.has(to) ? `](/${to}.md${hash})` : link)),
  );
}
for (const [path, route] of others) put(`${route}.md`, sourceText(path, isFolder(path) ? listFolder(path) : undefined));
put(
  'decisions/index.md',
  `# Decisions\n\nWhat another engineer would ask about, one page each.\n\n${publishedPages('Decisions')
    .map(({ text, route }) => `- [${text}](/${route})`)
    .join('\n')}\n`,
);
const api = await writeApi(join(staged, 'api'));
cpSync(join(here, 'index.md'), join(staged, 'index.md'));
put('public/llms.txt', indexText(sections, texts));
put('public/llms-full.txt', fullText(sections, texts));
put('api.json', JSON.stringify(api));

await build(here, { outDir });
const { problems, count } = checkSite(outDir);
for (const problem of problems) console.error(problem);
if (problems.length > 0) throw new Error(`${problems.length} problems of ${count} pages`);
console.log(`${count} pages in ${outDir}: every link and anchor leads somewhere, nothing is fetched from another host`);
if (values.serve) {
  await serve({ root: here, port: 4173 });
}
