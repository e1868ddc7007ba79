/** What the log needs for JSON, in a bundle of its own: every start reads the main one. */
export { pino } from 'pino'
