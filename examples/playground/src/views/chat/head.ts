// The line above a conversation: which model is open, and what can be done about it.

import { button, find, html } from '../../dom.ts';
import type { Loaded } from '../../protocol.ts';
import { bytesText } from '../../text.ts';

export interface Head {
  showClosed(offer: HTMLButtonElement): void;
  /** `again` opens the model that was lost, if one is known. */
  showLost(again: (() => unknown) | undefined): void;
  showLoading(cancel: () => void): void;
  showOpen(model: Loaded, close: () => unknown): void;
}

export function createHead(): Head {
  const head = find('chat-head');
  const hint = (text: string) => html('p', { class: 'hint' }, text);
  return {
    showClosed(offer) {
      head.classList.add('closed');
      head.replaceChildren(hint('No model is open. Open a saved one, or the chosen one as it is, to compare.'), offer);
    },
    showLost(again) {
      head.replaceChildren(hint('The model was closed.'), ...(again === undefined ? [] : [button('Open it again', {}, again)]));
    },
    showLoading(cancel) {
      head.replaceChildren(hint('Loading…'), button('Cancel', { class: 'quiet' }, cancel));
    },
    showOpen({ label, backend, weights }, close) {
      head.replaceChildren(
        html(
          'div',
          { class: 'chat-model' },
          html('span', { class: 'model-name' }, label),
          html('span', { class: 'saved-size' }, `${bytesText(weights)} of weights on the ${backend} backend`),
          backend.includes('reference') &&
            html('span', { class: 'saved-size' }, 'This backend is plain TypeScript, and slow. A browser with WebGPU is faster.'),
        ),
        button('Close', { class: 'quiet', 'aria-label': `Close ${label} and give its memory back` }, close),
      );
      head.classList.remove('closed');
    },
  };
}
