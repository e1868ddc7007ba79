import { defineConfig } from 'vitest/config'

/** For `make vm-test`: an emulated CPU is some twenty times slower than this machine's. */
export default defineConfig({
  test: {
    include: ['test/conformance/backends.real.test.ts', 'test/vm/*.real.test.ts'],
    exclude: [],
    reporters: ['verbose'],
    testTimeout: 300_000,
    hookTimeout: 300_000,
    pool: 'forks',
    maxWorkers: 2,
    cache: false,
  },
})
