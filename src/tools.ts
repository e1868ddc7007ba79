/**
 * What only those use who look into a daemon: the commands, the metrics and the page. The build makes a bundle of its own of it, so that
 * a daemon's start neither reads nor compiles it.
 */
export { runCommand } from './commands/commands.ts'
export { metricsRoutes } from './metrics.ts'
export { pageRoutes } from './page/routes.ts'
