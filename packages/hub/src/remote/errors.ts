// What a hub's refusals mean, and what to do about them. Messages name addresses without their queries, which may hold signatures, and never a token.

import { isLowbitError, LowbitError } from '@lowbit/core';

/** Where a request went, as far as it may be told. */
export function placeOf(url: string): string {
  return url.replace(/[?#].*$/s, '');
}

/** The error for a response that is a refusal. `asked`: whose file or listing it was. */
export function refusal(
  response: Response,
  url: string,
  asked: { readonly repo: string; readonly endpoint: string; readonly token: boolean },
): LowbitError {
  const { status, headers } = response;
  const { repo, endpoint, token } = asked;
  const code = headers.get('x-error-code') ?? '';
  const details = { repo, status, url: placeOf(url) };
  const page = `${endpoint}/${repo}`;
  if (code === 'GatedRepo') {
    return new LowbitError('ERR_GATED_REPO', `${repo} is gated: its owner asks you to agree to conditions first`, {
      hint: token
        ? `Agree to them on ${page} with the account that your token belongs to; \`lowbit login\` says which token is used.`
        : `Agree to them on ${page}, make a token on ${endpoint}/settings/tokens, and set HF_TOKEN.`,
      details,
    });
  }
  if (code === 'RevisionNotFound') {
    return new LowbitError('ERR_NOT_FOUND', `${repo} has no such revision`, {
      hint: `Revisions are branches, tags and commits: ${page}/commits/main lists them.`,
      details,
    });
  }
  if (code === 'EntryNotFound') {
    return new LowbitError('ERR_NOT_FOUND', `${repo} has no such file: ${placeOf(url)}`, {
      hint: `${page}/tree/main lists its files.`,
      details,
    });
  }
  if (code === 'RepoNotFound' || status === 404) {
    return new LowbitError('ERR_NOT_FOUND', `there is no model ${repo} on ${endpoint}, or it is private`, {
      hint: token
        ? 'Check the name, and that the account of your token may see it; `lowbit login` says which token is used.'
        : 'Check the name. For a private model set HF_TOKEN.',
      details,
    });
  }
  if (status === 401 || status === 403) {
    return new LowbitError('ERR_ACCESS_DENIED', `${endpoint} does not allow this for ${repo} (status ${status})`, {
      hint: token
        ? 'The token may have expired, or may not do this; `lowbit login` says which token is used.'
        : 'Set HF_TOKEN to a token that may.',
      details,
    });
  }
  return new LowbitError('ERR_NETWORK', `${placeOf(url)} answered with status ${status}`, {
    hint: status === 429 ? 'Too many requests: wait some minutes, or set HF_TOKEN, which allows more.' : 'Try again later.',
    details,
  });
}

/** The error for a connection that failed, again and again. */
export function unreachable(url: string, cause: unknown, attempts: number): LowbitError {
  if (isLowbitError(cause)) return cause;
  const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause;
  const problem = inner instanceof Error ? inner.message : String(inner);
  const tried = attempts > 1 ? `, tried ${attempts} times` : '';
  return new LowbitError('ERR_NETWORK', `cannot read ${placeOf(url)}: ${problem}${tried}`, {
    hint: 'Check the connection and HF_ENDPOINT. A download goes on where it stopped; HF_HUB_OFFLINE=1 uses what is in the cache.',
    details: { url: placeOf(url), attempts },
    cause,
  });
}

/** For bytes that are not those that were promised. */
export function corrupted(file: string, problem: string, details: Readonly<Record<string, unknown>> = {}): LowbitError {
  return new LowbitError('ERR_INTEGRITY', `${file}: ${problem}`, {
    hint: 'Nothing of it was kept. Try again; if it stays so, a proxy on the way changes files, or the model was changed meanwhile.',
    details: { file, ...details },
  });
}
