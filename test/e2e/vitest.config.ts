import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['test/e2e/*.e2e.ts'],
    // Each step stands on the one before.
    bail: 1,
    // Each boots machines, and two cores are enough for those of one.
    fileParallelism: false,
    testTimeout: 120_000,
    // The first run makes the root file system.
    hookTimeout: 600_000,
  },
})
