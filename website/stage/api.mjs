// @ts-check
// The interface of every package, by TypeDoc from its sources: a page for each entry that users import.
import { relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Application, ReflectionKind } from 'typedoc';
import { publicEntries, root } from '../pages.mjs';

/** @typedef {ReturnType<typeof publicEntries>} Entries */

/** @type {(entries: Entries, options?: Partial<import('typedoc').TypeDocOptions>) => Promise<{ app: Application, modules: import('typedoc').DeclarationReflection[], project: import('typedoc').ProjectReflection }>} */
async function convert(entries, options = {}) {
  const app = await Application.bootstrapWithPlugins({
    entryPoints: entries.map(({ source }) => resolve(root, source)),
    tsconfig: fileURLToPath(new URL('../tsconfig.api.json', import.meta.url)),
    plugin: ['typedoc-plugin-markdown'],
    name: 'Interfaces',
    basePath: root,
    skipErrorChecking: true, // `tsc` does that
    disableSources: true,
    disableGit: true,
    readme: 'none',
    validation: { notExported: false, invalidLink: false, notDocumented: false, rewrittenLink: false, unusedMergeModuleWith: false },
    logLevel: 'Error',
    ...options,
  });
  const project = await app.convert();
  if (!project) throw new Error('TypeDoc made nothing of the sources');
  // Named by what users import, not by files.
  const base = options.basePath ?? root;
  const path = (/** @type {string} */ source) => relative(base, resolve(root, source)).replaceAll('\\', '/');
  const names = new Map(entries.map(({ name, source }) => [path(source).replace(/(?:\/index)?(?:\.d)?\.m?ts$/, ''), name]));
  const modules = project.children ?? [];
  for (const module of modules) {
    const name = names.get(module.name);
    if (name === undefined) throw new Error(`TypeDoc names a module ${module.name}, which is no entry of a package`);
    module.name = name;
  }
  if (modules.length !== entries.length) throw new Error(`${entries.length} entries of packages became ${modules.length} modules`);
  // What is imported for its effect alone, as the modules of worker threads are, has no page.
  for (const module of modules.filter(({ children = [] }) => children.length === 0)) project.removeReflection(module);
  return { app, project, modules: project.children ?? [] };
}

/** @typedef {import('typedoc').DeclarationReflection} Module */

/** @type {(modules: readonly Module[]) => string[]} public names that no comment describes, as `package: kind name` */
const bare = (modules) =>
  modules.flatMap((module) =>
    (module.children ?? [])
      .filter((member) => member.kind !== ReflectionKind.Reference)
      .filter((member) => !member.hasComment() && !(member.signatures ?? []).some((signature) => signature.hasComment()))
      .map((member) => `${module.name}: ${ReflectionKind.singularString(member.kind).toLowerCase()} ${member.name}`),
  );

/**
 * Public names that no comment describes, as `package: kind name`.
 * @param {Entries} [entries]
 * @param {Partial<import('typedoc').TypeDocOptions>} [options]
 */
export async function undocumented(entries = publicEntries(), options = {}) {
  return bare((await convert(entries, options)).modules);
}

/**
 * @param {string} dir where the pages go; `index.md` lists them
 * @returns {Promise<string[]>} names of entries, each a page of that name. Throws where a public name has no comment.
 */
export async function writeApi(dir) {
  const { app, project, modules } = await convert(publicEntries(), {
    ...{ router: 'module', entryFileName: 'index', hidePageHeader: true, hideBreadcrumbs: true, sanitizeComments: true },
    ...{ parametersFormat: 'table', interfacePropertiesFormat: 'table', classPropertiesFormat: 'table', typeDeclarationFormat: 'table' },
    ...{ propertyMembersFormat: 'table', expandParameters: false, hideGroupHeadings: false, textContentMappings: MAPPINGS },
  });
  const without = bare(modules);
  if (without.length > 0) throw new Error(`${without.length} public names have no comment:\n${without.join('\n')}`);
  app.options.setValue('out', dir);
  await app.generateOutputs(project);
  return modules.map(({ name }) => name);
}

const MAPPINGS = { 'title.indexPage': 'Interfaces', 'title.modulePage': '{name}', 'title.memberPage': '{name}' };
