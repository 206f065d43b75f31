import type { MarkdownRenderer } from 'vitepress';

/** A block of Python and the block of TypeScript right after it stand beside each other where there is room. */
export function sideBySide(md: MarkdownRenderer): void {
  md.core.ruler.push('side-by-side', ({ tokens, Token }) => {
    for (let i = tokens.length - 2; i >= 0; i--) {
      const [python, ts] = [tokens[i]!, tokens[i + 1]!];
      if (python.type !== 'fence' || ts.type !== 'fence' || python.info.trim() !== 'python' || ts.info.trim() !== 'ts') continue;
      const [open, close] = [new Token('html_block', '', 0), new Token('html_block', '', 0)];
      open.content = '<div class="side-by-side">';
      close.content = '</div>';
      tokens.splice(i + 2, 0, close);
      tokens.splice(i, 0, open);
    }
  });
}

/** Braces in a text are braces, to Vue, too. */
export function plainBraces(md: MarkdownRenderer): void {
  md.renderer.rules.text = (tokens, index) => md.utils.escapeHtml(tokens[index]!.content).replaceAll('{', '&#123;');
}
