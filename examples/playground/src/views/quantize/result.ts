// What came of the work.

import { button, find, html } from '../../dom.ts';
import { announce } from '../../notices.ts';
import type { Quantized } from '../../protocol.ts';
import type { App } from '../../state.ts';
import { bytesText, percentText, secondsText } from '../../text.ts';
import { errorPlot } from '../error-plot.ts';

export function showResult(app: App, done: Quantized): void {
  const result = find('result');
  const talk = button('Talk to it', { class: 'primary' }, () => app.talk({ kind: 'saved', name: done.name }));
  result.replaceChildren(
    html('h3', { tabindex: -1 }, `Saved as ${done.name}`),
    html(
      'p',
      {},
      `${done.linears.length} layers in ${secondsText(done.ms)}, ${bytesText(done.bytes)} with its tokenizer. Weights differ by ${percentText(done.error)}.`,
      done.resumed > 0 && ` ${done.resumed} steps were done by an earlier run.`,
    ),
    errorPlot(done.linears),
    html('div', { class: 'actions' }, talk),
  );
  result.hidden = false;
  announce(`Done: ${done.linears.length} layers quantized in ${secondsText(done.ms)}, saved as ${done.name}.`);
  result.querySelector('h3')?.focus();
}

export function hideResult(): void {
  find('result').hidden = true;
}
