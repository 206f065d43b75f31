// @ts-check
// llms.txt (llmstxt.org): the site as a list of Markdown files, and as one of them.

/** @type {(text: string) => string} first paragraph of a page, in one line, links as their words */
function summaryOf(text) {
  const paragraph = text
    .replace(/^---\n[\s\S]*?\n---\n/, '')
    .split(/\n{2,}/)
    .map((part) => part.trim())
    .find((part) => part !== '' && !/^[#|`>:-]/.test(part));
  return (paragraph ?? '')
    .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/\s+/g, ' ')
    .trim();
}

/** @typedef {readonly import('../pages.mjs').Section[]} Sections */

/** @type {(sections: Sections, texts: ReadonlyMap<string, string>) => string} */
export function indexText(sections, texts) {
  const lists = sections.map(({ text, pages }) => {
    const items = pages.map((page) => `- [${page.text}](/${page.route}.md): ${summaryOf(texts.get(page.route) ?? '')}`);
    return `## ${text}\n\n${items.join('\n')}`;
  });
  const about =
    '> Quantization of large language models in TypeScript, for Node.js and the browser: HQQ, the formats of bitsandbytes, and HIGGS. No Python, no calibration data.';
  return `# lowbit\n\n${about}\n\nAll of it in one file: [llms-full.txt](/llms-full.txt).\n\n${lists.join('\n\n')}\n`;
}

/** @type {(sections: Sections, texts: ReadonlyMap<string, string>) => string} */
export function fullText(sections, texts) {
  return `${sections.flatMap(({ pages }) => pages.map(({ route }) => `<!-- /${route} -->\n\n${(texts.get(route) ?? '').trim()}`)).join('\n\n---\n\n')}\n`;
}
