// Models that are saved in this browser.

import { button, find, html } from '../dom.ts';
import { announce, clearError, showError } from '../notices.ts';
import type { SavedModel } from '../protocol.ts';
import type { App } from '../state.ts';
import { bytesText } from '../text.ts';

const PLACES = { opfs: 'the private files of this site', cache: 'the cache of this site' } as const;

export function createSaved(app: App): { refresh(): Promise<void> } {
  const list = find('saved');
  const hint = find('saved-hint');
  const error = find('saved-error');

  async function refresh(): Promise<void> {
    clearError(error);
    try {
      app.library = await app.call('library', {});
    } catch (problem) {
      app.library = undefined;
      showError(error, problem);
      return;
    }
    const { models, place } = app.library;
    list.replaceChildren(...models.map(item));
    list.hidden = models.length === 0;
    const total = models.reduce((sum, { bytes }) => sum + bytes, 0);
    hint.textContent =
      models.length === 0
        ? 'Nothing yet. Quantized models are kept here, also when the tab is closed.'
        : `${bytesText(total)} in ${PLACES[place]}. No other site, and no server, sees them.`;
  }

  function item({ name, state, bytes }: SavedModel): HTMLElement {
    const unfinished = state === 'unfinished';
    return html(
      'li',
      {},
      html(
        'div',
        { class: 'saved-text' },
        html('span', { class: 'saved-name' }, name),
        html(
          'span',
          { class: 'saved-size' },
          unfinished ? `unfinished, ${bytesText(bytes)}: quantize again with the same settings to go on` : bytesText(bytes),
        ),
      ),
      html(
        'div',
        { class: 'saved-actions' },
        !unfinished && button('Talk', { 'aria-label': `Talk to ${name}` }, () => app.talk({ kind: 'saved', name })),
        button(
          unfinished ? 'Discard' : 'Delete',
          { class: 'quiet danger', 'aria-label': `${unfinished ? 'Discard unfinished' : 'Delete'} ${name}` },
          () => remove(name, unfinished),
        ),
      ),
    );
  }

  async function remove(name: string, unfinished: boolean): Promise<void> {
    if (!unfinished && !confirm(`Delete ${name} from this browser?`)) return;
    try {
      await app.call('remove', { name, ...(unfinished && { only: 'unfinished' as const }) });
      await refresh();
      announce(`${name} is deleted.`);
      find('saved-title').focus();
    } catch (problem) {
      showError(error, problem);
    }
  }

  return { refresh };
}
