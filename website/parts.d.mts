interface Entry {
  readonly name: string;
  readonly source: string;
}

export function checkSite(dir: string): { readonly problems: string[]; readonly count: number };
export const pages: readonly { readonly text: string; readonly source: string; readonly route: string }[];
export function publicEntries(): Entry[];
export function undocumented(entries?: Entry[], options?: { readonly tsconfig?: string; readonly basePath?: string }): Promise<string[]>;
export function documentedCodes(text: string): string[];
export function errorCodes(): ReadonlyMap<string, readonly string[]>;
