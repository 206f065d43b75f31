// What tests of the site use of it; types beside.
export { checkSite } from './check.mjs';
export { pages, publicEntries } from './pages.mjs';
export { undocumented } from './stage/api.mjs';
export { documentedCodes, errorCodes } from './stage/errors.mjs';
