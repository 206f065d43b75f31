/** Other runtimes by name: the command that runs a module. */
export declare const RUNTIMES: Readonly<Record<string, readonly string[]>>;
export declare const OLD_NODE: string;
export interface Ran {
  readonly status: number | null;
  readonly output: string;
}
/** Runs a command to its end; what it printed, whatever became of it. */
export declare function run(command: string, args: readonly string[], cwd: string, env?: NodeJS.ProcessEnv): Ran;
/** As `run`, but for what must work. */
export declare function must(command: string, args: readonly string[], cwd: string, env?: NodeJS.ProcessEnv): string;
/** Why there can be no registry here; undefined if there can. Installs the tools once. */
export declare function toolsProblem(): string | undefined;
/** Folders of the packages that are published. */
export declare function publishedPackages(workspace?: string): string[];
/** Packs folders of the workspace as a release would: paths of their archives. */
export declare function pack(folders: readonly string[], into: string): string[];
export interface LocalRegistry {
  readonly url: string;
  publish(archives: readonly string[]): void;
  /** A new folder with a package.json, whose npm uses this registry and a cache of its own, and runs no scripts. */
  project(name: string, manifest?: object): string;
  stop(): Promise<void>;
}
/** Starts the registry over a folder. What it does not have comes from the registry that npm is set up to use. */
export declare function startRegistry(dir: string): Promise<LocalRegistry>;
