// Choosing a model: the example, a folder, files, or a drop.

import { find, html } from '../dom.ts';
import { announce, clearError, showError } from '../notices.ts';
import type { Opened, Source } from '../protocol.ts';
import type { App } from '../state.ts';
import { bytesText, countText } from '../text.ts';
import { droppedSource } from './drop.ts';

type DirectoryPicker = (options: { readonly id: string; readonly mode: 'read' }) => Promise<FileSystemDirectoryHandle>;

export function createModelPicker(app: App): { choose(source: Source): Promise<void> } {
  const facts = find('model-facts');
  const error = find('model-error');
  const folderInput = find<HTMLInputElement>('folder-input');
  const filesInput = find<HTMLInputElement>('files-input');

  async function choose(source: Source): Promise<void> {
    clearError(error);
    facts.setAttribute('aria-busy', 'true');
    try {
      app.chosen = { source, facts: await app.call('open', { source }) };
      showFacts(facts, app.chosen.facts);
      find('pick-example').hidden = source.kind === 'example';
      app.offer();
      announce(`Model ${app.chosen.facts.label} is chosen.`);
      await app.replan();
    } catch (problem) {
      // The one before is let go: what stands below a bad file must not be about another one.
      app.chosen = undefined;
      app.offer();
      facts.replaceChildren();
      find('pick-example').hidden = false;
      await app.replan();
      showError(error, problem);
    } finally {
      facts.removeAttribute('aria-busy');
    }
  }

  find('pick-example').addEventListener('click', () => void choose({ kind: 'example' }));
  find('pick-files').addEventListener('click', () => filesInput.click());
  find('pick-folder').addEventListener('click', async () => {
    const pick = (window as { readonly showDirectoryPicker?: DirectoryPicker }).showDirectoryPicker;
    if (!pick) {
      folderInput.click();
      return;
    }
    try {
      await choose({ kind: 'directory', handle: await pick({ id: 'lowbit-model', mode: 'read' }) });
    } catch (problem) {
      if ((problem as Error).name !== 'AbortError') showError(error, problem); // AbortError: nothing was chosen
    }
  });
  for (const input of [folderInput, filesInput]) {
    input.addEventListener('change', () => {
      const files = [...(input.files ?? [])].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
      input.value = ''; // the same folder may be chosen again
      if (files.length > 0) void choose({ kind: 'files', files });
    });
  }

  const target = find('drop');
  target.addEventListener('dragover', (event) => {
    event.preventDefault();
    target.classList.add('over');
  });
  for (const type of ['dragleave', 'drop']) target.addEventListener(type, () => target.classList.remove('over'));
  target.addEventListener('drop', async (event) => {
    event.preventDefault();
    if (event.dataTransfer) await choose(await droppedSource(event.dataTransfer));
  });
  return { choose };
}

function showFacts(place: HTMLElement, { label, architecture, layers, parameters, bytes, layout }: Opened): void {
  const fact = (name: string, value: string) => html('div', {}, html('dt', {}, name), html('dd', {}, value));
  place.replaceChildren(
    html('p', { class: 'model-name' }, label),
    html(
      'dl',
      { class: 'figures' },
      fact('architecture', architecture),
      fact('layers', String(layers)),
      fact('parameters', countText(parameters)),
      fact('on disk', bytesText(bytes)),
      ...(layout === undefined ? [] : [fact('quantized', layout)]),
    ),
  );
}
