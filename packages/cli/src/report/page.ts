// The report: one HTML file that asks nothing of any network and runs nothing. From data to text, nothing else.

import { createHash } from 'node:crypto';
import { countText } from '../units.ts';
import type { QualityReport, Sample } from './data.ts';
import { frontierPlot } from './frontier.ts';
import { htmlTable, safe } from './html.ts';
import { heatMap, histogram } from './layers.ts';
import { qualityTable } from './quality-table.ts';
import { STYLE } from './style.ts';

/** The one style sheet is named by its digest; anything else, scripts, images, addresses, the browser refuses. */
const POLICY = `default-src 'none'; style-src 'sha256-${createHash('sha256').update(STYLE).digest('base64')}'; base-uri 'none'; form-action 'none'`;

/** The text of the file. */
export function reportHtml(report: QualityReport): string {
  const { model, reference, text, date, comparison, sensitivities, frontier, recipe, samples } = report;
  const { kl, klStderr, size, linears = [], tokens } = comparison;
  const bits = size.model.bitsPerWeight ?? size.model.bitsPerParameter;
  const own = { name: model, bitsPerWeight: bits, kl, klStderr };
  const sections: [title: string, body: string][] = [
    [
      'What was lost',
      `${htmlTable(
        ['', 'original', 'quantized'],
        qualityTable(comparison).map((row) => row.map(safe)),
      )}<p class="soft">${safe(text)}, ${countText(tokens)} tokens scored in windows of ${countText(comparison.contextLength)}; ± is one standard error, tokens taken as independent.</p>`,
    ],
    ['Loss against size', frontierPlot(frontier, own)],
  ];
  if (linears.length > 0) {
    const outputs = linears.map(({ path, outputError }) => ({ path, value: outputError }));
    sections.push([
      'Errors by layer',
      `<p class="soft">E|(W − W′)x|² / E|Wx|², for inputs of the text.</p>${heatMap(outputs, 'output error')}`,
    ]);
    sections.push(['Errors of weights', histogram(linears)]);
  }
  if (sensitivities.length > 0) {
    const costs = sensitivities.map(({ path, sensitivity }) => ({ path, value: sensitivity }));
    sections.push([
      'What errors would cost',
      `<p class="soft">Nats for a relative squared error of 1 in a linear.</p>${heatMap(costs, 'sensitivity')}`,
    ]);
  }
  if (samples.length > 0) sections.push(['The same prompts', samples.map(samplePair).join('')]);
  if (recipe !== null) sections.push(['Recipe', `<pre>${safe(recipe)}</pre>`]);
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>${safe(model)}: what was lost</title>
<style>${STYLE}</style></head>
<body><main><h1>${safe(model)}</h1>
<p class="soft">against ${safe(reference)}, measured by lowbit on ${safe(date)}; ${safe(comparison.backend.name)} (${safe(comparison.backend.device)})</p>
${sections.map(([title, body]) => `<section><h2>${safe(title)}</h2>${body}</section>`).join('\n')}
</main></body></html>
`;
}

/** Both texts, marked from where they part. */
function samplePair({ prompt, original, quantized }: Sample): string {
  const [a, b] = [[...original], [...quantized]];
  let same = 0;
  while (same < a.length && same < b.length && a[same] === b[same]) same++;
  const side = (name: string, text: readonly string[]): string => {
    const rest = text.slice(same).join('');
    return `<div><p class="soft">${name}</p><p class="text">${safe(text.slice(0, same).join(''))}${rest === '' ? '' : `<mark>${safe(rest)}</mark>`}</p></div>`;
  };
  return `<h3 class="text">${safe(prompt)}</h3><div class="pair">${side('original', a)}${side('quantized', b)}</div>`;
}
