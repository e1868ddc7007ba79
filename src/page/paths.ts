/** What the page consists of. Only this list is part of the daemon's own bundle. */
export const PAGE_PATHS = [
  '/',
  '/page/style.css',
  '/page/client.js',
  '/page/icon.svg',
  '/page/table',
  '/page/map',
  '/page/live',
] as const

export type PagePath = (typeof PAGE_PATHS)[number]
