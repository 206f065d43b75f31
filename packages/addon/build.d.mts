/** The addon of a package. */
export interface AddonBuild {
  /** URL of the package's folder. */
  readonly home: string;
  /** What is made in `build/Release`, such as `lowbit_cpu.node`. */
  readonly file: string;
  /** Files beside CMakeLists.txt, package.json and the folder `native` that it is made of. */
  readonly sources?: readonly string[];
  /** What else it depends on, such as the version of a compiler. */
  readonly facts?: string;
  /** Makes what the build needs, before it. */
  readonly prepare?: () => void;
}

/**
 * Builds the addon of a package unless it is up to date: what the process should exit with. With `--target linux-x64-musl` (or `linux-arm64-musl`) among the
 * arguments of the process it is built for there, in `build/linux-x64-musl/Release`, by Zig's compiler (LOWBIT_ZIG, else `zig`).
 */
export function buildAddon(addon: AddonBuild): number;
