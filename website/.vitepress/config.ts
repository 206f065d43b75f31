import { readFileSync } from 'node:fs';
import { type DefaultTheme, defineConfig } from 'vitepress';
import { sections } from '../pages.mjs';
import { plainBraces, sideBySide } from './markdown.ts';

const api: readonly string[] = JSON.parse(readFileSync(new URL('../.site/api.json', import.meta.url), 'utf8'));

const sidebar: DefaultTheme.SidebarItem[] = [
  ...sections.map(({ text, pages }, i) => ({
    text,
    collapsed: i > 5,
    items: pages.map((page) => ({ text: page.text, link: `/${page.route}` })),
  })),
  {
    text: 'Interfaces',
    collapsed: true,
    items: [{ text: 'All', link: '/api/' }, ...api.map((name) => ({ text: name, link: `/api/${name}` }))],
  },
];

/** As GitHub makes anchors of headings, so that a link to one works there and here. */
function slugify(text: string): string {
  return text
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .replace(/\s/g, '-');
}

export default defineConfig({
  title: 'lowbit',
  description: 'Quantization of large language models in TypeScript',
  lang: 'en',
  srcDir: '.site',
  srcExclude: ['public/**'],
  base: process.env.LOWBIT_DOCS_BASE ?? '/',
  head: [['link', { rel: 'icon', href: 'data:,' }]],
  // Nothing of the site changes with the time or the machine that it is built on.
  lastUpdated: false,
  metaChunk: true,
  vite: { build: { chunkSizeWarningLimit: 4096 } },
  markdown: {
    theme: { light: 'github-light-high-contrast', dark: 'github-dark' },
    anchor: { slugify },
    headers: { slugify },
    toc: { slugify },
    config(md) {
      plainBraces(md);
      sideBySide(md);
    },
  },
  themeConfig: {
    nav: [
      { text: 'Start', link: '/start' },
      { text: 'Errors', link: '/errors' },
      { text: 'Interfaces', link: '/api/' },
    ],
    sidebar,
    outline: { level: [2, 3] },
    search: { provider: 'local', options: { miniSearch: { searchOptions: { boost: { title: 4, text: 2, titles: 1 } } } } },
    docFooter: { prev: 'Before', next: 'Next' },
  },
});
