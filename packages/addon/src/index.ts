export { Addon, type AddonSpec, type LoadOptions, platformPackage, type Rung, whyNot } from './addon.node.ts';
export { builtFor, cLibraryOf } from './built-for.node.ts';
