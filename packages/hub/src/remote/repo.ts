// Names of models on a hub: `org/name`, and `org/name@revision`.

import { LowbitError, quote } from '@lowbit/core';

/** A model of a hub, at a revision. */
export interface RepoName {
  /** `org/name`. */
  readonly name: string;
  /** A branch, a tag or a commit; default `main`. */
  readonly revision: string;
}

const PART = /^[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?$/;
const REVISION = /^[A-Za-z0-9][\w.+-]*(?:\/[A-Za-z0-9][\w.+-]*)*$/;
const COMMIT = /^[0-9a-f]{40}$/;

/** Reads `org/name` or `org/name@revision`; undefined for what is no such name. */
export function readRepoName(text: string): RepoName | undefined {
  const [name, revision = 'main', ...rest] = text.split('@');
  const parts = name!.split('/');
  if (rest.length > 0 || parts.length !== 2 || name!.length > 96) return undefined;
  if (!parts.every((part) => PART.test(part) && !/--|\.\./.test(part))) return undefined;
  if (revision.length > 200 || revision.includes('..') || !REVISION.test(revision)) return undefined;
  return { name: name!, revision };
}

/** A model on a hub, or one GGUF file of it. */
export interface HubName {
  readonly repo: RepoName;
  /** Its path in the repository. */
  readonly file?: string;
}

/** Reads what `readRepoName` reads, and `org/name/file.gguf` or `org/name@revision/file.gguf`; undefined for what is neither. */
export function readHubName(text: string): HubName | undefined {
  const repo = readRepoName(text);
  if (repo !== undefined && !/\.gguf$/i.test(text)) return { repo };
  const [, model, file] = /^([^/]+\/[^/]+)\/(.{1,400}\.gguf)$/i.exec(text) ?? [];
  const holder = model === undefined ? undefined : readRepoName(model);
  const inside = file?.split('/').every((part) => part !== '' && part !== '.' && part !== '..');
  return holder === undefined || !inside ? undefined : { repo: holder, file: file! };
}

/** As `readHubName`. Throws ERR_BAD_ARGUMENT. */
export function parseHubName(text: string): HubName {
  return readHubName(text) ?? { repo: parseRepoName(text) };
}

/** As `readRepoName`. Throws ERR_BAD_ARGUMENT. */
export function parseRepoName(text: string): RepoName {
  const repo = readRepoName(text);
  if (repo !== undefined) return repo;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${quote(text)} is no name of a model on the Hub`, {
    hint: 'Names are ORG/NAME, or ORG/NAME@REVISION with a branch, a tag or a commit.',
    details: { name: text },
  });
}

/** Whether a revision is a commit, which never means anything else. */
export function isCommit(revision: string): boolean {
  return COMMIT.test(revision);
}
