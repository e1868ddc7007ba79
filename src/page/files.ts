import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** A file of this folder that the browser gets as it is. The build puts their texts in the place of this module. */
export function pageFile(name: 'style.css' | 'client.js' | 'icon.svg'): string {
  return readFileSync(join(import.meta.dirname, name), 'utf8')
}
