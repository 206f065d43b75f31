// The work while it is done: how far it is, for eyes and for screen readers.

import { find } from '../../dom.ts';
import { announce } from '../../notices.ts';
import type { Progress } from '../../protocol.ts';

export interface WorkBar {
  begin(): void;
  onProgress(progress: Progress): void;
  end(): void;
}

/** `cancel` is asked for. */
export function createWorkBar(cancel: () => void): WorkBar {
  const work = find('work');
  let quarter = 0;

  find('cancel').addEventListener('click', () => {
    show('Cancelling…', undefined);
    cancel();
  });

  function show(text: string, part: number | undefined): void {
    find('work-text').textContent = part === undefined ? text : `${Math.floor(100 * part)} %  ${text}`;
    if (part !== undefined) find<HTMLProgressElement>('work-bar').value = part;
  }

  return {
    begin() {
      work.hidden = false;
      show('Starting…', 0);
      find('cancel').focus();
      announce('Quantizing.');
      quarter = 0;
    },
    onProgress(progress) {
      if (progress.kind !== 'progress') return;
      const part = progress.total > 0 ? progress.done / progress.total : 0;
      show(progress.item ?? progress.phase, part);
      if (Math.floor(4 * part) <= quarter || part >= 1) return;
      quarter = Math.floor(4 * part);
      announce(`${25 * quarter} percent.`);
    },
    end() {
      work.hidden = true;
    },
  };
}
